"""Leapfrog steps: their equations, reversibility, volume and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from vaekit import testing
from vaekit.numerics.random import fixed_noise
from vaekit.posteriors import Hamiltonian, RiemannianHamiltonian
from vaekit.posteriors.leapfrog import Leapfrog
from vaekit.testing.subject import Subject

BOTH = pytest.mark.parametrize("kind", [Hamiltonian, RiemannianHamiltonian])
LATENTS = 3


def bent(posterior: Hamiltonian) -> Hamiltonian:
    """In float64, its metric, if it has one, made as uneven as training may make it."""
    posterior = posterior.double()
    if isinstance(posterior, RiemannianHamiltonian):
        with torch.no_grad():
            posterior.factors.add_(0.3 * torch.randn_like(posterior.factors))
    return posterior


def quartic(z: Tensor) -> Tensor:
    """A log p(x, z) that is no Normal's, and couples the latents."""
    z = z.flatten(2)
    return -(z.square().sum(-1) + z.pow(4).sum(-1) / 4 + torch.sin(z.sum(-1))) / 2


def moving(kind: type[Hamiltonian], log_joint: Any = quartic, rows: int = 4, **own: Any) -> Any:
    """The distribution of some rows, of three latents; by default nothing is tempered."""
    posterior = bent(kind(features=5, latent_shape=(LATENTS,), **{"beta0": 1.0, **own}))
    q = posterior(torch.randn(rows, 5).double(), None, log_joint)
    assert isinstance(q, Leapfrog)
    return q


def begin(q: Leapfrog, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Points and a momentum, (K, B, d)."""
    z = q.start.sample(torch.Size([samples])).flatten(2)
    return z, q.at(z).momentum(torch.randn_like(z))


# The dynamics


def hamilton(q: Leapfrog, log_joint: Any) -> Callable[[float, Any], Any]:
    """Hamilton's equations, of -log p(x, z) - log N(rho; 0, G(z)), the latter torch's own."""

    def energy(z: Tensor, rho: Tensor) -> Tensor:
        precision = torch.eye(len(z), dtype=z.dtype)
        if q.metric is not None:
            m = q.metric
            away = ((z - m.centroids) ** 2).sum(1) / m.temperature**2
            precision = m.regularization * precision
            for weight, square in zip((-away).exp(), m.squares, strict=True):
                precision = precision + weight * square
        momentum = MultivariateNormal(torch.zeros_like(z), precision_matrix=precision)
        return -log_joint(z[None, None]).sum() - momentum.log_prob(rho)

    def velocity(_: float, state: Any) -> Any:
        z, rho = torch.from_numpy(state).chunk(2)
        dz, drho = torch.func.grad(energy, (0, 1))(z, rho)
        return torch.cat([drho, -dz]).numpy()

    velocity.energy = energy  # type: ignore[attr-defined]
    return velocity


@pytest.mark.slow
@BOTH
def test_pythaes_wrong_momentum_in_the_leapfrog_is_not_here(kind: type[Hamiltonian]) -> None:
    """Many small steps arrive where an ODE solver does, given the equations alone."""
    q = moving(kind, rows=1, steps=60, step_size=0.01)
    z, rho = begin(q)
    with torch.no_grad():
        place, end, _ = q.moved(q.at(z), rho)
        start = torch.cat([z.flatten(), rho.flatten()]).numpy()
        found = solve_ivp(hamilton(q, quartic), (0, 0.6), start, rtol=1e-10, atol=1e-12)
    assert np.allclose(place.z.flatten().numpy(), found.y[:LATENTS, -1], atol=2e-4)
    assert np.allclose(end.flatten().numpy(), found.y[LATENTS:, -1], atol=2e-4)
    assert np.abs(found.y[:, -1] - start).max() > 0.1


@BOTH
def test_pythaes_wrong_momentum_would_not_lead_back(kind: type[Hamiltonian]) -> None:
    """With its momentum turned round, the end goes back to the start."""
    q = moving(kind, step_size=0.1, **({} if kind is Hamiltonian else {"iterations": 40}))
    z, rho = begin(q, 5)
    with torch.no_grad():
        place, end, _ = q.moved(q.at(z), rho)
        assert (place.z - z).abs().max() > 0.05
        back, again, _ = q.moved(place, -end)
    assert torch.allclose(back.z, z, atol=1e-8)
    assert torch.allclose(-again, rho, atol=1e-8)


@BOTH
def test_pythaes_wrong_momentum_would_not_keep_the_energy(kind: type[Hamiltonian]) -> None:
    """On a Normal the energy's error is of second order in the step's size."""
    errors = []
    for halvings in range(3):
        torch.manual_seed(0)
        q = moving(
            kind,
            lambda z: -z.square().sum(-1) / 2,
            steps=4 * 2**halvings,
            step_size=0.1 / 2**halvings,
        )
        z, rho = begin(q)
        with torch.no_grad():
            place, end, _ = q.moved(q.at(z), rho)
            before = z.square().sum(-1) / 2 - q.at(z).log_density(rho)
            after = place.z.square().sum(-1) / 2 - place.log_density(end)
        errors.append((after - before).abs().mean().item())
    ratios = [errors[0] / errors[1], errors[1] / errors[2]]
    assert ratios == pytest.approx([4, 4], rel=0.3)


@pytest.mark.parametrize("beta0", [1.0, 0.3])
@BOTH
def test_volume_changes_by_the_tempering_alone(kind: type[Hamiltonian], beta0: float) -> None:
    """At the default sizes; the log of the Jacobian's determinant, against torch's Jacobian."""
    q = moving(kind, rows=1, beta0=beta0)

    def flow(state: Tensor) -> Tensor:
        z, rho = state.view(2, 1, 1, LATENTS)
        place, end, _ = q.moved(q.at(z), rho)
        return torch.cat([place.z.flatten(), end.flatten()])

    for _ in range(2):
        z, rho = begin(q)
        state = torch.cat([z.flatten(), rho.flatten()])
        jacobian = torch.autograd.functional.jacobian(flow, state)
        log_det = torch.linalg.slogdet(jacobian).logabsdet
        own = log_det - LATENTS / 2 * torch.tensor(beta0).log()
        assert own.abs() < 1e-4
        assert torch.allclose(q.moved(q.at(z), rho)[2], own, atol=1e-7)  # beta0 is in float32


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_the_growth_of_volume_is_that_of_the_iterations_as_they_end(iterations: int) -> None:
    q = moving(RiemannianHamiltonian, rows=1, step_size=0.15, iterations=iterations)

    def flow(state: Tensor) -> Tensor:
        z, rho = state.view(2, 1, 1, LATENTS)
        place, end, _ = q.moved(q.at(z), rho)
        return torch.cat([place.z.flatten(), end.flatten()])

    largest = 0.0
    for _ in range(5):  # some of which end so near to the solution that hardly any volume grows
        z, noise = torch.randn(1, 1, LATENTS).double(), 3 * torch.randn(1, 1, LATENTS).double()
        place = q.at(z)
        gamma = place.momentum(noise)
        state = torch.cat([z.flatten(), gamma.flatten()])
        log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(flow, state)).logabsdet
        end, rho, growth = q.moved(place, gamma)
        assert torch.allclose(growth, log_det, rtol=1e-9)
        change = place.log_density(gamma) - log_det - end.log_density(rho)
        assert torch.allclose(q.refined(z, noise)[1], change, rtol=1e-9)
        largest = max(largest, float(log_det.abs()))
    assert largest > 1e-6


@BOTH
def test_pythaes_three_sigmas_are_one(kind: type[Hamiltonian]) -> None:
    """log N(rho) is of the covariance that it was drawn with: G(z), and torch's density."""
    q = moving(kind)
    place = q.at(torch.randn(1, 1, LATENTS).double())
    eye = torch.eye(LATENTS).double()
    rho = place.momentum(torch.randn(200_000, 1, LATENTS).double())
    g = eye
    if q.metric is not None:
        away = (place.z[0, 0] - q.metric.centroids).square().sum(1)
        weights = (-away / q.metric.temperature**2).exp()
        g = ((weights[:, None, None] * q.metric.squares).sum(0) + 0.01 * eye).inverse()
        assert (g - eye).abs().max() > 0.1
    assert torch.allclose(torch.cov(rho[:, 0].T), g, rtol=0.02, atol=0.02 * g.max().item())
    wanted = MultivariateNormal(torch.zeros(LATENTS).double(), g).log_prob(rho[:9])
    constant = LATENTS / 2 * np.log(2 * np.pi)
    assert torch.allclose(place.log_density(rho[:9]), wanted + constant, rtol=1e-9)


@pytest.mark.parametrize("beta0", [1.0, 0.2])
@BOTH
def test_pythaes_three_sigmas_would_leave_something_of_steps_of_no_size(
    kind: type[Hamiltonian], beta0: float
) -> None:
    """Then l is log q0(z): the tempering, the first momentum's sigma and the last's agree."""
    q = moving(kind, beta0=beta0, step_size=1e-12, steps=4)
    z, log_q = q.rsample_and_log_prob((6,))
    assert torch.allclose(log_q, q.start.log_prob(z), atol=1e-8)


def test_the_tempering_is_quadratic() -> None:
    q = moving(Hamiltonian, beta0=0.25, steps=4)
    ends = torch.stack(q._tempering()).cumprod(0) / q.beta.sqrt()  # 1 / sqrt(beta_k)
    wanted = [1 + 1 * (1 - (k / 4) ** 2) for k in range(1, 5)]
    assert torch.allclose(ends, torch.tensor(wanted).double(), rtol=1e-6)


# Its gradients


@BOTH
def test_gradients_through_the_steps_are_those_of_differences(kind: type[Hamiltonian]) -> None:
    """Also in what log p(x, z) is made of: that needs its second derivatives."""
    posterior = bent(kind(features=2, latent_shape=(2,), steps=2, step_size=0.1))
    names = [name for name, _ in posterior.named_parameters()]

    def terms(h: Tensor, weight: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        def log_joint(z: Tensor) -> Tensor:
            return -(torch.tanh(z @ weight) - 0.5).square().sum(-1) - z.square().sum(-1) / 2

        state = dict(zip(names, parameters, strict=True))
        q = torch.func.functional_call(posterior, state, (h, None, log_joint))
        with fixed_noise(1):
            z, log_q = q.rsample_and_log_prob((2,))
        return log_joint(z) - log_q, z

    given = [torch.randn(3, 2), torch.randn(2, 4)]
    leaves = [x.double().requires_grad_() for x in given] + list(posterior.parameters())
    assert torch.autograd.gradcheck(terms, leaves, fast_mode=True)
    z, log_q = posterior(*leaves[:1], None, quartic).rsample_and_log_prob((2,))
    found = torch.autograd.grad((quartic(z) - log_q).sum(), posterior.parameters())
    assert all((g.abs() > 0).any() for g in found)


class Cut(Hamiltonian):
    def forward(self, h: Tensor, context: Any = None, log_joint: Any = None) -> Distribution:
        q: Any = super().forward(h, context, log_joint)
        kick = q._kick
        q._kick = lambda z: kick(z).detach()
        return q


def test_steps_without_second_derivatives_are_caught_by_a_law() -> None:
    (law,) = [found for found in testing.laws("posterior") if "go_through" in found.__name__]
    assert not testing.check(Subject("posterior", Hamiltonian), only=(law,))
    with pytest.raises(testing.LawError, match=r"along the draws but .* by differences"):
        testing.check(Subject("posterior", Cut), only=(law,))
