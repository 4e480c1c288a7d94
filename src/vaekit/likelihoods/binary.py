"""Likelihoods for elements that are 0 or 1, or between them."""

from __future__ import annotations

import warnings
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, constraints
from torch.nn.functional import binary_cross_entropy_with_logits

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.trees import Tree
from vaekit.likelihoods.base import FromBaseline, elementwise


class Bernoulli(FromBaseline):
    r"""Independent binary elements; the decoder gives logits.

    .. math:: \log p(x|z) = \sum_i x_i \log \pi_i + (1 - x_i) \log(1 - \pi_i)

    This is minus the binary cross-entropy summed over the event. It is a likelihood for x in {0,
    1}; values between are allowed, with a warning, since the sum is then no log-probability of
    anything.

    Arguments:
        from_baseline: Add the logits of the training rows' mean to the decoder's output.

    Example:
        >>> import torch
        >>> likelihood = Bernoulli(event_shape=(3,))
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 3)), torch.tensor([[1.0, 0.0, 1.0]]))
        tensor([[-2.0794]])
    """

    data_range = (0.0, 1.0)

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        from_baseline: bool = False,
    ) -> None:
        super().__init__()
        self.output_shape = tuple(event_shape)
        self.discrete = True if data is None or data.levels == 2 else None
        if from_baseline:
            self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        return self._of_logits(y)

    def _of_logits(self, logits: Tensor) -> Independent[BernoulliDistribution]:
        base = BernoulliDistribution(logits=logits, validate_args=False)
        return elementwise(base, self.output_shape)

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return super().log_prob(p, x, mask)
        # p.log_prob, but negated where the elements are summed already.
        logits, x = torch.broadcast_tensors(p.base_dist.logits, x)  # type: ignore[attr-defined]
        terms = binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -terms.flatten(-len(self.output_shape)).sum(-1)

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        # Kept off 0 and 1, where one held-out pixel would cost infinitely much.
        return mean.clamp(1e-3, 1 - 1e-3).logit()

    def check(self, data: DataInfo) -> None:
        super().check(data)
        if data.levels != 2:
            warnings.warn(
                "Bernoulli on values between 0 and 1: the bound is then that of no likelihood. "
                "To have one, binarise the data (data.binarize: dynamic or static), or choose "
                "ContinuousBernoulli or Beta.",
                stacklevel=2,
            )


class ContinuousBernoulli(FromBaseline):
    r"""Independent elements between 0 and 1; the decoder gives logits.

    .. math:: \log p(x|z) = \sum_i x_i l_i - \log \frac{e^{l_i} - 1}{l_i}

    What the binary cross-entropy of grey values lacks to be the logarithm of a density.

    Arguments:
        from_baseline: Add the logits of the training rows' mean to the decoder's output.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845

    Example:
        >>> import torch
        >>> likelihood = ContinuousBernoulli(event_shape=(2,))
        >>> p = likelihood(torch.tensor([[[0.0, 2.0]]]))
        >>> p.mean, p.log_prob(torch.tensor([[0.3, 1.0]]))
        (tensor([[[0.5000, 0.6565]]]), tensor([[0.8386]]))
    """

    data_range = (0.0, 1.0)
    most = inf
    """The largest logit."""

    def __init__(self, event_shape: tuple[int, ...], from_baseline: bool = False) -> None:
        super().__init__()
        self.output_shape = tuple(event_shape)
        if from_baseline:
            self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        y = y if self.most == inf else y.clamp(-self.most, self.most)
        return elementwise(Exponential01(y), self.output_shape)

    def without_latents(self, mean: Tree, variance: Tree) -> Likelihood:
        # The density of an element that is 0 in all training rows would grow without bound.
        own: Any = super().without_latents(mean, variance)
        own.most = 1000.0
        return own

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        mean = mean.clamp(1e-3, 1 - 1e-3)
        low, high = torch.full_like(mean, -2000.0), torch.full_like(mean, 2000.0)
        for _ in range(60):  # the mean rises with the logit
            middle = (low + high) / 2
            below = Exponential01(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


class Exponential01(Distribution):
    """The density exp(l x) on [0, 1], normalised; exact at l = 0, where it is uniform.

    Arguments:
        logits: l, of any shape.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        # (e^l - 1) / l = e^h sinh(h) / h, h = l / 2
        return self.logits * (value - 0.5) - _log_sinhc(self.logits / 2)

    @property
    def mean(self) -> Tensor:
        # 1/2 + (coth h - 1 / h) / 2
        h = self.logits / 2
        small, safe = h.abs() < 0.1, torch.where(h.abs() < 0.1, 1.0, h)
        series = h / 3 - h**3 / 45 + 2 * h**5 / 945 - h**7 / 4725
        return 0.5 + torch.where(small, series, 1 / safe.tanh() - 1 / safe) / 2

    @property
    def mode(self) -> Tensor:
        """0 or 1, the more likely end; 1/2 where all values are equally likely."""
        return (self.logits.sign() + 1) / 2

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.logits.shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        # The quantile function of -|l|, and its mirror image.
        rate = self.logits.abs().clamp(min=1e-4)
        x = -torch.log1p(u * torch.expm1(-rate)) / rate
        return torch.where(self.logits > 0, 1 - x, x).clamp(0, 1)


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h)."""
    size = h.abs()
    small, safe = size < 0.1, torch.where(size < 0.1, 1.0, size)
    square = h * h
    series = square * (1 / 6 - square * (1 / 180 - square / 2835))
    return torch.where(small, series, safe + torch.log(-torch.expm1(-2 * safe) / (2 * safe)))
