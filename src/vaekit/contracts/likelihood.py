"""Likelihood: what it is called with, and held to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.part import FullPrecisionPart
from vaekit.contracts.trees import Shapes, Tree, each, first, leaves, like
from vaekit.distributions import base as distributions
from vaekit.numerics.precision import full_precision, widest


class OutOfRange(ValueError):
    """Data that a likelihood has no density for.

    Attributes:
        data: What is known of them.
        mend: What else than another likelihood would help, in words.
    """

    def __init__(self, told: str, data: DataInfo, mend: str = "") -> None:
        super().__init__(told)
        self.data, self.mend = data, mend


class Likelihood(FullPrecisionPart):
    """Builds p(x|z) from the decoder's output.

    Attributes:
        output_shape: Shape that the decoder must give.
        data_range: Smallest and largest value that x may take.
        expects: Which data these are, in words; by default the range.
        normalized: Whether `log_prob` is the logarithm of a density or a probability. Where it is
            not, there is no bound and there are no bits: what is reported is called a score.
        discrete: True where p gives a probability to each value of x, False where it is a density,
            None where its sum is neither (Bernoulli on grey values).
        couples_rows: Whether a row's density depends on the batch's other rows.
        event_shape: Shape of one row; set by whoever builds the part.
    """

    output_shape: Shapes
    data_range: ClassVar[tuple[float, float]] = (-inf, inf)
    expects: ClassVar[str] = ""
    normalized: ClassVar[bool] = True
    discrete: bool | None = False
    couples_rows = False
    event_shape: Shapes = None

    def forward(self, y: Tree, context: Tensor | None = None) -> Distribution:
        """p(x|z).

        Arguments:
            y: The decoder's output, (K, B, *output_shape), in float32 at least.
            context: What a conditional model conditions on, (K, B, C).

        Returns:
            A distribution of batch shape (K, B) and event shape `event_shape`; a
            `vaekit.distributions.Joint` where x is a dict.

        Raises:
            ValueError: When called, if it is no distribution of these shapes.
        """
        raise NotImplementedError

    def __call__(self, y: Tree, context: Tensor | None = None) -> Distribution:
        with full_precision(first(y)):
            p = super().__call__(y, context)
        return self.hold_distribution(p, tuple(first(y).shape[:2]), self.event_shape)

    def point(self, p: Distribution) -> Tree:
        """The one x that stands for p where nothing is drawn; by default its mean."""
        return p.mean

    def elements(self, p: Distribution, x: Tree) -> Tree:
        """log p of each element of x, (K, B, *event) in nats; x is within the support throughout.

        Raises:
            ValueError: If p does not factorise over the elements of x.
        """
        return distributions.elements(p, x)

    def log_prob(self, p: Distribution, x: Tree, mask: Tree | None = None) -> Tensor:
        """log p(x|z) with shape (K, B), in nats, a sum over the observed elements of x.

        Raises:
            ValueError: With a mask, where p does not factorise over the elements of x.
        """
        if mask is None:
            return p.log_prob(x)

        def observed(terms: Tensor, mask: Tensor) -> Tensor:
            if terms.shape[terms.dim() - mask.dim() + 1 :] != mask.shape[1:]:
                raise self.refuse(f"elements of shape {tuple(mask.shape[1:])}", terms.shape)
            return torch.where(mask, terms, 0.0).sum(tuple(range(1 - mask.dim(), 0)))

        terms = each(observed, self.elements(p, distributions.filled(p, x, mask)), mask)
        return sum(leaves(terms)[1:], leaves(terms)[0])

    # What it is without latents

    def moments(self, data: Iterable[Batch]) -> tuple[Tree, Tree]:
        """What `output_of` is made of, on the CPU and in float64.

        Returns:
            By default the mean and the variance of each element, (*event), over the rows that show
            it.
        """
        return moments(data)

    def output_of(self, mean: Tree, variance: Tree) -> Tree | None:
        """The decoder's output, (*output_shape), for independent elements with these `moments`.

        The fit of the baseline, the best constant output, starts from it. None where a likelihood
        knows none; it then has no baseline.
        """
        return None

    def without_latents(self, mean: Tree, variance: Tree) -> Likelihood:
        """A copy for the baseline, whose own parameters are fitted with the constant output.

        A subclass adds what the copy needs to start from these `moments`.
        """
        return deepcopy(self)

    # Which data it is for

    @classmethod
    def takes(cls, data: DataInfo) -> bool:
        """Whether it has a density for such data, whatever its arguments.

        The error for other data names the likelihoods that take them.
        """
        low, high = cls.data_range
        return all(low <= least and most <= high for least, most in leaves(data.data_range))

    def check(self, data: DataInfo) -> None:
        """Refuses data that this likelihood has no density for.

        Raises:
            OutOfRange: If it does not take them; a ValueError.
        """
        if not self.takes(data):
            expected = self.expects or "data in [{:g}, {:g}]".format(*self.data_range)
            what = f"{type(self).__name__} expected {expected}, but {told(data)}."
            raise OutOfRange(what, data, ", or rescale the data" if not self.expects else "")

    def check_rows(self, x: Tree, mask: Tree | None = None) -> None:
        """Refuses rows whose values have no density here, where the data's range does not tell.

        Before the first step it is asked of all training and validation rows of a data module.

        Raises:
            ValueError: If a value that the mask shows has none.
        """

    def gives_bits(self, data: DataInfo) -> bool:
        """Whether log p(x|z) counts bits: of discrete data, or of data that were dequantised."""
        spread = all(width is not None for width in leaves(data.bin_width))
        return self.discrete or (self.discrete is False and self.normalized and spread)


def moments(
    data: Iterable[Batch], of: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tree, Tree]:
    """Mean and variance (*event) of each element, over the rows that show it.

    Of an element that no row shows both are 0.

    Arguments:
        of: What is taken of each element first.

    Example:
        >>> import torch
        >>> moments([Batch(torch.tensor([[1.0], [3.0]]))])
        (tensor([2.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """

    def powers(x: Tensor, seen: Tensor | None) -> Tensor:
        x = widest(x) if of is None else of(widest(x))
        if seen is None:
            seen = torch.ones_like(x, dtype=torch.bool)
        x = torch.where(seen, x, 0.0)
        return torch.stack([seen.to(x).sum(0), x.sum(0), x.square().sum(0)]).cpu().double()

    total: Any = None
    for batch in data:
        added = each(powers, batch.x, like(batch.x, batch.mask))
        total = added if total is None else each(torch.add, total, added)
    mean, square = (each(lambda t, of=of: t[of] / t[0].clamp(min=1), total) for of in (1, 2))
    return mean, each(lambda s, m: (s - m.square()).clamp(min=0), square, mean)


def told(data: DataInfo) -> str:
    """Range and levels of data, for a message."""
    ranges = [f"[{low:g}, {high:g}]" for low, high in leaves(data.data_range)]
    levels = {n for n in leaves(data.levels) if n is not None}
    counted = f", with {', '.join(map(str, sorted(levels)))} levels" if levels else ""
    return f"the data's range is {', '.join(dict.fromkeys(ranges))}{counted}"
