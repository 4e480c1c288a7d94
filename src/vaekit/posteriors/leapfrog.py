"""Leapfrog steps along Hamiltonian dynamics: a distribution whose draws they move."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.attention import SDPBackend, sdpa_kernel

from vaekit.contracts.part import LogJoint
from vaekit.numerics.precision import full_precision


class Leapfrog(Distribution):
    """Draws of a distribution, moved by leapfrog steps; `Hamiltonian` has the formulas.

    Arguments:
        start: What is moved, of batch shape (B,).
        log_joint: z (K, B, *Z) -> log p(x, z) (K, B) in nats.
        step: The size of a step in each of d latents, (d,).
        beta: The inverse temperature of the first momentum, ().
        steps: Their number.
        metric: Of the momentum; None for the identity everywhere.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        start: Distribution,
        log_joint: LogJoint,
        step: Tensor,
        beta: Tensor,
        steps: int,
        metric: Metric | None = None,
    ) -> None:
        super().__init__(start.batch_shape, start.event_shape, validate_args=False)
        self.start, self.log_joint = start, log_joint
        self.step, self.beta, self.steps, self.metric = step, beta, steps, metric

    @property
    def support(self) -> Any:
        return self.start.support

    @property
    def mean(self) -> Tensor:
        """Where the mean of the start goes from rest."""
        z = self.start.mean.unsqueeze(0)
        return self.refined(z, torch.zeros_like(z))[0].squeeze(0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, shape: Any = ()) -> tuple[Tensor, Tensor]:
        """z (*shape, B, *Z), and l (*shape, B) with E[exp(log p(x, z) - l)] = p(x)."""
        z = self.start.rsample(torch.Size((torch.Size(shape).numel(),)))  # (K, B, *Z)
        end, change = self.refined(z, torch.randn_like(z))
        log_q = self.start.log_prob(z) + change
        return end.reshape(*shape, *z.shape[1:]), log_q.reshape(*shape, *z.shape[1:2])

    def refined(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Where draws of the start go.

        Arguments:
            z: The draws, (K, B, *Z).
            noise: Standard normal noise that makes the momentum, (K, B, *Z).

        Returns:
            The end (K, B, *Z), and l less the log-density of the start at z, (K, B).
        """
        with full_precision(z):
            place = self.at(z.flatten(2))
            gamma = place.momentum(noise.flatten(2))
            before = place.log_density(gamma)
            place, rho, volume = self.moved(place, self.beta.rsqrt() * gamma)
            return place.z.reshape(z.shape), before - volume - place.log_density(rho)

    def at(self, z: Tensor) -> Place:
        """Points z (K, B, d), with the metric there."""
        return _Flat(z) if self.metric is None else self.metric.at(z)

    def moved(self, place: Place, rho: Tensor) -> tuple[Place, Tensor, Tensor]:
        """Where all steps lead from a place and its momentum (K, B, d).

        Returns:
            Place, momentum, and the log (K, B) of how much volume grew, but for the tempering.
        """
        volume = torch.zeros_like(rho[..., 0])
        kick = self._kick(place.z)
        for alpha in self._tempering():
            place, rho, growth = place.move(rho + kick, self.step)
            kick = self._kick(place.z)
            rho, volume = alpha * (rho + kick), volume + growth
        return place, rho, volume

    def _tempering(self) -> list[Tensor]:
        """What the momentum is multiplied by after each step."""
        excess, n = self.beta.rsqrt() - 1, self.steps
        heat = [1 + excess * (1 - (k / n) ** 2) for k in range(n + 1)]
        return [heat[k + 1] / heat[k] for k in range(n)]

    def _kick(self, z: Tensor) -> Tensor:
        """What the gradient of log p(x, z) adds to the momentum in half a step."""

        def total(z: Tensor) -> Tensor:
            return self.log_joint(z.unflatten(2, self.event_shape)).sum()

        # Not by torch.autograd.grad, which is not for inference mode nor for torch.compile. Fused
        # attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return self.step / 2 * torch.func.grad(total)(z)


class Place(Protocol):
    """Points z (K, B, d), with the metric there."""

    @property
    def z(self) -> Tensor:
        """The points."""

    def momentum(self, noise: Tensor) -> Tensor:
        """A momentum of N(0, G(z)), made of standard normal noise (K, B, d)."""

    def log_density(self, rho: Tensor) -> Tensor:
        """log N(rho; 0, G(z)) + d log(2 pi) / 2, (K, B)."""

    def move(self, rho: Tensor, step: Tensor) -> tuple[Place, Tensor, Tensor]:
        """A step of log N(rho; 0, G(z)) alone: place, momentum, and the log of volume's growth."""


class _Flat(NamedTuple):
    """Points of flat space, where the metric is the identity."""

    z: Tensor

    def momentum(self, noise: Tensor) -> Tensor:
        return noise

    def log_density(self, rho: Tensor) -> Tensor:
        return -rho.square().sum(-1) / 2

    def move(self, rho: Tensor, step: Tensor) -> tuple[Place, Tensor, Tensor]:
        return _Flat(self.z + step * rho), rho, torch.zeros_like(rho[..., 0])


class Metric(NamedTuple):
    """The metric of `RiemannianHamiltonian`, in d latents, with C centroids.

    Arguments:
        centroids: c, (C, d).
        squares: L times its transpose, (C, d, d).
        temperature: T, in units of z.
        regularization: What the inverse metric has on its diagonal everywhere.
        iterations: Fixed-point iterations for each implicit equation.
    """

    centroids: Tensor
    squares: Tensor
    temperature: float
    regularization: float
    iterations: int

    def weights(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """exp(-|z - c|² / T²) for each centroid, (K, B, C), and its gradient, (K, B, C, d)."""
        away = (z.unsqueeze(-2) - self.centroids) / self.temperature
        weights = (-away.square().sum(-1)).exp()
        return weights, -2 / self.temperature * weights.unsqueeze(-1) * away

    def at(self, z: Tensor) -> Place:
        """Points z (K, B, d), with the metric there."""
        weights, slopes = self.weights(z)
        inverse = torch.einsum("...c,cij->...ij", weights, self.squares)
        root = torch.linalg.cholesky_ex(inverse + self.regularization * _unit(inverse)).L
        traces = torch.einsum("...ij,cij->...c", torch.cholesky_inverse(root), self.squares)
        return _Curved(z, self, weights, slopes, root, traces)


class _Curved(NamedTuple):
    """Points with the metric there.

    With h(z, rho) = -log N(rho; 0, G(z)), the matrix of its second derivatives in z and rho says
    how much an implicit equation stretches volume.

    Arguments:
        weights: As `Metric.weights`; so are the `slopes`.
        root: The lower Cholesky factor of the inverse metric, (K, B, d, d).
        traces: Of the metric times each of the squares, (K, B, C).
    """

    z: Tensor
    metric: Metric
    weights: Tensor
    slopes: Tensor
    root: Tensor
    traces: Tensor

    def momentum(self, noise: Tensor) -> Tensor:
        rho = torch.linalg.solve_triangular(self.root.mT, noise.unsqueeze(-1), upper=True)
        return rho.squeeze(-1)

    def log_density(self, rho: Tensor) -> Tensor:
        white = (rho.unsqueeze(-2) @ self.root).squeeze(-2)
        log_root = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_root - white.square().sum(-1) / 2

    def move(self, rho: Tensor, step: Tensor) -> tuple[Place, Tensor, Tensor]:
        rho, first = self._implicit_kick(rho, step / 2)
        z, second = self._implicit_drift(rho, step / 2)
        there = self.metric.at(z)
        assert isinstance(there, _Curved)
        kick, bend = there._kick(rho, step / 2)
        jacobian = first @ second @ (_unit(bend) + bend)
        return there, rho + kick, torch.linalg.slogdet(jacobian).logabsdet

    def _energies(self, rho: Tensor) -> tuple[Tensor, Tensor]:
        """rho' S rho for each of the squares S, (K, B, C), and half its gradient, (K, B, C, d).

        Beyond 100 d, which momenta hardly reach, it grows like a logarithm: the iterations would
        square it each time, up to infinity.
        """
        pulls = torch.einsum("cij,...j->...ci", self.metric.squares, rho)
        energies, bound = (pulls @ rho.unsqueeze(-1)).squeeze(-1), 100 * rho.shape[-1]
        excess = (energies - bound).relu()
        pulls = pulls / (1 + excess).unsqueeze(-1)
        return energies.clamp(max=bound) + excess.log1p(), pulls

    def _kick(self, rho: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """-half dh/dz, (K, B, d), and its derivative in rho, (K, B, d, d)."""
        energies, pulls = self._energies(rho)
        kick = torch.einsum("...cd,...c->...d", self.slopes, self.traces - energies) / 2
        return half * kick, -half.unsqueeze(-1) * (self.slopes.mT @ pulls)

    def _implicit_kick(self, rho: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """r with r = rho - half dh/dz(z, r), and dr/drho."""
        r, jacobian = rho, _unit(self.root)
        for _ in range(self.metric.iterations):
            kick, bend = self._kick(r, half)
            r, jacobian = rho + kick, _unit(bend) + bend @ jacobian
        return r, jacobian

    def _implicit_drift(self, rho: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """y with y = z + half (dh/drho(z, rho) + dh/drho(y, rho)), and dy/dz."""
        (_, pulls), floor = self._energies(rho), self.metric.regularization * rho

        def drift(weights: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
            """half dh/drho, and its derivative in z."""
            speed = torch.einsum("...c,...cd->...d", weights, pulls) + floor
            return half * speed, half.unsqueeze(-1) * (pulls.mT @ slopes)

        first, bend = drift(self.weights, self.slopes)
        begin, unit = self.z + first, _unit(bend) + bend
        y, jacobian = self.z, _unit(bend)
        for _ in range(self.metric.iterations):
            last, bend = drift(*self.metric.weights(y))
            y, jacobian = begin + last, unit + bend @ jacobian
        return y, jacobian


def _unit(like: Tensor) -> Tensor:
    """The unit matrix (d, d)."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
