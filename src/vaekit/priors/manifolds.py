"""Priors on the sphere and in the Poincaré ball."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts.part import Infer
from vaekit.contracts.prior import Prior
from vaekit.distributions import manifolds
from vaekit.networks.blocks import vector_size


class UniformSpherePrior(Prior):
    r"""The uniform distribution of unit vectors.

    .. math:: p(z) = \frac{\Gamma(n / 2)}{2 \pi^{n / 2}}, \qquad |z| = 1

    Raises:
        ValueError: If the latents are no vector of two elements or more.

    Example:
        >>> import torch
        >>> UniformSpherePrior(latent_shape=(2,))().log_prob(torch.tensor([0.6, 0.8]))  # -log 2 pi
        tensor(-1.8379)
    """

    support = manifolds.Sphere()
    loc: Tensor

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        vector_size(latent_shape, least=2)
        self.register_buffer("loc", torch.zeros(latent_shape), persistent=False)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return manifolds.UniformSphere(self.loc)


class _InBall(Prior):
    """A prior around the origin of the ball."""

    loc: Tensor
    scale: Tensor

    support: manifolds.Ball = manifolds.Ball()

    def __init__(
        self, latent_shape: tuple[int, ...], scale: float = 1.0, curvature: float = 1.0
    ) -> None:
        super().__init__()
        vector_size(latent_shape)
        if not 0 < scale < inf:
            raise ValueError(f"Expected scale to be positive but got {scale!r}.")
        self.support = manifolds.Ball(curvature)
        self.curvature = float(curvature)
        self.register_buffer("loc", torch.zeros(latent_shape), persistent=False)
        self.register_buffer("scale", torch.tensor(float(scale)), persistent=False)


class WrappedNormalPrior(_InBall):
    r"""A Normal of the tangent space at the origin of the Poincaré ball, wrapped onto the ball.

    .. math:: z = \exp_0(v), \qquad v \sim \mathcal{N}(0, \sigma^2 I)

    Arguments:
        scale: sigma, in units of the ball's distances.
        curvature: c, for a space of curvature -c, a ball of radius 1 / sqrt(c).

    Raises:
        ValueError: If the latents are no vector, or an argument is not positive.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu,
        Le Lan, Maddison, Tomioka and Teh, 2019), https://arxiv.org/abs/1901.06033

    Example:
        >>> import torch
        >>> WrappedNormalPrior(latent_shape=(2,))().log_prob(torch.zeros(2))  # log 4 / 2 pi
        tensor(-0.4516)
    """

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        scale = self.scale.expand_as(self.loc)
        return manifolds.WrappedNormal(self.loc, scale, self.curvature)


class RiemannianNormalPrior(_InBall):
    r"""The distribution of largest entropy around the origin of the Poincaré ball.

    .. math:: p(z) \propto \exp\left(-\frac{d(z, 0)^2}{2 \sigma^2}\right)

    in the ball's own volume.

    Arguments:
        scale: sigma, in units of the ball's distances.
        curvature: c, for a space of curvature -c, a ball of radius 1 / sqrt(c).

    Raises:
        ValueError: If the latents are no vector, or an argument is not positive.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu,
        Le Lan, Maddison, Tomioka and Teh, 2019), https://arxiv.org/abs/1901.06033

    Example:
        >>> import torch
        >>> RiemannianNormalPrior(latent_shape=(2,), scale=0.1)().log_prob(torch.zeros(2))
        tensor(4.1503)
    """

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return manifolds.RiemannianNormal(self.loc, self.scale, self.curvature)
