"""Numbers and times of a column, relative to an origin in float64, so that they come back exactly.

A column is described by plain data: `times`, how its times are written (None for numbers);
`origin`, which is subtracted; of times `unit`, that of the origin, and `step`, the resolution; of
numbers `decimals` and `digits`, to which they are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import Series

_FORMATS = {
    "%Y-%m-%d": "day",
    **{
        f"%Y-%m-%d{between}{clock}": step
        for between in "T "
        for clock, step in (("%H:%M:%S", "second"), ("%H:%M", "minute"))
    },
    "%Y-%m": "month",
    "%Y/%m/%d": "day",
}
"""The formats of times that are written as text, and the resolution of each."""

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
_LARGE = 2.0**40  # from here on, whole numbers are taken relative to the smallest
_WHOLE = 2.0**53  # below it, float64 holds each whole number
_ROUNDED = _WHOLE / 2**6  # below it, numbers are rounded safely after some arithmetic
_MOST_DECIMALS = 15


# What is known


def times_of(column: Any) -> str | None:
    """Returns how the times of a column are written: a format of text, "datetime" or "period".

    None if it holds no times, or text that no format gives back as it is.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        return "datetime"
    if isinstance(column.dtype, pd.PeriodDtype):
        return "period"
    values = column.dropna()
    if pd.api.types.is_numeric_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return None

    def is_year(value: object) -> bool:
        return isinstance(value, str) and value[:4].isdigit()

    if not values.iloc[:100].map(is_year).all() or not values.map(is_year).all():
        return None
    for form in _FORMATS:
        when = pd.to_datetime(values, format=form, errors="coerce")
        if when.notna().all() and (when.dt.strftime(form) == values).all():
            return form
    return None


def resolution_of(column: Series) -> dict[str, Any]:
    """Returns times, origin, unit and step of a column of numbers or times."""
    import pandas as pd

    times = times_of(column)
    if times is None:
        whole = pd.api.types.is_integer_dtype(column.dtype)
        low, high = (int(column.min()), int(column.max())) if whole else (0, 0)
        return {"times": None, "origin": low if max(-low, high) >= _LARGE else 0}
    when = _when(column, times)
    unit = str(np.datetime_data(when.dtype)[0])
    ticks = when[~np.isnat(when)].astype(np.int64)
    origin = int(ticks.min()) if len(ticks) else 0
    step = _FORMATS.get(times) or _step_of(ticks - origin, unit)
    return {"times": times, "origin": origin, "unit": unit, "step": step}


def _step_of(ticks: np.ndarray, unit: str) -> str:
    """The longest step of which all differences are multiples."""
    steps = {name: seconds * _PER_SECOND[unit] for name, seconds in _SECONDS.items()}
    steps |= {name: _PER_SECOND[unit] // n for name, n in _PER_SECOND.items() if n > 1}
    return next(name for name, size in steps.items() if size and not (ticks % size).any())


def digits_of(x: np.ndarray) -> dict[str, int | None]:
    """Returns to how many decimals, or else significant digits, numbers (N,) are rounded."""
    largest = float(np.abs(x).max(initial=0.0))
    for decimals in range(_MOST_DECIMALS + 1):
        if decimals and largest * 10.0**decimals >= _ROUNDED:
            break
        if np.array_equal(np.round(x, decimals), x):
            return {"decimals": decimals, "digits": None}
    few = np.array_equal(_significant(x[:100]), x[:100]) and np.array_equal(_significant(x), x)
    return {"decimals": None, "digits": _MOST_DECIMALS if few else None}


def _significant(x: np.ndarray) -> np.ndarray:
    return np.asarray([float(f"{value:.{_MOST_DECIMALS}g}") for value in x.tolist()])


# To numbers


def numbers(column: Series, known: Mapping[str, Any]) -> np.ndarray:
    """Returns the numbers of a column less its origin, (N,), or its times in seconds.

    NaN where a value is missing.
    """
    import pandas as pd

    origin = known.get("origin", 0)
    if known.get("times"):
        unit = known.get("unit", "ns")
        when = _when(column, known["times"]).astype(f"datetime64[{unit}]")
        seconds = (when.astype(np.int64) - origin) / _PER_SECOND[unit]
        return np.where(np.isnat(when), np.nan, seconds)
    column = pd.to_numeric(column)
    if not origin or not pd.api.types.is_integer_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan) - origin
    missing = column.isna().to_numpy()
    whole = column.to_numpy(dtype=np.int64, na_value=origin)
    return np.where(missing, np.nan, (whole - origin).astype(np.float64))


def _when(column: Series, times: str) -> np.ndarray:
    """The times of a column, in UTC, as NumPy's datetime64."""
    import pandas as pd

    if times == "period":
        return np.asarray(column.dt.to_timestamp())
    when = pd.to_datetime(column, **({} if times == "datetime" else {"format": times}))
    if when.dt.tz is not None:
        when = when.dt.tz_convert(None)
    return np.asarray(when)


# And back


def column(x: np.ndarray, known: Mapping[str, Any], values: Values | None = None) -> Series:
    """Returns x (N,), on the scale of a model, as a column of the type and resolution that are
    known.

    Arguments:
        values: The numbers of the loaded data: x of one of these gives it back exactly, and others
            are rounded to their resolution too.
    """
    import pandas as pd

    name, dtype = known["name"], known["dtype"]
    low, high = known["low"], known["high"]
    resolution = known
    if values is not None:
        low, high, resolution = min(low, values.low), max(high, values.high), values.digits
    number = np.clip(unscaled(x, known), low, high)
    if known["times"]:
        return _times(number, known).rename(name)
    if resolution["decimals"] is not None:
        number = np.round(number, resolution["decimals"])
    else:
        number = _significant(number) if resolution.get("digits") else number
        number = number if values is None else values.replacing(number, x)
    whole = resolution["decimals"] == 0
    kind = pd.api.types.pandas_dtype(dtype)
    if pd.api.types.is_integer_dtype(kind) or (whole and known.get("origin", 0)):
        number = np.round(number).astype(np.int64) + known.get("origin", 0)
    elif not pd.api.types.is_numeric_dtype(kind):  # text that is read as numbers
        return pd.Series(number.astype(np.int64) if whole else number, name=name)
    return pd.Series(number, name=name).astype(dtype)


def scaled(x: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
    """Returns numbers of a numeric column on the scale of its training rows; others unchanged."""
    return (x - known["mean"]) / known["std"] if known["kind"] == "numeric" else x


def unscaled(x: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
    """The reverse of `scaled`."""
    return x * known["std"] + known["mean"] if known["kind"] == "numeric" else x


@dataclass
class Values:
    """The numbers of a column in the rows that were loaded.

    Arguments:
        low: The smallest number, less the origin.
        high: The largest number.
        digits: As of `digits_of`.
        number: The different numbers in their order, (M,), if they have no fixed decimals; else
            none.
        x: The numbers on the scale of a model, (M,), each different from the others.
    """

    low: float
    high: float
    digits: dict[str, int | None]
    number: np.ndarray
    x: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, known: Mapping[str, Any]) -> Values | None:
        """The numbers (N,) of a column, NaN where one is missing; None if all are."""
        numbers = numbers[~np.isnan(numbers)]
        if not len(numbers):
            return None
        digits, ends = digits_of(numbers), (float(numbers.min()), float(numbers.max()))
        if known["times"] or digits["decimals"] is not None:
            return cls(*ends, digits, np.empty(0), np.empty(0))
        number = np.unique(numbers)
        return cls(*ends, digits, number, _increasing(scaled(number, known)))

    def scaled(self, numbers: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """These numbers (N,) on the scale of a model, NaN where one is missing."""
        if not len(self.number):
            return scaled(numbers, known)
        at = np.searchsorted(self.number, numbers).clip(0, len(self.number) - 1)
        return np.where(np.isnan(numbers), np.nan, self.x[at])

    def replacing(self, numbers: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Numbers (N,) with those of the data for x (N,) that is of one of these."""
        if not len(self.x):
            return numbers
        at = np.searchsorted(self.x, x).clip(0, len(self.x) - 1)
        return np.where(self.x[at] == x, self.number[at], numbers)

    def joined(self, other: Values) -> Values:
        """These and the numbers of other rows of the same column."""
        decimals = [values.digits["decimals"] for values in (self, other)]
        finer = self if decimals[0] is None or decimals[0] >= (decimals[1] or 0) else other
        finer = other if decimals[1] is None else finer
        x, at = np.unique(np.r_[self.x, other.x], return_index=True)
        number = np.r_[self.number, other.number][at]
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Values(low, high, finer.digits, number, x)


def _increasing(x: np.ndarray) -> np.ndarray:
    """Numbers in their order, of which those that rounding made equal differ by a bit."""
    x = x.copy()
    for at in np.flatnonzero(np.diff(x) <= 0):
        while at + 1 < len(x) and x[at + 1] <= x[at]:
            x[at + 1] = np.nextafter(x[at], np.inf)
            at += 1
    return x


def _times(x: np.ndarray, known: Mapping[str, Any]) -> Series:
    import pandas as pd

    unit, times, dtype = known.get("unit", "ns"), known["times"], known["dtype"]
    step = known.get("step") or _FORMATS.get(times) or unit
    per_second = _PER_SECOND[unit]
    size = _SECONDS[step] * per_second if step in _SECONDS else 1
    if step in _PER_SECOND:
        size = per_second // _PER_SECOND[step]
    ticks = known.get("origin", 0) + np.round(x * (per_second / size)).astype(np.int64) * size
    when = ticks.astype(f"datetime64[{unit}]")
    if step == "month":
        below = when.astype("datetime64[M]")
        nearer = (when - below) < ((below + 1) - when)
        when = np.where(nearer, below, below + 1).astype(f"datetime64[{unit}]")
    found = pd.Series(when)
    if times == "period":
        return found.dt.to_period(pd.api.types.pandas_dtype(dtype).freq)
    if times != "datetime":
        return found.dt.strftime(times).astype(dtype)
    kind = pd.api.types.pandas_dtype(dtype)
    if isinstance(kind, pd.DatetimeTZDtype):
        return found.dt.tz_localize("UTC").astype(dtype)
    return found.astype(dtype)


def shown(x: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
    """Returns numbers with their origin, in float64; times in seconds since 1970."""
    origin = known.get("origin", 0)
    return x + origin / _PER_SECOND[known.get("unit", "ns")] if known.get("times") else x + origin
