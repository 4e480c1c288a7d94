"""Flows: log-determinants against Jacobians, inverses, densities and what they can learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from itertools import product
from math import log, pi
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from vaekit import DataInfo, Model, testing
from vaekit.contracts.batch import Batch
from vaekit.contracts.part import frozen
from vaekit.distributions.base import normal, transport
from vaekit.networks.flows import Autoregressive, Flow, Transform
from vaekit.posteriors import (
    IAF,
    MAF,
    DiagonalNormal,
    PlanarFlow,
    RadialFlow,
    RealNVP,
    SplineFlow,
    SylvesterFlow,
)
from vaekit.posteriors.planar import Planar, RadialMap, Sylvester
from vaekit.priors import FlowPrior
from vaekit.priors.gradient_fit import fit_by_gradient
from vaekit.testing.densities import OF_DENSITIES, OF_POSTERIORS
from vaekit.testing.subject import Subject

POSTERIORS = [PlanarFlow, RadialFlow, SylvesterFlow, IAF, MAF, RealNVP, SplineFlow]
INVERTIBLE = [RadialFlow, IAF, MAF, RealNVP, SplineFlow]
NETS = [IAF, MAF, RealNVP, SplineFlow]
FLOWS = ["maf", "iaf", "realnvp", "spline"]


def shaken(module: Any, scale: float = 0.7) -> Any:
    """The module far from where it starts."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, scale)
    return module


def blocks(size: int) -> dict[str, Callable[[], nn.Module]]:
    found: dict[str, Callable[[], nn.Module]] = {
        "planar": partial(Planar, size, 3),
        "radial": partial(RadialMap, size, 3),
        "sylvester": partial(Sylvester, size, 3, 2),
        "sylvester without reflections": partial(Sylvester, size, 3, 0),
    }
    for g, coupling, reverse, inverted in product(
        ("gated", "affine", "spline"), (False, True), (False, True), (False, True)
    ):
        name = f"{g} {'coupling ' * coupling}{'reverse ' * reverse}{'inverted' * inverted}"
        found[name] = partial(Autoregressive, size, 3, [9], g, 4, coupling, reverse, inverted)
    return found


def transform(name: str, size: int) -> Transform:
    return shaken(blocks(size)[name]().double())(torch.randn(5, 3).double())


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", blocks(1))
def test_a_log_determinant_is_that_of_the_jacobian(name: str, size: int) -> None:
    f = transform(name, size).forward
    z = torch.randn(5, size).double()
    _, found = f(z)
    whole = jacobian(lambda z: f(z)[0], z)  # (5, D, 5, D)
    own = torch.stack([whole[row, :, row] for row in range(5)])
    assert whole.abs().sum() == pytest.approx(own.abs().sum())  # rows do not see one another
    assert torch.allclose(found, own.det().log(), atol=1e-9)
    assert (found.abs() > 1e-3).any()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", [n for n in blocks(1) if n[:3] not in ("pla", "syl")])
def test_an_inverse_comes_back_with_the_opposite_log_determinant(name: str, size: int) -> None:
    there, back = transform(name, size)
    z = 2 * torch.randn(6, 5, size).double()
    image, log_det = there(z)
    again, opposite = back(image)
    assert (image - z).abs().max() > 1e-2
    assert torch.allclose(again, z, atol=1e-8)
    assert torch.allclose(opposite, -log_det, atol=1e-8)
    assert log_det.shape == (6, 5)


@pytest.mark.parametrize("name", ["planar", "sylvester"])
def test_what_has_no_inverse_says_so(name: str) -> None:
    with pytest.raises(NotImplementedError, match=r"Expected draws of its own"):
        blocks(3)[name]()(torch.randn(5, 3)).inverse(torch.randn(5, 3))


def test_the_planar_constraint_holds_and_leaves_the_identity_alone() -> None:
    f = Planar(3, 2)
    assert shaken(f, 50.0)(torch.randn(200, 2)).forward(torch.randn(200, 3))[1].isfinite().all()
    nn.init.zeros_(f.outer.weight)
    nn.init.zeros_(f.outer.bias)
    z = torch.randn(4, 3)
    image, log_det = f(torch.randn(4, 2)).forward(z)
    assert torch.allclose(image, z, atol=1e-6)
    assert log_det.abs().max() < 1e-5


@pytest.mark.parametrize("reverse", [False, True])
def test_parameters_depend_on_all_elements_before_and_on_no_others(reverse: bool) -> None:
    block = shaken(Autoregressive(5, 2, [20, 20], "affine", reverse=reverse).double())
    there, _ = block(torch.randn(1, 2).double())
    found = jacobian(lambda z: there(z)[0], torch.randn(1, 5).double())[0, :, 0]
    found = found.flip(0, 1) if reverse else found
    assert torch.equal(found.triu(1), torch.zeros(5, 5).double())
    assert (found.tril() != 0).sum() == 15


def test_without_a_context_the_first_element_has_learned_parameters() -> None:
    for size in (1, 3):
        block = shaken(Autoregressive(size, 0, [8], "affine").double())
        z = torch.randn(7, size).double()
        image, _ = block().forward(z)
        slope = (image[1:, 0] - image[:-1, 0]) / (z[1:, 0] - z[:-1, 0])
        assert torch.allclose(slope, slope[:1])
        assert abs(slope[0].item() - 1) > 1e-3


def made(cls: Any, size: int = 3, **init_args: Any) -> Any:
    args = {"hidden": [16]} if cls in NETS else {}
    return cls(4, (size,), **{"transforms": 3, **args, **init_args})


@pytest.mark.parametrize("cls", POSTERIORS)
def test_it_starts_near_the_normal_and_its_point_is_the_mean_s_image(cls: Any) -> None:
    q0, posterior, h = DiagonalNormal(4, (3,)), made(cls), torch.randn(5, 4)
    posterior.base.load_state_dict(q0.state_dict())
    normal, q, noise = q0(h), posterior(h), torch.randn(6, 5, 3)
    z, log_prob = q.transport_and_log_prob(noise)
    shrunk = torch.tensor(2.0).sigmoid() ** 3 if cls is IAF else 1.0
    assert torch.allclose(z, shrunk * transport(normal, noise), atol=0.15)
    start = normal.log_prob(transport(normal, noise)) - 3 * log(shrunk)
    assert torch.allclose(log_prob, start, atol=0.15)
    assert torch.equal(transport(q, noise), z)
    q = shaken(posterior)(h)
    point = posterior.point(q)
    assert torch.equal(point, posterior.point(posterior(h)))
    assert torch.allclose(point, transport(q, torch.zeros(5, 3)), atol=1e-6)


@pytest.mark.parametrize("cls", INVERTIBLE)
def test_a_draw_s_own_density_is_that_of_the_inverse(cls: Any) -> None:
    q = shaken(made(cls).double(), 0.4)(torch.randn(5, 4).double())
    z, log_prob = q.rsample_and_log_prob((50,))
    assert torch.allclose(q.log_prob(z), log_prob, atol=1e-7)


@pytest.mark.parametrize("cls", INVERTIBLE)
def test_a_frozen_flow_sends_no_gradient_into_its_weights(cls: Any) -> None:
    # zuko's own transforms read their network when they are evaluated, outside of `frozen`.
    posterior, z = made(cls), torch.randn(5, 3, requires_grad=True)
    log_prob = frozen(posterior)(torch.randn(5, 4)).log_prob(z).sum()
    grads = torch.autograd.grad(log_prob, [z, *posterior.parameters()], allow_unused=True)
    assert grads[0] is not None
    assert all(g is None for g in grads[1:])


@pytest.mark.parametrize("cls", POSTERIORS)
def test_extreme_features_give_no_nan(cls: Any) -> None:
    posterior = shaken(made(cls), 2.0)
    for size in (1e3, 1e6):
        h = (size * torch.randn(50, 4)).requires_grad_()
        z, log_prob = posterior(h).transport_and_log_prob(torch.randn(50, 3))
        assert z.isfinite().all()
        assert log_prob.isfinite().all()
        weights = list(posterior.parameters())
        for g in torch.autograd.grad((z.tanh().sum(1) + log_prob).sum(), [h, *weights]):
            assert not g.isnan().any()


@pytest.mark.parametrize("flow", FLOWS)
def test_extreme_weights_of_a_prior_give_no_nan(flow: Any) -> None:
    prior = shaken(FlowPrior((3,), flow, 2, [16]), 5.0)
    z = prior().sample((200,))
    assert not z.isnan().any()
    assert not prior().log_prob(3 * torch.randn(200, 3)).isnan().any()


def test_zukos_steep_splines_whose_inverse_is_nan_in_float32_are_not_here() -> None:
    block = shaken(Autoregressive(3, 4, [], "spline"), 30.0)
    there, back = block(torch.randn(20_000, 4))
    image = there(3 * torch.randn(20_000, 3))[0].detach().requires_grad_()
    z, log_det = back(image)
    for found in (z, log_det, *torch.autograd.grad(z.sum(), image)):
        assert not found.isnan().any()


def far(cls: Any, init_args: dict[str, Any]) -> Subject:
    """A part far from where it starts, so that laws have something to see."""

    @wraps(cls.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        shaken(self, 0.2)

    own = type(f"Far{cls.__name__}", (cls,), {"__init__": init})
    return Subject("prior" if cls is FlowPrior else "posterior", own, init_args)


SMALL = {"transforms": 2, "hidden": [8]}
FAR = [
    (PlanarFlow, {"transforms": 3}),
    (RadialFlow, {"transforms": 3}),
    (SylvesterFlow, {"transforms": 2}),
    (IAF, SMALL),
    (MAF, SMALL),
    (RealNVP, SMALL),
    (SplineFlow, {**SMALL, "bins": 3}),
    *((FlowPrior, {"flow": flow, **SMALL}) for flow in FLOWS if flow != "spline"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "init_args"), FAR)
def test_far_from_its_start_a_flow_obeys_the_laws_of_densities(
    cls: Any, init_args: dict[str, Any]
) -> None:
    laws = OF_DENSITIES if cls is FlowPrior else OF_POSTERIORS
    excused = testing.check(far(cls, init_args), only=laws)
    one_way = {} if cls in (PlanarFlow, SylvesterFlow) else {"a_density_integrates_to_one"}
    assert not one_way & excused.keys()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IAF(3, (2,), transforms=0), "transforms to be at least 1 but got 0"),
        (lambda: PlanarFlow(3, (2,), transforms=-1), "transforms to be at least 1 but got -1"),
        (lambda: RadialFlow(3, (2, 2)), r"a vector of 1 or more but got .*\(2, 2\)"),
        (lambda: MAF(3, (2,), hidden=[0]), r"at least one unit but got \[0\]"),
        (lambda: SplineFlow(3, (2,), bins=1), "bins to be at least 2 but got 1"),
        (lambda: SplineFlow(3, (2,), conditioner="half"), "coupling but got 'half'"),
        (lambda: SylvesterFlow(3, (2,), reflections=-1), "reflections to be at least 0"),
        (lambda: FlowPrior((2,), flow="glow"), "flow to be one of .* but got 'glow'"),
        (lambda: FlowPrior((2, 2)), r"a vector of 1 or more"),
        (
            lambda: FlowPrior((2,)).fit(torch.randn(9, 2)),
            "at least 10 rows to fit FlowPrior .* but got 9",
        ),
    ],
)
def test_what_makes_no_flow_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# Fitting


def test_fitting_brings_back_the_weights_that_were_best_on_held_out_rows() -> None:
    weight = nn.Parameter(torch.ones(()))
    seen = []

    def loss(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # held-out rows, whose loss gets worse with every step
            seen.append(weight.item())
            return weight**2 + 0 * x
        return -weight + 0 * x

    fit_by_gradient([weight], loss, torch.zeros(100), epochs=50, patience=4)
    assert weight.item() == 1.0
    assert len(seen) == 5
    assert weight.grad is None
    with pytest.raises(ValueError, match="at least ten rows to fit to but got 9"):
        fit_by_gradient([weight], loss, torch.zeros(9))
    with pytest.raises(ValueError, match="finite loss of the held-out rows but got nan"):
        fit_by_gradient([weight], loss, torch.full((100,), torch.nan))


def test_the_same_seed_of_torch_fits_the_same_prior_and_context_counts() -> None:
    z, context = torch.randn(60, 2), torch.randn(60, 1)
    z = 5 + 2 * z + 3 * context
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        prior = FlowPrior((2,), transforms=1, hidden=[8], context_features=1)
        shapes = {name: x.shape for name, x in prior.state_dict().items()}
        with torch.no_grad():
            prior.fit(z, context)
        assert shapes == {name: x.shape for name, x in prior.state_dict().items()}
        found.append(prior(context).log_prob(z))
    assert torch.equal(*found)
    assert found[0].shape == (60,)
    assert not torch.equal(prior(context + 1).log_prob(z), found[0])
    own, log_prob = prior(context).rsample_and_log_prob()
    assert torch.allclose(prior(context).log_prob(own), log_prob, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_a_fitted_prior_reaches_the_likelihood_of_a_correlated_normal(flow: Any) -> None:
    loc, cov = torch.tensor([10.0, -3.0]), torch.tensor([[4.0, 1.8], [1.8, 1.0]])
    true = torch.distributions.MultivariateNormal(loc, cov)
    prior = FlowPrior((2,), flow, transforms=4, hidden=[32])
    prior.fit(true.sample((4000,)))
    z = true.sample((4000,))
    with torch.no_grad():
        gap = (true.log_prob(z) - prior().log_prob(z)).mean()
        drawn = prior().sample((20_000,))
    assert -0.01 < gap < 0.05
    assert torch.allclose(torch.cov(drawn.T), cov, rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["maf", "realnvp", "spline"])
def test_a_fitted_prior_comes_near_the_likelihood_of_two_moons(flow: Any) -> None:
    z, z_test = moons(4000), moons(4000)
    prior, exact = FlowPrior((2,), flow), moons_log_prob(z_test)
    prior.fit(z)
    with torch.no_grad():
        gap = (exact - prior().log_prob(z_test)).mean()
    plain = normal(z.mean(0), z.std(0), 1)
    assert -0.02 < gap < (0.1 if flow == "spline" else 0.3)
    assert (exact - plain.log_prob(z_test)).mean() > 0.5


def arcs(t: Tensor) -> Tensor:
    upper = torch.stack([t.cos(), t.sin()], -1)
    return torch.stack([upper, torch.tensor([1.0, 0.5]) - upper])  # (2, n, 2)


def moons(n: int) -> Tensor:
    which = torch.randint(2, (n,))
    return arcs(pi * torch.rand(n))[which, torch.arange(n)] + 0.15 * torch.randn(n, 2)


def moons_log_prob(z: Tensor) -> Tensor:
    """By the midpoint rule over the place on the arcs."""
    n = 500
    at = arcs(pi * (torch.arange(n) + 0.5) / n).flatten(0, 1)
    p = normal(at, torch.full_like(at, 0.15), 1)
    return p.log_prob(z[:, None]).logsumexp(1) - log(2 * n)


# In a model


@pytest.mark.slow
def test_an_iaf_s_bound_comes_nearer_to_the_likelihood_than_a_diagonal_normal_s() -> None:
    found = {}
    for name in ("DiagonalNormal", "IAF"):
        torch.manual_seed(0)
        found[name], exact = trained_bound(name)
    assert found["DiagonalNormal"] < exact - 0.3  # the posterior is correlated
    assert exact - 0.05 < found["IAF"] < exact + 0.01


def trained_bound(posterior: str) -> tuple[float, float]:
    """The mean ELBO of a linear model whose decoder is fixed, and the mean log p(x)."""
    w = torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.5, -0.4]]).double()
    model = Model(
        DataInfo((3,)),
        latent_shape=2,
        likelihood={"class_path": "Gaussian", "init_args": {"scale": 0.5}},
        encoder={"class_path": "MLPEncoder", "init_args": {"hidden": []}},
        decoder={"class_path": "MLPDecoder", "init_args": {"hidden": []}},
        posterior=posterior,
    ).double()
    core = model.core
    with torch.no_grad():
        core.decoder.net[0].weight.copy_(w)
        core.decoder.net[0].bias.zero_()
    cov = w @ w.T + 0.25 * torch.eye(3).double()
    x = torch.randn(500, 3).double() @ torch.linalg.cholesky(cov).T
    weights = list(core.posterior.parameters())
    optimizer = torch.optim.Adam(weights, 1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        (-core.draw(Batch(x)).bound()["elbo"]).mean().backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        bound = core.draw(Batch(x), 300).bound()["elbo"].mean()
    exact = stats.multivariate_normal.logpdf(x.numpy(), cov=cov.numpy()).mean()
    return float(bound), float(exact)


def test_the_rate_of_a_flow_is_log_q_less_log_p_of_its_own_draws() -> None:
    model = Model(DataInfo((3,)), latent_shape=2, likelihood="Gaussian", posterior="PlanarFlow")
    draw = model.core.draw(Batch(torch.randn(4, 3)), 7)
    assert isinstance(draw.q, Flow)
    assert torch.equal(draw.rate, draw.log_posterior - draw.log_prior)
    assert draw.rate.shape == (7, 4)
