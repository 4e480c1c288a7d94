"""Numbers and times of a column in float64, relative to an origin, for an exact way back.

Plain data describe a column: `times`, the format of its times (None for numbers), and `origin`,
which is subtracted. Times also have `unit`, the unit of the origin, and `step`, their resolution.
Numbers have `decimals` and `digits`, to which they are rounded.
"""

from __future__ import annotations

import warnings
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


# Description


def times_of(column: Any) -> str | None:
    """Returns the format of the times of a column: a format of text, "datetime" or "period".

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
        is_whole = pd.api.types.is_integer_dtype(column.dtype)
        low, high = (int(column.min()), int(column.max())) if is_whole else (0, 0)
        has_origin = max(-low, high) >= _LARGE and high - low < 2**63
        return {"times": None, "origin": low if has_origin else 0}
    when = _when(column, times)
    unit = str(np.datetime_data(when.dtype)[0])
    ticks = when[~np.isnat(when)].astype(np.int64)
    origin = int(ticks.min()) if len(ticks) else 0
    step = _FORMATS.get(times) or _step_of(ticks - origin, unit)
    if step in _PER_SECOND and len(ticks):
        step = _rounded_step(step, int(ticks.max()) - origin, unit, str(column.name))
    return {"times": times, "origin": origin, "unit": unit, "step": step}


def _step_of(ticks: np.ndarray, unit: str) -> str:
    """Returns the longest step that divides all differences."""
    steps = {name: seconds * _PER_SECOND[unit] for name, seconds in _SECONDS.items()}
    steps |= {name: _PER_SECOND[unit] // n for name, n in _PER_SECOND.items() if n > 1}
    return next(name for name, size in steps.items() if size and not (ticks % size).any())


def _rounded_step(step: str, span: int, unit: str, name: str) -> str:
    """Returns a step that float64 can count over the span of the times, with a warning."""
    steps = list(_PER_SECOND)
    rounded = step
    while span * _PER_SECOND[rounded] // _PER_SECOND[unit] >= _WHOLE / 8 and rounded != "s":
        rounded = steps[steps.index(rounded) - 1]
    if rounded != step:
        warnings.warn(
            f"The times of {name} are rounded to {rounded}: float64 cannot count {step} over "
            "their span.",
            stacklevel=2,
        )
    return {"s": "second"}.get(rounded, rounded)


def digits_of(x: np.ndarray) -> dict[str, int | None]:
    """Returns the number of decimals, or otherwise of significant digits, of numbers (N,)."""
    largest = float(np.abs(x).max(initial=0.0))
    for decimals in range(_MOST_DECIMALS + 1):
        if decimals and largest * 10.0**decimals >= _ROUNDED:
            break
        if np.array_equal(np.round(x, decimals), x):
            return {"decimals": decimals, "digits": None}
    has_few_digits = np.array_equal(_significant(x[:100]), x[:100]) and np.array_equal(
        _significant(x), x
    )
    return {"decimals": None, "digits": _MOST_DECIMALS if has_few_digits else None}


def _significant(x: np.ndarray) -> np.ndarray:
    return np.asarray([float(f"{value:.{_MOST_DECIMALS}g}") for value in x.tolist()])


# To numbers


def numbers(column: Series, info: Mapping[str, Any]) -> np.ndarray:
    """Returns the numbers of a column less its origin, (N,), or its times in seconds.

    A missing value is NaN.
    """
    import pandas as pd

    origin = info.get("origin", 0)
    if info.get("times"):
        unit = info.get("unit", "ns")
        when = _when(column, info["times"]).astype(f"datetime64[{unit}]")
        seconds = (when.astype(np.int64) - origin) / _PER_SECOND[unit]
        return np.where(np.isnat(when), np.nan, seconds)
    column = pd.to_numeric(column)
    if not origin or not pd.api.types.is_integer_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan) - origin
    missing = column.isna().to_numpy()
    integers = column.to_numpy(dtype=np.int64, na_value=origin)
    return np.where(missing, np.nan, (integers - origin).astype(np.float64))


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


def column(x: np.ndarray, info: Mapping[str, Any], values: Values | None = None) -> Series:
    """Returns x (N,), on the scale of a model, as a column of the type and resolution in
    `info`.

    Arguments:
        values: The numbers of the loaded data: their x is restored exactly, and other numbers
            are rounded to their resolution too.
    """
    import pandas as pd

    name, dtype = info["name"], info["dtype"]
    low, high = info["low"], info["high"]
    resolution = info
    if values is not None:
        low, high, resolution = min(low, values.low), max(high, values.high), values.digits
    number = np.clip(unscaled(x, info), low, high)
    if info["times"]:
        return _times(number, info).rename(name)
    if resolution["decimals"] is not None:
        number = np.round(number, resolution["decimals"])
    else:
        number = _significant(number) if resolution.get("digits") else number
        number = _with_decimals(number, info) if info["decimals"] is not None else number
        number = number if values is None else values.replacing(number, x)
    is_whole = resolution["decimals"] == 0
    kind = pd.api.types.pandas_dtype(dtype)
    if pd.api.types.is_integer_dtype(kind) or (is_whole and info.get("origin", 0)):
        number = np.round(number).astype(np.int64) + info.get("origin", 0)
    elif not pd.api.types.is_numeric_dtype(kind):  # text that is read as numbers
        return pd.Series(number.astype(np.int64) if is_whole else number, name=name)
    return pd.Series(number, name=name).astype(dtype)


def _with_decimals(number: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Returns numbers, rounded to the column's decimals if this changes only rounding errors."""
    rounded = np.round(number, info["decimals"])
    error = 8 * np.finfo(np.float64).eps * (np.abs(number) + abs(info["mean"]) + info["std"])
    return np.where(np.abs(rounded - number) <= error, rounded, number)


def scaled(x: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Returns numbers of a numeric column on the scale of its training rows; others unchanged."""
    return (x - info["mean"]) / info["std"] if info["kind"] == "numeric" else x


def unscaled(x: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """The reverse of `scaled`."""
    return x * info["std"] + info["mean"] if info["kind"] == "numeric" else x


@dataclass
class Values:
    """The numbers of a column in the rows that were loaded.

    Arguments:
        low: The smallest number, less the origin.
        high: The largest number.
        digits: As of `digits_of`.
        number: The different numbers in their order, (M,), if they have no fixed decimals;
            otherwise empty.
        x: The numbers on the scale of a model, (M,), each different from the others.
    """

    low: float
    high: float
    digits: dict[str, int | None]
    number: np.ndarray
    x: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, info: Mapping[str, Any]) -> Values | None:
        """Returns the numbers (N,) of a column, in which NaN is missing; None if all are."""
        numbers = numbers[~np.isnan(numbers)]
        if not len(numbers):
            return None
        digits, ends = digits_of(numbers), (float(numbers.min()), float(numbers.max()))
        if info["times"] or digits["decimals"] is not None:
            return cls(*ends, digits, np.empty(0), np.empty(0))
        number = np.unique(numbers)
        return cls(*ends, digits, number, _increasing(scaled(number, info)))

    def scaled(self, numbers: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
        """Returns these numbers (N,), in which NaN is missing, on the scale of a model."""
        if not len(self.number):
            return scaled(numbers, info)
        at = np.searchsorted(self.number, numbers).clip(0, len(self.number) - 1)
        return np.where(np.isnan(numbers), np.nan, self.x[at])

    def replacing(self, numbers: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Returns numbers (N,), replaced by the number of the data that has the same x (N,)."""
        if not len(self.x):
            return numbers
        at = np.searchsorted(self.x, x).clip(0, len(self.x) - 1)
        return np.where(self.x[at] == x, self.number[at], numbers)

    def joined(self, other: Values) -> Values:
        """Returns these numbers together with those of other rows of the same column."""
        decimals = [values.digits["decimals"] for values in (self, other)]
        finer = self if decimals[0] is None or decimals[0] >= (decimals[1] or 0) else other
        finer = other if decimals[1] is None else finer
        x, at = np.unique(np.r_[self.x, other.x], return_index=True)
        number = np.r_[self.number, other.number][at]
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Values(low, high, finer.digits, number, x)


def _increasing(x: np.ndarray) -> np.ndarray:
    """Returns sorted numbers, with a bit added to those that rounding made equal."""
    x = x.copy()
    for at in np.flatnonzero(np.diff(x) <= 0):
        while at + 1 < len(x) and x[at + 1] <= x[at]:
            x[at + 1] = np.nextafter(x[at], np.inf)
            at += 1
    return x


def _times(x: np.ndarray, info: Mapping[str, Any]) -> Series:
    import pandas as pd

    unit, times, dtype = info.get("unit", "ns"), info["times"], info["dtype"]
    step = info.get("step") or _FORMATS.get(times) or unit
    per_second = _PER_SECOND[unit]
    size = _SECONDS[step] * per_second if step in _SECONDS else 1
    if step in _PER_SECOND:
        size = per_second // _PER_SECOND[step]
    ticks = info.get("origin", 0) + np.round(x * (per_second / size)).astype(np.int64) * size
    when = ticks.astype(f"datetime64[{unit}]")
    if step == "month":
        below = when.astype("datetime64[M]")
        nearer = (when - below) < ((below + 1) - when)
        when = np.where(nearer, below, below + 1).astype(f"datetime64[{unit}]")
    times_column = pd.Series(when)
    if times == "period":
        return times_column.dt.to_period(pd.api.types.pandas_dtype(dtype).freq)
    if times != "datetime":
        return times_column.dt.strftime(times).astype(dtype)
    kind = pd.api.types.pandas_dtype(dtype)
    if isinstance(kind, pd.DatetimeTZDtype):
        return times_column.dt.tz_localize("UTC").astype(dtype)
    return times_column.astype(dtype)


def with_origin(x: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Returns numbers with their origin, in float64; times in seconds since 1970."""
    origin = info.get("origin", 0)
    return x + origin / _PER_SECOND[info.get("unit", "ns")] if info.get("times") else x + origin
