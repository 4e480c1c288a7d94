"""Outside parts that use labels, and rows of several modalities."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from test_parts import PARTS, FewLabels, _registered, two_modalities

from conftest import fit
from vaekit import Model, VAEModule
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.trees import each
from vaekit.numerics.random import fixed_noise

__all__ = ["_registered"]  # the fixture


def m2() -> Model:
    info = DataInfo((3,), (0.0, 1.0), levels=2, classes=4)
    return Model(info, **{**PARTS["m2"], "latent_shape": 6}).double()


def test_m2_s_sum_over_the_classes_is_what_drawing_a_class_estimates() -> None:
    model = m2()
    batch = Batch((torch.rand(3, 3) > 0.5).double(), label=torch.tensor([-1, -1, -1]))
    with torch.no_grad():
        drawn = model.core.draw(batch, 40_000).log_weight
        summed = torch.stack([model.objective(model.core, batch, 0)["elbo"] for _ in range(2000)])
    error = (drawn.var(0) / 40_000 + summed.var(0) / 2000).sqrt()
    assert ((drawn.mean(0) - summed.mean(0)).abs() < 4 * error).all()


def test_m2_uses_the_labels_that_there_are() -> None:
    model = m2()
    x = (torch.rand(2, 3) > 0.5).double()
    batch = Batch(x, label=torch.tensor([2, -1]))
    with fixed_noise(3), torch.no_grad():
        terms = model.objective(model.core, batch, 0)
    with fixed_noise(3), torch.no_grad():
        q: Any = model.core.infer(x)
        z = torch.cat([q.given_label.rsample()[0, 2], torch.tensor([0.0, 0, 1, 0]).double()])
        likelihood = model.core.decode(z.expand(1, 1, -1)).log_prob(x[:1]).squeeze()
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z[:2]).sum() - log(4)
        latents = q.given_label.base_dist.log_prob(z[:2])[0, 2].sum()
    wanted = -(likelihood + prior - latents) - 10 * q.label.logits[0, 2]
    assert terms["loss"][0].item() == pytest.approx(wanted.item())
    assert terms["loss"][1].item() == pytest.approx(-terms["elbo"][1].item())


def test_m2_refuses_what_it_cannot_serve() -> None:
    info = DataInfo((3,), (0.0, 1.0), levels=2, classes=4)
    with pytest.raises(
        ValueError, match=r"objective M2 .*the posterior LabelledNormal but got Diag"
    ):
        Model(info, latent_shape=6, objective="M2")
    with pytest.raises(ValueError, match=r"posterior LabelledNormal .*latent_shape above their 4"):
        Model(info, **{**PARTS["m2"], "latent_shape": 4})


@pytest.mark.slow
def test_m2_learns_the_classes_from_few_labels() -> None:
    module = FewLabels(binarize="none")
    trainer = fit(Model(module, **PARTS["m2"]), module, max_epochs=30)
    assert trainer.callback_metrics["val/accuracy"] > 0.85


def test_a_product_of_experts_is_the_posterior_of_the_entries_that_are_shown() -> None:
    info = DataInfo({"image": (2,), "code": (3,)}, {"image": (0, 1), "code": (-9, 9)}, levels=2)
    model = Model(info, latent_shape=2, **PARTS["poe"]).double()
    x = {"image": (torch.rand(4, 2) > 0.5).double(), "code": torch.randn(4, 3).double()}
    rows = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)
    mask = {"image": rows[:, :1].expand(-1, 2), "code": rows[:, 1:].expand(-1, 3)}
    hidden = each(lambda leaf, seen: torch.where(seen, leaf, torch.nan), x, mask)
    q = model.core.infer(hidden, None, mask)
    assert torch.equal(q.mean[3], torch.zeros(2).double())
    assert torch.equal(q.variance[3], torch.ones(2).double())
    # Of each row the density is that of the experts' product, up to what does not depend on z.
    z, h = torch.randn(50, 2).double(), model.core.encoder(hidden, None, mask)
    for row in range(4):
        wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        for at, name in enumerate(("image", "code")):
            loc, log_variance = model.core.posterior.heads[name](h[name][row]).chunk(2)
            expert = torch.distributions.Normal(loc, (log_variance / 2).exp())
            wanted = wanted + rows[row, at] * expert.log_prob(z).sum(1)
        assert (q.log_prob(z.unsqueeze(1))[:, row] - wanted).std() < 1e-10
    draw = model.core.draw(Batch(hidden, mask=mask))
    p = {name: part.log_prob(x[name])[0, 1:3] for name, part in draw.p.parts.items()}
    assert torch.allclose(draw.log_likelihood[0, 1], p["image"][0])
    assert torch.allclose(draw.log_likelihood[0, 2], p["code"][1])
    assert draw.log_likelihood[0, 3] == 0


@pytest.mark.slow
def test_an_entry_s_likelihood_keeps_its_running_state(tmp_path: Path) -> None:
    # The optimal scale is that of its own entry, of the elements that its mask shows.
    module = two_modalities(tmp_path)
    optimal = {"class_path": "Gaussian", "init_args": {"scale": "optimal"}}
    of = {"image": "Bernoulli", "code": optimal}
    parts = {
        **PARTS["poe"],
        "likelihood": {"class_path": "LikelihoodPerEntry", "init_args": {"of": of}},
    }
    model = Model(module, latent_shape=8, **parts)
    assert model.core.likelihood.couples_rows
    trainer = fit(model, module, max_epochs=30)
    gaussian = model.core.likelihood.parts["code"]
    assert gaussian.seen.item() == pytest.approx(1 - 0.99**trainer.global_step)
    # A running value lags behind while the error falls: the weights stay while it catches up.
    still = {"class_path": "SGD", "init_args": {"lr": 1e-12}}
    fit(VAEModule(model, still), module, max_epochs=100)
    batch = next(module.rows("train"))
    with torch.no_grad():
        draw = model.core.draw(batch, 20)
    error = (draw.p.parts["code"].mean - batch.x["code"])[:, batch.mask["code"]].square().mean()
    assert gaussian.variance.item() == pytest.approx(error.item(), rel=0.15)
    assert error < 0.9 * batch.x["code"][batch.mask["code"]].var()


@pytest.mark.slow
def test_a_missing_modality_is_filled_in_from_the_other(tmp_path: Path) -> None:
    module = two_modalities(tmp_path)
    model = Model(module, latent_shape=8, **PARTS["poe"])
    fit(model, module, max_epochs=40)
    test = next(module.rows("test"))
    seen = {
        "image": torch.ones_like(test.mask["image"]),
        "code": torch.zeros_like(test.mask["code"]),
    }
    code = model.reconstruct(test.x, mask=seen)["code"]
    assert (code.argmax(1) == test.label).float().mean() > 0.6  # one in ten by chance
