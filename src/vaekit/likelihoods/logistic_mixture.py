"""A mixture of discretised logistics for each pixel of an image."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.likelihoods.discrete import LogisticBins, OfLogistics, log_mass, logistic_noise


class DiscretizedLogisticMixture(OfLogistics):
    r"""Each pixel a mixture of discretised logistics, its channels coupled.

    Given its component, the location of a channel is linear in the values of the channels before
    it, with coefficients between -1 and 1 from the decoder; so a pixel of any colour costs one
    choice. Rows that are no images (C, H, W) have one channel.

    .. math:: p(x|z) = \prod_{hw} \sum_m \pi_m \prod_c p(x_c | \mu_{mc} + \textstyle\sum_{d < c}
        a_{mcd}\, (x_d - \mathrm{low}), s_{mc})

    A mask has to hide whole pixels where there are several channels: a channel's density given the
    one before it needs that one (under torch.compile a pixel that is hidden in part does not
    count). What stands for p is the mean of each channel at those of the channels before it.

    Arguments:
        components: The number of logistics in each mixture.
        min_scale: Floor of their scales, in units of the distance between two values.

    Raises:
        ValueError: If there is no component, the floor is not positive, or the number of levels is
            not known; in a call, if a mask hides a part of a pixel.

    References:
        PixelCNN++ (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> data = DataInfo(event_shape=(3, 4, 4), data_range=(0, 1), levels=256)
        >>> likelihood = DiscretizedLogisticMixture(data.event_shape, data, components=5)
        >>> likelihood.output_shape
        (50, 4, 4)
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo,
        components: int = 5,
        min_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"Expected at least one of components but got {components}.")
        self.measure(data, min_scale)
        self.components = components
        self.event = tuple(event_shape)
        self.channels, self.pixels = split_channels(self.event)
        c = self.channels
        self.output_shape = (components * (1 + 2 * c + c * (c - 1) // 2), *self.pixels)
        self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        m, c = self.components, self.channels
        logits, loc, log_scale, coefficients = y.split(
            [m, m * c, m * c, m * c * (c - 1) // 2], dim=2
        )
        loc, log_scale, coefficients = (
            part.unflatten(2, (m, part.shape[2] // m)) for part in (loc, log_scale, coefficients)
        )
        return LogisticMixture(
            logits, *self.placed(loc, log_scale), coefficients.tanh(), self.levels, self.event
        )

    def point(self, p: Distribution) -> Tensor:
        assert isinstance(p, LogisticMixture)
        return p.central()

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert isinstance(p, LogisticMixture)
        if mask is None:
            return p.log_prob(x)
        seen = mask.reshape(len(mask), self.channels, *self.pixels)
        whole = seen.all(1)
        if self.channels > 1 and not torch.compiler.is_compiling():
            partial = seen.any(1) & ~whole
            if bool(partial.any()):
                raise self.refuse("a mask that hides whole pixels", "one that hides some channels")
        x = torch.where(mask, x, self.levels.low)
        terms = torch.where(whole, p.pixels(x), 0.0)
        return terms.flatten(2).sum(2)

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        # Components side by side, at most a standard deviation away: equal ones would stay equal.
        m, c = self.components, self.channels
        away = torch.linspace(-1, 1, m).to(mean) if m > 1 else mean.new_zeros(1)
        away = away.view(m, *[1] * mean.dim())
        mean, variance = mean + away * variance.sqrt(), variance * (1 - away.square().mean())
        loc, log_scale = self.unplaced(mean, variance.expand_as(mean))
        loc, log_scale = (part.reshape(m * c, *self.pixels) for part in (loc, log_scale))
        zeros = loc.new_zeros(m * (1 + c * (c - 1) // 2), *self.pixels)
        return torch.cat([zeros[:m], loc, log_scale, zeros[m:]])


def split_channels(event: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The channels of an image and its sides; other rows have one channel."""
    return (event[0], event[1:]) if len(event) == 3 else (1, event)


class LogisticMixture(Distribution):
    """Mixtures of discretised logistics over the channels of each pixel.

    Arguments:
        logits: Of the components, with shape `(*, M, *pixels)`.
        loc: Locations at 0 of the channels before, with shape `(*, M, C, *pixels)`.
        scale: With the shape of `loc`.
        coefficients: Of the channels before, row by row, with shape
            `(*, M, C (C - 1) / 2, *pixels)`.
        event: The shape of one row.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor,
        levels: ValueGrid,
        event: tuple[int, ...],
    ) -> None:
        self.log_pi, self.loc, self.scale = logits.log_softmax(2), loc, scale
        self.coefficients, self.levels = coefficients, levels
        self.channels, self.sides = split_channels(event)
        super().__init__(loc.shape[:2], torch.Size(event), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.interval(self.levels.low, self.levels.high)

    def _centre(self, channel: int, before: list[Tensor]) -> Tensor:
        """Locations of a channel (*, M, *pixels), given those of the channels before it."""
        start = channel * (channel - 1) // 2
        shift = [
            self.coefficients[:, :, :, start + d] * (x - self.levels.low)
            for d, x in enumerate(before)
        ]
        return sum(shift, self.loc[:, :, :, channel])

    def pixels(self, value: Tensor) -> Tensor:
        """log p of each pixel, (*, *pixels), in nats."""
        rows = value.shape[: value.dim() - len(self.event_shape)]  # (K, B) or (B,)
        x = value.reshape(*(1,) * (2 - len(rows)), *rows, 1, self.channels, *self.sides)
        x = self.levels.nearest(x)  # (K, B, 1, C, *pixels)
        terms = self.log_pi
        for c in range(self.channels):
            own = [x[:, :, :, d] for d in range(c)]
            terms = terms + log_mass(
                x[:, :, :, c], self._centre(c, own), self.scale[:, :, :, c], self.levels
            )
        return terms.logsumexp(2)

    def log_prob(self, value: Tensor) -> Tensor:
        outer = value.dim() - len(self.event_shape) - 2
        if outer > 0:  # samples of the distributions
            inner = value.flatten(0, outer - 1)
            return torch.stack([self.log_prob(x) for x in inner]).unflatten(0, value.shape[:outer])
        return self.pixels(value).flatten(2).sum(2)

    @property
    def mean(self) -> Tensor:
        if self.channels > 1:
            raise NotImplementedError("The mean of coupled channels has no closed form.")
        bins = LogisticBins(self.loc, self.scale, self.levels)
        mean = (self.log_pi.exp().unsqueeze(3) * bins.mean).sum(2)
        return mean.reshape(*self.batch_shape, *self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The most probable of the components' own modes, taken channel by channel, per pixel."""
        found: list[Tensor] = []
        for c in range(self.channels):
            bins = LogisticBins(self._centre(c, found), self.scale[:, :, :, c], self.levels)
            found.append(bins.mode)
        each = torch.stack(found, 3)  # (K, B, M, C, *pixels)
        shape = (*self.batch_shape, *self.event_shape)
        terms = [self.pixels(each[:, :, m].reshape(shape)) for m in range(each.shape[2])]
        best = torch.stack(terms, 2).argmax(2, keepdim=True).unsqueeze(3)
        return each.take_along_dim(best, 2).reshape(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = [self._drawn() for _ in range(prod(sample_shape))]
        return torch.stack(drawn).reshape(*sample_shape, *drawn[0].shape)

    def _drawn(self) -> Tensor:
        logits = self.log_pi.movedim(2, -1)
        which = torch.distributions.Categorical(logits=logits, validate_args=False).sample()
        at, found = which.unsqueeze(2), list[Tensor]()
        for c in range(self.channels):
            loc = self._centre(c, [x.unsqueeze(2) for x in found]).take_along_dim(at, 2).squeeze(2)
            scale = self.scale[:, :, :, c].take_along_dim(at, 2).squeeze(2)
            found.append(self.levels.nearest(loc + scale * logistic_noise(loc.shape, loc)))
        return torch.stack(found, 2).reshape(*self.batch_shape, *self.event_shape)

    def central(self) -> Tensor:
        """The mean of each channel at those of the channels before it, within the range."""
        pi_, found = self.log_pi.exp(), list[Tensor]()
        for c in range(self.channels):
            loc = self._centre(c, [x.unsqueeze(2) for x in found])
            found.append((pi_ * loc.clamp(self.levels.low, self.levels.high)).sum(2))
        return torch.stack(found, 2).reshape(*self.batch_shape, *self.event_shape)
