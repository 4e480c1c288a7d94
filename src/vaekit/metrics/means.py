"""Means over rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMeans(Metric):
    """Means of named terms over all rows of all batches and ranks, each row counted once.

    A term is (B,), one value per row, or a scalar, the mean over the batch's rows. Every batch has
    the same terms, in any order. Sums are kept in float64, where the device has it. With `rows` 0
    a batch counts nothing, whatever its terms hold.

    Arguments:
        dtype: Of the sums.
        errors: Whether `compute` finds standard errors too.

    Attributes:
        errors: The standard error over rows, sd / sqrt(n), of each mean of terms (B,), once it is
            computed; none of fewer than two rows.
        counted: Over how many rows.

    Raises:
        ValueError: When updated, if a batch has other terms, or a term has another shape.

    Example:
        >>> import torch
        >>> means = RowMeans()
        >>> means.update({"loss": torch.tensor([1.0, 2.0])}, rows=2)
        >>> means.update({"loss": torch.tensor([6.0])}, rows=1)
        >>> means.compute()
        {'loss': 3.0}
        >>> means = RowMeans(errors=True)
        >>> means.update({"loss": torch.tensor([1.0, 2.0, 6.0])}, rows=3)
        >>> means.compute(), round(means.errors["loss"], 4)
        ({'loss': 3.0}, 1.5275)
    """

    full_state_update = False
    totals: Tensor
    squares: Tensor
    rows: Tensor

    def __init__(self, dtype: torch.dtype = torch.float64, errors: bool = False) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.scalars: set[str] = set()
        self.has_errors, self.errors = errors, dict[str, float]()
        self.counted = 0
        self.add_state("squares", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("totals", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, terms: dict[str, Tensor], rows: int) -> None:
        if not self.names:
            self.names = tuple(sorted(terms))  # sorted: ranks add up by position
            self.totals = self.totals.new_zeros(len(terms))
        if terms.keys() != set(self.names):
            raise ValueError(
                f"Expected the terms {', '.join(self.names)} in every batch but got "
                f"{', '.join(sorted(terms))}."
            )
        if rows == 0:
            return
        values = []
        for name in self.names:
            x = terms[name].detach()
            if x.shape != (rows,):
                if x.shape != ():
                    raise ValueError(
                        f"Expected the term {name} of shape {(rows,)}, or a scalar, but got "
                        f"{tuple(x.shape)}."
                    )
                self.scalars.add(name)
                x = x.expand(rows)
            values.append(x)
        every = torch.stack(values)
        self.totals = self.totals + every.sum(1, dtype=self.rows.dtype)
        if self.has_errors:
            self.squares = self.squares + every.to(self.rows.dtype).square().sum(1)
        self.rows = self.rows + rows

    def compute(self) -> dict[str, float]:
        means = self.totals / self.rows
        if self.has_errors:  # here, where the sums are those of all ranks
            variance = (self.squares / self.rows - means.square()) / (self.rows - 1)
            found = zip(self.names, variance.clamp(min=0).sqrt().tolist(), strict=True)
            own = {name: error for name, error in found if name not in self.scalars}
            self.errors = own if self.rows > 1 else {}
            self.counted = int(self.rows)
        return dict(zip(self.names, means.tolist(), strict=True))

    def reset(self) -> None:
        super().reset()
        self.names, self.scalars = (), set()
