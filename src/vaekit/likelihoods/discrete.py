"""Likelihoods for elements of a known number of evenly spaced values: grey values, tokens."""

from __future__ import annotations

from collections.abc import Iterable
from math import pi, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.contracts.likelihood import Likelihood, OutOfRange
from vaekit.contracts.trees import Tree
from vaekit.distributions.base import soft_clamp, soft_unclamp
from vaekit.likelihoods.base import FromBaseline, elementwise
from vaekit.networks.blocks import fill


class OfLevels(FromBaseline):
    """A likelihood of values of a known number."""

    discrete = True
    expects = "data of a known number of levels"

    @classmethod
    def takes(cls, data: DataInfo) -> bool:
        return ValueGrid.are_known(data)

    @staticmethod
    def levels_of(data: DataInfo) -> ValueGrid:
        """The values of an element.

        Raises:
            OutOfRange: If their number is not known.
        """
        try:
            return ValueGrid.of(data)
        except ValueError as error:
            raise OutOfRange(str(error), data) from error


class OfLogistics(OfLevels):
    """Base of likelihoods of discretised logistics, whose locations are in units of the range."""

    def measure(self, data: DataInfo, min_scale: float) -> None:
        """Takes the levels of the data, and the floor of the scale in units of their distance.

        Raises:
            ValueError: If the floor is not positive.
            OutOfRange: If the number of levels is not known.
        """
        if not min_scale > 0:
            raise ValueError(f"Expected min_scale to be positive but got {min_scale!r}.")
        self.levels = self.levels_of(data)
        self.min_scale = min_scale * self.levels.width
        self.range = self.levels.high - self.levels.low

    def placed(self, y: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and scales, in units of x, from what a decoder gives."""
        scale = self.min_scale + self.range * soft_clamp(log_scale).exp()
        return self.levels.low + self.range * y, scale

    def unplaced(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """What a decoder gives for elements with these moments."""
        scale = variance.sqrt() * sqrt(3) / pi - self.min_scale
        scale = scale.clamp(min=self.min_scale) / self.range
        return (mean - self.levels.low) / self.range, soft_unclamp(scale.log())


class Categorical(OfLevels):
    r"""Independent elements, each with a probability of its own for each of its values.

    .. math:: \log p(x|z) = \sum_i y_{x_i, i} - \log \sum_k e^{y_{k, i}}

    For tokens, for columns of a table, and for grey values whose order is not to matter. What
    stands for p is its most probable value, since the mean of tokens is none of them. Training
    begins at the frequencies of the training rows.

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> data = DataInfo(event_shape=(7,), data_range=(0, 9), levels=10)  # seven tokens
        >>> likelihood = Categorical(event_shape=(7,), data=data)
        >>> p = likelihood(torch.zeros(1, 1, *likelihood.output_shape))
        >>> likelihood.output_shape, p.log_prob(torch.arange(7.0))
        ((10, 7), tensor([[-16.1181]]))
    """

    def __init__(self, event_shape: tuple[int, ...], data: DataInfo) -> None:
        super().__init__()
        self.levels, self.event = self.levels_of(data), tuple(event_shape)
        self.output_shape = (self.levels.count, *self.event)
        self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        return elementwise(OnLevels(y.movedim(2, -1), self.levels), self.event)

    def point(self, p: Distribution) -> Tensor:
        return p.mode

    def moments(self, data: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """The share of each value, (*output_shape), and zeros."""
        counts = torch.zeros(self.output_shape, dtype=torch.float64)
        for batch in data:
            seen = torch.ones_like(batch.x) if batch.mask is None else batch.mask
            index = self.levels.index(fill(batch.x, batch.mask)).cpu()
            counts.scatter_add_(0, index, seen.cpu().double())
        return counts / counts.sum(0).clamp(min=1), torch.zeros_like(counts)

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        # All values that no row shows share a thousandth, as Bernoulli has it.
        return mean.clamp(min=1e-3 / self.levels.count).log()


class OnLevels(Distribution):
    """A probability for each of some evenly spaced values.

    Arguments:
        logits: Of the values, with shape `(*, levels)`.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, levels: ValueGrid) -> None:
        self.log_p, self.levels = logits.log_softmax(-1), levels
        super().__init__(logits.shape[:-1], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.interval(self.levels.low, self.levels.high)

    @property
    def mean(self) -> Tensor:
        values = torch.arange(self.levels.count, device=self.log_p.device)
        return (self.log_p.exp() * self.levels.value(values, self.log_p)).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The most probable value."""
        return self.levels.value(self.log_p.argmax(-1), self.log_p)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        p = torch.distributions.Categorical(logits=self.log_p, validate_args=False)
        return self.levels.value(p.sample(torch.Size(sample_shape)), self.log_p)

    def log_prob(self, value: Tensor) -> Tensor:
        index = self.levels.index(value)
        index, log_p = torch.broadcast_tensors(index.unsqueeze(-1), self.log_p)
        return log_p.gather(-1, index[..., :1]).squeeze(-1)


class DiscretizedLogistic(OfLogistics):
    r"""Independent logistic elements, each value's probability that of the bin around it.

    .. math:: \log p(x|z) = \sum_i \log\left[\sigma\!\left(\tfrac{x_i + w/2 - \mu_i}{s_i}\right)
        - \sigma\!\left(\tfrac{x_i - w/2 - \mu_i}{s_i}\right)\right]

    with w the distance between two values; the bins of the smallest and the largest are open. The
    decoder gives locations in units of the data's range. Training begins at the mean, and with an
    elementwise scale at the variance, of the training rows.

    Arguments:
        scale: "elementwise", one for each element of each row, from the decoder; or "learned", one
            for all.
        min_scale: Floor of the scale, in units of w.

    Raises:
        ValueError: If the floor is not positive, the scale is another word, or the number of
            levels is not known.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> data = DataInfo(event_shape=(2,), data_range=(0, 1), levels=256)
        >>> likelihood = DiscretizedLogistic(event_shape=(2,), data=data)
        >>> p = likelihood(torch.zeros(1, 1, *likelihood.output_shape))
        >>> likelihood.output_shape, p.log_prob(torch.tensor([[0.0, 1.0]]))
        ((2, 2), tensor([[-2.0037]]))
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo,
        scale: Literal["elementwise", "learned"] = "elementwise",
        min_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if scale not in ("elementwise", "learned"):
            raise ValueError(f"Expected scale to be elementwise or learned but got {scale!r}.")
        self.measure(data, min_scale)
        self.scale, self.event = scale, tuple(event_shape)
        self.output_shape = (2, *self.event) if scale == "elementwise" else self.event
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(-2.0))
        self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        if self.scale == "elementwise":
            y, log_scale = y.unbind(dim=2)
        else:
            log_scale = self.log_scale.to(y.dtype).expand_as(y)
        return elementwise(LogisticBins(*self.placed(y, log_scale), self.levels), self.event)

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        y, log_scale = self.unplaced(mean, variance)
        return torch.stack([y, log_scale]) if self.scale == "elementwise" else y

    def without_latents(self, mean: Tree, variance: Tree) -> Likelihood:
        own: Any = super().without_latents(mean, variance)
        if self.scale == "learned":
            own.log_scale = nn.Parameter(self.unplaced(mean, variance.mean())[1])
        return own


class LogisticBins(Distribution):
    """Logistic distributions, rounded to the nearest of some evenly spaced values.

    Arguments:
        loc: Where the logistic is symmetrical, in units of the values.
        scale: Its scale, with the shape of `loc`.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale: Tensor, levels: ValueGrid) -> None:
        self.loc, self.scale, self.levels = loc, scale, levels
        super().__init__(loc.shape, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.interval(self.levels.low, self.levels.high)

    @property
    def mean(self) -> Tensor:
        # The largest value less w for each edge that lies above x: one edge after the other, since
        # all at once would take as many times the memory as there are values.
        total, width = torch.zeros_like(self.loc), self.levels.width
        for k in range(self.levels.count - 1):
            edge = self.levels.low + (k + 0.5) * width
            total = total + ((edge - self.loc) / self.scale).sigmoid()
        return self.levels.high - width * total

    @property
    def mode(self) -> Tensor:
        """The most probable value; an end's bin is open."""
        ends = (torch.full_like(self.loc, end) for end in (self.levels.low, self.levels.high))
        candidates = torch.stack([self.levels.nearest(self.loc), *ends])
        return candidates.take_along_dim(self.log_prob(candidates).argmax(0, keepdim=True), 0)[0]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        return self.levels.nearest(self.loc + self.scale * logistic_noise(shape, self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        return log_mass(self.levels.nearest(value), self.loc, self.scale, self.levels)


def logistic_noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws from the standard logistic distribution."""
    u = torch.rand(shape, dtype=like.dtype, device=like.device)
    return u.clamp(1e-7, 1 - 1e-7).logit()


def log_mass(x: Tensor, loc: Tensor, scale: Tensor, levels: ValueGrid) -> Tensor:
    """The logarithm of the mass of a logistic distribution in the bin around each value x."""
    half = levels.width / 2
    high, low = (x + half - loc) / scale, (x - half - loc) / scale
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), and a - b = w / scale
    above, below = logsigmoid(high), logsigmoid(-low)
    inner = above + below + torch.log(-torch.expm1(-levels.width / scale))
    last = levels.high - half
    return torch.where(x < levels.low + half, above, torch.where(x > last, below, inner))
