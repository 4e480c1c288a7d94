"""Posteriors of discrete latents, relaxed in training."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import one_hot

from vaekit.contracts.part import LogJoint
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.schedule import Schedule
from vaekit.contracts.temperature import Tempered
from vaekit.distributions.base import soft_clamp
from vaekit.distributions.concrete import bits, one_hots
from vaekit.networks.blocks import class_count, with_context


class _Relaxed(Tempered, Posterior):
    """Base of posteriors whose logits are linear in the features."""

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        temperature: float | Schedule = 2 / 3,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.linear = nn.Linear(features + context_features, prod(latent_shape))
        self.temper(temperature)

    def logits(self, h: Tensor, context: Tensor | None) -> Tensor:
        """With shape `(B, *Z)`."""
        return soft_clamp(self.linear(with_context(h, context))).unflatten(1, self.latent_shape)


class RelaxedBernoulli(_Relaxed):
    r"""Independent bits, their logits linear in the features; relaxed in training.

    .. math:: q(z|x) = \prod_i \pi_i(x)^{z_i} (1 - \pi_i(x))^{1 - z_i}

    In evaluation z is drawn from this, and its point is the most likely z. In training z lies
    between 0 and 1, with the Concrete density: there the objective bounds the likelihood of the
    model with relaxed latents, if the prior is relaxed too, as `UniformBernoulli` is.

    Arguments:
        temperature: Of the relaxation, without dimension: the lower, the closer to bits, and the
            larger the variance of gradients. A schedule is followed step by step.

    Raises:
        ValueError: If the temperature is not positive.

    References:
        The Concrete Distribution (Maddison, Mnih and Teh, 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch
        >>> posterior = RelaxedBernoulli(features=32, latent_shape=(4,))
        >>> posterior(torch.randn(5, 32)).has_rsample
        True
        >>> q = posterior.eval()(torch.randn(5, 32))
        >>> q.sample().unique(), posterior.point(q).shape
        (tensor([0., 1.]), torch.Size([5, 4]))
    """

    support = constraints.boolean

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        return bits(self.logits(h, context), self.relaxed_at, len(self.latent_shape))

    def point(self, q: Any) -> Tensor:
        """The most likely bits (B, *Z)."""
        logits = q.base_dist.logits
        return (logits > 0).to(logits.dtype)


class RelaxedCategorical(_Relaxed):
    r"""Independent one-hot vectors, their logits linear in the features; relaxed in training.

    .. math:: q(z|x) = \prod_i \prod_c \pi_{ic}(x)^{z_{ic}}

    In evaluation z is drawn from this, and its point is the most likely z. In training each vector
    lies on the simplex, with the Concrete density: there the objective bounds the likelihood of
    the model with relaxed latents, if the prior is relaxed too, as `UniformCategorical` is.

    Arguments:
        latent_shape: The last size is C, the number of classes: (n, C) is n vectors.
        temperature: Of the relaxation, without dimension: the lower, the closer to one-hot
            vectors, and the larger the variance of gradients. A schedule is followed step by step.

    Raises:
        ValueError: If there are fewer than two classes or the temperature is not positive.

    References:
        The Concrete Distribution (Maddison, Mnih and Teh, 2017), https://arxiv.org/abs/1611.00712;
        Categorical Reparameterization with Gumbel-Softmax (Jang, Gu and Poole, 2017),
        https://arxiv.org/abs/1611.01144

    Example:
        >>> import torch
        >>> posterior = RelaxedCategorical(features=32, latent_shape=(3, 10)).eval()
        >>> q = posterior(torch.randn(5, 32))
        >>> q.sample().sum(-1).unique(), posterior.point(q).shape
        (tensor([1.]), torch.Size([5, 3, 10]))
    """

    support = constraints.one_hot

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        temperature: float | Schedule = 2 / 3,
    ) -> None:
        class_count(latent_shape)
        super().__init__(features, latent_shape, context_features, temperature)

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        return one_hots(self.logits(h, context), self.relaxed_at, len(self.latent_shape))

    def point(self, q: Any) -> Tensor:
        """The most likely class of each vector, one-hot, (B, *Z)."""
        logits = q.base_dist.logits
        return one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
