"""The importance-weighted objectives in the mean over draws: gradients by quadrature over the
noise, bounds against the closed forms of a linear Gaussian model."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import log, pi
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import stats
from test_vae import linear_gaussian
from torch import Tensor

from conftest import fit
from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import Model, VAEModule, callbacks, data, load, register
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.cores.vae import VAE
from vaekit.numerics.random import fixed_noise
from vaekit.objectives.importance import IWAE
from vaekit.registry import plugins
from vaekit.training.compile import Compiled

X = torch.tensor([[1.0, 0.0, 1.0]]).double()
SCALE = 0.7


def flat(k: int = 1) -> Any:
    """A linear Gaussian model whose posterior is not the exact one."""
    core, _, _ = linear_gaussian(d=3, k=k, scale=SCALE)
    with torch.no_grad():
        core.posterior.linear.bias.add_(torch.tensor([0.3] * k + [0.6] * k))
    return core


@pytest.fixture
def two_levels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(plugins, "_registered", {})
    register(TwoLevel)
    register(ConditionalNormal)
    small = {"init_args": {"hidden": [4], "activation": "Tanh"}}
    info = DataInfo((3,), (0.0, 1.0), levels=2)
    spec = {
        "class_path": "TwoLevel",
        "init_args": {"top": 1, "top_encoder": {"class_path": "MLPEncoder", **small}},
    }
    model = Model(
        info,
        latent_shape=1,
        core=spec,
        encoder={"class_path": "MLPEncoder", **small},
        decoder={"class_path": "MLPDecoder", **small},
    )
    core: Any = model.double().core
    # The levels depend on each other, and weights have no heavy tails, for quadrature.
    top, lower, prior = core.top_posterior.linear, core.posterior.linear, core.prior.linear
    with torch.no_grad():
        top.weight.mul_(torch.tensor([[3.0], [0.0]]))
        lower.weight.mul_(torch.tensor([[1.0], [0.1]]))
        prior.weight.copy_(torch.tensor([[0.6], [0.0]]))
        for layer, bias in ((top, [0.2, 0.0]), (lower, [0.2, 0.0]), (prior, [0.3, 0.3])):
            layer.bias.copy_(torch.tensor(bias))
    return core


def mean_gradient(objective: IWAE, core: Any, nodes: int) -> dict[str, Tensor]:
    """The gradient of the expected loss, by Gauss-Hermite quadrature over all noise: a row of the
    batch for each point of the grid."""
    draws, levels = objective.samples * objective.groups, 1 + hasattr(core, "top_posterior")
    at, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    axes = draws * levels
    grid = torch.cartesian_prod(*[at] * axes).view(-1, levels, draws).permute(1, 2, 0).unsqueeze(3)
    weights = torch.cartesian_prod(*[weight / weight.sum()] * axes).view(-1, axes).prod(1)
    noise = tuple(grid) if levels > 1 else grid[0]
    core.draw = partial(type(core).draw, core, noise=noise)
    loss = objective(core, Batch(X.expand(len(weights), -1)), 0)["loss"]
    core.zero_grad()
    (loss * weights).sum().backward()
    return {name: p.grad.clone() for name, p in core.named_parameters()}


INFERENCE = ("encoder", "posterior", "top_encoder", "top_posterior")


def largest(a: dict[str, Tensor], b: dict[str, Tensor], inference: bool) -> float:
    """By how much they differ, at most, relative to the larger gradient."""
    names = [name for name in a if name.startswith(INFERENCE) is inference]
    size = max(float(b[name].abs().max()) for name in names)
    return max(float((a[name] - b[name]).abs().max()) for name in names) / size


RARER = [{"alpha": 0.5}, {"alpha": -0.5, "elbo": 0.2}, {"alpha": 2.0}]


@pytest.mark.parametrize(
    "mixture", [{}, {"elbo": 1.0}, *(pytest.param(m, marks=pytest.mark.slow) for m in RARER)]
)
def test_both_gradients_have_one_mean(mixture: dict[str, float]) -> None:
    core = flat()
    dreg, plain, stl = (
        mean_gradient(IWAE(2, gradient=way, **mixture), core, 60)  # type: ignore[arg-type]
        for way in ("dreg", "standard", "stl")
    )
    assert largest(dreg, plain, True) < 2e-6
    assert largest(dreg, plain, False) < 1e-12
    # That of STL is another but for the ELBO, as Tucker et al. say.
    assert (largest(stl, plain, True) > 0.05) is (mixture != {"elbo": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [{}, {"alpha": 0.5, "elbo": 0.3}])
def test_so_they_have_in_a_hierarchy(two_levels: Any, mixture: dict[str, float]) -> None:
    # There a term that is computed from another copy of z than the level's is weighted wrongly, in
    # silence: by 1 to 26 % in this model, by which term it is.
    dreg, plain = (
        mean_gradient(IWAE(2, gradient=way, **mixture), two_levels, 14)  # type: ignore[arg-type]
        for way in ("dreg", "standard")
    )
    assert largest(dreg, plain, True) < 3e-3  # of 18 nodes 4e-4
    assert largest(dreg, plain, False) < 1e-12


@pytest.mark.parametrize("samples", [1, 2])
def test_stl_has_the_mean_of_the_elbo_s_gradient(samples: int) -> None:
    core = flat()
    w, offset = core.decoder.net[0].weight, core.decoder.net[0].bias
    mu, log_var = core.posterior.linear(X).chunk(2, dim=1)
    miss = ((X - mu @ w.T - offset) ** 2).sum() + ((w**2).sum(0) * log_var.exp()).sum()
    distortion = miss / (2 * SCALE**2) + 1.5 * log(2 * pi * SCALE**2)
    rate = (mu**2 + log_var.exp() - log_var - 1).sum() / 2
    names = dict(core.named_parameters())
    wanted = dict(zip(names, torch.autograd.grad(distortion + rate, names.values()), strict=True))
    found = mean_gradient(IWAE(samples, gradient="stl", elbo=1.0), core, 20)
    assert largest(found, wanted, True) < 1e-9
    assert largest(found, wanted, False) < 1e-9


@pytest.mark.parametrize("samples", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_the_doubly_reparametrised_gradient_has_less_variance(samples: int) -> None:
    core = flat()
    variance = {}
    for way in ("standard", "dreg"):
        outputs: list[Tensor] = []  # of the posterior's layer: a row's gradient of the bias
        handle = core.posterior.linear.register_forward_hook(
            lambda module, args, h, kept=outputs: kept.append(h)
        )
        loss = IWAE(samples, gradient=way)(core, Batch(X.expand(2000, -1)), 0)["loss"]  # type: ignore[arg-type]
        handle.remove()
        (g,) = torch.autograd.grad(loss.sum(), outputs[0])
        variance[way] = g.var(0)
    assert (variance["dreg"] < 0.5 * variance["standard"]).all()


def test_path_gradients_vanish_at_the_exact_posterior() -> None:
    # There every weight is the likelihood, whatever z: nothing is left for q to learn.
    core, _, _ = linear_gaussian(d=5, k=2, scale=0.7)
    batch, weights = Batch(torch.randn(8, 5).double()), list(core.posterior.parameters())
    for gradient, split in (
        ("standard", False),
        ("standard", True),
        ("stl", True),
        ("dreg", False),
    ):
        objective = IWAE(5, 2, gradient, split)  # type: ignore[arg-type]
        loss = objective(core, batch, 0)["loss"].sum()
        largest = max(g.abs().max().item() for g in torch.autograd.grad(loss, weights))
        assert (largest < 1e-10) is (gradient != "standard")


def exact(core: VAE, x: Tensor) -> Tensor:
    w, offset = (p.detach() for p in core.decoder.net[0].parameters())
    covariance = w @ w.T + SCALE**2 * torch.eye(3).double()
    normal = stats.multivariate_normal(offset.numpy(), covariance.numpy())
    return torch.as_tensor(normal.logpdf(x.numpy()))


@torch.no_grad()
def test_the_bound_rises_with_the_draws_up_to_the_likelihood() -> None:
    core, bounds = flat(k=2), []
    for samples, copies in ((1, 20_000), (3, 10_000), (10, 5_000), (3_000, 20)):
        terms = IWAE(samples).evaluate(core, Batch(X.expand(copies, -1)))
        bounds.append(float(terms["iwae"].mean()))
    wanted = float(exact(core, X))
    assert all(b - a > 0.02 for a, b in pairwise(bounds[:-1]))
    assert bounds[-2] < wanted
    assert bounds[-1] == pytest.approx(wanted, abs=0.01)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.5, 1.5, -0.5])
def test_with_many_draws_alpha_is_the_order_of_renyi_s_divergence(alpha: float) -> None:
    # log p(x) less that of q from the exact posterior, both Normals (Gil et al., 2013).
    core = flat()
    mu, log_var = core.posterior.linear(X)[0]
    w, offset = core.decoder.net[0].parameters()
    true_var = 1 / (1 + (w**2).sum() / SCALE**2)
    true_mu = true_var * ((X[0] - offset) @ w[:, 0]) / SCALE**2
    var = log_var.exp()
    mixed = alpha * true_var + (1 - alpha) * var
    divergence = (true_var / var).log() / 2 + alpha * (mu - true_mu) ** 2 / (2 * mixed)
    divergence += (true_var / mixed).log() / (2 * (alpha - 1))
    loss = IWAE(200_000, alpha=alpha)(core, Batch(X), 0)["loss"]
    assert -loss.item() == pytest.approx((exact(core, X) - divergence).item(), abs=0.01)


@pytest.mark.slow
def test_a_model_lives_a_whole_life_with_it(tmp_path: Path) -> None:
    rows = data.Digits(binarize="static")
    arguments = {"samples": 4, "groups": 2, "gradient": "dreg", "partial": True}
    model = Model(rows, latent_shape=4, objective={"class_path": "IWAE", "init_args": arguments})
    keep = callbacks.BestCheckpoint()
    trainer = fit(
        model,
        rows,
        max_epochs=3,
        default_root_dir=tmp_path,
        enable_checkpointing=True,
        callbacks=[keep],
    )
    assert (keep.monitor, keep.mode) == ("val/iwae", "max")
    found = trainer.callback_metrics
    assert found["val/iwae"] > found["val/elbo"]
    assert found["train/effective_samples"] > 1
    assert model.has_bound
    again = VAEModule(load(keep.best_model_path))
    alone = pl.Trainer(logger=False, enable_progress_bar=False)
    best = alone.validate(again, rows, verbose=False)[0]["val/iwae"]
    assert best == pytest.approx(keep.best_model_score.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "way"),
    [
        ("VAE", {"gradient": "dreg"}),
        ("TwoLevel", {"gradient": "dreg"}),
        ("TwoLevel", {"partial": True}),
    ],
)
def test_gradients_are_the_same_compiled(core: str, way: dict[str, Any], two_levels: Any) -> None:
    # The laws compare terms alone, and what is sent back to z acts on gradients alone.
    model = Model(
        DataInfo((3,), (0.0, 1.0), levels=2),
        latent_shape=2,
        core=core,
        objective={"class_path": "IWAE", "init_args": {"groups": 2, **way}},
    )
    compiled = Compiled(model, {"backend": "aot_eager"})
    found = []
    for run in (compiled.terms, partial(model.objective, model.core)):
        with fixed_noise(1):
            terms = run(Batch(X.float().expand(5, -1)), 0)
        model.zero_grad()
        terms["loss"].mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.core.parameters()]))
    assert torch.allclose(*found, atol=1e-6)
