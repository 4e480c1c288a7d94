"""Likelihoods for elements that have an end: positive, or between 0 and 1."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, log
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Beta as BetaDistribution
from torch.distributions import Distribution, constraints
from torch.distributions import LogNormal as LogNormalDistribution

from vaekit.contracts.batch import Batch
from vaekit.contracts.likelihood import moments
from vaekit.contracts.trees import Tree
from vaekit.distributions.base import soft_clamp, soft_unclamp
from vaekit.likelihoods.base import FromBaseline, broken, elementwise
from vaekit.likelihoods.real import LocationScale
from vaekit.numerics.precision import widest


class LogNormal(LocationScale):
    r"""Independent positive elements whose logarithms are Normal.

    .. math:: \log p(x|z) = -\sum_i \frac{(\log x_i - \mu_i)^2}{2 \sigma_i^2} + \log x_i \sigma_i
        + \tfrac12 \log 2\pi

    Arguments:
        scale: The standard deviation of log x: a number; "learned", one for all elements; or
            "elementwise", one for each element of each row, from the decoder.
        min_scale: Floor of a scale that is not fixed.
        from_baseline: Add the mean of log x over the training rows, and the logarithm of an
            elementwise scale, to the decoder's output.

    Raises:
        ValueError: If a scale or its floor is not positive; before the first step, if a value is
            not positive.

    Example:
        >>> import torch
        >>> likelihood = LogNormal(event_shape=(2,), scale=1.0)
        >>> p = likelihood(torch.zeros(1, 1, 2))
        >>> p.mean, likelihood.log_prob(p, torch.tensor([[1.0, 2.0]]))
        (tensor([[[1.6487, 1.6487]]]), tensor([[-2.7713]]))
    """

    data_range = (0.0, inf)
    expects = "positive data"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        scale: float | Literal["learned", "elementwise"] = "elementwise",
        min_scale: float = 1e-3,
        from_baseline: bool = True,
    ) -> None:
        super().__init__(event_shape, scale, "identity", min_scale, from_baseline)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return LogNormalDistribution(loc, scale, validate_args=False)

    def moments(self, data: Iterable[Batch]) -> tuple[Tree, Tree]:
        """The mean and variance of log x."""
        return moments(data, lambda x: x.clamp(min=torch.finfo(torch.float32).tiny).log())

    def check_rows(self, x: Tensor, mask: Tensor | None = None) -> None:
        if (value := broken(x, mask, x <= 0)) is not None:
            raise ValueError(
                f"LogNormal expected positive values but the rows hold {value:g}. Leave them out, "
                "shift the data, or choose Gaussian or Laplace."
            )


class Beta(FromBaseline):
    r"""Independent elements between 0 and 1, each with a mean and a concentration of its own.

    .. math:: \log p(x|z) = \sum_i (\alpha_i - 1) \log x_i + (\beta_i - 1) \log(1 - x_i)
        - \log B(\alpha_i, \beta_i)

    with alpha the mean times the concentration, and beta the rest of it. A density of this kind is
    0 or infinite at 0 and 1, where data often are: it is stretched over [-margin, 1 + margin].

    Arguments:
        margin: How far beyond 0 and 1 the density reaches, in units of x.
        from_baseline: Add the output of the training rows' moments to the decoder's.

    Raises:
        ValueError: If the margin is negative; before the first step, if it is 0 and a value is 0
            or 1.

    Example:
        >>> import torch
        >>> likelihood = Beta(event_shape=(1,), margin=0.0)
        >>> p = likelihood(torch.zeros(1, 1, 2, 1))
        >>> p.mean, likelihood.log_prob(p, torch.tensor([[0.3]]))
        (tensor([[[0.5000]]]), tensor([[-0.3632]]))
    """

    data_range = (0.0, 1.0)

    def __init__(
        self, event_shape: tuple[int, ...], margin: float = 1e-3, from_baseline: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= margin < inf:
            raise ValueError(f"Expected margin to be at least 0 but got {margin!r}.")
        self.margin, self.event = margin, tuple(event_shape)
        self.output_shape = (2, *self.event)
        if from_baseline:
            self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        logit, log_concentration = y.unbind(dim=2)
        concentration = soft_clamp(log_concentration).exp()
        # Off 0, where neither a density nor its gradient is finite.
        alpha, beta = (_LEAST + (s * logit).sigmoid() * concentration for s in (1, -1))
        return elementwise(StretchedBeta(alpha, beta, self.margin), self.event)

    def check_rows(self, x: Tensor, mask: Tensor | None = None) -> None:
        ends = (x <= -self.margin) | (x >= 1 + self.margin)
        if (value := broken(x, mask, ends)) is not None:
            raise ValueError(
                f"Beta with no margin expected values between 0 and 1 but the rows hold {value:g}."
                " Give it a margin, such as 0.001."
            )

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        # The moments of what is stretched, back on [0, 1].
        width = 1 + 2 * self.margin
        mean = ((mean + self.margin) / width).clamp(1e-3, 1 - 1e-3)
        variance = (variance / width**2).clamp(min=1e-8)
        concentration = (mean * (1 - mean) / variance - 1).clamp(min=1e-2)
        return torch.stack([mean.logit(), soft_unclamp(concentration.log())])


_LEAST = 1e-3


class StretchedBeta(Distribution):
    """Beta distributions over [-margin, 1 + margin].

    Arguments:
        alpha: The first exponent plus 1.
        beta: The second exponent plus 1, with the shape of alpha.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, alpha: Tensor, beta: Tensor, margin: float) -> None:
        self.low, self.width = -margin, 1 + 2 * margin
        self.unit = BetaDistribution(alpha, beta, validate_args=False)
        super().__init__(alpha.shape, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.interval(self.low, self.low + self.width)

    @property
    def mean(self) -> Tensor:
        return self.low + self.width * self.unit.mean

    @property
    def mode(self) -> Tensor:
        """Where the density is largest; an end where it is infinite there."""
        return self.low + self.width * self.unit.mode

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.low + self.width * self.unit.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        # In float64: at high concentrations the terms are large and cancel.
        alpha, beta = widest(self.unit.concentration1), widest(self.unit.concentration0)
        below, above = self._distances(value)
        constant = torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta)
        kernel = torch.xlogy(alpha - 1, below) + torch.xlogy(beta - 1, above)
        return (constant + kernel - log(self.width)).to(self.unit.concentration1.dtype)

    def _distances(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The distances of a value from both ends, in units of the width.

        A value that rounding moved to an end, or beyond it, counts as the closest value of its
        type to that end.
        """
        x, kind = widest(value), torch.finfo(value.dtype)
        high = self.low + self.width
        closest = max(-self.low * kind.eps, kind.tiny * kind.eps), high * kind.eps / 2
        below, above = (x - self.low).clamp(min=closest[0]), (high - x).clamp(min=closest[1])
        return below / self.width, above / self.width
