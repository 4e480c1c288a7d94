"""Normal priors and their like."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace

from vaekit.contracts.part import Infer
from vaekit.contracts.prior import Prior
from vaekit.distributions.base import normal, soft_clamp
from vaekit.distributions.mixture import Mixture
from vaekit.networks.blocks import Learned


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


class LearnedNormal(Prior):
    r"""A Normal of independent latents, its mean and log-variance learned.

    .. math:: p(z) = \prod_i \mathcal{N}(z_i; \mu_i, \sigma_i^2)

    It starts as the standard Normal. Given a context, mean and log-variance are linear in it.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn,
        Lee and Yan, 2015), https://papers.nips.cc/paper/5775, for the prior given a context

    Example:
        >>> import torch
        >>> LearnedNormal(latent_shape=(2,), context_features=3)(torch.randn(5, 3)).batch_shape
        torch.Size([5])
    """

    def __init__(self, latent_shape: tuple[int, ...], context_features: int = 0) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.numbers = Learned(torch.zeros(2, *latent_shape), context_features)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        dims = len(self.latent_shape or ())
        loc, log_variance = self.numbers(context).unbind(-1 - dims)
        return normal(loc, (soft_clamp(log_variance) / 2).exp(), dims)


class NormalMixture(Prior):
    r"""A mixture of Normals of independent latents: weights, means and log-variances learned.

    .. math:: p(z) = \sum_m w_m \prod_i \mathcal{N}(z_i; \mu_{mi}, \sigma_{mi}^2)

    It starts with even weights, unit variances, and means that are standard Normal. Given a
    context, log-weights, means and log-variances are linear in it.

    Arguments:
        components: M, the number of Normals.

    Raises:
        ValueError: If there is none.

    References:
        Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (Dilokthanakul
        et al., 2016), https://arxiv.org/abs/1611.02648; VAE with a VampPrior (Tomczak and Welling,
        2018), https://arxiv.org/abs/1705.07120, which compares with this prior

    Example:
        >>> import torch
        >>> NormalMixture(latent_shape=(2,))().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self, latent_shape: tuple[int, ...], context_features: int = 0, components: int = 10
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"Expected components to be at least 1 but got {components!r}.")
        self.latent_shape = tuple(latent_shape)
        self.log_weights = Learned(torch.zeros(components), context_features)
        self.loc = Learned(torch.randn(components, *latent_shape), context_features)
        self.log_variance = Learned(torch.zeros(components, *latent_shape), context_features)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        dims = len(self.latent_shape or ())
        found = [part(context) for part in (self.log_weights, self.loc, self.log_variance)]
        rows = None if found[0].dim() == 1 else len(found[0])
        if rows is not None:  # (B, M, *) to (M, B, *)
            found = [x.transpose(0, 1) for x in found]
        log_weights, loc, log_variance = found
        scale = (soft_clamp(log_variance) / 2).exp()
        if rows is not None:
            loc, scale = loc.flatten(0, 1), scale.flatten(0, 1)
        return Mixture(normal(loc, scale, dims), log_weights, rows)


class LaplacePrior(Prior):
    r"""Independent Laplace latents about zero: many lie near it, a few far away.

    .. math:: p(z) = \prod_i \frac{1}{2 b} \exp\left(-\frac{|z_i|}{b}\right)

    Arguments:
        scale: b, in units of z; the standard deviation is :math:`\sqrt 2\, b`.

    Raises:
        ValueError: If the scale is not positive.

    References:
        Sparse-Coding Variational Auto-Encoders (Barello, Charles and Pillow, 2018),
        https://doi.org/10.1101/399246

    Example:
        >>> import torch
        >>> LaplacePrior(latent_shape=(2,))().log_prob(torch.zeros(2))
        tensor(-1.3863)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: tuple[int, ...], scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < inf:
            raise ValueError(f"Expected scale to be positive but got {scale!r}.")
        self.register_buffer("loc", torch.zeros(latent_shape), persistent=False)
        self.register_buffer("scale", torch.full(latent_shape, float(scale)), persistent=False)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        base = Laplace(self.loc, self.scale, validate_args=False)
        return Independent(base, self.loc.dim(), validate_args=False)
