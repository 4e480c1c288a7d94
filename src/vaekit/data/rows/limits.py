"""Refuses numbers that are too large to be learned from, or to be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

_WIDE = 2**63
"""From here on, whole numbers have no signed type, and float64 holds one of 2,048 of them."""

_SQUARED, _SCALED = 1e150, 1e18
"""Sums of squares of larger numbers overflow, in float64 and in float32."""


class NumberError(ValueError):
    """A number that is too large."""


def refuse_wide(values: Any, name: str) -> None:
    """Refuses whole numbers of 2^63 and above.

    Arguments:
        values: A tensor, an array, or a column of pandas or polars, of any type.
        name: What the values are called.

    Raises:
        NumberError: If there is one.
    """
    if "uint64" not in str(getattr(values, "dtype", "")).lower() or not len(values):
        return
    largest = values.cpu().numpy().max() if isinstance(values, Tensor) else values.max()
    if isinstance(largest, int | np.integer) and int(largest) >= _WIDE:
        raise NumberError(
            f"Expected whole numbers below 2^63 in {name} but it holds {int(largest)}, which "
            "floating-point numbers do not tell from its neighbours: subtract a constant, or "
            "leave out what only names rows, in a table with --data.kinds.COLUMN ignore."
        )


def refuse_large(
    x: np.ndarray, name: str, rows: Sequence[Any], counted: bool, scaled: bool = False
) -> None:
    """Refuses numbers whose squares overflow.

    Arguments:
        x: The numbers (N,), NaN where one is missing.
        name: What the numbers are called.
        rows: What the rows are called, (N,).
        counted: Whether these are numbers from 0.
        scaled: Whether x is what a model sees, in float32.

    Raises:
        NumberError: If there is one.
    """
    large = np.abs(x) > (_SCALED if scaled else _SQUARED)
    if large.any():
        at = int(large.argmax())
        _refuse(x[at], name, f"{rows[at]}{', counted from 0,' if counted else ''}", scaled)


def refuse_large_in(x: Tensor, seen: Tensor, name: str, start: int, scaled: bool) -> None:
    """Refuses numbers of rows (n, *event) whose squares overflow.

    Arguments:
        seen: Which of them are observed, like x.
        name: What x is called.
        start: The number of the first row.
        scaled: As of `refuse_large`.

    Raises:
        NumberError: If there is one.
    """
    large = seen & (x.abs() > (_SCALED if scaled else _SQUARED))
    if large.any():
        at = large.nonzero()[0].tolist()
        column = f"column {', '.join(map(str, at[1:]))} of {name}"
        _refuse(float(x[tuple(at)]), column, f"{start + at[0]}, counted from 0,", scaled)


def _refuse(value: float, name: str, row: str, scaled: bool) -> None:
    limit, scale = (_SCALED, ", on the scale of the training rows,") if scaled else (_SQUARED, "")
    raise NumberError(
        f"Expected numbers of at most {limit:g}{scale} in {name} but row {row} holds {value:g}: "
        "correct the value, or leave the row out."
    )
