"""What likelihoods share: a start at the baseline, and independent elements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.contracts.batch import Batch
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.trees import Tree


def broken(x: Tensor, mask: Tensor | None, wrong: Tensor) -> float | None:
    """The first value of x that is wrong and observed; None where all are right."""
    wrong = wrong if mask is None else wrong & mask
    return float(x[wrong][0]) if bool(wrong.any()) else None


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
        """Whether there is a constant to find."""
        return self.shift is not None or type(self).start is not FromBaseline.start

    def start(self, data: Iterable[Batch]) -> None:
        if self.shift is not None:
            self.begin(*self.moments(map(self._of_one_entry, data)))

    def _of_one_entry(self, batch: Batch) -> Batch:
        if isinstance(batch.x, dict):
            raise self.refuse(
                "rows of one entry to begin at (a likelihood made of others starts them itself)",
                f"rows of {', '.join(batch.x)}",
            )
        return batch

    def begin(self, mean: Tree, variance: Tree) -> None:
        """Begins at independent elements with these moments."""
        y = self.output_of(mean, variance)
        if not isinstance(y, Tensor):
            raise self.refuse("output_of to give a tensor to begin at", type(y).__name__)
        assert self.shift is not None
        self.shift.copy_(y)

    def without_latents(self, mean: Tree, variance: Tree) -> Likelihood:
        own: Any = super().without_latents(mean, variance)
        own.shift = None
        return own

    def __call__(self, y: Tree, context: Tensor | None = None) -> Distribution:
        return super().__call__(y if self.shift is None else y + self.shift, context)
