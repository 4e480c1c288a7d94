"""Normal posteriors and their like."""

from __future__ import annotations

from math import inf, pi, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    StudentT,
    register_kl,
)
from torch.distributions import MultivariateNormal as _TorchMultivariateNormal
from torch.distributions import Normal as _TorchNormal

from vaekit.contracts.part import LogJoint
from vaekit.contracts.posterior import Posterior
from vaekit.distributions.base import Normal, soft_clamp, transport
from vaekit.networks.blocks import vector_size, with_context


class LocationScalePosterior(Posterior):
    """Base of posteriors of independent latents: a location and a scale of each.

    The location is linear in the features, and so is twice the scale's logarithm.
    """

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.linear = nn.Linear(features + context_features, 2 * prod(latent_shape))

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """The distribution of latents with these locations and scales."""
        raise NotImplementedError

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        loc, log_variance = self.linear(with_context(h, context)).chunk(2, dim=1)
        scale = (soft_clamp(log_variance) / 2).exp()
        shape = (len(loc), *self.latent_shape)
        base = self.family(loc.reshape(shape), scale.reshape(shape))
        return Independent(base, len(self.latent_shape), validate_args=False)


class DiagonalNormal(LocationScalePosterior):
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

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale)


class LaplacePosterior(LocationScalePosterior):
    r"""Independent Laplace latents, whose tails are heavier than a Normal's.

    .. math:: q(z|x) = \prod_i \frac{1}{2 b_i(x)} \exp\left(-\frac{|z_i - \mu_i(x)|}{b_i(x)}\right)

    The location and the logarithm of the scale b are linear in the features.

    Example:
        >>> import torch
        >>> q = LaplacePosterior(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.log_prob(q.mean).shape
        torch.Size([5])
    """

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Laplace(loc, scale, validate_args=False)


class StudentTPosterior(LocationScalePosterior):
    r"""Independent latents of Student's t, whose tails are heavy.

    .. math:: q(z|x) = \prod_i \frac{\Gamma(\frac{\nu + 1}2)}{\Gamma(\frac\nu2)
        \sqrt{\pi \nu}\, \sigma_i(x)}
        \left(1 + \frac{(z_i - \mu_i(x))^2}{\nu\, \sigma_i^2(x)}\right)^{-\frac{\nu + 1}2}

    The location and the logarithm of the scale are linear in the features.

    Arguments:
        df: The degrees of freedom, without unit. Of two or less there is no variance, and no
            bound under a Normal prior.

    Raises:
        ValueError: If df is not above 2.

    References:
        Variational auto-encoders with Student's t-prior (Abiri and Ohlsson, 2019),
        https://arxiv.org/abs/2004.02581

    Example:
        >>> import torch
        >>> q = StudentTPosterior(features=32, latent_shape=(4,), df=3.0)(torch.randn(5, 32))
        >>> q.log_prob(q.mean).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        df: float = 4.0,
    ) -> None:
        super().__init__(features, latent_shape, context_features)
        if not 2 < df < inf:
            raise ValueError(f"Expected df, degrees of freedom, to be above 2 but got {df!r}.")
        self.df = float(df)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return StudentT(self.df, loc, scale, validate_args=False)


@register_kl(StudentT, _TorchNormal)  # type: ignore[untyped-decorator]
def _(q: StudentT, p: _TorchNormal) -> Tensor:
    variance = torch.where(q.df > 2, q.scale.square() * q.df / (q.df - 2), inf)
    squares = (variance + (q.loc - p.loc).square()) / p.scale.square()
    return squares / 2 + (2 * pi * p.scale.square()).log() / 2 - q.entropy()


class MultivariateNormal(_TorchMultivariateNormal):
    """torch's, whose draws do not copy the factor of the covariance for each."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return transport(self, noise)


class FullNormal(Posterior):
    r"""A Normal whose latents may depend on one another, by its covariance's Cholesky factor.

    .. math:: q(z|x) = \mathcal{N}(z; \mu(x), L L^\top), \qquad L = \mathrm{diag}(\sigma(x))
        (1 + N(x))

    The mean, the logarithm of :math:`\sigma` and the strictly lower triangle N are linear in the
    features. N starts near 0.

    Raises:
        ValueError: If the latents are no vector.

    References:
        An Introduction to Variational Autoencoders (Kingma and Welling, 2019), section 2.5.1,
        https://arxiv.org/abs/1906.02691

    Example:
        >>> import torch
        >>> q = FullNormal(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.covariance_matrix.shape
        torch.Size([5, 4, 4])
    """

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        n = vector_size(latent_shape)
        self.latent_shape, self.sizes = (n,), [n, n, n * (n - 1) // 2]
        self.linear = nn.Linear(features + context_features, sum(self.sizes))
        with torch.no_grad():  # the more latents there are, the less near to singular it starts
            self.linear.weight[2 * n :] *= 0.1 / n
            self.linear.bias[2 * n :] = 0.0

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        y = self.linear(with_context(h, context))
        loc, log_variance, below = y.split(self.sizes, dim=1)
        row, column = torch.tril_indices(loc.shape[1], loc.shape[1], -1, device=y.device)
        factor = torch.diag_embed(torch.ones_like(loc))
        factor[:, row, column] = soft_clamp(below)
        scale = (soft_clamp(log_variance) / 2).exp()
        return MultivariateNormal(loc, scale_tril=scale.unsqueeze(2) * factor, validate_args=False)


class LowRankNormal(Posterior):
    r"""A Normal whose latents depend on one another in a few directions.

    .. math:: q(z|x) = \mathcal{N}(z; \mu(x), S (1 + V V^\top) S), \qquad
        S = \mathrm{diag}(\sigma(x))

    The mean, the logarithm of :math:`\sigma` and V, with a column for each direction, are linear
    in the features.

    Arguments:
        rank: The number of directions.

    Raises:
        ValueError: If there is no direction, or the latents are no vector.

    References:
        Gaussian variational approximation with a factor covariance structure (Ong, Nott and
        Smith, 2018), https://arxiv.org/abs/1701.03208

    Example:
        >>> import torch
        >>> q = LowRankNormal(features=32, latent_shape=(4,), rank=1)(torch.randn(5, 32))
        >>> q.covariance_matrix.shape
        torch.Size([5, 4, 4])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        rank: int = 2,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"Expected rank to be at least 1 but got {rank!r}.")
        n = vector_size(latent_shape)
        self.latent_shape, self.sizes = (n,), [n, n, n * rank]
        self.linear = nn.Linear(features + context_features, sum(self.sizes))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        y = self.linear(with_context(h, context))
        loc, log_variance, v = y.split(self.sizes, dim=1)
        variance = soft_clamp(log_variance).exp()
        factor = variance.sqrt().unsqueeze(2) * soft_clamp(v).unflatten(1, (loc.shape[1], -1))
        return LowRankMultivariateNormal(loc, factor, variance, validate_args=False)
