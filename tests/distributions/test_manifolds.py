"""Distributions on the sphere and in the ball against closed forms and quadrature."""

from __future__ import annotations

from collections.abc import Callable
from math import e, erf, log, pi, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from vaekit import DataInfo, Model, posteriors, priors
from vaekit.contracts.batch import Batch
from vaekit.contracts.support import same_support
from vaekit.distributions import manifolds
from vaekit.distributions.base import normal, transport
from vaekit.distributions.manifolds import (
    RiemannianNormal,
    UniformSphere,
    VonMisesFisher,
    WrappedNormal,
)
from vaekit.evaluation.importance_sampling import log_likelihood
from vaekit.testing.grids import grid_of

SIZES = (2, 3, 10, 50, 500)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pole(n: int, at: int = 0, value: float = 1.0) -> Tensor:
    return value * torch.eye(n, dtype=torch.float64)[at]


def somewhere(n: int, length: float) -> Tensor:
    v = torch.randn(n, dtype=torch.float64)
    return length * v / v.norm()


# Where they lie


def test_supports_are_compared_by_kind_and_curvature() -> None:
    assert same_support(manifolds.Sphere(), manifolds.Sphere())
    assert same_support(manifolds.Ball(1), manifolds.Ball(1.0))
    assert not same_support(manifolds.Ball(1.0), manifolds.Ball(2.0))
    assert not same_support(manifolds.Ball(1.0), constraints.real)
    assert repr(manifolds.Sphere()) == "Sphere()"
    assert repr(manifolds.Ball(0.5)) == "Ball(curvature=0.5)"


@pytest.mark.parametrize("n", [2, 7])
def test_draws_lie_in_the_support(n: int) -> None:
    loc, scale = somewhere(n, 0.5), torch.ones(n).double()
    for q in (
        VonMisesFisher(2 * loc, f64(5.0)[0]),
        UniformSphere(0 * loc),
        WrappedNormal(loc, scale, 2.0),
        RiemannianNormal(loc, scale[0], 2.0),
    ):
        z = q.sample((100,))
        assert q.support.check(z).all()
        assert not q.support.check(1.5 * z / z.norm(dim=1, keepdim=True)).any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_laws_grids_have_the_area_of_the_sphere_and_the_volume_of_the_ball(n: int) -> None:
    draws = 0.3 * torch.randn(500, 1, n).double().tanh()
    if n > 1:
        area = grid_of(manifolds.Sphere(), draws).log_volume.exp().sum()
        assert float(area) == pytest.approx({2: 2 * pi, 3: 4 * pi}[n])
    if n < 3:
        grid = grid_of(manifolds.Ball(4.0), draws)
        assert manifolds.Ball(4.0).check(grid.points).all()
        assert float(grid.log_volume.exp().sum()) == pytest.approx(
            {1: 1.0, 2: pi / 4}[n], rel=1e-3
        )


# The von Mises-Fisher distribution


def log_c(n: int, kappa: float) -> float:
    """log C_n + kappa, in closed form: by a series for small kappa, where the other vanishes."""
    v = n / 2 - 1
    if kappa < 40:
        area = log(2) + n / 2 * log(pi) - special.gammaln(n / 2)
        return float(kappa - area - np.log(special.hyp0f1(n / 2, kappa**2 / 4)))
    return float(v * log(kappa) - n / 2 * log(2 * pi) - np.log(special.ive(v, kappa)))


@pytest.mark.parametrize("n", SIZES)
def test_the_normalizer_is_that_of_bessel_functions(n: int) -> None:
    kappa = [0.0, 1e-4, 0.1, 1.0, 4.0, 9.0, 12.0, 30.0, 100.0, 300.0, 1e3, 1e4]
    q = VonMisesFisher(pole(n).expand(len(kappa), n), f64(*kappa))
    wanted = f64(*[log_c(n, k) for k in kappa])
    torch.testing.assert_close(-q.log_normalizer, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("n", [2, 3, 10, 50])
@pytest.mark.parametrize("kappa", [0.5, 20.0, 700.0])
def test_von_mises_fisher_is_scipy_s(n: int, kappa: float) -> None:
    loc = somewhere(n, 1.0)
    q, theirs = VonMisesFisher(loc, f64(kappa)[0]), stats.vonmises_fisher(loc.numpy(), kappa)
    for z in (q.sample((20,)), torch.from_numpy(theirs.rvs(20, random_state=0))):
        np.testing.assert_allclose(q.log_prob(z), theirs.logpdf(z.numpy()), rtol=1e-8, atol=1e-6)
    kl = kl_divergence(q, UniformSphere(torch.zeros(n)))
    area = log(2) + n / 2 * log(pi) - special.gammaln(n / 2)
    assert float(kl) == pytest.approx(area - theirs.entropy(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n", SIZES)
def test_a_concentration_of_zero_is_the_uniform_distribution(n: int) -> None:
    q, p = VonMisesFisher(pole(n), f64(0.0)[0]), UniformSphere(torch.zeros(n).double())
    z = p.sample((5,))
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z), rtol=0, atol=1e-8)
    assert float(kl_divergence(q, p)) == pytest.approx(0.0, abs=1e-8)


def test_the_gradient_of_kl_is_concentration_times_variance() -> None:
    kappa = f64(0.01, 1.0, 50.0, 2000.0).requires_grad_()
    q = VonMisesFisher(pole(3).expand(4, 3), kappa)
    kl_divergence(q, UniformSphere(torch.zeros(3))).sum().backward()
    k = kappa.detach()
    wanted = k * torch.where(k > 300, k**-2, k**-2 - 1 / k.clamp(max=300).sinh() ** 2)
    torch.testing.assert_close(kappa.grad, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", SIZES)
def test_draws_have_the_mean_and_its_gradient(n: int) -> None:
    # By Stein's identity the mean is the gradient of log Z in kappa mu; none of it is sampled.
    kappa = f64(2.0 * n)[0].requires_grad_()
    loc = somewhere(n, 1.0)
    q = VonMisesFisher(loc, kappa)
    z = q.rsample((4000,))
    cosine = z @ loc
    error = float(cosine.detach().std()) / 4000**0.5
    v = n / 2 - 1
    a = special.ive(v + 1, 2.0 * n) / special.ive(v, 2.0 * n)
    assert float(cosine.detach().mean()) == pytest.approx(a, abs=5 * error)
    torch.testing.assert_close(q.mean, a * loc, rtol=1e-6, atol=1e-9)
    grad = torch.autograd.grad(cosine.mean(), kappa)[0]
    wanted = 1 - a * a - (n - 1) / (2.0 * n) * a  # A'(kappa)
    assert float(grad) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("n", [2, 3, 500])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_reflection_to_the_mean_direction_is_whole_at_the_poles(n: int, sign: float) -> None:
    loc = (sign * pole(n)).requires_grad_()
    z = VonMisesFisher(loc, f64(1e8)[0]).rsample((50,))
    torch.testing.assert_close(z, loc.expand_as(z), rtol=0, atol=3e-3)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(50).double())
    (grad,) = torch.autograd.grad((z @ somewhere(n, 1.0)).sum(), loc)
    assert grad.isfinite().all()


def test_draws_turn_with_the_mean_direction() -> None:
    noise, kappa = torch.randn(20, 4).double(), f64(3.0)[0]
    loc = somewhere(4, 1.0).requires_grad_()

    def cosines(loc: Tensor) -> Tensor:
        loc = loc / loc.norm()
        return transport(VonMisesFisher(loc, kappa), noise) @ loc

    assert torch.autograd.gradcheck(
        lambda x: transport(VonMisesFisher(x / x.norm(), kappa), noise), loc
    )
    jacobian = torch.autograd.functional.jacobian(cosines, loc)
    torch.testing.assert_close(jacobian, 0 * jacobian, rtol=0, atol=1e-10)


# The ball


def test_the_ball_s_maps_are_the_textbook_s() -> None:
    c = 0.7
    x, y, v = somewhere(3, 0.6), somewhere(3, 0.9), somewhere(3, 1.3)
    dot, xx, yy = x @ y, x @ x, y @ y
    wanted = (1 + 2 * c * dot + c * yy) * x + (1 - c * xx) * y
    wanted = wanted / (1 + 2 * c * dot + c * c * xx * yy)
    torch.testing.assert_close(manifolds.add(x, y, c), wanted)
    point = manifolds.exp0(v, c)
    torch.testing.assert_close(point / point.norm(), v / v.norm())
    assert 2 / sqrt(c) * np.arctanh(sqrt(c) * float(point.norm())) == pytest.approx(1.3)
    assert manifolds.exp0(torch.zeros(3), c).tolist() == [0, 0, 0]


FAMILIES: dict[str, Callable[..., Any]] = {
    "WrappedNormal": lambda loc, scale, c: WrappedNormal(loc, scale, c),
    "RiemannianNormal": lambda loc, scale, c: RiemannianNormal(loc, scale[..., 0], c),
}


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [0.0, 0.9])
def test_a_wrapped_normal_is_the_normal_through_its_own_jacobian(n: int, length: float) -> None:
    c, scale = 0.8, torch.rand(n).double() + 0.2
    q, noise = WrappedNormal(somewhere(n, length), scale, c), torch.randn(4, n).double()
    for own in noise:
        jacobian = torch.autograd.functional.jacobian(lambda x: transport(q, x), own)
        standard = normal(torch.zeros(n).double(), torch.ones(n).double(), 1).log_prob(own)
        wanted = standard - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(q.log_prob(transport(q, own)), wanted)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0, 8.0])
@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_a_riemannian_normal_s_normalizer_is_the_paper_s(sigma: float, c: float) -> None:
    s = sqrt(c) * sigma  # in units of the radius
    twice = 2 * s * s
    shell = {2: e ** (s * s / 2) * erf(s / sqrt(2)), 3: np.expm1(twice) / 2}
    for n, integral in shell.items():
        z = c ** (-n / 2) * sqrt(pi / 2) * s * integral * (2 * pi if n == 2 else 4 * pi)
        q = RiemannianNormal(torch.zeros(n).double(), f64(sigma)[0], c)
        found = float(q.log_prob(torch.zeros(n).double()))  # the ball's volume there is 2^n
        assert found == pytest.approx(n * log(2) - log(z), abs=1e-7)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_both_are_one_on_a_line(c: float) -> None:
    loc, scale = f64(0.6), f64(0.7)
    one, other = WrappedNormal(loc, scale, c), RiemannianNormal(loc, scale[0], c)
    z = one.sample((50,))
    torch.testing.assert_close(one.log_prob(z), other.log_prob(z), rtol=1e-7, atol=1e-7)
    noise = torch.randn(50, 1).double()
    torch.testing.assert_close(transport(one, noise), transport(other, noise), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_of_the_ball_differentiate(family: str) -> None:
    noise = torch.randn(6, 3).double()
    loc, scale = somewhere(3, 0.8), torch.full((3,), 0.6).double()
    inputs = (loc.requires_grad_(), scale.requires_grad_())

    def draws(loc: Tensor, scale: Tensor) -> Tensor:
        return transport(FAMILIES[family](loc, scale, 0.8), noise)

    def density(loc: Tensor, scale: Tensor) -> Tensor:
        q = FAMILIES[family](loc, scale, 0.8)
        return q.log_prob(transport(q, noise))

    assert torch.autograd.gradcheck(draws, inputs, eps=1e-4, atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradcheck(density, inputs, eps=1e-4, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [2, 16])
def test_float32_gives_float64_s_densities_of_its_own_draws(family: str, n: int) -> None:
    loc = torch.stack([somewhere(n, 1 - 10.0**-k) for k in range(5)]).float()
    scale = torch.full((5, n), 0.5)
    p = FAMILIES[family](torch.zeros(n), torch.ones(n), 1.0)
    q = FAMILIES[family](loc, scale, 1.0)
    exact = FAMILIES[family](loc.double(), scale.double(), 1.0)
    z = q.sample((200,))
    assert q.log_prob(z).dtype == z.dtype == torch.float32
    torch.testing.assert_close(
        q.log_prob(z).double(), exact.log_prob(z.double()), rtol=1e-6, atol=0
    )
    prior = FAMILIES[family](torch.zeros(n).double(), torch.ones(n).double(), 1.0)
    torch.testing.assert_close(
        p.log_prob(z).double(), prior.log_prob(z.double()), rtol=1e-6, atol=0
    )
    # and rounding of the draws themselves changes log p - log q as it does their distance to the
    # edge, over the whole range; what is nearer than 1e-5 is brought back
    noise = torch.randn(200, 5, n)
    z, fine = transport(q, noise), transport(exact, noise.double())
    away = (p.log_prob(z) - q.log_prob(z)) - (prior.log_prob(fine) - exact.log_prob(fine))
    room = 1 - fine.norm(dim=-1)
    assert (room > 1.01e-5)[:, :4].double().mean() > 0.95
    assert (away.abs() * room)[room > 1.01e-5].max() < 20 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("n", [3, 50])
def test_float32_gives_float64_s_densities_on_the_sphere(n: int, kappa: float) -> None:
    loc = somewhere(n, 1.0)
    q, exact = VonMisesFisher(loc.float(), torch.tensor(kappa)), VonMisesFisher(loc, f64(kappa)[0])
    noise = torch.randn(200, n)
    z, fine = transport(q, noise), transport(exact, noise.double())
    assert (q.log_prob(z) - exact.log_prob(fine)).abs().max() < 2e-6 * sqrt(kappa * n) + 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["VonMisesFisher", "WrappedNormal", "RiemannianNormal"])
@pytest.mark.parametrize("size", [0.0, 1e-20, 30.0, 1e4, 1e30])
def test_extreme_features_give_finite_terms(name: str, size: float, dtype: torch.dtype) -> None:
    part = getattr(posteriors, f"{name}Posterior")(features=4, latent_shape=(3,)).to(dtype)
    part.linear.bias.data.zero_()
    h = (size * torch.randn(20, 4, dtype=dtype)).requires_grad_()
    q = part(h)
    z = q.rsample((10,))
    assert q.support.check(z).all()
    log_q = q.log_prob(z)
    (log_q.mean() + z.sum()).backward()
    assert log_q.isfinite().all()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in part.parameters())


# The parts


def model(posterior: Any, prior: Any, **around: Any) -> Model:
    info = DataInfo((6,), (0.0, 1.0), levels=2)
    return Model(info, posterior=posterior, prior=prior, latent_shape=3, **around)


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


PAIRS = [
    ("VonMisesFisher", "UniformSphere"),
    ("WrappedNormal", "WrappedNormalPrior"),
    ("RiemannianNormal", "RiemannianNormalPrior"),
]


def test_a_prior_of_another_curvature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"curvature -2, those .* curvature -1"):
        model(part("WrappedNormal", curvature=2.0), "RiemannianNormalPrior")
    with pytest.raises(ValueError, match=r"lie in the unit sphere, those .* the real numbers"):
        model("VonMisesFisher", "StandardNormal")
    model("WrappedNormal", "RiemannianNormalPrior")


def test_what_cannot_be_built_is_refused() -> None:
    for name in ("VonMisesFisher", "WrappedNormal", "RiemannianNormal"):
        with pytest.raises(ValueError, match="Expected latents that are a vector"):
            getattr(posteriors, f"{name}Posterior")(features=4, latent_shape=(2, 3))
    for name in ("UniformSpherePrior", "WrappedNormalPrior", "RiemannianNormalPrior"):
        with pytest.raises(ValueError, match="Expected latents that are a vector"):
            getattr(priors, name)(latent_shape=(2, 3))
    for cls in (posteriors.VonMisesFisherPosterior, priors.UniformSpherePrior):
        given = {"features": 4} if cls is posteriors.VonMisesFisherPosterior else {}
        with pytest.raises(ValueError, match="2 or more"):
            cls(latent_shape=(1,), **given)
    for curvature in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="Expected curvature to be positive"):
            posteriors.WrappedNormalPosterior(4, (2,), curvature=curvature)
        with pytest.raises(ValueError, match="Expected curvature to be positive"):
            priors.RiemannianNormalPrior((2,), curvature=curvature)
    with pytest.raises(ValueError, match="Expected scale to be positive"):
        priors.WrappedNormalPrior((2,), scale=0.0)


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_a_reconstruction_goes_through_a_point_of_the_manifold(posterior: str, prior: str) -> None:
    core = model(posterior, prior).core
    q = core.infer(torch.rand(5, 6))
    point = core.posterior.point(q)
    assert q.support.check(point).all()
    torch.testing.assert_close(point, q.loc)


@pytest.mark.parametrize("name", ["WrappedNormal", "RiemannianNormal"])
def test_pythaes_poincare_mean_that_is_never_mapped_to_the_ball_is_not_here(name: str) -> None:
    q_of = getattr(posteriors, f"{name}Posterior")(features=4, latent_shape=(2,), curvature=4.0)
    h = torch.randn(50, 4)
    for size in (1.0, 10.0, 1000.0):
        q, tangent = q_of(size * h), q_of.linear(size * h)[:, :2].double()
        length = tangent.norm(dim=1, keepdim=True)
        assert manifolds.Ball(4.0).check(q.loc).all()
        mapped = (
            length.tanh() * tangent / (2 * length)
        ).float()  # tanh(sqrt(c) |v| / 2) / sqrt(c)
        torch.testing.assert_close(q.loc, mapped, rtol=2e-5, atol=0)
    assert (q_of.linear(1000 * h)[:, :2].norm(dim=1) > 0.5).any()  # as it was, outside


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_pythaes_svae_concentration_that_differs_between_training_and_the_nll_is_not_here(
    posterior: str, prior: str
) -> None:
    core = model(posterior, prior).double().core
    batch, noise = Batch(torch.rand(4, 6).round().double()), torch.randn(50, 4, 3).double()
    core.train()
    q = core.infer(batch.x)
    z = transport(q, noise)
    likelihood = core.likelihood.log_prob(core.decode(z), batch.x)
    weight = likelihood + core.prior().log_prob(z) - q.log_prob(z)
    core.eval()
    again = core.infer(batch.x)
    spread = "concentration" if posterior == "VonMisesFisher" else "scale"
    assert torch.equal(getattr(q, spread), getattr(again, spread))
    found = log_likelihood(core, batch, 50, noise=noise).log_likelihood
    torch.testing.assert_close(found, weight.logsumexp(0) - log(50))
