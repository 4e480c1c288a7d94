"""The importance-weighted objectives against the papers' formulas, by plain arithmetic on the same
draws: values, and the gradient of every variant, part by part."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import pi
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import Model, register
from vaekit.contracts import Core
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.numerics.random import fixed_noise
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.importance import IWAE
from vaekit.posteriors import DiagonalNormal
from vaekit.registry import plugins
from vaekit.schedules import Linear

DENSE = {"hidden": [5], "activation": "Tanh"}
BITS = DataInfo((3,), (0.0, 1.0), levels=2)
SEED = torch.Generator().manual_seed(0)
NOISE = torch.randn(6, 4, 2, dtype=torch.float64, generator=SEED)  # of M * K = 6 draws of 4 rows
X = torch.randn(4, 3, dtype=torch.float64, generator=SEED)
SIDES = ("encoder", "posterior"), ("decoder", "likelihood"), ("prior",)


def small() -> Core:
    """A model whose every part learns, and which draws with NOISE."""
    core = (
        Model(
            DataInfo((3,)),
            latent_shape=2,
            encoder={"class_path": "MLPEncoder", "init_args": DENSE},
            decoder={"class_path": "MLPDecoder", "init_args": DENSE},
            prior="LearnedNormal",
            likelihood={"class_path": "Gaussian", "init_args": {"scale": "learned"}},
        )
        .double()
        .core
    )
    with torch.no_grad():
        for p in [*core.prior.parameters(), *core.likelihood.parameters()]:
            p += 0.3 * torch.randn_like(p)
    core.draw = lambda batch, samples, stop=False: type(core).draw(
        core, batch, samples, stop, NOISE[:samples]
    )
    return core


def by_hand(core: Any, stop: bool = False) -> Tensor:
    """log w of the draws (6, 4), by plain arithmetic; `stop` holds what q's density is made of."""
    first, last = core.encoder.net[0], core.posterior.linear
    h = torch.tanh(X @ first.weight.T + first.bias)
    mu, log_var = (h @ last.weight.T + last.bias).chunk(2, dim=1)
    z = mu + (log_var / 2).exp() * NOISE
    up, out = core.decoder.net[0], core.decoder.net[2]
    y = torch.tanh(z @ up.weight.T + up.bias) @ out.weight.T + out.bias
    (numbers,) = core.prior.parameters()
    if stop:
        mu, log_var = mu.detach(), log_var.detach()

    def log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (-((x - mean) ** 2) / (2 * variance) - (2 * pi * variance).log() / 2).sum(-1)

    scale = 0.001 + core.likelihood.log_scale.exp()
    log_p = log_normal(X, y, scale**2) + log_normal(z, numbers[0], numbers[1].exp())
    return log_p - log_normal(z, mu, log_var.exp())


def bound_of(log_w: Tensor, groups: int, share: float, alpha: float) -> Tensor:
    """The mean over groups of what the papers maximise, (B,)."""
    found = []
    for rows in log_w.chunk(groups):
        mean = rows.mean(0)
        renyi = ((1 - alpha) * rows).exp().mean(0).log() / (1 - alpha) if alpha != 1 else mean
        found.append(share * mean + (1 - share) * renyi)
    return sum(found) / groups  # type: ignore[return-value]


def path_of(log_w: Tensor, groups: int, share: float, alpha: float) -> Tensor:
    """The doubly reparametrised gradient's sum, of log w of a stopped density."""
    total = torch.zeros(4).double()
    for rows in log_w.chunk(groups):
        r = rows.detach().exp() ** (1 - alpha)
        w = r / r.sum(0)
        for k in range(len(rows)):
            count = share / len(rows) + (1 - share) * (alpha * w[k] + (1 - alpha) * w[k] ** 2)
            total = total + count * rows[k] / groups
    return total


def weights(core: Core, side: tuple[str, ...]) -> list[Tensor]:
    return [p for name in side for p in getattr(core, name).parameters()]


def gradients(core: Core, loss: Tensor) -> list[Tensor]:
    """Of the mean loss, for each of SIDES."""
    sides = [weights(core, side) for side in SIDES]
    every = [p for side in sides for p in side]
    # As the optimizer gets them: hooks act once in a backward pass.
    found = iter(torch.autograd.grad(loss.mean(), every, retain_graph=True))
    return [torch.cat([next(found).flatten() for _ in side]) for side in sides]


MIXTURES = [(0.0, 0.0), (0.2, 0.5), (0.0, -1.0)]
RARER = [(0.3, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 2.0)]
MIXED = [*MIXTURES, *(pytest.param(m, marks=pytest.mark.slow) for m in RARER)]
"""Shares of the ELBO, and alphas."""


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("mixture", MIXED)
def test_pythaes_piwae_whose_encoder_gets_both_gradients_is_not_here(
    gradient: Any, split: bool, mixture: tuple[float, float]
) -> None:
    # Its encoder and its decoder get the gradient of the sum of MIWAE's and IWAE's bounds.
    core, groups, (share, alpha) = small(), 2, mixture
    objective = IWAE(3, groups, gradient, split, share, alpha)
    loss = objective(core, Batch(X), 0)["loss"]
    whole = -bound_of(by_hand(core), 1 if split else groups, share, alpha)
    assert torch.allclose(loss, whole, rtol=1e-12)
    encoders = {
        "standard": lambda: bound_of(by_hand(core), groups, share, alpha),
        "stl": lambda: bound_of(by_hand(core, stop=True), groups, share, alpha),
        "dreg": lambda: path_of(by_hand(core, stop=True), groups, share, alpha),
    }
    encoder, decoder, prior = gradients(core, loss)
    assert torch.allclose(encoder, gradients(core, -encoders[gradient]())[0], rtol=1e-9)
    assert torch.allclose(decoder, gradients(core, whole)[1], rtol=1e-9)
    assert torch.allclose(prior, gradients(core, whole)[2], rtol=1e-9)
    miwae, iwae = (-bound_of(by_hand(core), n, share, alpha) for n in (groups, 1))
    if mixture == (0.0, 0.0) and gradient == "standard" and split:
        both = gradients(core, miwae + iwae)
        assert not torch.allclose(encoder, both[0], rtol=0.1)
        assert not torch.allclose(decoder, both[1], rtol=0.1)


@pytest.fixture
def _two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.registry.plugins._registered", {})
    register(TwoLevel)
    register(ConditionalNormal)


DIRICHLET = {"posterior": "DirichletPosterior", "prior": "DirichletPrior"}
FLOW = {"posterior": {"class_path": "RealNVP", "init_args": {"hidden": [4], "transforms": 2}}}
WAYS: dict[str, dict[str, Any]] = {
    "two levels": {"core": "TwoLevel"},
    "a flow, whose draw brings log q": FLOW,
    "implicit gradients": DIRICHLET,
}


@pytest.mark.usefixtures("_two_levels")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gradient", ["standard", "dreg"])
def test_piwae_s_parts_get_miwae_s_and_iwae_s_gradient_whatever_the_model(
    way: str, gradient: Any
) -> None:
    core, batch = Model(BITS, latent_shape=2, **WAYS[way]).double().core, Batch(X.round().clip(0))
    inference = ("encoder", "posterior", "top_encoder", "top_posterior")
    found = []
    for objective in (
        IWAE(3, 2, gradient, partial=True),
        IWAE(3, 2, gradient),
        IWAE(6, 1, gradient),
    ):
        with fixed_noise(1):
            loss = objective(core, batch, 0)["loss"]
        core.zero_grad()
        loss.mean().backward()
        found.append({name: p.grad for name, p in core.named_parameters()})
    piwae, miwae, iwae = found
    for name, g in piwae.items():
        wanted = (miwae if name.startswith(inference) else iwae)[name]
        assert torch.allclose(g, wanted, rtol=1e-9, atol=1e-14), name
    assert any(not torch.allclose(miwae[name], iwae[name], rtol=0.01) for name in piwae)


def test_a_prior_that_infers_gets_iwae_s_gradient_there_too() -> None:
    core = Model(BITS, latent_shape=2, prior="VampPrior").double().core
    batch, weight = Batch(X.round().clip(0)), core.encoder.net[0].weight

    def gradient(objective: IWAE) -> Tensor:
        with fixed_noise(1):
            return torch.autograd.grad(objective(core, batch, 0)["loss"].mean(), weight)[0]

    def of_prior(counts: Tensor) -> Tensor:
        with fixed_noise(1):
            z = core.draw(batch, 6).z.detach()
        log_p = core.prior(None, core.infer).log_prob(z)
        return torch.autograd.grad(-(counts * log_p).sum(0).mean(), weight)[0]

    with fixed_noise(1):
        log_w = core.draw(batch, 6).log_weight.detach()
    whole, split = log_w.softmax(0), log_w.unflatten(0, (2, 3)).softmax(1).flatten(0, 1) / 2
    wanted = gradient(IWAE(3, 2)) + of_prior(whole) - of_prior(split)
    assert torch.allclose(gradient(IWAE(3, 2, partial=True)), wanted, rtol=1e-9, atol=1e-14)
    assert not torch.allclose(gradient(IWAE(3, 2)), wanted, rtol=0.01)


@pytest.mark.parametrize("gradient", ["standard", "dreg"])
def test_piwae_s_gradient_is_finite_and_right_where_weights_are_hundreds_of_nats_apart(
    gradient: Any,
) -> None:
    # One group of draws counts for nothing among all, in float32.
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": 0.03}}
    core: Any = Model(DataInfo((3,)), latent_shape=2, likelihood=likelihood).core
    with torch.no_grad():
        core.posterior.linear.weight.mul_(3)
        core.decoder.net[-1].weight.mul_(3)
    single = core.double().draw(Batch(X), 6, noise=NOISE).log_weight
    best = single.unflatten(0, (2, 3)).amax(1)
    assert ((best[0] - best[1]).abs() > 100).any()
    found = []
    for dtype, objective in (
        (torch.float32, IWAE(3, 2, gradient, partial=True)),
        (torch.float64, IWAE(3, 2, gradient)),
        (torch.float64, IWAE(6, 1, gradient)),
    ):
        core.to(dtype)
        core.draw = partial(type(core).draw, core, noise=NOISE.to(dtype))
        loss = objective(core, Batch(X.to(dtype)), 0)["loss"].mean()
        sides = [weights(core, side) for side in SIDES[:2]]
        gs = iter(torch.autograd.grad(loss, [p for side in sides for p in side]))
        found.append([torch.cat([next(gs).flatten().double() for _ in side]) for side in sides])
    piwae, miwae, iwae = found
    for g, wanted in ((piwae[0], miwae[0]), (piwae[1], iwae[1])):
        assert (g - wanted).norm() < 1e-3 * wanted.norm()


# Values


def given(log_w: Tensor) -> Any:
    """A core whose draws have these weights."""
    draw = SimpleNamespace(log_weight=log_w, losses={}, levels=())
    return SimpleNamespace(draw=lambda batch, samples, stop=False: draw)


def test_pythaes_miwae_with_m_and_k_swapped_is_not_here() -> None:
    log_w = torch.tensor([[0.0], [5.0], [1.0], [-3.0], [2.0], [0.5]]).double()
    samples: list[int] = []
    core = given(log_w)
    draw = core.draw
    core.draw = lambda batch, n, stop=False: [samples.append(n), draw(batch, n)][1]
    w = log_w.exp()
    loss = IWAE(samples=3, groups=2).forward(core, Batch(X), 0)["loss"]
    assert loss.item() == pytest.approx(-(w[:3].mean().log() + w[3:].mean().log()).item() / 2)
    loss = IWAE(samples=2, groups=3).forward(core, Batch(X), 0)["loss"]
    three = sum(w[i : i + 2].mean().log().item() for i in (0, 2, 4)) / 3
    assert loss.item() == pytest.approx(-three)
    assert samples == [6, 6]


def test_pytorch_vaes_iwae_that_favours_the_worst_samples_is_not_here() -> None:
    # There the gradient also flows through the normalised weights, and the KL inside them is
    # the closed form, the same for all draws.
    log_w = torch.tensor([[-9.0], [-7.0], [-8.0]]).double().requires_grad_()
    loss = IWAE(3).forward(given(log_w), Batch(X[:1]), 0)["loss"]
    (g,) = torch.autograd.grad(loss.sum(), log_w)
    assert torch.allclose(-g, log_w.detach().exp() / log_w.detach().exp().sum())
    theirs = -(log_w.softmax(0) * log_w).sum()
    (bad,) = torch.autograd.grad(theirs, log_w)
    assert bad[0] > 0 > bad[1]  # some draws are made worse
    assert not torch.allclose(g, bad, rtol=0.1)
    core = small()
    term = IWAE(6)(core, Batch(X), 0)["iwae"]
    assert torch.allclose(term, by_hand(core).exp().mean(0).log())


def test_pythaes_iwae_whose_logged_loss_is_not_the_bound_is_not_here() -> None:
    # It logs the mean of log w under the weights themselves, which is above log mean w.
    core = small()
    terms = IWAE(6)(core, Batch(X), 0)
    log_w = by_hand(core).detach()
    bound = log_w.exp().mean(0).log()
    assert torch.allclose(terms["loss"], -bound)
    assert torch.allclose(terms["iwae"], bound)
    assert ((log_w.softmax(0) * log_w).sum(0) > bound).all()
    assert (IWAE.best, IWAE.bound) == (("iwae", "max"), True)


def test_the_special_cases_are_those_of_the_papers() -> None:
    log_w = 3 * torch.randn(12, 5).double()

    def loss(*args: Any, **kwargs: Any) -> Tensor:
        return IWAE(*args, **kwargs).forward(given(log_w), Batch(X), 0)["loss"]

    elbo = -log_w.mean(0)
    for same in (loss(1, 12), loss(12, alpha=1), loss(3, 4, elbo=1)):
        assert torch.allclose(same, elbo)
    for near in (loss(12, alpha=1 + 1e-6), loss(12, alpha=1 - 1e-6)):
        assert torch.allclose(near, elbo, atol=1e-4)
    assert torch.allclose(loss(12, alpha=1e-9), loss(12))
    assert torch.allclose(loss(12, elbo=0.25), 0.25 * elbo + 0.75 * loss(12))
    assert torch.allclose(loss(12, alpha=-1000.0), -log_w.amax(0), atol=0.01)  # VR-max
    order = [-loss(3, 4, alpha=a) for a in (-30.0, -1.0, 0.0, 0.5, 1.0, 2.0, 30.0)]
    assert all((a > b).all() for a, b in pairwise(order))


def test_one_draw_is_the_elbo_with_an_estimated_rate() -> None:
    core, batch = small(), Batch(X)
    terms, wanted = IWAE(1)(core, batch, 0), core.draw(batch, 1)
    rate = (wanted.log_posterior - wanted.log_prior)[0]
    assert torch.allclose(terms["loss"], ELBO()(core, batch, 0)["distortion"] + rate)
    assert torch.equal(terms["loss"], -terms["elbo"])
    assert torch.allclose(terms["effective_samples"], torch.ones(4).double())


def test_what_is_logged_is_of_all_draws() -> None:
    log_w = torch.randn(12, 5).double()
    log_w[:, 0] = 3.0
    log_w[1:, 1] = -900.0
    terms = IWAE(3, 4, alpha=0.5, elbo=0.5).forward(given(log_w), Batch(X), 0)
    assert torch.allclose(terms["iwae"], log_w.exp().mean(0).log())
    assert torch.allclose(terms["elbo"], log_w.mean(0))
    w = log_w.exp()
    assert torch.allclose(terms["effective_samples"], w.sum(0) ** 2 / (w**2).sum(0))
    assert torch.allclose(terms["effective_samples"][:2], torch.tensor([12.0, 1.0]).double())
    assert ((terms["effective_samples"] >= 1) & (terms["effective_samples"] < 12.001)).all()


def test_evaluation_reports_both_bounds_of_the_same_draws() -> None:
    core = small()
    with torch.no_grad():
        terms = IWAE(3, 2, "dreg", True, elbo=Linear(5)).evaluate(core, Batch(X))
    draw = core.draw(Batch(X), 6)
    assert torch.allclose(terms["iwae"], by_hand(core).exp().mean(0).log())
    assert list(terms) == ["elbo", "distortion", "rate", "iwae"]
    assert torch.equal(terms["elbo"], draw.bound()["elbo"])


def test_the_share_of_the_elbo_may_be_a_schedule() -> None:
    core = small()
    for step, share in ((0, 0.0), (5, 0.5), (50, 1.0)):
        loss = IWAE(6, elbo=Linear(10))(core, Batch(X), step)["loss"]
        assert torch.allclose(loss, -bound_of(by_hand(core), 1, share, 0.0))


# Refusals


def test_bad_arguments_say_what_was_expected() -> None:
    for match, arguments in {
        r"samples to be at least 1 but got 0": {"samples": 0},
        r"groups to be at least 1 but got -1": {"groups": -1},
        r"gradient to be standard, stl or dreg but got 'dreg2'": {"gradient": "dreg2"},
        r"elbo to be a schedule or from 0 to 1 but got 1.5": {"elbo": 1.5},
        r"alpha from -1e6 to 1e6 but got inf": {"alpha": float("inf")},
    }.items():
        with pytest.raises(ValueError, match=match):
            IWAE(**arguments)


@pytest.mark.parametrize(
    ("posterior", "way"),
    [
        ("PlanarFlow", {"gradient": "dreg"}),
        ("PlanarFlow", {"partial": True}),
        ("Hamiltonian", {"gradient": "stl"}),
        ("Refined", {"gradient": "dreg"}),
        ("Refined", {"partial": True}),
    ],
)
def test_a_posterior_whose_gradient_cannot_be_split_is_refused(
    posterior: str, way: dict[str, Any]
) -> None:
    class Refined(DiagonalNormal):
        uses_log_joint = True

    with plugins.known(Refined):
        made = partial(Model, BITS, latent_shape=2, posterior=posterior)
        with pytest.raises(ValueError, match=rf"IWAE.*known of any z.*{posterior}"):
            made(objective={"class_path": "IWAE", "init_args": way})
        made(objective="IWAE")
