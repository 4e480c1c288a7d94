"""The order of times and numbers, also those that are written as text."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import Series

NAMES = ("time", "t", "date", "step", "timestamp", "datetime")
"""The usual names of a column of times."""

SURE_NAMES = ("time", "date", "timestamp", "datetime")
"""The names of a column of times even if values repeat within a sequence."""

OTHER_NAMES = ("year", "month", "week", "day", "hour", "minute", "second", "visit", "timestep")
"""Further names of a column of times, if no value repeats within a sequence."""

_CLOCK = re.compile(r"(\d{1,3}):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*([ap]\.?m\.?)?", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})()()\s*([ap]\.?m\.?)", re.IGNORECASE)
_DATE = re.compile(r"(\d{1,4})([-/. ])(\d{1,2})\2(\d{1,4})(?:[T ]+(.*))?")
_MONTH = re.compile(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b", re.IGNORECASE)
_YEAR = re.compile(r"\d{4}|\d\D+\d")  # Jan-12 is a day or a year
_NUMBERED = re.compile(r"(\D*?)((?:(?<=\s)-)?\d+(?:\.\d+)?)(\D*)")


def order_of(column: Series) -> np.ndarray:
    """Returns numbers (N,) in whose order the times of a column are.

    Text is read as numbers, clock times, dates, or a word and a number such as "visit 12": the
    first of these that reads all values.

    Raises:
        ValueError: If none does, or it is not clear which number of dates is the day.
    """
    import pandas as pd

    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype) and kind.ordered:
        return np.asarray(column.cat.codes)
    if pd.api.types.is_numeric_dtype(kind):
        return column.to_numpy()
    if kind.kind in "mM" or isinstance(kind, pd.PeriodDtype | pd.DatetimeTZDtype):
        return np.asarray(pd.factorize(column, sort=True)[0])
    different = column.astype(object).unique()
    positions = {value: at for at, value in enumerate(different)}
    numbers = _read([str(value).strip() for value in different], str(column.name))
    return numbers[column.map(positions).to_numpy()]


def _read(texts: list[str], name: str) -> np.ndarray:
    for read in (_numbers, _clocks, _iso, partial(_dates, name=name), _months, _numbered):
        if (numbers := read(texts)) is not None:
            return np.asarray(numbers)
    raise ValueError(
        f"Expected numbers or times in the column {name}, by which time steps are sorted, but "
        f"got {', '.join(map(repr, texts[:3]))}: write numbers or ISO dates such as 2024-03-01, "
        "or set --data.time none to keep the order of the file."
    )


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _clock(text: str) -> float | None:
    """Seconds of a clock time, such as 8:05, 8:05:30 pm or 8 pm."""
    match = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if not match:
        return None
    hour, minute, second, half = match.groups()
    hours = int(hour) % 12 + 12 * (half[0] in "pP") if half else int(hour)
    return 3600 * hours + 60 * int(minute or 0) + float(second or 0)


def _clocks(texts: list[str]) -> list[float] | None:
    seconds = [_clock(text) for text in texts]
    halves = {bool(text[-1:] in "mM.") for text in texts}
    return None if None in seconds or len(halves) > 1 else seconds  # type: ignore[return-value]


def _iso(texts: list[str]) -> np.ndarray | None:
    import pandas as pd

    if not all(text[:4].isdigit() and "-" in text for text in texts):
        return None
    when = pd.to_datetime(pd.Series(texts), format="ISO8601", utc=True, errors="coerce")
    return None if when.isna().any() else when.astype(np.int64).to_numpy()


def _dates(texts: list[str], name: str) -> list[float] | None:
    """Dates of three numbers, whose order is that of year, month and day, or known from all."""
    parts = [_DATE.fullmatch(text) for text in texts]
    if not all(parts):
        return None
    groups = [part.groups() for part in parts if part]
    clocks = [_clock(clock) if clock else 0.0 for *_, clock in groups]
    if None in clocks:
        return None
    numbers = np.asarray(
        [[int(first), int(second), int(last)] for first, _, second, last, _ in groups]
    )
    if all(len(group[0]) == 4 for group in groups):
        year, month, day = numbers.T
    elif all(len(group[3]) == 4 for group in groups):
        first, second, year = numbers.T
        is_day_first = first.max() > 12 or {group[1] for group in groups} == {"."}
        is_month_first = second.max() > 12
        if is_day_first == is_month_first:
            raise ValueError(
                f"Expected dates in the column {name} that show which number is the day but got "
                f"{texts[0]!r}: write ISO dates such "
                "as 2024-03-01, or set --data.time none to keep the order of the file."
            )
        day, month = (first, second) if is_day_first else (second, first)
    else:
        return None
    if month.max() > 12 or day.max() > 31:
        return None
    days = 372.0 * year + 31 * month + day
    return [86400 * own + float(clock or 0) for own, clock in zip(days, clocks, strict=True)]


def _months(texts: list[str]) -> np.ndarray | None:
    """Dates with the names of months, and with a year."""
    import pandas as pd

    if not all(_MONTH.search(text) and _YEAR.search(text) for text in texts):
        return None
    when = pd.to_datetime(pd.Series(texts), format="mixed", dayfirst=True, errors="coerce")
    return None if when.isna().any() else when.astype(np.int64).to_numpy()


def _numbered(texts: list[str]) -> list[float] | None:
    """Words with a number, such as visit 12 or day -1."""
    parts = [_NUMBERED.fullmatch(text) for text in texts]
    words = {(part[1].strip().lower(), part[3].strip().lower()) for part in parts if part}
    return [float(part[2]) for part in parts if part] if all(parts) and len(words) == 1 else None
