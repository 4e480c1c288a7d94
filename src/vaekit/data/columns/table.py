"""The columns of a table: what each is taken for, how it becomes numbers, and the way back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.columns import exact
from vaekit.data.columns.covariates import places_of, plain, values_only_held_out
from vaekit.data.columns.scale import beyond, deviation
from vaekit.data.rows.limits import NumberError, refuse_large, refuse_wide

if TYPE_CHECKING:
    from pandas import Series


KINDS = ("numeric", "binary", "category", "count", "ignore")
"""What a column may be taken for; of one to be ignored nothing is learned."""

_MOST_COUNT, _FAR, _SHOWN = 1e6, 50, 60

Column = dict[str, Any]
"""What is known of a column, as plain data: its name, kind and dtype, and by kind its values, or
its mean, std, low and high, relative to an origin, and its resolution (see `exact`)."""


# What it is


def kind_of(column: Series, most: int) -> str:
    """What a column is taken for.

    Two different values make it binary; text, and pandas' categories, a category. Whole numbers
    from 0 or 1 that scatter at least nearly as Poisson's do are counts. Text of more than `most`
    different values is ignored, as is a column in which one value stands alone.
    """
    import pandas as pd

    values = column.dropna()
    try:
        number = values.nunique()
        if isinstance(column.dtype, pd.CategoricalDtype) and number > 1:
            number = len(column.cat.categories)  # with those that no row has
    except TypeError:  # of lists, or dicts
        return "ignore"
    if number < 2:
        return "ignore"
    fractions = pd.api.types.is_float_dtype(column) and bool((values % 1 != 0).any())
    if number == 2 and not fractions and not pd.api.types.is_datetime64_any_dtype(column):
        return "binary"
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_integer_dtype(column.dtype) and _is_too_wide(values):
        return "ignore"
    if pd.api.types.is_numeric_dtype(column):
        return "count" if _looks_counted(values.to_numpy(dtype=np.float64)) else "numeric"
    if exact.times_of(column):
        return "numeric"
    return "category" if number <= most else "ignore"


def kind_for(column: Series, most: int, rows: np.ndarray) -> str:
    """Infers what a column is from the training rows.

    Counts and binary numbers are numeric if another row has a number that is not a count, or a
    third number.

    Arguments:
        rows: Which rows are for training.
    """
    from pandas.api.types import is_numeric_dtype

    kind = kind_of(column.iloc[rows], most)
    values = column.dropna()
    if kind == "binary" and is_numeric_dtype(column.dtype):
        return kind if values.nunique() == 2 else "numeric"
    counted = kind != "count" or bool(((values >= 0) & (values % 1 == 0)).all())
    return kind if counted else "numeric"


def _is_too_wide(values: Series) -> bool:
    """Whether float64 cannot hold the differences of whole numbers, which then are codes."""
    low, high = int(values.min()), int(values.max())
    return high < 2**63 and high - low >= 2**53


def _looks_counted(x: np.ndarray) -> bool:
    whole = bool((x == np.round(x)).all())
    return whole and x.min() in (0, 1) and x.max() < _MOST_COUNT and x.var() > 0.8 * x.mean()


def learned(
    column: Series, kind: str, rows: np.ndarray, observed: np.ndarray | None = None
) -> Column:
    """What is known of a column, from the training rows.

    Arguments:
        rows: The numbers of the training rows; the others are not looked at.
        observed: Whether each row is observed, (N,). The moments leave out numbers that `missing`
            hides. None if it hides none.

    Raises:
        ValueError: If the column cannot be of that kind.
    """
    counted = _is_counted(column)
    column = column.iloc[rows]
    found: Column = {"name": str(column.name), "kind": kind, "dtype": str(column.dtype)}
    if kind in ("binary", "category"):
        found |= _values(column, kind)
    if kind in ("numeric", "count"):
        found |= exact.resolution_of(column)
        x = _numbers(column, found)
        _refuse(column, kind, x, counted)
        x = x[~np.isnan(x) & (True if observed is None else observed[rows])]
        x = x if len(x) else np.zeros(1)
        found |= {
            "mean": float(x.mean()),
            "std": deviation(x),
            "low": float(x.min()),
            "high": float(x.max()),
            **exact.digits_of(x),
        }
    found["shown"] = _marginal(found, codes(column, found))
    return found


def _values(column: Any, kind: str) -> Column:
    """The values in their order, as plain data."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        values = [plain(value) for value in column.cat.categories]
        found = {"values": values, "dtype": "category", "ordered": bool(column.cat.ordered)}
    else:
        values = [plain(value) for value in sorted(column.dropna().unique(), key=_order)]
        found = {"values": values}
    if kind == "binary" and len(values) != 2:
        raise ValueError(
            f"Expected two values in the binary column {column.name} but it has {len(values)} "
            "in the training rows."
        )
    return found


def _order(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _is_counted(column: Series) -> bool:
    """Whether rows are called by their numbers."""
    return type(column.index).__name__ == "RangeIndex"


def _refuse(column: Series, kind: str, x: np.ndarray, counted: bool) -> None:
    name, seen = column.name, x[~np.isnan(x)]
    if not np.isfinite(seen).all():
        raise ValueError(f"Expected finite numbers in the column {name} but it holds infinity.")
    if kind == "count" and not ((seen >= 0) & (seen == np.round(seen))).all():
        raise ValueError(
            f"Expected whole numbers from 0 in the column of counts {name} but it holds "
            f"{seen[(seen < 0) | (seen != np.round(seen))][0]:g}: take it as numeric."
        )
    refuse_large(x, f"the column {name}", column.index, counted)


def _marginal(column: Column, x: np.ndarray) -> Column:
    """How often what is seen, for a picture: shares of values or whole numbers, or quantiles."""
    x = x[~np.isnan(x)]
    if not len(x):
        return {"quantiles": []}
    if "values" not in column and not (column["decimals"] == 0 and np.ptp(x) < _SHOWN):
        return {"quantiles": np.quantile(x, np.linspace(0, 1, 65)).tolist()}
    first = 0 if "values" in column else int(column["low"])
    most = len(column["values"]) if "values" in column else int(column["high"]) - first + 1
    count = np.bincount(x.astype(int) - first, minlength=most)
    return {"first": first, "shares": (count / max(1, len(x))).round(6).tolist()}


# To numbers, and back


def codes(column: Series, known: Column, strict: np.ndarray | None = None) -> np.ndarray:
    """A column as numbers (N,) in float64, NaN where it is missing: in its units, or the places of
    its values.

    Arguments:
        strict: Whether each row must have a known value, (N,), None for all; an unknown value of
            another row is taken as missing.

    Raises:
        ValueError: If it holds a value that is not known, or text where numbers are expected.
    """
    if known["kind"] not in ("binary", "category"):
        x = _numbers(column, known)
        _refuse(column, known["kind"], x, _is_counted(column))
        return x
    place = places_of(known["values"])
    found = np.full(len(column), np.nan)
    seen = column.notna().to_numpy()
    number, different = column[seen].astype(object).factorize()
    found[seen] = np.asarray([place(value) for value in different], dtype=np.float64)[number]
    unknown = found == -1
    wrong = unknown if strict is None else unknown & strict
    if wrong.any():
        new = plain(column[wrong].iloc[0])
        held = ", ".join(str(value) for value in known["values"][:8])
        more = ", ..." if len(known["values"]) > 8 else ""
        raise ValueError(
            f"Expected values of the column {known['name']} that were there in training ({held}"
            f"{more}) but got {new!r}: leave such rows out, or train with them."
        )
    found[unknown] = np.nan
    return found


def only_held_out(column: Series, known: Column, train: np.ndarray | None) -> str:
    """Describes the values of a column that only held-out rows have; "" if there are none.

    Arguments:
        train: Whether each row is for training, (N,); None if the training rows are elsewhere.
    """
    if known["kind"] in ("binary", "category"):
        return values_only_held_out(column, known["values"], train, "taken as missing")
    x = _numbers(column if train is None else column[~train], known)
    low, high = known["low"], known["high"]
    if not known["times"]:
        return beyond(
            exact.with_origin(x, known), *exact.with_origin(np.asarray([low, high]), known)
        )
    ends = [("from", np.nanmin(x, initial=low), low), ("to", np.nanmax(x, initial=high), high)]
    return " ".join(f"{word} {written(end, known)}" for word, end, own in ends if end != own)


def _numbers(column: Series, known: Column) -> np.ndarray:
    times = known.get("times")
    try:
        refuse_wide(column, f"the {known['kind']} column {known['name']}")
        return exact.numbers(column, known)
    except NumberError:
        raise
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected {'times as before' if times else 'numbers'} in the {known['kind']} column "
            f"{known['name']} but {' '.join(str(error).split())}"
        ) from error


def restored(x: np.ndarray, known: Column, values: exact.Values | None = None) -> Series:
    """Decodes x (N,) into a column of its type, resolution and values.

    Numbers beyond those of the training rows and of `values` are clipped.

    Arguments:
        x: As a model has it.
        values: The numbers of the loaded rows; None if they are not known.
    """
    import pandas as pd

    name, dtype = known["name"], known["dtype"]
    if known["kind"] in ("binary", "category"):
        categories = known["values"]
        at = np.clip(np.round(x), 0, len(categories) - 1).astype(int)
        if dtype == "category":
            kind = pd.CategoricalDtype(categories, known["ordered"])
            return pd.Series(pd.Categorical.from_codes(at, dtype=kind), name=name)
        return pd.Series([categories[place] for place in at], name=name).astype(dtype)
    return exact.column(x, known, values)


def with_gaps(column: Series, observed: np.ndarray) -> Series:
    """Returns a column without the values that are not observed, in a type for whole numbers."""
    if observed.all():
        return column
    types = {"i": "Int64", "u": "Int64", "b": "boolean"}
    kind = types.get(column.dtype.kind) if isinstance(column.dtype, np.dtype) else None
    return (column.astype(kind) if kind else column).where(observed)


def told(known: Mapping[str, Any]) -> str:
    """A column in a few words."""
    if "values" in known:
        values = known["values"]
        shown = ", ".join(str(value) for value in values[:4])
        return f"{known['kind']}: {shown}{f' and {len(values) - 4} more' if values[4:] else ''}"
    if known["kind"] == "ignore":
        return "left out"
    low, high = (written(known[end], known) for end in ("low", "high"))
    return f"{'times, ' if known['times'] else ''}{known['kind']} from {low} to {high}"


def written(number: float, known: Mapping[str, Any]) -> str:
    """Returns a number of a column, less its origin, as a user writes it."""
    x = np.asarray([number])
    if known["times"]:
        within = {**known, "low": -np.inf, "high": np.inf}
        return str(exact.column(exact.scaled(x, known), within)[0])
    if known["decimals"] == 0:
        return str(int(number) + known.get("origin", 0))
    return f"{number:.10g}"


def to_model(
    column: Series, known: Column, strict: np.ndarray
) -> tuple[np.ndarray, exact.Values | None]:
    """Encodes a column as x (N,), in which NaN is missing, and returns its numbers, if it has any.

    Arguments:
        strict: As of `codes`.

    Raises:
        ValueError: As by `codes`, or if a number is too far from those of the training rows.
    """
    x = codes(column, known, strict)
    values = None if "values" in known else exact.Values.of(x, known)
    x = x if values is None else values.scaled(x, known)
    where = f"the column {known['name']}"
    refuse_large(x, where, column.index, _is_counted(column), scaled=True)
    return x, values


def not_numbers(column: Series) -> str:
    """Describes the values of a column of text that are not numbers; "" if most are not."""
    import pandas as pd

    text = column.dropna()
    if pd.api.types.infer_dtype(text) != "string":
        return ""
    is_number = pd.to_numeric(text, errors="coerce").notna()
    if 2 * is_number.sum() < len(text):
        return ""
    words = text[~is_number].value_counts().index[:5].tolist()
    if not words or any(re.search(r"\d", word) for word in words):
        return ""  # codes, such as 136A
    return (
        f"{is_number.sum():,} of {len(text):,} values are numbers, the others are "
        f"{', '.join(map(repr, words))}: --data.na {','.join(words)!r} reads these as missing."
    )


def find_outlier(x: np.ndarray, known: Column, rows: Any, counted: bool) -> Outlier | None:
    """Finds a number that is so far from the quartiles that the others look equal on its scale.

    The mean and the standard deviation would hide it: one of n numbers is at most sqrt(n - 1)
    standard deviations from the mean.

    Arguments:
        x: The numbers of the training rows, (N,), in which NaN is missing.
        rows: The names of the rows, (N,).
        counted: Whether the names are numbers from 0.
    """
    numbers = x[~np.isnan(x)]
    if len(numbers) < 4:
        return None
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    distance = np.abs(x - middle)
    at = int(np.nanargmax(distance))
    near = numbers[np.abs(numbers - middle).argsort()][: -max(1, len(numbers) // 100)]
    spread, trimmed = float(high - low) / 1.349, float(near.std())
    times = int((numbers == x[at]).sum())
    row = f"{rows[at]}{', counted from 0' if counted else ''}"
    outlier = Outlier(known["name"], written(x[at], known), row, float(distance[at]), times)
    if outlier.is_mark and 0 < _FAR * (spread or trimmed) < distance[at]:
        return outlier
    outlier.distance /= max(spread, trimmed) or np.inf
    return outlier if outlier.distance > _FAR and not outlier.is_mark else None


@dataclass
class Outlier:
    """A number that is far from the others of its column.

    Arguments:
        column: The name of the column.
        value: The number.
        row: The name of the row.
        distance: From the median, in standard deviations of the other numbers.
        times: How many rows have it.
    """

    column: str
    value: str
    row: str
    distance: float
    times: int

    @property
    def is_mark(self) -> bool:
        """Whether it looks like a mark for missing values, such as -999."""
        return self.times > 1 and bool(re.fullmatch(r"-?9+(\.0)?", self.value))


def warn_of_outliers(outliers: Sequence[Outlier]) -> None:
    """Warns of the farthest outlier, and of numbers that seem to mark missing values."""
    for mark in (outlier for outlier in outliers if outlier.is_mark):
        warnings.warn(
            f"{mark.column} holds {mark.value} in {mark.times:,} rows, far from its other values. "
            f"If it means a missing value, set --data.na {mark.value}.",
            stacklevel=2,
        )
    others = sorted(
        (outlier for outlier in outliers if not outlier.is_mark), key=lambda o: -o.distance
    )
    if not others:
        return
    worst, names = others[0], ", ".join(f"{o.column} (row {o.row})" for o in others[1:6])
    more = f" {len(others) - 1} other columns have outliers: {names}." if names else ""
    warnings.warn(
        f"{worst.column} holds {worst.value} in row {worst.row}, which is {worst.distance:,.0f} "
        "standard deviations of the other values from their median: they look equal on its "
        "scale. If it is an error, leave the row out. Otherwise the "
        f"logarithm of the column may be learned better.{more}",
        stacklevel=2,
    )
