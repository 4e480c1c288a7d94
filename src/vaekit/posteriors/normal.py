"""Normal posteriors."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts import Posterior
from vaekit.distributions import normal, soft_clamp
from vaekit.nn import with_context
from vaekit.part import LogJoint

__all__ = ["DiagonalNormal"]


class DiagonalNormal(Posterior):
    r"""A Normal of independent latents, its mean and log-variance linear in the features.

    .. math:: q(z|x) = \prod_i \mathcal{N}(z_i; \mu_i(x), \sigma_i^2(x))

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> q = DiagonalNormal(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([4]))
    """

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.linear = nn.Linear(features + context_features, 2 * prod(latent_shape))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        loc, log_variance = self.linear(with_context(h, context)).chunk(2, dim=1)
        scale = (soft_clamp(log_variance) / 2).exp()
        shape = (len(loc), *self.latent_shape)
        return normal(loc.reshape(shape), scale.reshape(shape), len(self.latent_shape))
