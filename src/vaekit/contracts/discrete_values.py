"""Elements of a known number of evenly spaced values: grey values, tokens, categories."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from torch import Tensor

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.likelihood import told
from vaekit.contracts.trees import leaves


@dataclass(frozen=True)
class ValueGrid:
    """Evenly spaced values.

    Arguments:
        low: The smallest.
        high: The largest.
        count: How many there are, two at least.

    Example:
        >>> import torch
        >>> grey = ValueGrid(0.0, 1.0, 256)
        >>> grey.index(torch.tensor([0.0, 0.5020, 1.0]))
        tensor([  0, 128, 255])
    """

    low: float
    high: float
    count: int

    @classmethod
    def of(cls, data: DataInfo) -> ValueGrid:
        """The values of an element of such data.

        Raises:
            ValueError: If their number is not known, as that of continuous values is not.
        """
        if not cls.are_known(data):
            raise ValueError(
                "Expected data of a known number of levels, such as uint8 images, or whole "
                f"numbers of a declared data_range, but {told(data)}."
            )
        low, high = data.data_range
        return cls(low, high, data.levels)  # type: ignore[arg-type]

    @staticmethod
    def are_known(data: DataInfo) -> bool:
        """Whether such data have levels, two at least."""
        finite = all(high - low < inf for low, high in leaves(data.data_range))
        return isinstance(data.levels, int) and data.levels > 1 and finite

    @property
    def width(self) -> float:
        """The distance between two values."""
        return (self.high - self.low) / (self.count - 1)

    def index(self, x: Tensor) -> Tensor:
        """Which of the values is nearest, counted from 0."""
        return ((x - self.low) / self.width).round().clamp(0, self.count - 1).long()

    def value(self, index: Tensor, like: Tensor) -> Tensor:
        """The values of these numbers, in the type of another tensor."""
        return self.low + index.to(like.dtype) * self.width

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest value."""
        return self.value(self.index(x), x)
