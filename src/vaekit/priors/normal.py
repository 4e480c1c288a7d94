"""Normal priors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts import Prior
from vaekit.distributions import normal
from vaekit.part import Infer

__all__ = ["StandardNormal"]


class StandardNormal(Prior):
    r"""The Normal with mean zero and unit variance.

    .. math:: p(z) = \prod_i \mathcal{N}(z_i; 0, 1)

    Example:
        >>> import torch
        >>> StandardNormal(latent_shape=(2,))().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_shape), persistent=False)
        self.register_buffer("scale", torch.ones(latent_shape), persistent=False)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return normal(self.loc, self.scale, self.loc.dim())
