"""What likelihoods share: a start at the baseline, and independent elements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.batch import Batch, Tree, moments
from vaekit.contracts import Likelihood

__all__ = ["FromBaseline", "elementwise", "observed"]


def observed(batch: Batch) -> Tensor:
    """The values of x that are observed, one after the other."""
    assert isinstance(batch.x, Tensor)
    return batch.x.flatten() if batch.mask is None else batch.x[batch.mask]


def elementwise(base: Distribution, event: tuple[int, ...]) -> Independent[Any]:
    """A distribution of elements as one of events of that shape."""
    return Independent(base, len(event), validate_args=False)


class FromBaseline(Likelihood):
    """A likelihood that begins where independent elements would end.

    A constant is added to the decoder's output: what `output_of` gives for the training rows'
    moments. Rare tokens and counts of very different sizes have their level at once, which a
    decoder would learn slowly.

    Attributes:
        shift: The constant, (*output_shape), 0 until training begins; None where there is none.
    """

    shift: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", None)

    def begin_at(self, shape: tuple[int, ...]) -> None:
        """Makes room for the constant; without it there is none. For a subclass's `__init__`."""
        self.register_buffer("shift", torch.zeros(shape))

    @property
    def looks(self) -> bool:  # type: ignore[override]
        """Whether there is a constant to find, or rows to hold to something."""
        own = type(self)
        looking = own.held is not FromBaseline.held or own.start is not FromBaseline.start
        return looking or self.shift is not None

    def held(self, batch: Batch) -> Batch:
        """Training rows as `statistic` wants them, before the first step.

        Raises:
            ValueError: If a value has no density here.
        """
        return batch

    def start(self, data: Iterable[Batch]) -> None:
        rows = map(self.held, data)
        if self.shift is not None:
            self.begin(*moments(rows, self.statistic))
        else:
            for _ in rows:
                pass

    def begin(self, mean: Tree, variance: Tree) -> None:
        """Begins at independent elements with these moments of `statistic`."""
        y = self.output_of(mean, variance)
        assert isinstance(y, Tensor)
        assert self.shift is not None
        self.shift.copy_(y)

    def __call__(self, y: Tree, context: Tensor | None = None) -> Distribution:
        return super().__call__(y if self.shift is None else y + self.shift, context)
