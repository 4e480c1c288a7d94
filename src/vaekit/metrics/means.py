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
        alone: Of this rank's rows alone, without asking the others.

    Raises:
        ValueError: When updated, if a batch has other terms, or a term has another shape.

    Example:
        >>> import torch
        >>> means = RowMeans()
        >>> means.update({"loss": torch.tensor([1.0, 2.0])}, rows=2)
        >>> means.update({"loss": torch.tensor([6.0])}, rows=1)
        >>> means.compute()
        {'loss': 3.0}
    """

    full_state_update = False
    totals: Tensor
    rows: Tensor

    def __init__(self, dtype: torch.dtype = torch.float64, alone: bool = False) -> None:
        super().__init__(sync_on_compute=not alone)
        self.names: tuple[str, ...] = ()
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
                x = x.expand(rows)
            values.append(x)
        self.totals = self.totals + torch.stack(values).sum(1, dtype=self.rows.dtype)
        self.rows = self.rows + rows

    def compute(self) -> dict[str, float]:
        means = self.totals / self.rows
        return dict(zip(self.names, means.tolist(), strict=True))

    def reset(self) -> None:
        super().reset()
        self.names = ()
