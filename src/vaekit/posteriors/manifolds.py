"""Posteriors on the sphere and in the Poincaré ball."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import normalize, softplus, softsign

from vaekit.contracts.part import LogJoint
from vaekit.contracts.posterior import Posterior
from vaekit.distributions import manifolds
from vaekit.distributions.base import soft_clamp
from vaekit.networks.blocks import vector_size, with_context
from vaekit.numerics.precision import widest


class _Located(Posterior):
    """A posterior around a point of a manifold.

    Its mean over draws lies elsewhere (inside the sphere), so that the point stands for it.
    """

    def point(self, q: Distribution) -> Tensor:
        loc: Tensor = q.loc  # type: ignore[attr-defined]
        return loc


class VonMisesFisherPosterior(_Located):
    r"""Unit vectors around a direction that is linear in the features.

    .. math:: q(z|x) \propto \exp(\kappa(x)\, \mu(x)^\top z), \qquad |z| = 1

    The concentration kappa is n - 1 times the softplus of a linear map, for n latents: where it
    is much smaller than n, q is all but uniform.

    Raises:
        ValueError: If the latents are no vector of two elements or more.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson, Falorsi, De Cao, Kipf and Tomczak,
        2018), https://arxiv.org/abs/1804.00891

    Example:
        >>> import torch
        >>> q = VonMisesFisherPosterior(features=32, latent_shape=(3,))(torch.randn(5, 32))
        >>> q.sample().norm(dim=1).round(decimals=4)
        tensor([1., 1., 1., 1., 1.])
    """

    support = manifolds.Sphere()

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        self.latents = vector_size(latent_shape, least=2)
        self.latent_shape = tuple(latent_shape)
        self.linear = nn.Linear(features + context_features, self.latents + 1)

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        direction, spread = self.linear(with_context(h, context)).split([self.latents, 1], 1)
        loc = normalize(widest(direction), dim=1).to(direction.dtype)
        concentration = (self.latents - 1) * softplus(soft_clamp(spread[:, 0], 1e4))
        return manifolds.VonMisesFisher(loc, concentration)


class _InBall(_Located):
    """A posterior around a point of the ball, and a scale of so many elements."""

    def __init__(self, features: int, latents: int, scales: int, curvature: float) -> None:
        super().__init__()
        self.support = manifolds.Ball(curvature)
        self.curvature = float(curvature)
        self.latent_shape, self.sizes = (latents,), [latents, scales]
        self.linear = nn.Linear(features, latents + scales)

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        v, log_scale = self.linear(with_context(h, context)).split(self.sizes, 1)
        loc = manifolds.within(manifolds.exp0(v, self.curvature), self.curvature, v.dtype)
        # Bounded: a wider q has its draws at the edge, a narrower one is lost in rounding there.
        return self.around(loc, (5 * softsign(log_scale / 5)).exp())

    def around(self, loc: Tensor, scale: Tensor) -> Distribution:
        """q around these points, with scales (B, S)."""
        raise NotImplementedError


class WrappedNormalPosterior(_InBall):
    r"""A Normal of the tangent space at a point of the Poincaré ball, wrapped onto the ball.

    .. math:: z = \mu \oplus \exp_0(v), \qquad v \sim \mathcal{N}(0, \mathrm{diag}\,\sigma^2(x)),
        \qquad \mu = \exp_0(m(x))

    The map m is linear in the features, and so is what the scales are made of, between e^-5 and
    e^5. In float32 no point lies further from the origin than about 12 / sqrt(c); those beyond are
    brought back there.

    Arguments:
        curvature: c, for a space of curvature -c, a ball of radius 1 / sqrt(c).

    Raises:
        ValueError: If the latents are no vector, or the curvature is not positive.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu,
        Le Lan, Maddison, Tomioka and Teh, 2019), https://arxiv.org/abs/1901.06033

    Example:
        >>> import torch
        >>> q = WrappedNormalPosterior(features=32, latent_shape=(2,))(torch.randn(5, 32))
        >>> bool((q.sample().norm(dim=1) < 1).all())
        True
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        curvature: float = 1.0,
        context_features: int = 0,
    ) -> None:
        n = vector_size(latent_shape)
        super().__init__(features + context_features, n, n, curvature)

    def around(self, loc: Tensor, scale: Tensor) -> Distribution:
        return manifolds.WrappedNormal(loc, scale, self.curvature)


class RiemannianNormalPosterior(_InBall):
    r"""The distribution of largest entropy around a point of the Poincaré ball.

    .. math:: q(z|x) \propto \exp\left(-\frac{d(z, \mu)^2}{2 \sigma^2(x)}\right),
        \qquad \mu = \exp_0(m(x))

    in the ball's own volume. The map m is linear in the features, and so is what the scale is made
    of, between e^-5 and e^5. In float32 no point lies further from the origin than about
    12 / sqrt(c); those beyond are brought back there.

    Arguments:
        curvature: c, for a space of curvature -c, a ball of radius 1 / sqrt(c).

    Raises:
        ValueError: If the latents are no vector, or the curvature is not positive.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu,
        Le Lan, Maddison, Tomioka and Teh, 2019), https://arxiv.org/abs/1901.06033

    Example:
        >>> import torch
        >>> posterior = RiemannianNormalPosterior(features=32, latent_shape=(2,), curvature=4.0)
        >>> q = posterior(torch.randn(5, 32))
        >>> bool((q.sample().norm(dim=1) < 0.5).all())
        True
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        curvature: float = 1.0,
        context_features: int = 0,
    ) -> None:
        super().__init__(features + context_features, vector_size(latent_shape), 1, curvature)

    def around(self, loc: Tensor, scale: Tensor) -> Distribution:
        return manifolds.RiemannianNormal(loc, scale[:, 0], self.curvature)
