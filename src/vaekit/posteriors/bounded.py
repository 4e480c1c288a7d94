"""Posteriors of positive latents, and of latents on the simplex."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    constraints,
    kl_divergence,
    register_kl,
)
from torch.nn.functional import pad

from vaekit.contracts.part import LogJoint
from vaekit.contracts.posterior import Posterior
from vaekit.distributions.base import normal, soft_clamp, transport
from vaekit.networks.blocks import vector_size, with_context
from vaekit.numerics.precision import smallest

_LEAST = 0.1  # Draws of a smaller concentration are often too small for float32.


def _tame(x: Tensor, bound: float) -> Tensor:
    """The identity within ±bound, and little beyond it, however large x is."""
    return soft_clamp(soft_clamp(x), bound)


def _concentration(x: Tensor) -> Tensor:
    """exp(x), up to some thousands: of a larger one float32 does not hold the density."""
    return _LEAST + _tame(x, 6.0).exp()


class GammaPosterior(Posterior):
    r"""Independent Gammas, the logarithms of concentration and mean linear in the features.

    .. math:: q(z|x) = \prod_i \frac{\beta_i^{\alpha_i}}{\Gamma(\alpha_i)} z_i^{\alpha_i - 1}
        e^{-\beta_i z_i}, \qquad \beta_i = \alpha_i / \mu_i

    The concentration is at least 0.1. Gradients go through the draws, implicitly.

    References:
        Implicit Reparameterization Gradients (Figurnov, Mohamed and Mnih, 2018),
        https://arxiv.org/abs/1805.08498

    Example:
        >>> import torch
        >>> q = GammaPosterior(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.batch_shape, bool((q.sample() > 0).all())
        (torch.Size([5]), True)
    """

    support = constraints.positive

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.linear = nn.Linear(features + context_features, 2 * prod(latent_shape))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        y = self.linear(with_context(h, context)).unflatten(1, (2, *self.latent_shape))
        concentration, mean = _concentration(y[:, 0]), _tame(y[:, 1], 10.0).exp()
        q = PositiveGamma(concentration, concentration / mean, validate_args=False)
        return Independent(q, len(self.latent_shape), validate_args=False)


class DirichletPosterior(Posterior):
    r"""A Dirichlet, the logarithms of its concentrations linear in the features.

    .. math:: q(z|x) = \frac{\Gamma(\sum_i \alpha_i)}{\prod_i \Gamma(\alpha_i)}
        \prod_i z_i^{\alpha_i - 1}

    The n latents are positive and sum to one; the density is over the first n - 1. Concentrations
    are at least 0.1. Gradients go through the draws, implicitly.

    Raises:
        ValueError: If the latents are no vector of two or more.

    References:
        Pathwise Derivatives Beyond the Reparameterization Trick (Jankowiak and Obermeyer, 2018),
        https://arxiv.org/abs/1806.01851; Dirichlet Variational Autoencoder (Joo et al., 2020),
        https://arxiv.org/abs/1901.02739

    Example:
        >>> import torch
        >>> q = DirichletPosterior(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.batch_shape, torch.allclose(q.sample().sum(1), torch.ones(5))
        (torch.Size([5]), True)
    """

    support = constraints.simplex

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(features + context_features, vector_size(latent_shape, 2))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        concentration = _concentration(self.linear(with_context(h, context)))
        return InnerDirichlet(concentration, validate_args=False)


class LogisticNormal(Posterior):
    r"""The softmax of a Normal, whose mean and log-variance are linear in the features.

    .. math:: q(z|x) = \frac{\prod_{i<n} \mathcal{N}(y_i; \mu_i(x), \sigma_i^2(x))}
        {\prod_{i \le n} z_i}, \qquad y_i = \log \frac{z_i}{z_n}

    The n latents are positive and sum to one; the density is over the first n - 1, as a
    Dirichlet's is. The softmax is of y with a 0 in the last place. The mean of z has no closed
    form: the point of q is the softmax of the mean of y.

    Raises:
        ValueError: If the latents are no vector of two or more.

    References:
        Logistic-Normal Distributions: Some Properties and Uses (Aitchison and Shen, 1980),
        https://doi.org/10.2307/2335470; Autoencoding Variational Inference For Topic Models
        (Srivastava and Sutton, 2017), https://arxiv.org/abs/1703.01488

    Example:
        >>> import torch
        >>> q = LogisticNormal(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.event_shape, torch.allclose(q.sample().sum(1), torch.ones(5))
        (torch.Size([4]), True)
    """

    support = constraints.simplex

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        free = vector_size(latent_shape, 2) - 1
        self.linear = nn.Linear(features + context_features, 2 * free)

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        loc, log_variance = self.linear(with_context(h, context)).chunk(2, dim=1)
        # So that float32 holds the smallest element, and tells draws from the mean.
        return SoftmaxNormal(_tame(loc, 10.0), (_tame(log_variance, 5.0) / 2).exp())

    def point(self, q: Distribution) -> Tensor:
        """The softmax of the mean of y, (B, n)."""
        assert isinstance(q, SoftmaxNormal)
        return q.softmax(q.loc)


class PositiveGamma(Gamma):
    """torch's Gamma, of which no draw is so small that log p has no gradient there."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = super().rsample(sample_shape)
        return z.clamp(min=smallest(z))


class InnerDirichlet(Dirichlet):
    """torch's Dirichlet, of which no draw is so near to the edge that log p has no gradient."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = super().rsample(sample_shape)
        return z.clamp(min=smallest(z))


class SoftmaxNormal(Distribution):
    """The softmax of a Normal in n - 1 dimensions, and of 0 in the last.

    Arguments:
        loc: The Normal's mean, `(*, n - 1)`.
        scale: Its standard deviations, with the shape of `loc`.

    Example:
        >>> p = SoftmaxNormal(torch.zeros(1), torch.ones(1))
        >>> p.log_prob(torch.tensor([0.5, 0.5]))  # of a Normal's -0.9189, with the slope of 1/4
        tensor(0.4674)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it
    support = constraints.simplex
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        self.normal = normal(loc, scale, 1)
        *batch, free = loc.shape
        super().__init__(torch.Size(batch), torch.Size((free + 1,)), validate_args=False)

    def softmax(self, y: Tensor) -> Tensor:
        """z of y, no element so small that log q has no gradient there."""
        return pad(y, (0, 1)).softmax(-1).clamp(min=smallest(y))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.softmax(self.normal.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        log_z = value.clamp(min=smallest(value)).log()
        y = log_z[..., :-1] - log_z[..., -1:]
        return self.normal.log_prob(y) - log_z.sum(-1)


@transport.register
def _(q: SoftmaxNormal, noise: Tensor) -> Tensor:
    return q.softmax(transport(q.normal, noise[..., :-1]))  # one more than there are to draw


@register_kl(SoftmaxNormal, SoftmaxNormal)  # type: ignore[untyped-decorator]
def _(q: SoftmaxNormal, p: SoftmaxNormal) -> Tensor:
    return kl_divergence(q.normal, p.normal)
