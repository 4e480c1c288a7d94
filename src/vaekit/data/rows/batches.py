"""Rows in memory: splits of them, the order of an epoch, and the batches cut out of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, inf, prod
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.trees import Shape, Shapes, Tree, each, entries_of, first, leaves, like
from vaekit.numerics.random import generator

SPLITS = ("train", "val", "test")


class Stored:
    """Rows (N, *event) in less memory than a tensor; what is cut out of them is a tensor.

    A subclass says how to `cut`.

    Arguments:
        shape: Of all rows, N the first.
        dtype: Of what is cut out.
    """

    device = torch.device("cpu")

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype

    def cut(self, index: Tensor) -> Tensor:
        """The rows at these places (n,), with shape (n, *event)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Tensor | slice) -> Tensor:
        return self.cut(torch.arange(len(self))[at] if isinstance(at, slice) else at)


@dataclass
class Rows:
    """The rows of one split, as they lie in memory or on disk.

    Arguments:
        x: The data, with shape `(N, *event)`, a tensor or `Stored`, or a dict of such; uint8 stays
            so until it is on the device.
        context: Columns to condition on, with shape `(N, C)`.
        mask: Like x, True where an element is observed.
        label: Labels, with shape `(N,)` or `(N, *)`.
        top: The stored value that is x = 1, None where values are taken as they are; where x is a
            dict, one for each entry.
        index: Which of those rows these are; None for all. Splits share one copy of the data.
    """

    x: Tree
    context: Tensor | None = None
    mask: Tree | None = None
    label: Tensor | None = None
    top: float | dict[str, float | None] | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        self.top = like(self.x, self.top)

    def __len__(self) -> int:
        return len(first(self.x)) if self.index is None else len(self.index)

    def __getitem__(self, at: Tensor | slice) -> Batch:
        index = at if self.index is None else self.index[at]

        def rows(column: Any) -> Any:
            return None if column is None else each(lambda x: gathered(x, index), column)

        return Batch(*(rows(c) for c in (self.x, self.context, self.mask, self.label)))

    def entries(self) -> dict[str, tuple[Tensor, Tensor | None, float | None]]:
        """x, mask and top of each entry of a dict-valued x; else those of the one, as "x"."""
        masks, tops = entries_of(like(self.x, self.mask)), entries_of(self.top)
        return {name: (x, masks[name], tops[name]) for name, x in entries_of(self.x).items()}

    def subset(self, at: Tensor | slice) -> Rows:
        """Some of the rows, not copied."""
        index = torch.arange(len(self))[at] if self.index is None else self.index[at]
        return replace(self, index=index)


def gathered(x: Tensor, at: Tensor | slice) -> Tensor:
    """The rows of x at these places."""
    # index_select copies rows whole, which indexing does element by element.
    whole = isinstance(at, Tensor) and isinstance(x, Tensor)
    return x.index_select(0, at.to(x.device)) if whole else x[at]  # type: ignore[union-attr]


class Order:
    """The order of an epoch's rows: a function of (seed, epoch), or the rows' own order."""

    def __init__(self, n: int, shuffle: bool, seed: int) -> None:
        self.n, self.shuffle, self.seed, self.epoch = n, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def rows(self, start: int, stop: int) -> Tensor | slice:
        """Which rows stand at these places of the epoch."""
        return self._permutation()[start:stop] if self.shuffle else slice(start, stop)

    def _permutation(self) -> Tensor:
        key = (self.seed, self.epoch)
        if getattr(self, "_key", None) != key:
            self._key = key
            self._order = torch.randperm(self.n, generator=generator("order", *key))
        return self._order


class Batches:
    """A loader that cuts batches out of resident rows.

    Every rank takes the same number of steps, and every row is in exactly one batch of one rank.
    The rows of a last batch are shared out evenly; a rank that is left without one receives a
    stand-in row with weight 0.

    Arguments:
        batch_size: Rows per batch and rank.
        shuffle: New order each epoch, a function of (seed, epoch); else the rows' own.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.rank, self.ranks = rows, batch_size, rank, ranks
        self.sampler = Order(len(rows), shuffle, seed)  # Lightning calls its set_epoch
        self.batch_sampler = None  # which Lightning looks for beside a sampler
        self._skip = self._given = 0  # batches of an epoch that goes on, and of this one so far

    def __len__(self) -> int:
        return ceil(len(self.rows) / (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[Batch]:
        n, step = len(self.rows), self.batch_size * self.ranks
        self._given, self._skip = self._skip, 0
        for start in range(self._given * step, n, step):
            count = min(step, n - start)
            share, more = divmod(count, self.ranks)
            own = share + (self.rank < more)
            first = start + self.rank * share + min(self.rank, more) if own else start
            batch = self.rows[self.sampler.rows(first, first + max(own, 1))]
            batch.weight, batch.start = own * self.ranks / count, first
            self._given += 1
            yield batch

    def numbers(self, places: Tensor) -> Tensor:
        """Which rows of the split stand at these places of the epoch."""
        at = self.sampler.rows(0, len(self.rows))
        return places if isinstance(at, slice) else at[places]

    # By which Lightning goes on within an epoch

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._given, **self._fixed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after the batches that were given.

        Raises:
            ValueError: If the rows, their order or the size of the batches is another.
        """
        for name, own in self._fixed().items():
            if state[name] != own:
                raise ValueError(
                    f"The checkpoint lies within an epoch of {name} {state[name]} but got {own}: "
                    "use the same, or go on from the end of an epoch."
                )
        self._skip = state["batches"]

    def _fixed(self) -> dict[str, Any]:
        order = self.sampler
        own = {"rows": len(self.rows), "batch_size": self.batch_size, "ranks": self.ranks}
        return {**own, "shuffle": order.shuffle, "seed": order.seed}


def natural(low: float, high: float) -> tuple[float, float]:
    """The narrowest of [0, 1], [-1, 1], [0, inf) and the real line that holds [low, high]."""
    for least, most in ((0.0, 1.0), (-1.0, 1.0), (0.0, inf)):
        if least <= low and high <= most:
            return least, most
    return -inf, inf


def fitting(rows: int, shapes: Shapes, most: int = 2**24) -> int:
    """So many rows of these shapes, or fewer where memory would not hold their elements.

    Example:
        >>> fitting(2000, (1, 28, 28)), fitting(2000, {"genes": (20_000,)})
        (2000, 838)
    """
    return max(1, min(rows, most // max(1, sum(prod(shape) for shape in leaves(shapes)))))


def slices(rows: int, elements: int) -> Iterator[slice]:
    """Slices of rows of so many elements: of some four million, so that temporaries stay small."""
    step = max(1, 2**22 // max(1, elements))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def span(
    x: Tensor, mask: Tensor | None = None, index: Tensor | None = None
) -> tuple[float, float, bool] | None:
    """Smallest and largest value that is observed, and whether all are 0 or 1.

    None where nothing is observed; both ends are NaN where a value is.

    Arguments:
        index: Which rows to look at; None for all.
    """
    found: list[tuple[float, float]] = []
    binary = True
    for at in slices(len(x) if index is None else len(index), x[:1].numel()):
        here = at if index is None else index[at]
        part = x[here] if mask is None else x[here][mask[here].bool()]
        if part.dtype in (torch.uint16, torch.uint32, torch.uint64):
            part = part.double()  # torch compares no others of these
        if part.numel():
            low, high = torch.aminmax(part)
            found.append((float(low), float(high)))
            binary = binary and bool(((part == 0) | (part == 1)).all())
    if not found:
        return None
    ends = torch.tensor(found, dtype=torch.float64)
    return float(ends[:, 0].min()), float(ends[:, 1].max()), binary
