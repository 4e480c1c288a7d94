"""The VampPrior: its density by hand, its draws, and its pseudo-inputs through training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import fit
from parts.vq import VectorQuantised
from vaekit import DataInfo, Model, VAEModule, data
from vaekit.contracts.batch import Batch
from vaekit.posteriors import (
    Delta,
    DiagonalNormal,
    Hamiltonian,
    PlanarFlow,
    RiemannianHamiltonian,
    SylvesterFlow,
)
from vaekit.priors import VampPrior
from vaekit.registry.plugins import known

INFO = DataInfo((6,), (0.0, 1.0), levels=2)
PAIR = DataInfo(
    {"image": (1, 2, 2), "age": (1,)},
    {"image": (0.0, 1.0), "age": (-2.0, 2.0)},
    levels={"image": 2, "age": None},
)
FEW = {"class_path": "VampPrior", "init_args": {"components": 3}}


def built(info: DataInfo = INFO, components: int = 3, **changes: Any) -> Model:
    torch.manual_seed(0)
    vamp = {"class_path": "VampPrior", "init_args": {"components": components}}
    model = Model(info, **{"latent_shape": 2, "prior": vamp, **changes}).double()
    head: Any = model.core.posterior
    with torch.no_grad():  # so that components lie apart
        head.linear.weight.mul_(20)
    return model.eval()


def prior_of(model: Model) -> VampPrior:
    prior = model.core.prior
    assert isinstance(prior, VampPrior)
    return prior


def by_hand(model: Model, z: Tensor, context: Tensor | None = None) -> Tensor:
    """log 1/M sum_m q(z|u_m) of z (n, Z), component by component, in torch's own Normal."""
    terms = []
    for u in prior_of(model).inputs[0]:
        c = None if context is None else context.expand(1, -1)
        q: Any = model.core.infer(u.unsqueeze(0), c)
        own = torch.distributions.Normal(q.base_dist.loc[0], q.base_dist.scale[0])
        terms.append(own.log_prob(z).sum(-1))
    return torch.stack(terms).logsumexp(0) - torch.tensor(float(len(terms))).log()


@torch.no_grad()
def test_pytorch_vaes_precedence_error_in_the_vamp_prior_is_not_here() -> None:
    model, z = built(), torch.randn(5, 2).double()
    p = prior_of(model)(infer=model.core.infer)
    assert torch.allclose(p.log_prob(z), by_hand(model, z))


@torch.no_grad()
def test_given_contexts_it_is_the_mixture_of_each() -> None:
    model = built(replace(INFO, context_features=2))
    z, context = torch.randn(4, 5, 2).double(), torch.randn(5, 2).double()
    p = prior_of(model)(context, model.core.infer)
    assert p.batch_shape == (5,)
    wanted = torch.stack([by_hand(model, z[:, b], context[b]) for b in range(5)], 1)
    assert torch.allclose(p.log_prob(z), wanted)
    drawn = p.sample(torch.Size((4000,)))  # (n, B, Z)
    for b in range(5):
        _agree(drawn[:, b], lambda at, b=b: by_hand(model, at, context[b]))


def _agree(drawn: Tensor, log_p: Any) -> None:
    """Draws (n, 2) have the means that the density has, by importance sampling."""
    r = torch.distributions.Normal(drawn.mean(0), 1.5 * drawn.std(0))
    z = r.sample(torch.Size((20_000,)))
    ratio = (log_p(z) - r.log_prob(z).sum(-1)).exp().unsqueeze(1)
    for f in (torch.tanh, torch.cos, lambda x: torch.tanh(x * x.flip(1))):
        under, over = ratio * f(z), f(drawn)
        error = (under.var(0) / len(z) + over.var(0) / len(drawn)).sqrt()
        assert ((under.mean(0) - over.mean(0)).abs() < 5 * error).all()
    assert float(ratio.mean()) == pytest.approx(1, abs=5 * float(ratio.std()) / len(z) ** 0.5)


@torch.no_grad()
def test_pytorch_vaes_draws_from_the_standard_normal_are_not_here() -> None:
    model = built()
    drawn = prior_of(model)(infer=model.core.infer).sample(torch.Size((20_000,)))
    _agree(drawn, lambda z: by_hand(model, z))
    assert (drawn.std(0) - 1).abs().max() > 0.2  # which N(0, I) would have


@torch.no_grad()
def test_pythaes_sampler_of_the_first_pseudo_inputs_through_a_tanh_is_not_here() -> None:
    model = built(components=4)
    rows = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]).repeat(1, 2).double()
    prior = prior_of(model)
    prior.inputs[0].copy_(rows)
    model.core.posterior.linear.bias[2:] = -12.0  # type: ignore[index, union-attr]
    q: Any = model.core.infer(rows)  # at the pseudo-inputs as they are, not at their tanh
    narrow, z = q.base_dist.scale.max(), prior(infer=model.core.infer).sample(torch.Size((4000,)))
    centres = q.base_dist.loc
    assert torch.pdist(centres).min() > 20 * narrow
    away, nearest = torch.cdist(z, centres).min(1)
    assert away.max() < 7 * narrow
    share = nearest.bincount(minlength=4) / 4000
    assert (share - 0.25).abs().max() < 0.04  # each of them, as often as the others
    batch = model.core.generate(2000)
    assert batch.shape == (2000, 6)  # type: ignore[union-attr]


# Pseudo-inputs


def batches(rows: Any, sizes: tuple[int, ...], mask: Any = None) -> Iterator[Batch]:
    start = 0
    for size in sizes:
        at = slice(start, start + size)
        if isinstance(rows, dict):
            seen = None if mask is None else {k: m[at] for k, m in mask.items()}
            yield Batch({k: x[at] for k, x in rows.items()}, mask=seen)
        else:
            yield Batch(rows[at], mask=None if mask is None else mask[at])
        start += size


@torch.no_grad()
def test_every_row_is_as_likely_to_be_a_pseudo_input() -> None:
    torch.manual_seed(0)
    prior, times = VampPrior(INFO, components=3), 2000
    rows = torch.arange(12.0).unsqueeze(1).expand(-1, 6) / 11
    count = torch.zeros(12)
    for _ in range(times):
        prior.start(batches(rows, (5, 1, 6)))
        chosen = (prior.inputs[0][:, 0] * 11).round().long()
        assert len(set(chosen.tolist())) == 3  # none twice, while there are enough
        count += chosen.bincount(minlength=12)
    share = count / times  # 3 of 12 each time
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / times) ** 0.5


@torch.no_grad()
def test_of_few_rows_some_are_taken_twice() -> None:
    prior, rows = VampPrior(INFO, components=5), torch.eye(6)[:2]
    prior.start(batches(rows, (2,)))
    chosen = prior.inputs[0]
    assert {tuple(u) for u in chosen.tolist()} == {tuple(u) for u in rows.tolist()}


@torch.no_grad()
def test_what_a_mask_hides_is_0_in_a_pseudo_input() -> None:
    prior = VampPrior(INFO, components=4)
    mask = torch.tensor([True, False] * 3).expand(4, -1)
    rows = torch.where(mask, torch.ones(4, 6), torch.nan)
    prior.start(batches(rows, (4,), mask))
    assert torch.equal(prior.inputs[0], mask.float())


@torch.no_grad()
def test_pseudo_inputs_of_several_entries_are_of_one_row() -> None:
    model = Model(PAIR, latent_shape=2, prior=FEW, likelihood=_mixed())
    prior = prior_of(model)
    age = torch.linspace(-2, 2, 8).unsqueeze(1)
    image = ((age + 2) / 4).reshape(8, 1, 1, 1).expand(8, 1, 2, 2)
    hidden = {"image": torch.ones(8, 1, 2, 2).bool(), "age": torch.ones(8, 1).bool()}
    prior.start(batches({"image": image, "age": age}, (5, 3), hidden))
    u = dict(zip(prior.entries, prior.inputs, strict=True))
    assert torch.allclose(u["image"][:, 0, 0, 0], (u["age"][:, 0] + 2) / 4)
    assert prior(infer=model.core.infer).log_prob(torch.zeros(4, 2)).isfinite().all()


def _mixed() -> dict[str, Any]:
    columns = {"image": "Bernoulli", "age": "Gaussian"}
    return {"class_path": "Mixed", "init_args": {"columns": columns}}


def test_a_step_that_leaves_the_data_s_range_is_brought_back_to_its_end() -> None:
    rows = data.Digits()
    model = Model(rows, latent_shape=2, prior=FEW)
    sgd = {"class_path": "SGD", "init_args": {"lr": 1e-3}}
    prior, seen = prior_of(model), []

    class Pushed(VAEModule):
        def on_after_backward(self) -> None:
            grad = prior.inputs[0].grad
            seen.append(float(grad.abs().sum()))
            grad.fill_(1e6 if len(seen) % 2 else -1e6)

    before = prior.inputs[0].clone()
    fit(Pushed(model, sgd), rows, max_epochs=1, limit_train_batches=3)
    assert min(seen) > 0  # the gradient that reaches them
    after = prior.inputs[0]
    assert not torch.equal(before, after)
    assert after.min() == after.max() == 0.0  # the last step took them below it


def test_pseudo_inputs_are_training_rows_when_a_fit_begins() -> None:
    rows = data.Digits(binarize="static")
    model = Model(rows, latent_shape=2, prior=FEW)
    rate = {"class_path": "SGD", "init_args": {"lr": 1e-30}}
    fit(VAEModule(model, rate), rows, max_epochs=1, limit_train_batches=1)
    known_rows = torch.cat([b.x for b in rows.rows("train")]).flatten(1)
    u = prior_of(model).inputs[0].detach().flatten(1)
    assert torch.cdist(u, known_rows.float()).min(1).values.max() == 0


def test_one_that_takes_the_place_of_another_starts_and_is_kept_in_the_data_s_range() -> None:
    rows = data.Digits(binarize="static")
    module = VAEModule(Model(rows, latent_shape=2), {"class_path": "SGD", "init_args": {"lr": 10}})
    prior = module.model.new_prior(FEW)
    start = prior.inputs[0].clone()
    module.model.use_prior(prior)
    fit(module, rows, max_steps=1, limit_val_batches=0)
    u = prior.inputs[0].detach()
    assert ((u == 0) | (u == 1)).all(1).any()  # a row, but for what the step changed
    assert not torch.equal(u, start)
    assert 0 <= u.min() <= u.max() <= 1
    assert module.model.core.last_draw is None


class OwnDraws(DiagonalNormal):
    evaluates = False


@pytest.mark.parametrize(
    ("posterior", "words"),
    [
        (OwnDraws, "that of its own draws alone"),
        (PlanarFlow, "that of its own draws alone"),
        (SylvesterFlow, "that of its own draws alone"),
        (Hamiltonian, "that of its own draws alone"),
        (RiemannianHamiltonian, "that of its own draws alone"),
        (Delta, "none"),
        (VectorQuantised, "none"),
    ],
)
def test_a_posterior_without_a_density_at_any_z_is_refused(posterior: Any, words: str) -> None:
    name, ours = posterior.__name__, posterior.__module__.startswith("vaekit.")
    with nullcontext() if ours else known(posterior):
        objective = "AE" if words == "none" else "ELBO"
        with pytest.raises(ValueError, match=f"but {name} knows {words}"):
            Model(INFO, latent_shape=2, posterior=name, prior=FEW, objective=objective)
