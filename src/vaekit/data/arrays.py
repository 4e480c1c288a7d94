"""Arrays from files or from Python."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.data.base import DataModule, Rows, natural, split

__all__ = ["Arrays"]

_COLUMNS = ("x", "label", "context", "mask")


class Arrays(DataModule):
    """Rows from `.npy`, `.npz` or `.pt` files, or from tensors and NumPy arrays.

    Files are read without running code that they may hold: NumPy's without pickles, torch's with
    `weights_only`. An `.npz` or `.pt` of several arrays holds them under the names x, label,
    context and mask. A lone `.npy` is mapped into memory, not read. uint8 values 0 to 255 (or 0
    and 1 alone) become x from 0 to 1; other values are taken as they are.

    Arguments:
        x: The data (N, *event).
        label: Labels (N,) or (N, *).
        context: Columns (N, C) to condition on.
        mask: Like x, True where an element is observed; what is not observed may be NaN.
        val: Share of the rows held out for validation.
        test: Share of the rows held out for testing; with `val` 0 as well, all rows are for
            training.
        data_range: Smallest and largest value of x; None takes the narrowest of [0, 1], [-1, 1],
            [0, inf) and the real line that holds the values.

    Raises:
        ValueError: If arrays differ in length, a value is not finite or out of the range, or a
            file is of another type or cannot be read safely.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import torch
        >>> data = Arrays(torch.rand(100, 3), val=0.1, test=0.1)
        >>> data.info.event_shape, data.info.data_size
        ((3,), 80)
    """

    def __init__(
        self,
        x: str | Path | Tensor | np.ndarray[Any, Any],
        label: str | Path | Tensor | np.ndarray[Any, Any] | None = None,
        context: str | Path | Tensor | np.ndarray[Any, Any] | None = None,
        mask: str | Path | Tensor | np.ndarray[Any, Any] | None = None,
        val: float = 0.1,
        test: float = 0.1,
        data_range: tuple[float, float] | None = None,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, binarize, dequantize, seed)
        self.sources = dict(zip(_COLUMNS, (x, label, context, mask), strict=True))
        self.shares, self.data_range = (val, test), data_range
        self._range = data_range or (0.0, 1.0)

    def natural_range(self) -> tuple[float, float]:
        return self._range

    def load(self) -> dict[str, Rows]:
        columns = self._columns()
        x = columns["x"]
        if x.dim() < 2 or x.numel() == 0:
            raise ValueError(f"Expected x with shape (N, *event) but got {tuple(x.shape)}.")
        for name, column in columns.items():
            if len(column) != len(x):
                raise ValueError(f"Expected {len(x)} rows, as in x, but {name} has {len(column)}.")
        mask = columns.get("mask")
        if mask is not None:
            if mask.shape != x.shape:
                raise ValueError(
                    f"Expected a mask of x's shape {tuple(x.shape)} but got {tuple(mask.shape)}."
                )
            columns["mask"] = mask = mask.bool()
        context = columns.get("context")
        if context is not None and (context.dim() != 2 or not bool(context.isfinite().all())):
            raise ValueError(
                "Expected a context of finite values with shape (N, C) but got "
                f"{tuple(context.shape)}."
            )
        self._measure(x, mask)
        rows = Rows(**columns, top=self._top(x))
        return split(rows, *self.shares, seed=self.seed)

    def _columns(self) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = {}
        for name, source in self.sources.items():
            if source is None:
                continue
            found = _read(source)
            if isinstance(found, dict):
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

    @staticmethod
    def _top(x: Tensor) -> float | None:
        """The stored value of x = 1: of uint8 images 255, or 1 where they hold 0 and 1 alone."""
        if x.dtype != torch.uint8:
            return None
        # Every row; of what is too large to be read whole, a thousand spread over it.
        step = 1 if x.numel() < 2**28 else max(1, len(x) // 1000)
        binary = bool(x[::step].max() <= 1)
        return 1 if binary else 255

    def _measure(self, x: Tensor, mask: Tensor | None) -> None:
        """Finds, or checks, the range and the number of levels of x."""
        if x.dtype == torch.uint8:
            if self.data_range not in (None, (0.0, 1.0)):
                raise ValueError(
                    f"Expected no data_range, or [0, 1], of uint8 values, which are scaled to it, "
                    f"but got {list(self.data_range)}."
                )
            self._range, self.levels = (0.0, 1.0), 256 if self._top(x) == 255 else 2
            return
        seen = x if mask is None else x[mask]
        low, high = (float(v) for v in torch.aminmax(seen))
        if not (isfinite(low) and isfinite(high)):
            raise ValueError(
                "Expected finite values but x holds NaN or infinity. Leave rows out, or give a "
                "mask that is False there."
            )
        if (
            self.data_range is not None
            and not self.data_range[0] <= low <= high <= self.data_range[1]
        ):
            raise ValueError(
                f"Expected values in the declared data_range {list(self.data_range)} but x spans "
                f"[{low:g}, {high:g}]."
            )
        self._range = self.data_range or natural(low, high)
        if self._range == (0.0, 1.0) and bool(((seen == 0) | (seen == 1)).all()):
            self.levels = 2


def _read(source: str | Path | Tensor | np.ndarray[Any, Any]) -> Tensor | dict[str, Tensor]:
    if isinstance(source, Tensor):
        return source
    if isinstance(source, np.ndarray):
        return torch.from_numpy(source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an array file but there is none at {path}.")
    if path.suffix not in _READERS:
        raise ValueError(f"Expected a file of type {', '.join(_READERS)} but got {path}.")
    try:
        return _READERS[path.suffix](path)
    except Exception as error:
        raise ValueError(
            f"Expected {path} to hold plain arrays, without pickled objects, but it could not be "
            f"read: {error}"
        ) from error


def _read_npy(path: Path) -> Tensor:
    # Mapped copy-on-write: torch wants writable memory, and nothing is ever written to the file.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _read_pt(path: Path) -> Tensor | dict[str, Tensor]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    tensors = found.values() if isinstance(found, dict) else [found]
    if not all(isinstance(x, Tensor) for x in tensors):
        raise TypeError("not a tensor or a dict of tensors")
    return found


_READERS: dict[str, Callable[[Path], Tensor | dict[str, Tensor]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
}
