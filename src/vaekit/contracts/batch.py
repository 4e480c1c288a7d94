"""Batch and DataInfo: the rows that every part receives, and the description of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf, log, prod
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.trees import Ranges, Shapes, Tree, each, entries_of, first, leaves, like
from vaekit.numerics.precision import exact
from vaekit.numerics.random import row_keys


@dataclass
class Batch:
    """The rows that every part receives.

    Arguments:
        x: The data, with shape `(B, *event)`; a dict of tensors where a row has several entries.
        context: What a conditional model conditions on, with shape `(B, C)`.
        mask: Like `x`, True where an element is observed.
        label: For metrics and semi-supervised objectives, with shape `(B,)` or `(B, *)`; -1 where
            a row's class is unknown.
        weight: What the mean over these rows counts in the mean over all ranks: this rank's rows
            over the ranks' average. One but for a last batch that does not divide; zero for a
            stand-in row, which a rank without rows of its own receives so that all ranks take the
            same steps.
        start: Place of the first row in its split's order. None where a loader does not say.
        keys: Of the noise of each row, with shape `(B,)` in int64: with them the draws of a row
            are the same in every batch and on every rank, as in evaluation. None for torch's own
            random numbers, as in training.
    """

    x: Tree
    context: Tensor | None = None
    mask: Tree | None = None
    label: Tensor | None = None
    weight: float = 1.0
    start: int | None = None
    keys: Tensor | None = None

    def __len__(self) -> int:
        return first(self.x).shape[0]

    @property
    def counted(self) -> int:
        """How many of its rows count: none of a stand-in, whose weight is 0."""
        return len(self) if self.weight else 0

    def __getitem__(self, at: Tensor | slice) -> Batch:
        return self._map(lambda x: x[at])

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Returns the batch on a device, in float32 if that has no float64."""
        return self._map(lambda x: moved(x, device, non_blocking))

    def _map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        columns = (self.x, self.context, self.mask, self.label, self.keys)
        x, context, mask, label, keys = (None if c is None else each(f, c) for c in columns)
        return Batch(x, context, mask, label, self.weight, self.start, keys)

    def keyed(self) -> Batch:
        """The batch with the keys of its rows, where their places are known."""
        if self.start is None:
            return self
        return replace(self, keys=row_keys(0, self.start, len(self), first(self.x).device))


def moved(x: Tensor, device: torch.device | str, non_blocking: bool = False) -> Tensor:
    """Returns a tensor on a device, in float32 if it is in float64 and the device has none."""
    dtype = exact(torch.device(device)) if x.dtype == torch.float64 else x.dtype
    return x.to(dtype).to(device, non_blocking=non_blocking)


@dataclass
class DataInfo:
    """What is known of the data before the first row is read; it is stored in every checkpoint.

    Where `x` is a dict of tensors, the first four and `scale` are dicts with its names.

    Arguments:
        event_shape: Shape of one row of `x`.
        data_range: Smallest and largest value that `x` may take.
        levels: Number of different values an element may take, None where it is continuous.
        bin_width: Width of the bin over which a dequantised value was spread, in units of `x`; a
            density in such bins gives bits per dimension of the discrete data. None where the
            data were not dequantised.
        classes: Number of classes of the labels, None where they name none.
        context_features: Number of context columns.
        data_size: Number of training rows.
        schema: How the user's form became x, as plain data, for new rows to become it too and for
            the way back; None where x is what was given.
        scale: By what the user's values were divided, such as standard deviations: one number for
            each element or channel (the first axis of a row); None where x has the user's units.
        batch_effects: The context columns, by number, that hold a batch effect: a difference
            between groups of rows that z should not encode. A core does not give them to a prior
            by default. None if nothing is known of the columns.

    Example:
        >>> info = DataInfo({"image": (1, 8, 8), "age": (1,)}, {"image": (0, 1), "age": (0, 99)})
        >>> info.entries()["age"].data_range
        (0, 99)
    """

    event_shape: Shapes
    data_range: Ranges = (-inf, inf)
    levels: int | dict[str, int | None] | None = None
    bin_width: float | dict[str, float | None] | None = None
    classes: int | None = None
    context_features: int = 0
    data_size: int | None = None
    schema: dict[str, Any] | None = None
    scale: list[float] | dict[str, list[float] | None] | None = None
    batch_effects: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.event_shape = each(tuple, self.event_shape)
        for name in ("data_range", "levels", "bin_width", "scale"):
            setattr(self, name, like(self.event_shape, getattr(self, name)))
        self.data_range = each(tuple, self.data_range)
        self.batch_effects = None if self.batch_effects is None else tuple(self.batch_effects)

    def as_dict(self) -> dict[str, Any]:
        """This as plain data: `DataInfo(**info.as_dict()) == info`."""
        plain = asdict(self)
        for name in ("event_shape", "data_range"):
            plain[name] = each(list, plain[name])
        if self.batch_effects is not None:
            plain["batch_effects"] = list(self.batch_effects)
        return plain

    def entries(self) -> dict[str, DataInfo]:
        """What is known of each entry of a dict-valued `x`; else this, by the name "x"."""
        if not isinstance(self.event_shape, dict):
            return {"x": self}
        columns = {
            n: getattr(self, n)
            for n in ("event_shape", "data_range", "levels", "bin_width", "scale")
        }
        return {
            name: replace(self, **{n: column[name] for n, column in columns.items()})
            for name in self.event_shape
        }

    def log_units(self, x: Tree, mask: Tree | None = None) -> Tensor | None:
        """What log p(x) of rows exceeds that of the user's values, in nats, (B,) or ().

        The logarithm of the product of the scales of the elements that are observed: x and the
        user's values differ by these factors. None where there are none.

        Example:
            >>> info = DataInfo((2,), scale=[10.0, 1.0])
            >>> info.log_units(torch.zeros(5, 2))
            tensor(2.3026)
        """
        total: Tensor | None = None
        values, masks = entries_of(x), entries_of(like(x, mask))
        for name, info in self.entries().items():
            if info.scale is None:
                continue
            shape: Any = info.event_shape
            own = torch.tensor(info.scale, dtype=torch.float64).log().to(values[name])
            own = own.view(-1, *[1] * (len(shape) - 1)).expand(shape)
            seen = masks[name]
            own = own if seen is None else torch.where(seen, own, 0.0)
            found = own.flatten(-len(shape)).sum(-1)
            total = found if total is None else total + found
        return total

    def bits_per_dimension(self, nats: float) -> float:
        """-log p(x) in bits per element of x, from `nats`, an (estimated) log p(x) of one row.

        A density of dequantised values is taken over their bins.
        """
        shapes, widths = leaves(self.event_shape), leaves(self.bin_width)
        sizes = [prod(shape) for shape in shapes]
        spread = sum(n * log(width or 1.0) for n, width in zip(sizes, widths, strict=True))
        return -(nats + spread) / (sum(sizes) * log(2))


def batch_of(rows: Any, data: DataInfo) -> Batch:
    """The batch of somebody's own loader: x alone, a pair (x, label), or a dict of columns.

    A dict holds x, and label, context and mask where there are any; or, where rows have several
    entries, these.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> batch_of({"x": torch.zeros(5, 3), "label": torch.arange(5)}, DataInfo((3,))).label
        tensor([0, 1, 2, 3, 4])
    """
    entries = data.event_shape if isinstance(data.event_shape, dict) else None
    if isinstance(rows, dict) and (entries is None or set(rows) != set(entries)):
        known = {name: rows[name] for name in ("x", "context", "mask", "label") if name in rows}
        if "x" not in known:
            wanted = "x" if entries is None else f"x, or of {', '.join(entries)}"
            raise ValueError(
                f"Expected batches that are a dict with {wanted}, but got one with "
                f"{', '.join(map(str, rows))}."
            )
        return Batch(**known)
    x, *label = rows if isinstance(rows, list | tuple) and len(rows) in (1, 2) else [rows]
    if not isinstance(x, Tensor | dict):
        raise ValueError(
            "Expected batches that are a vaekit Batch, x alone, a pair (x, label) or a dict of x "
            f"and label, but got {type(rows).__name__}."
        )
    return Batch(x, label=label[0] if label else None)
