"""Likelihoods: p(x|z) from the decoder's output."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent
from torch.nn.functional import binary_cross_entropy_with_logits

from vaekit.batch import DataInfo
from vaekit.contracts import Likelihood
from vaekit.distributions import normal, soft_clamp, sum_over_ranks
from vaekit.draw import Draw

__all__ = ["Bernoulli", "Gaussian"]


class Bernoulli(Likelihood):
    r"""Independent binary elements; the decoder gives logits.

    .. math:: \log p(x|z) = \sum_i x_i \log \pi_i + (1 - x_i) \log(1 - \pi_i)

    This is minus the binary cross-entropy summed over the event. It is a likelihood for x in {0,
    1}; values between are allowed, with a warning, since the sum is then no log-probability of
    anything.

    Example:
        >>> import torch
        >>> likelihood = Bernoulli(event_shape=(3,))
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 3)), torch.tensor([[1.0, 0.0, 1.0]]))
        tensor([[-2.0794]])
    """

    data_range = (0.0, 1.0)

    def __init__(self, event_shape: tuple[int, ...], data: DataInfo | None = None) -> None:
        super().__init__()
        self.output_shape = tuple(event_shape)
        self.discrete = True if data is None or data.levels == 2 else None

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        return _independent_bernoulli(logits=y, event_dims=len(self.output_shape))

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return super().log_prob(p, x, mask)
        # p.log_prob, but negated where the elements are summed already.
        logits, x = torch.broadcast_tensors(p.base_dist.logits, x)  # type: ignore[attr-defined]
        terms = binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -terms.flatten(-len(self.output_shape)).sum(-1)

    def independent(self, mean: Tensor, variance: Tensor) -> Distribution:
        # Kept off 0 and 1, where one held-out pixel would cost infinitely much.
        return _independent_bernoulli(probs=mean.clamp(1e-3, 1 - 1e-3), event_dims=mean.dim())

    def check(self, data: DataInfo) -> None:
        super().check(data)
        if data.levels != 2:
            warnings.warn(
                "Bernoulli on values between 0 and 1: the bound is then that of no likelihood. "
                "To have one, binarise the data (data.binarize: dynamic or static).",
                stacklevel=2,
            )


def _independent_bernoulli(
    event_dims: int, **parameter: Tensor
) -> Independent[BernoulliDistribution]:
    base = BernoulliDistribution(**parameter, validate_args=False)
    return Independent(base, event_dims, validate_args=False)


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float]]] = {
    "identity": (lambda y: y, (-inf, inf)),
    "sigmoid": (torch.sigmoid, (0.0, 1.0)),
    "tanh": (torch.tanh, (-1.0, 1.0)),
}


class Gaussian(Likelihood):
    r"""Independent Normal elements.

    .. math:: \log p(x|z) = -\sum_i \frac{(x_i - \mu_i)^2}{2 \sigma_i^2} + \log \sigma_i + \tfrac12
    \log 2\pi

    With a fixed scale this is half the squared error over scale², plus `D (log scale + log(2 pi) /
    2)`.

    Arguments:
        scale: The standard deviation, in units of x: a number; "learned", one for all elements;
            "elementwise", one for each element of each row, from the decoder; or "optimal", one
            for all elements, the root of the mean squared error, which maximises the likelihood:
            that of the batch over all ranks in training, a running value elsewhere.
        mean: Activation that gives the mean: "identity", "sigmoid" or "tanh".
        min_scale: Floor of a scale that is not fixed, in units of x. Without one the density of
            data that the decoder can fit exactly grows without bound.

    Raises:
        ValueError: If a scale or its floor is not positive, or the activation is another.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin, Daniilidis and Levine,
        2021), https://arxiv.org/abs/2006.13202, for "optimal".

    Example:
        >>> import torch
        >>> likelihood = Gaussian(event_shape=(2,), scale=1.0)
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 2)), torch.tensor([[0.0, 1.0]]))
        tensor([[-2.3379]])
    """

    data_range = (-inf, inf)
    variance: Tensor
    seen: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        scale: float | Literal["learned", "elementwise", "optimal"] = 1.0,
        mean: Literal["identity", "sigmoid", "tanh"] = "identity",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        modes = ("learned", "elementwise", "optimal")
        if scale not in modes and not (isinstance(scale, int | float) and 0 < scale < inf):
            raise ValueError(f"Expected scale to be positive or one of {modes} but got {scale!r}.")
        if mean not in _ACTIVATIONS:
            raise ValueError(f"Expected mean to be one of {tuple(_ACTIVATIONS)} but got {mean!r}.")
        if not min_scale > 0:
            raise ValueError(f"Expected min_scale to be positive but got {min_scale!r}.")
        self.scale, self.mean, self.min_scale = scale, mean, min_scale
        self.event_dims = len(event_shape)
        self.output_shape = (2, *event_shape) if scale == "elementwise" else tuple(event_shape)
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        self.couples_rows = scale == "optimal"
        if scale == "optimal":
            self.register_buffer("variance", torch.ones(()))
            self.register_buffer("seen", torch.zeros(()))

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        if self.scale == "elementwise":
            y, log_scale = y.unbind(dim=2)
            scale = self._floored(log_scale)
        elif self.scale == "learned":
            scale = self._floored(self.log_scale)
        elif self.scale == "optimal":
            scale = self.variance.sqrt().clamp(min=self.min_scale)
        else:
            scale = y.new_tensor(self.scale)
        activation, _ = _ACTIVATIONS[self.mean]
        loc = activation(y)
        return normal(loc, scale.to(loc.dtype).expand_as(loc), self.event_dims)

    def check(self, data: DataInfo) -> None:
        super().check(data)
        _, (low, high) = _ACTIVATIONS[self.mean]
        least, most = data.data_range
        if least < low or most > high:
            raise ValueError(
                f"Gaussian's mean is a {self.mean}, in [{low:g}, {high:g}], and cannot reach data "
                f"in [{least:g}, {most:g}]. Rescale the data, or choose mean: identity."
            )
        if self.mean != "identity" and (least, most) != (low, high):
            warnings.warn(
                f"Gaussian's mean is a {self.mean}, in [{low:g}, {high:g}], but the data's range "
                f"is [{least:g}, {most:g}]: a part of the mean's range stands for no data.",
                stacklevel=2,
            )

    def _floored(self, log_scale: Tensor) -> Tensor:
        return self.min_scale + soft_clamp(log_scale).exp()

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.scale == "optimal" and self.training:
            # At its optimum the bound does not change with the scale, so no gradient goes through
            # it.
            scale = self._mean_square(p, x, mask)[0].sqrt().clamp(min=self.min_scale)
            p = normal(p.mean, scale.expand_as(p.mean), self.event_dims)
        return super().log_prob(p, x, mask)

    def _mean_square(
        self, p: Distribution, x: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The mean squared error over all ranks, and of how many elements; of none it is 0."""
        square = (x - p.mean.detach()) ** 2
        count = torch.ones_like(square) if mask is None else mask.expand_as(square).to(square)
        square = square if mask is None else torch.where(mask, square, 0.0)
        total, number = sum_over_ranks(torch.stack([square.sum(), count.sum()])).unbind()
        return total / number.clamp(min=1), number

    def after_step(self, draw: Draw) -> None:
        if self.scale != "optimal":
            return
        now, number = self._mean_square(draw.p, draw.batch.x, draw.batch.mask)
        share = 0.01 * (number > 0).to(self.seen)  # a batch that shows nothing changes nothing
        self.seen.lerp_(torch.ones_like(self.seen), share)
        self.variance.lerp_(now.to(self.variance), share / self.seen.clamp(min=0.01))

    def independent(self, mean: Tensor, variance: Tensor) -> Distribution:
        if isinstance(self.scale, int | float):
            scale = mean.new_tensor(self.scale)
        else:
            scale = (variance if self.scale == "elementwise" else variance.mean()).sqrt()
            scale = scale.clamp(min=self.min_scale)
        return normal(mean, scale.expand_as(mean), mean.dim())
