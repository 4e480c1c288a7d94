"""Rows, and what is declared of them: trees of tensors, the batch, the data's description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf, log, prod
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Batch",
    "DataInfo",
    "Ranges",
    "Shape",
    "Shapes",
    "Sizes",
    "Tree",
    "batch_of",
    "each",
    "entries_of",
    "first",
    "flat",
    "leaves",
    "like",
    "shapes_of",
    "within",
]

Shape = tuple[int, ...]

if TYPE_CHECKING:  # a part says by its own annotations which of these it takes
    Tree: TypeAlias = Any
    Shapes: TypeAlias = Any
    Sizes: TypeAlias = Any
    Ranges: TypeAlias = Any
else:
    Tree = Tensor | dict[str, Tensor]
    """A tensor, or a dict of tensors: the modalities of a row, the columns of a table."""

    Shapes = Shape | dict[str, Shape]
    """The shape of a tree's tensor, or of each of its entries; rows are not counted."""

    Sizes = int | Shapes | dict[str, int | Shape]
    """Shapes in which a number n means (n,)."""

    Ranges = tuple[float, float] | dict[str, tuple[float, float]]
    """The smallest and largest value in a tree's tensor, or in each of its entries."""


def each(f: Callable[..., Any], tree: Any, *more: Any) -> Any:
    """f of a tree's tensor, or of each of its entries; `more` are trees with the same entries.

    Example:
        >>> each(lambda n: n + 1, 2), each(lambda n: n + 1, {"a": 3})
        (3, {'a': 4})
    """
    if isinstance(tree, dict):
        return {name: f(leaf, *(other[name] for other in more)) for name, leaf in tree.items()}
    return f(tree, *more)


def entries_of(tree: Any) -> dict[str, Any]:
    """A tree's tensors by name; a single tensor is called x.

    Example:
        >>> entries_of(2), entries_of({"a": 3, "b": 4})
        ({'x': 2}, {'a': 3, 'b': 4})
    """
    return dict(tree) if isinstance(tree, dict) else {"x": tree}


def like(tree: Any, value: Any) -> Any:
    """The value for each entry of a tree, where it is not said of each by itself.

    Example:
        >>> like({"a": 3, "b": 4}, None), like(3, None)
        ({'a': None, 'b': None}, None)
    """
    return (
        dict.fromkeys(tree, value)
        if isinstance(tree, Mapping) and not isinstance(value, Mapping)
        else value
    )


def flat(name: str, tree: Any) -> dict[str, Any]:
    """A tree's tensors under a name, as a file of arrays holds them: `name`, or `name.entry`.

    Example:
        >>> flat("x", 2), flat("x", {"a": 3, "b": 4})
        ({'x': 2}, {'x.a': 3, 'x.b': 4})
    """
    if isinstance(tree, Mapping):
        return {f"{name}.{entry}": leaf for entry, leaf in tree.items()}
    return {name: tree}


def leaves(tree: Any) -> list[Any]:
    """A tree's entries; of a single tensor, that one."""
    return list(tree.values()) if isinstance(tree, dict) else [tree]


def first(tree: Tree) -> Tensor:
    """A tree's first tensor, for what all its entries share: rows, device."""
    return next(iter(tree.values())) if isinstance(tree, dict) else tree


def shapes_of(sizes: Any) -> Any:
    """Sizes as shapes: tuples, and (n,) in the place of a number n."""
    return each(lambda size: (size,) if isinstance(size, int) else tuple(size), sizes)


def within(low: float, high: float, span: tuple[float, float], dtype: torch.dtype) -> bool:
    """Whether values from `low` to `high`, of some type, lie in a span; its ends are rounded too.

    Example:
        >>> x = torch.tensor(0.1)  # a float32, which is above .1
        >>> within(float(x), float(x), (0.0, 0.1), x.dtype)
        True
    """
    kind = dtype if dtype.is_floating_point else torch.float64
    least, most = torch.tensor(span, dtype=kind).tolist()
    return bool(least <= low <= high <= most)


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
        start: Place of the first row in its split's order; held-out rows draw their noise from it.
            None where a loader does not say.
    """

    x: Tree
    context: Tensor | None = None
    mask: Tree | None = None
    label: Tensor | None = None
    weight: float = 1.0
    start: int | None = None

    def __len__(self) -> int:
        return first(self.x).shape[0]

    @property
    def counted(self) -> int:
        """How many of its rows count: none of a stand-in, whose weight is 0."""
        return len(self) if self.weight else 0

    def __getitem__(self, at: Tensor | slice) -> Batch:
        return self._map(lambda x: x[at])

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def _map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        columns = (self.x, self.context, self.mask, self.label)
        x, context, mask, label = (None if c is None else each(f, c) for c in columns)
        return Batch(x, context, mask, label, self.weight, self.start)


@dataclass
class DataInfo:
    """What is known of the data before the first row is read; it is stored in every checkpoint.

    Where `x` is a dict of tensors, the first four are dicts with its names.

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

    def __post_init__(self) -> None:
        self.event_shape = each(tuple, self.event_shape)
        for name in ("data_range", "levels", "bin_width"):
            setattr(self, name, like(self.event_shape, getattr(self, name)))
        self.data_range = each(tuple, self.data_range)

    def as_dict(self) -> dict[str, Any]:
        """This as plain data: `DataInfo(**info.as_dict()) == info`."""
        plain = asdict(self)
        for name in ("event_shape", "data_range"):
            plain[name] = each(list, plain[name])
        return plain

    def entries(self) -> dict[str, DataInfo]:
        """What is known of each entry of a dict-valued `x`; else this, by the name "x"."""
        if not isinstance(self.event_shape, dict):
            return {"x": self}
        columns = {
            n: getattr(self, n) for n in ("event_shape", "data_range", "levels", "bin_width")
        }
        return {
            name: replace(self, **{n: column[name] for n, column in columns.items()})
            for name in self.event_shape
        }

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
