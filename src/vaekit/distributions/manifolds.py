"""Distributions on the sphere and in the Poincaré ball."""

from __future__ import annotations

from math import inf, lgamma, log, pi, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from vaekit.distributions.base import transport
from vaekit.distributions.quadrature import Angle, Distance
from vaekit.numerics.precision import widest

_TINY = 1e-30


class Sphere(constraints.Constraint):
    """Unit vectors.

    Example:
        >>> import torch
        >>> Sphere().check(torch.tensor([[0.6, 0.8], [1.0, 1.0]]))
        tensor([ True, False])
    """

    event_dim = 1
    words = "the unit sphere"

    def check(self, value: Tensor) -> Tensor:
        return (value.norm(dim=-1) - 1).abs() < 1e-4

    def __repr__(self) -> str:
        return "Sphere()"


class Ball(constraints.Constraint):
    """The Poincaré ball: vectors shorter than its radius, in a geometry of constant curvature.

    Arguments:
        curvature: c, for a space of curvature -c; the radius is 1 / sqrt(c).

    Raises:
        ValueError: If it is not positive and finite.

    Example:
        >>> import torch
        >>> Ball(4.0).check(torch.tensor([[0.4, 0.0], [0.6, 0.0]]))
        tensor([ True, False])
    """

    event_dim = 1

    def __init__(self, curvature: float = 1.0) -> None:
        if not 0 < curvature < inf:
            raise ValueError(f"Expected curvature to be positive but got {curvature!r}.")
        self.curvature = float(curvature)

    @property
    def words(self) -> str:
        """It, in a message."""
        return f"the Poincaré ball of curvature -{self.curvature:g}"

    def check(self, value: Tensor) -> Tensor:
        return self.curvature * _square(value)[..., 0] < 1

    def __repr__(self) -> str:
        return f"Ball(curvature={self.curvature:g})"


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _norm(x: Tensor) -> Tensor:
    """The length, never quite zero, so that it can be divided by."""
    return (_square(x) + _TINY).sqrt()


def _log_area(n: int) -> float:
    """log of the area of the sphere of unit vectors of n elements."""
    return log(2) + n / 2 * log(pi) - lgamma(n / 2)


class _Drawn(Distribution):
    """A distribution of vectors whose draws are its map from standard normal noise."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it
    has_rsample = True

    def __init__(self, loc: Tensor) -> None:
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)
        self.loc = loc

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        return transport(self, torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))


# The sphere


class UniformSphere(_Drawn):
    r"""The uniform distribution of unit vectors, a density in the sphere's area.

    .. math:: p(z) = \frac{\Gamma(n / 2)}{2 \pi^{n / 2}}

    Arguments:
        loc: Its mean: zeros with shape `(*batch, n)`.

    Example:
        >>> import torch
        >>> UniformSphere(torch.zeros(2)).log_prob(torch.tensor([0.6, 0.8]))  # -log 2 pi
        tensor(-1.8379)
    """

    support = Sphere()

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, 1 / n."""
        return torch.full_like(self.loc, 1 / self.loc.shape[-1])

    def log_prob(self, value: Tensor) -> Tensor:
        return self.loc.new_full(value.shape[:-1], -_log_area(value.shape[-1]))


class VonMisesFisher(_Drawn):
    r"""Unit vectors around a mean direction, a density in the sphere's area.

    .. math:: q(z) = C_n(\kappa) \exp(\kappa\, \mu^\top z), \qquad C_n(\kappa) =
        \frac{\kappa^{n / 2 - 1}}{(2 \pi)^{n / 2} I_{n / 2 - 1}(\kappa)}

    The angle between z and mu is drawn by inverting its distribution function, with implicit
    gradients, so that nothing is rejected.

    Arguments:
        loc: The mean direction mu, unit vectors with shape `(*batch, n)`, n at least 2.
        concentration: kappa, at least 0, with shape `(*batch)`.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson, Falorsi, De Cao, Kipf and Tomczak,
        2018), https://arxiv.org/abs/1804.00891

    Example:
        >>> import torch
        >>> q = VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(2.0))
        >>> q.mean
        tensor([0.5373, 0.0000, 0.0000])
    """

    support = Sphere()

    def __init__(self, loc: Tensor, concentration: Tensor) -> None:
        super().__init__(loc)
        self.concentration = concentration
        self.angle = Angle(loc.shape[-1] - 2, concentration)

    @property
    def mean(self) -> Tensor:
        """E[z], which lies inside the sphere."""
        return ((1 + self.angle.mean[..., None]) * self.loc).to(self.loc.dtype)

    @property
    def log_normalizer(self) -> Tensor:
        """-log C_n - kappa: that of exp(kappa (cos - 1)), in float64."""
        return self.angle.log_normalizer + _log_area(self.event_shape[0] - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        # cos - 1 as half a squared distance: rounding of z and mu hardly counts, for any kappa.
        apart = _square(widest(value) - widest(self.loc))[..., 0] / 2
        log_q = -widest(self.concentration) * apart - self.log_normalizer
        return log_q.to(self.loc.dtype)


@transport.register
def _(q: UniformSphere, noise: Tensor) -> Tensor:
    return noise / _norm(noise)


@transport.register
def _(q: VonMisesFisher, noise: Tensor) -> Tensor:
    noise, loc = widest(noise), widest(q.loc)
    angle = q.angle.quantile(torch.special.ndtr(noise[..., 0]))[..., None]
    side = noise[..., 1:] / _norm(noise[..., 1:])
    # The reflection that takes a pole to mu; the pole is on the other half, far from mu.
    sign = torch.where(loc[..., :1] > 0, -1.0, 1.0).to(loc)
    z = torch.cat([sign * angle.cos(), angle.sin() * side], -1)
    across = torch.cat([sign - loc[..., :1], -loc[..., 1:]], -1)
    z = z - 2 * across * (across * z).sum(-1, keepdim=True) / _square(across)
    return z.to(q.loc.dtype)


@register_kl(VonMisesFisher, UniformSphere)  # type: ignore[untyped-decorator]
def _(q: VonMisesFisher, p: UniformSphere) -> Tensor:
    minus_entropy = widest(q.concentration) * q.angle.mean - q.log_normalizer
    return (minus_entropy + _log_area(q.event_shape[0])).to(q.loc.dtype)


# The ball


def _edge(dtype: torch.dtype) -> float:
    """How close to the ball's edge numbers of a type may come, as a share of its radius."""
    return 1e-12 if dtype == torch.float64 else 1e-5


def within(z: Tensor, curvature: float, dtype: torch.dtype) -> Tensor:
    """z in another type, brought back where that could not tell it from the ball's edge."""
    most = (1 - _edge(dtype)) / sqrt(curvature)
    return (z * (most / _norm(z)).clamp(max=1)).to(dtype)


def exp0(v: Tensor, curvature: float) -> Tensor:
    r"""The point at the distance |v| from the origin in the direction of v, in float64.

    .. math:: \exp_0(v) = \tanh(\sqrt{c} |v| / 2) \frac{v}{\sqrt{c} |v|}

    v is given in an orthonormal basis of the tangent space, where lengths are distances.

    Example:
        >>> import torch
        >>> exp0(torch.tensor([2.0, 0.0]), curvature=1.0)  # tanh 1
        tensor([0.7616, 0.0000], dtype=torch.float64)
    """
    v = widest(v)
    half = _norm(v) * (sqrt(curvature) / 2)
    return v * (half.tanh().clamp(max=1 - _edge(v.dtype)) / (2 * half))


def add(x: Tensor, y: Tensor, curvature: float) -> Tensor:
    r"""Möbius addition, the translation of the ball that takes the origin to x.

    .. math:: x \oplus y = \frac{(1 - c |x|^2) (x + y) + c |x + y|^2 x}
        {(1 - c |x|^2) (1 - c |y|^2) + c |x + y|^2}

    In this form nothing cancels near the edge.

    Example:
        >>> import torch
        >>> add(torch.tensor([0.5]), torch.tensor([0.5]), curvature=1.0)
        tensor([0.8000])
    """
    both, room = x + y, 1 - curvature * _square(x)
    apart = curvature * _square(both)
    return (room * both + apart * x) / (room * (1 - curvature * _square(y)) + apart)


class _InBall(_Drawn):
    """A distribution around a point of the ball.

    Arguments:
        loc: The point, with shape `(*batch, n)`.
        scale: Its scale, in units of the ball's distances.
        curvature: c, for a space of curvature -c.
    """

    def __init__(self, loc: Tensor, scale: Tensor, curvature: float = 1.0) -> None:
        super().__init__(loc)
        self.scale, self.curvature = scale, curvature

    @property
    def support(self) -> Ball:
        return Ball(self.curvature)

    def _translated(self, v: Tensor) -> Tensor:
        """The point that lies at v as seen from loc."""
        c = self.curvature
        return within(add(widest(self.loc), exp0(v, c), c), c, self.loc.dtype)

    def _seen(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where a value lies as seen from loc: the vector v, sinh²(sqrt(c) |v| / 2), and the
        logarithm of the ball's volume for each of R^n there."""
        z, loc, c = widest(value), widest(self.loc), self.curvature
        room, own = ((1 - c * _square(x)).clamp(min=_edge(x.dtype)) for x in (z, loc))
        apart = c * _square(z - loc)
        sinh2 = (apart / (room * own)).clamp(min=_TINY)
        # asinh of the root is half the distance: exact at both ends, as atanh of |w| is not.
        w = add(-loc, z, c)
        v = w * (2 * sinh2.sqrt().asinh() * ((1 + sinh2) / sinh2).sqrt())
        log_volume = self.event_shape[0] * (2 / room).log()
        return v, sinh2[..., 0], log_volume[..., 0]


class WrappedNormal(_InBall):
    r"""A Normal of the tangent space at a point of the Poincaré ball, wrapped onto the ball.

    .. math:: z = \mu \oplus \exp_0(v), \qquad v \sim \mathcal{N}(0, \mathrm{diag}\,\sigma^2)

    `log_prob` is a density in the ordinary volume of R^n, not in the ball's own; their ratio,
    (2 / (1 - c |z|²))^n, cancels in log q - log p.

    Arguments:
        loc: mu, with shape `(*batch, n)`, inside the ball.
        scale: sigma, with shape `(*batch, n)`, in units of the ball's distances.
        curvature: c, for a space of curvature -c.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu,
        Le Lan, Maddison, Tomioka and Teh, 2019), https://arxiv.org/abs/1901.06033

    Example:
        >>> import torch
        >>> WrappedNormal(torch.zeros(2), torch.ones(2)).log_prob(torch.zeros(2))  # log 4 / 2 pi
        tensor(-0.4516)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        v, sinh2, log_volume = self._seen(value)
        n, scale = self.event_shape[0], widest(self.scale)
        log_normal = -((v / scale).square() / 2 + scale.log()).sum(-1) - n / 2 * log(2 * pi)
        # log of x / sinh x, of the distance x in units of the radius
        shrunk = sinh2.sqrt().asinh().log() - (sinh2 * (1 + sinh2)).log() / 2
        return (log_normal + (n - 1) * shrunk + log_volume).to(self.loc.dtype)


class RiemannianNormal(_InBall):
    r"""The distribution of largest entropy around a point of the Poincaré ball.

    .. math:: q(z) \propto \exp\left(-\frac{d(z, \mu)^2}{2 \sigma^2}\right)
        \left(\frac{2}{1 - c |z|^2}\right)^n

    The last factor is the ball's own volume for each of R^n: `log_prob` is a density in the
    ordinary volume of R^n. The distance d is drawn by inverting its distribution function, with
    implicit gradients.

    Arguments:
        loc: mu, with shape `(*batch, n)`, inside the ball.
        scale: sigma, with shape `(*batch)`, in units of the ball's distances.
        curvature: c, for a space of curvature -c.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu,
        Le Lan, Maddison, Tomioka and Teh, 2019), https://arxiv.org/abs/1901.06033

    Example:
        >>> import torch
        >>> RiemannianNormal(torch.zeros(2), torch.tensor(0.1)).log_prob(torch.zeros(2))
        tensor(4.1503)
    """

    def __init__(self, loc: Tensor, scale: Tensor, curvature: float = 1.0) -> None:
        super().__init__(loc, scale, curvature)
        self.rate = 1 / (curvature * widest(scale).square())
        self.distance = Distance(loc.shape[-1] - 1, self.rate)

    def log_prob(self, value: Tensor) -> Tensor:
        _, sinh2, log_volume = self._seen(value)
        n = self.event_shape[0]
        square = 4 * sinh2.sqrt().asinh().square()  # of the distance, in units of the radius
        log_area = _log_area(n) - n / 2 * log(self.curvature)
        log_q = -self.rate * square / 2 - self.distance.log_normalizer - log_area
        return (log_q + log_volume).to(self.loc.dtype)


@transport.register
def _(q: WrappedNormal, noise: Tensor) -> Tensor:
    return q._translated(widest(q.scale) * widest(noise))


@transport.register
def _(q: RiemannianNormal, noise: Tensor) -> Tensor:
    noise = widest(noise)
    half = _square(noise)[..., 0] / 2
    share = torch.special.gammainc(torch.full_like(half, q.event_shape[0] / 2), half)
    distance = q.distance.quantile(share) / sqrt(q.curvature)
    return q._translated(noise * (distance[..., None] / _norm(noise)))
