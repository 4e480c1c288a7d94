"""Priors of positive latents, and of latents on the simplex."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Gamma, Independent, constraints

from vaekit.contracts.part import Infer
from vaekit.contracts.prior import Prior
from vaekit.networks.blocks import vector_size


class GammaPrior(Prior):
    r"""Independent Gammas, all alike.

    .. math:: p(z) = \prod_i \frac{\beta^\alpha}{\Gamma(\alpha)} z_i^{\alpha - 1} e^{-\beta z_i}

    Arguments:
        concentration: alpha, without dimension: below 1 most latents are close to 0.
        rate: beta, in units of 1/z; the mean is alpha / beta.

    Raises:
        ValueError: If one is not positive.

    Example:
        >>> import torch
        >>> GammaPrior(latent_shape=(2,))().log_prob(torch.ones(2))
        tensor(-2.)
    """

    support = constraints.positive
    concentration: Tensor
    rate: Tensor

    def __init__(
        self, latent_shape: tuple[int, ...], concentration: float = 1.0, rate: float = 1.0
    ) -> None:
        super().__init__()
        for name, value in (("concentration", concentration), ("rate", rate)):
            filled = torch.full(latent_shape, _positive(name, value))
            self.register_buffer(name, filled, persistent=False)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        p = Gamma(self.concentration, self.rate, validate_args=False)
        return Independent(p, self.rate.dim(), validate_args=False)


def _positive(name: str, value: float) -> float:
    if not 0 < value < inf:
        raise ValueError(f"Expected {name} to be positive but got {value!r}.")
    return float(value)


class DirichletPrior(Prior):
    r"""The symmetric Dirichlet.

    .. math:: p(z) = \frac{\Gamma(n \alpha)}{\Gamma(\alpha)^n} \prod_i z_i^{\alpha - 1}

    Arguments:
        concentration: alpha, without dimension: 1 is the even density; below 1 few latents have
            most of the sum, above it all are alike.

    Raises:
        ValueError: If it is not positive, or the latents are no vector of two or more.

    Example:
        >>> import torch
        >>> DirichletPrior(latent_shape=(3,))().log_prob(torch.tensor([0.2, 0.3, 0.5])).exp()
        tensor(2.)
    """

    support = constraints.simplex
    concentration: Tensor

    def __init__(self, latent_shape: tuple[int, ...], concentration: float = 1.0) -> None:
        super().__init__()
        size, value = vector_size(latent_shape, 2), _positive("concentration", concentration)
        self.register_buffer("concentration", torch.full((size,), value), persistent=False)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return Dirichlet(self.concentration, validate_args=False)
