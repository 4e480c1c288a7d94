"""Positive latents and latents on the simplex, against scipy and quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Gamma, kl_divergence

from vaekit import DataInfo, Model
from vaekit.contracts import Posterior
from vaekit.contracts.batch import Batch
from vaekit.distributions.base import rate, transport
from vaekit.numerics.precision import smallest
from vaekit.posteriors import DirichletPosterior, GammaPosterior, LogisticNormal
from vaekit.posteriors.bounded import SoftmaxNormal
from vaekit.priors import DirichletPrior, GammaPrior
from vaekit.registry import plugins
from vaekit.testing.densities import a_density_integrates_to_one
from vaekit.testing.subject import Subject

POSTERIORS = [GammaPosterior, DirichletPosterior, LogisticNormal]
PAIR = DataInfo((2,), (0.0, 1.0), levels=2)


def made(part: Any, latents: int = 3, scale: float = 1.0) -> Any:
    """q of five rows, in float64."""
    return part(6, (latents,)).double()(scale * torch.randn(5, 6).double())


def softmax_normal(loc: list[float], scale: list[float]) -> SoftmaxNormal:
    return SoftmaxNormal(torch.tensor(loc).double(), torch.tensor(scale).double())


def test_gammas_are_scipys() -> None:
    q = made(GammaPosterior, scale=4.0)
    z, base = q.sample((7,)), q.base_dist
    wanted = stats.gamma.logpdf(z, base.concentration.detach(), scale=1 / base.rate.detach())
    assert np.allclose(q.log_prob(z).detach(), wanted.sum(-1), rtol=1e-11)
    p = GammaPrior((3,), concentration=0.6, rate=2.5).double()
    wanted = stats.gamma.logpdf(z, 0.6, scale=1 / 2.5).sum(-1)
    assert np.allclose(p().log_prob(z), wanted, rtol=1e-6)  # its numbers come from float32


def test_the_parameters_of_a_gamma_posterior_are_concentration_and_mean() -> None:
    posterior = GammaPosterior(1, (2,))
    torch.nn.init.zeros_(posterior.linear.weight)
    posterior.linear.bias.data = torch.tensor([0.5, -0.5, 1.0, 2.0])
    q: Any = posterior(torch.zeros(1, 1))
    assert torch.allclose(q.base_dist.concentration[0], 0.1 + torch.tensor([0.5, -0.5]).exp())
    assert torch.allclose(q.mean[0], torch.tensor([1.0, 2.0]).exp())


def test_dirichlets_are_scipys() -> None:
    q = made(DirichletPosterior, scale=4.0)
    z = q.sample()
    for row in range(5):
        wanted = stats.dirichlet.logpdf(z[row].numpy(), q.concentration[row].detach().numpy())
        assert q.log_prob(z)[row].item() == pytest.approx(wanted, rel=1e-11)
    p = DirichletPrior((3,), concentration=0.5).double()()
    assert float(p.log_prob(z[0])) == pytest.approx(stats.dirichlet.logpdf(z[0], [0.5] * 3))


def integral(f: Callable[[Tensor], Tensor], end: float) -> float:
    """Of f(z, ...) from 0 to end, by scipy."""

    def at(z: float) -> float:
        return float(f(torch.tensor(z).double()))

    middle = min(end, 1.0) / 2
    parts = ((0.0, middle), (middle, end))
    return sum(integrate.quad(at, *part, limit=200)[0] for part in parts)


def pair(z: Tensor) -> Tensor:
    return torch.stack([z, 1 - z])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The occurrence of roundoff")
def test_closed_forms_of_the_rate_are_integrals() -> None:
    a, b = Gamma(2.5, 0.7), Gamma(0.8, 1.9)
    wanted = integral(lambda z: a.log_prob(z).exp() * (a.log_prob(z) - b.log_prob(z)), np.inf)
    assert float(kl_divergence(a, b)) == pytest.approx(wanted, rel=1e-6)
    q, p = softmax_normal([0.7], [0.5]), softmax_normal([-0.3], [1.2])
    one, other = (Dirichlet(torch.tensor(c).double()) for c in ([2.5, 1.3], [0.7, 0.7]))
    for of, to in ((q, p), (one, other)):

        def excess(z: Tensor, of: Any = of, to: Any = to) -> Tensor:
            log_q = of.log_prob(pair(z))
            return log_q.exp() * (log_q - to.log_prob(pair(z)))

        wanted = integral(excess, 1.0)
        assert float(kl_divergence(of, to)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:KL")
def test_the_rate_of_a_logistic_normal_and_a_dirichlet_is_the_integral() -> None:
    q, p = softmax_normal([0.7], [0.8]), DirichletPrior((2,), 0.7).double()()

    def excess(z: Tensor) -> Tensor:
        log_q = q.log_prob(pair(z))
        return log_q.exp() * (log_q - p.log_prob(pair(z)))

    z = q.sample((200_000,))
    found = rate(q, p, lambda: q.log_prob(z), lambda: p.log_prob(z))
    error = float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean()) - integral(excess, 1.0)) < 5 * error


def by_autograd(q: SoftmaxNormal, y: Tensor) -> Tensor:
    """log q at the softmax of y, by the determinant of the map from y to all z but the last."""
    jacobian = torch.autograd.functional.jacobian(lambda y: q.softmax(y)[:-1], y)
    log_normal = torch.distributions.Normal(q.loc, q.scale).log_prob(y).sum()
    return log_normal - torch.linalg.slogdet(jacobian)[1]


def test_scvi_tools_logistic_normal_density_evaluated_at_the_softmaxed_point_is_not_here() -> None:
    q = softmax_normal([0.3, -1.0, 2.0], [0.5, 1.5, 0.8])
    for y in q.normal.sample((5,)):
        assert torch.allclose(q.log_prob(q.softmax(y)), by_autograd(q, y), rtol=1e-10)


class AtTheSoftmaxedPoint(SoftmaxNormal):
    def log_prob(self, value: Tensor) -> Tensor:
        return self.normal.log_prob(value[..., :-1])


class WithoutJacobian(SoftmaxNormal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + value.log().sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("family", [AtTheSoftmaxedPoint, WithoutJacobian])
def test_a_law_would_tell_of_it(family: type[SoftmaxNormal]) -> None:
    def forward(self: Any, h: Tensor, context: Any = None, log_joint: Any = None) -> Distribution:
        q: Any = LogisticNormal.forward(self, h, context, log_joint)
        return family(q.loc, q.scale)

    part = type(family.__name__, (LogisticNormal,), {"forward": forward, "__module__": __name__})
    subject = Subject("posterior", part, around={"prior": "DirichletPrior"})
    with subject.known(), pytest.raises(AssertionError, match="it integrates to"):
        a_density_integrates_to_one(subject)
    sound = Subject("posterior", "LogisticNormal", around={"prior": "DirichletPrior"})
    a_density_integrates_to_one(sound)


def test_a_logistic_normal_is_drawn_from_given_noise() -> None:
    q = softmax_normal([0.3, -1.0], [0.5, 1.5])
    noise = torch.randn(4, 3).double()
    y = q.loc + q.scale * noise[:, :2]
    assert torch.allclose(transport(q, noise), torch.cat([y, 0 * y[:, :1]], 1).softmax(1))


def gradients(of: Callable[[Tensor], Any], at: Tensor, draws: int = 400_000) -> tuple[Any, Any]:
    """Of the mean of log(1 + z0) in the parameters, and their error."""
    found = []
    for _ in range(20):
        own = at.clone().requires_grad_()
        of(own).rsample((draws // 20,))[:, 0].log1p().mean().backward()
        found.append(own.grad)
    stacked = torch.stack(found)  # type: ignore[arg-type]
    return stacked.mean(0), stacked.std(0) / 20**0.5


@pytest.mark.slow
@pytest.mark.parametrize("concentration", [0.2, 3.0, 60.0])
def test_gradients_through_draws_are_those_of_integrals(concentration: float) -> None:
    at = torch.tensor([concentration, 1.5]).double()
    families: list[tuple[Any, Any]] = [
        (lambda c: Gamma(c[:1], c[1:]), lambda a, b: stats.gamma(a, scale=1 / b)),
        (Dirichlet, stats.beta),
    ]
    for torchs, scipys in families:

        def mean(a: float, b: float, scipys: Any = scipys) -> float:
            # Over probabilities, each of which has its z.
            return integrate.quad(lambda u: np.log1p(scipys(a, b).ppf(u)), 0, 1, limit=300)[0]

        found, error = gradients(torchs, at)
        for i, step in enumerate(1e-4 * np.eye(2)):
            low, high = (mean(*(at.numpy() + sign * step)) for sign in (-1, 1))
            wanted = (high - low) / 2e-4
            # torch gives a Dirichlet's by an approximation to about a thousandth.
            assert abs(float(found[i]) - wanted) < 5 * float(error[i]) + 3e-3 * abs(wanted)


@pytest.mark.parametrize("part", POSTERIORS)
@pytest.mark.parametrize("scale", [10.0, 1e3, 1e30])
def test_extreme_features_give_finite_terms_and_gradients(part: Any, scale: float) -> None:
    posterior = part(6, (4,))
    h = (scale * torch.randn(50, 6)).requires_grad_()
    q = posterior(h)
    z = q.rsample((50,))
    p = GammaPrior((4,), 30.0) if part is GammaPosterior else DirichletPrior((4,), 30.0)
    terms = [q.log_prob(z), p().log_prob(z)]
    if part is not LogisticNormal:
        terms.append(kl_divergence(q, p()))
    assert (z > 0).all()
    sum(term.mean() for term in [*terms, z.log()]).backward()  # type: ignore[union-attr]
    assert all(term.isfinite().all() for term in terms)
    assert all(x.grad.isfinite().all() for x in [h, *posterior.parameters()])


@pytest.mark.parametrize("part", POSTERIORS)
def test_float32_holds_the_density_of_its_draws(part: Any) -> None:
    posterior, h = part(6, (4,)), 5 * torch.randn(50, 6)
    z = posterior(h).sample((50,))
    found = posterior(h).log_prob(z)
    exact = posterior.double()(h.double()).log_prob(z.double())
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=5e-3)


def test_draws_of_small_concentrations_rarely_end_at_the_least_of_their_type() -> None:
    h = torch.full((1, 1), -1e30)
    for part in (GammaPosterior, DirichletPosterior):
        posterior: Posterior = part(1, (4,))
        for weight in posterior.parameters():
            torch.nn.init.ones_(weight)
        z = posterior(h).sample(torch.Size((20_000,)))
        assert (z <= smallest(z)).double().mean() < 5e-3


@pytest.mark.parametrize("part", [DirichletPosterior, LogisticNormal])
def test_the_simplex_keeps_draws_and_points(part: Any) -> None:
    posterior = part(6, (4,))
    q = posterior(torch.randn(5, 6))
    for z in (q.rsample((9,)), posterior.point(q)):
        assert torch.allclose(z.sum(-1), torch.ones(()))
    q = softmax_normal([1.0, -2.0], [0.1, 0.1])
    wanted = torch.tensor([1.0, -2.0, 0.0]).double().softmax(0)
    assert torch.allclose(LogisticNormal(1, (3,)).point(q), wanted)


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_a_simplex_needs_a_vector_of_two(shape: tuple[int, ...]) -> None:
    for make in (
        lambda: DirichletPosterior(4, shape),
        lambda: LogisticNormal(4, shape),
        lambda: DirichletPrior(shape),
    ):
        with pytest.raises(ValueError, match=r"Expected latents that are a vector .* but got"):
            make()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_of_priors_are_positive(value: float) -> None:
    for make in (
        lambda: GammaPrior((2,), concentration=value),
        lambda: GammaPrior((2,), rate=value),
        lambda: DirichletPrior((2,), concentration=value),
    ):
        with pytest.raises(ValueError, match=r"Expected \w+ to be positive but got"):
            make()


def test_priors_of_the_same_support_are_told() -> None:
    with pytest.raises(plugins.RegistryError, match="DirichletPrior, VampPrior"):
        Model(PAIR, latent_shape=3, posterior="LogisticNormal")


def test_gammas_may_have_any_shape() -> None:
    model = Model(PAIR, latent_shape=[2, 3], posterior="GammaPosterior", prior="GammaPrior")
    draw = model.core.draw(Batch(torch.ones(4, 2)), 3)
    assert draw.z.shape == (3, 4, 2, 3)
    assert draw.rate.shape == (1, 4)
