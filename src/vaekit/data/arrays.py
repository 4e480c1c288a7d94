"""Arrays from files or from Python."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Ranges, Tree, each, entries_of, first, flat, like, within
from vaekit.data.base import DataModule
from vaekit.data.rows import Rows, natural, span, split

__all__ = ["Arrays"]

Source = str | Path | Tensor | np.ndarray
_COLUMNS = ("x", "label", "context", "mask")
_WHOLE, _BYTES = 2**31, 2**28
"""Size in bytes up to which all values are looked at before the first step; of uint8 less, since
all that is asked of them is whether they are 0 and 1 alone."""

_LARGEST = 1e18
"""Of values: sums of squares of larger ones overflow in float32."""


class Arrays(DataModule):
    """Rows from `.npy`, `.npz` or `.pt` files, or from tensors and NumPy arrays.

    Files are read without running code that they may hold: NumPy's without pickles, torch's with
    `weights_only`. An `.npz` or `.pt` of several arrays holds them under the names x, label,
    context and mask. A lone `.npy` is mapped into memory, not read; of one above 2 GiB a thousand
    rows are looked at, and the others when they come. uint8 values 0 to 255 (or 0 and 1 alone)
    become x from 0 to 1; other values are taken as they are, in any type of numbers.

    Where a row has several entries (an image and a column, say), x is a dict with a source for
    each, or one file whose arrays have names such as `x.image`; so are mask and data_range.

    Arguments:
        x: The data (N, *event).
        label: Labels (N,) or (N, *).
        context: Columns (N, C) to condition on.
        mask: Like x, True where an element is observed; what is not observed may be NaN.
        val: Share of the rows held out for validation.
        test: Share of the rows held out for testing; with `val` 0 as well, all rows are for
            training.
        channels: Where the channels of images (N, *, *, *) stand: "first", as the parts for images
            want them, or "last", which moves them; None refuses what looks like the latter.
        data_range: Smallest and largest value of x; None takes the narrowest of [0, 1], [-1, 1],
            [0, inf) and the real line that holds the values that are observed. Integers of a
            finite range, tokens say, have as many levels as there are numbers in it. Of a dict
            only some entries may be named.

    Raises:
        ValueError: If arrays differ in length, a value is not finite or out of the range, or a
            file is of another type or cannot be read safely.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import torch
        >>> data = Arrays(torch.rand(100, 3), val=0.1, test=0.1)
        >>> data.info.event_shape, data.info.data_size
        ((3,), 80)
        >>> Arrays({"a": torch.rand(9, 3), "b": torch.rand(9, 2)}).info.event_shape
        {'a': (3,), 'b': (2,)}
    """

    def __init__(
        self,
        x: dict[str, Any] | Source,
        label: Source | None = None,
        context: Source | None = None,
        mask: dict[str, Any] | Source | None = None,
        val: float = 0.1,
        test: float = 0.1,
        channels: Literal["first", "last"] | None = None,
        data_range: tuple[float, float] | dict[str, tuple[float, float]] | None = None,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, binarize, dequantize, seed)
        self.sources = dict(zip(_COLUMNS, (x, label, context, mask), strict=True))
        if channels not in (None, "first", "last"):
            raise ValueError(f"Expected channels to be first or last but got {channels!r}.")
        self.shares, self.data_range, self.channels = (val, test), data_range, channels
        self._range: Ranges = data_range or (0.0, 1.0)

    def natural_range(self) -> Ranges:
        return self._range

    def _refuse_rows(self, rows: Rows, split: str) -> None:
        """Nothing: `load` has looked at all values."""

    def load(self) -> dict[str, Rows]:
        columns = self._columns()
        x, mask = columns["x"], columns.get("mask")
        for name, column in flat("x", x).items():
            if column.dim() < 2 or column.numel() == 0:
                raise ValueError(
                    f"Expected {name} with shape (N, *event) but got {tuple(column.shape)}."
                )
        for name, column in flat("x", x).items():
            self._refuse_channels_last(name, column)
        if self.channels == "last":
            if not any(leaf.dim() == 4 for leaf in entries_of(x).values()):
                raise ValueError("Expected images (N, H, W, C) for channels last but got none.")
            columns["x"] = x = each(_channels_first, x)
            if mask is not None:
                columns["mask"] = mask = each(_channels_first, mask)
        n = len(first(x))
        for column, tree in columns.items():
            for name, array in flat(column, tree).items():
                if len(array) != n:
                    raise ValueError(f"Expected {n} rows, as in x, but {name} has {len(array)}.")
        if mask is not None:
            _check_mask(x, mask)
            columns["mask"] = mask = each(Tensor.bool, mask)
        for name, label in flat("label", columns.get("label", {})).items():
            if not bool(label.isfinite().all()):
                raise ValueError(
                    f"Expected labels that are finite but {name} holds NaN or infinity."
                )
        context = columns.get("context")
        if context is not None and (context.dim() != 2 or not bool(context.isfinite().all())):
            raise ValueError(
                "Expected a context of finite values with shape (N, C) but got "
                f"{tuple(context.shape)}."
            )
        top = each(_top, x)
        tops = entries_of(top)
        self.looked_at = all(  # of bytes from 0 to 255 there is nothing to see
            _spread(leaf) is None or tops[entry] == 255 for entry, leaf in entries_of(x).items()
        )
        self._find_ranges(x, mask, top)
        rows = Rows(**columns, top=top)
        return split(rows, *self.shares, seed=self.seed)

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name, source in self.sources.items():
            if source is None:
                continue
            if isinstance(source, Mapping):
                if not source:
                    raise ValueError(f"Expected entries of {name} but got none.")
                columns[name] = {entry: _single(part) for entry, part in source.items()}
                continue
            found = _read(source)
            if isinstance(found, dict):
                found = _folded(found)
                if name not in found:
                    raise ValueError(
                        f"Expected an array named {name} in {source} but it holds "
                        f"{', '.join(found)}."
                    )
                wanted = {k: v for k, v in found.items() if k in _COLUMNS} if name == "x" else {}
                columns = {**wanted, **columns, name: found[name]}
            else:
                columns[name] = found
        return columns

    def _refuse_channels_last(self, name: str, x: Tensor) -> None:
        """Refuses what looks like images whose last axis is the channels, unless that is said."""
        few = (1, 3, 4)
        last = x.dim() == 4 and x.shape[3] in few and x.shape[1] not in few
        pixels = x.dtype in (torch.uint8, torch.bool) or x.is_floating_point()
        if self.channels is None and last and pixels:
            raise ValueError(
                f"Expected images (N, channels, height, width) but {name} has the shape "
                f"{tuple(x.shape)}, whose last axis looks like the channels: --data.channels last "
                "moves them, --data.channels first takes the array as it stands."
            )

    def _find_ranges(self, x: Tree, mask: Tree | None, top: Any) -> None:
        """Finds, or checks, the range and the number of levels of x."""
        declared: Any = self.data_range
        if not isinstance(declared, Mapping):
            declared = dict.fromkeys(entries_of(x), declared)
        if unknown := set(declared) - set(entries_of(x)):
            raise ValueError(
                f"Expected a data_range of {', '.join(entries_of(x))}, as in x, but got one of "
                f"{', '.join(sorted(unknown))}."
            )
        ranges, levels, tops, masks = {}, {}, entries_of(top), entries_of(like(x, mask))
        for (entry, leaf), name in zip(entries_of(x).items(), flat("x", x), strict=True):
            given = _checked_range(name, declared.get(entry))
            ranges[entry], levels[entry] = _measured(name, leaf, masks[entry], tops[entry], given)
        single = not isinstance(x, Mapping)
        self._range = ranges["x"] if single else ranges
        self.levels = levels["x"] if single else levels


def _channels_first(x: Tensor) -> Tensor:
    """Images (N, H, W, C) as (N, C, H, W); other arrays as they are."""
    return x.movedim(3, 1) if x.dim() == 4 else x


def _check_mask(x: Tree, mask: Tree) -> None:
    shapes, wanted = (each(lambda leaf: tuple(leaf.shape), tree) for tree in (mask, x))
    if shapes != wanted:
        raise ValueError(f"Expected a mask of x's shape {wanted} but got {shapes}.")
    if not any(bool(leaf.any()) for leaf in entries_of(mask).values()):
        raise ValueError(
            "Expected a mask that is True where an element is observed, but it is False all over."
        )


def _top(x: Tensor) -> float | None:
    """The stored value of x = 1: of uint8 images 255, or 1 where they hold 0 and 1 alone."""
    if x.dtype == torch.bool:
        return 1
    if x.dtype != torch.uint8:
        return None
    at = _spread(x)
    binary = bool((x if at is None else x[at]).max() <= 1)
    return 1 if binary else 255


def _spread(x: Tensor) -> Tensor | None:
    """A thousand rows spread over what is too large to be read whole; None for all."""
    size = x.numel() * x.element_size()
    if size <= (_BYTES if x.dtype == torch.uint8 else _WHOLE) or len(x) <= 1000:
        return None
    return torch.linspace(0, len(x) - 1, 1000, dtype=torch.float64).long()


def _checked_range(name: str, declared: Any) -> tuple[float, float] | None:
    if declared is None:
        return None
    if len(declared) != 2 or not declared[0] < declared[1]:
        raise ValueError(
            f"Expected the data_range of {name} as its smallest and largest value but got "
            f"{declared!r}."
        )
    return float(declared[0]), float(declared[1])


def _measured(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    top: float | None,
    declared: tuple[float, float] | None,
) -> tuple[tuple[float, float], int | None]:
    """The range and the number of levels of an array's observed values."""
    if top is not None:
        if declared not in (None, (0.0, 1.0)):
            raise ValueError(
                "Expected no data_range, or [0, 1], of uint8 values, which are scaled to it, but "
                f"got {list(declared)}."
            )
        return (0.0, 1.0), 256 if top == 255 else 2
    found = span(x, mask, _spread(x))
    if found is None:  # the narrowest there is
        return declared or (0.0, 1.0), None
    low, high, binary = found
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(
            f"Expected finite values but {name} holds NaN or infinity. Leave rows out, or give a "
            "mask that is False there."
        )
    if declared is not None and not within(low, high, declared, x.dtype):
        raise ValueError(
            f"Expected values in the declared data_range {list(declared)} but {name} spans "
            f"[{low:g}, {high:g}]."
        )
    if max(-low, high) > _LARGEST:
        raise ValueError(
            f"Expected values whose squares float32 can hold but {name} spans "
            f"[{low:g}, {high:g}]: rescale the data."
        )
    taken = declared or natural(low, high)
    if not x.is_floating_point() and isfinite(taken[1] - taken[0]):
        return taken, round(taken[1] - taken[0]) + 1
    return taken, 2 if binary and taken == (0.0, 1.0) else None


def _folded(found: dict[str, Tensor]) -> dict[str, Any]:
    """Arrays by column; those with names such as `x.image` are the entries of a dict."""
    columns: dict[str, Any] = {}
    for name, array in found.items():
        column, _, entry = name.partition(".")
        if entry:
            columns.setdefault(column, {})[entry] = array
        else:
            columns[column] = array
    return columns


def _single(source: Source) -> Tensor:
    found = _read(source)
    if isinstance(found, dict):
        raise ValueError(f"Expected one array in {source} but it holds {', '.join(found)}.")
    return found


def _read(source: Source) -> Tensor | dict[str, Tensor]:
    if isinstance(source, Tensor):
        return _dense(source)
    if isinstance(source, np.ndarray):
        return _of_numpy(source)
    if not isinstance(source, str | Path):
        raise ValueError(f"Expected a file, a tensor or an array but got {source!r}.")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an array file but there is none at {path}.")
    if path.suffix not in _READERS:
        raise ValueError(f"Expected a file of type {', '.join(_READERS)} but got {path}.")
    try:
        return _READERS[path.suffix](path)
    except Exception as error:
        said = " ".join(str(error).split())
        # NumPy and torch go on to say how to load it all the same.
        if "pickle" in said or "Weights only load failed" in said:
            said = "it holds objects, or is of another kind"
        raise ValueError(
            f"Expected {path} to hold plain arrays, without pickled objects, but it could not be "
            f"read: {said}"
        ) from error


def _read_npy(path: Path) -> Tensor:
    if path.stat().st_size <= _WHOLE:
        # Mapped copy-on-write: torch wants writable memory, and nothing is written to the file.
        return _of_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    # A private copy of what is larger than memory is refused by the system.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if hasattr(mmap, "MADV_RANDOM"):
        # Rows come in random order: a system that reads on beside each reads ten times as much.
        mapped.base.madvise(mmap.MADV_RANDOM)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return _of_numpy(mapped)


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: _of_numpy(arrays[name]) for name in arrays.files}


def _of_numpy(array: np.ndarray) -> Tensor:
    """The array as a tensor, not copied where torch has its type.

    Raises:
        ValueError: If it holds no real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Expected an array of real numbers but got one of {array.dtype}.")
    if array.dtype.itemsize > 8:  # a long double
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _dense(x: Tensor) -> Tensor:
    """A tensor of real numbers that stand one beside the other, without a gradient.

    Raises:
        ValueError: If it is of another kind.
    """
    strange = x.is_quantized or x.is_complex() or x.is_meta or x.is_nested
    if x.layout != torch.strided or strange or (x.is_floating_point() and x.itemsize < 2):
        kind = x.dtype if x.layout == torch.strided else x.layout
        raise ValueError(f"Expected a dense tensor of real numbers but got one of {kind}.")
    return x.detach()


def _read_pt(path: Path) -> Tensor | dict[str, Tensor]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    tensors = found.values() if isinstance(found, dict) else [found]
    names = all(isinstance(name, str) for name in (found if isinstance(found, dict) else []))
    if not (names and all(isinstance(x, Tensor) for x in tensors)):
        raise TypeError("not a tensor or a dict of tensors")
    return {k: _dense(x) for k, x in found.items()} if isinstance(found, dict) else _dense(found)


_READERS: dict[str, Callable[[Path], Tensor | dict[str, Tensor]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
}
