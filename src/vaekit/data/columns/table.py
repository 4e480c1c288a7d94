"""The columns of a table: what each is taken for, how it becomes numbers, and the way back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.data.columns.covariates import places_of, plain, values_only_held_out
from vaekit.data.columns.scale import beyond, deviation
from vaekit.data.rows.limits import NumberError, refuse_large, refuse_wide

if TYPE_CHECKING:
    from pandas import Series


KINDS = ("numeric", "binary", "category", "count", "ignore")
"""What a column may be taken for; of one to be ignored nothing is learned."""

_MOST_COUNT, _DECIMALS, _FAR, _SHOWN = 1e6, 6, 50, 60
_FORMS = (
    "%Y-%m-%d",
    *(f"%Y-%m-%d{between}{clock}" for between in "T " for clock in ("%H:%M:%S", "%H:%M")),
    "%Y-%m",
    "%Y/%m/%d",
)
"""In which times are written as text."""

Column = dict[str, Any]
"""What is known of a column, as plain data: its name, kind and dtype, and by kind its mean, std,
decimals, low and high, or its values."""


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
    if pd.api.types.is_numeric_dtype(column):
        return "count" if _looks_counted(values.to_numpy(dtype=np.float64)) else "numeric"
    if _times(column):
        return "numeric"
    return "category" if number <= most else "ignore"


def kind_for(column: Series, most: int, rows: np.ndarray) -> str:
    """Infers what a column is from the training rows.

    Counts are numeric if another row has a number that is no count, so that it can be read.

    Arguments:
        rows: Which rows are for training.
    """
    kind = kind_of(column.iloc[rows], most)
    values = column.dropna()
    counted = kind != "count" or bool(((values >= 0) & (values % 1 == 0)).all())
    return kind if counted else "numeric"


def _looks_counted(x: np.ndarray) -> bool:
    whole = bool((x == np.round(x)).all())
    return whole and x.min() in (0, 1) and x.max() < _MOST_COUNT and x.var() > 0.8 * x.mean()


def _times(column: Any) -> str | None:
    """How the times of a column are written: "datetime" where they are that, else as text.

    None where it holds no times, or text that no one form gives back as it is.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        return "datetime"
    values = column.dropna()
    if pd.api.types.is_numeric_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return None
    if not values.map(lambda value: isinstance(value, str) and value[:4].isdigit()).all():
        return None
    for form in _FORMS:
        when = pd.to_datetime(values, format=form, errors="coerce")
        if when.notna().all() and (when.dt.strftime(form) == values).all():
            return form
    return None


def learned(column: Series, kind: str, rows: np.ndarray) -> Column:
    """What is known of a column, from the training rows.

    Arguments:
        rows: Which rows are for training; the others are not looked at.

    Raises:
        ValueError: If the column cannot be of that kind.
    """
    counted = _is_counted(column)
    column = column.iloc[rows]
    found: Column = {"name": str(column.name), "kind": kind, "dtype": str(column.dtype)}
    if kind in ("binary", "category"):
        found |= _values(column, kind)
    if kind in ("numeric", "count"):
        found["times"] = _times(column)
        x = _numbers(column, found)
        _refuse(column, kind, x, counted)
        x = x[~np.isnan(x)]
        x = x if len(x) else np.zeros(1)
        found |= {
            "mean": float(x.mean()),
            "std": deviation(x),
            "low": float(x.min()),
            "high": float(x.max()),
            "decimals": _decimals(x),
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


def _decimals(x: np.ndarray) -> int | None:
    """With how many decimals numbers are written; None for more than six."""
    for decimals in range(_DECIMALS + 1):
        if np.allclose(np.round(x, decimals), x, rtol=1e-9, atol=0):
            return decimals
    return None


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
    found[seen] = [place(value) for value in column[seen]]
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
    return beyond(x, known["low"], known["high"])


def _numbers(column: Series, known: Column) -> np.ndarray:
    import pandas as pd

    times = known.get("times")
    try:
        if times:
            when = pd.to_datetime(column, **({} if times == "datetime" else {"format": times}))
            if when.dt.tz is not None:
                when = when.dt.tz_convert(None)
            seconds = when.astype("datetime64[ns]").astype("int64") / 1e9
            return np.where(when.isna(), np.nan, seconds)
        refuse_wide(column, f"the {known['kind']} column {known['name']}")
        return pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    except NumberError:
        raise
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected {'times as before' if times else 'numbers'} in the {known['kind']} column "
            f"{known['name']} but {' '.join(str(error).split())}"
        ) from error


def restored(x: np.ndarray, known: Column) -> Any:
    """Numbers (N,) as the column that they stand for: in its type, its decimals and its values.

    Numbers beyond those that were seen in training are brought back to the nearest.
    """
    import pandas as pd

    name, dtype = known["name"], known["dtype"]
    if known["kind"] in ("binary", "category"):
        values = known["values"]
        at = np.clip(np.round(x), 0, len(values) - 1).astype(int)
        if dtype == "category":
            kind = pd.CategoricalDtype(values, known["ordered"])
            return pd.Series(pd.Categorical.from_codes(at, dtype=kind), name=name)
        return pd.Series([values[place] for place in at], name=name).astype(dtype)
    x = np.clip(x, known["low"], known["high"])
    if known["decimals"] is not None:
        x = np.round(x, known["decimals"])
    if known["times"]:
        when = pd.Series(pd.to_datetime((x * 1e9).astype("int64")), name=name)
        if known["times"] != "datetime":
            return when.dt.strftime(known["times"]).astype(dtype)
        zone = pd.Series([], dtype=dtype).dt.tz
        return when.dt.tz_localize("UTC").astype(dtype) if zone else when.astype(dtype)
    return pd.Series(x, name=name).astype(dtype)


def told(known: Mapping[str, Any]) -> str:
    """A column in a few words."""
    if "values" in known:
        values = known["values"]
        shown = ", ".join(str(value) for value in values[:4])
        return f"{known['kind']}: {shown}{f' and {len(values) - 4} more' if values[4:] else ''}"
    if known["kind"] == "ignore":
        return "left out"
    span = f"from {known['low']:g} to {known['high']:g}"
    return f"{'times, ' if known['times'] else ''}{known['kind']} {span}"


def scaled(x: np.ndarray, known: Column) -> np.ndarray:
    """Numbers of a numeric column on the scale of its training rows; others as they are."""
    return (x - known["mean"]) / known["std"] if known["kind"] == "numeric" else x


def to_model(column: Series, known: Column, strict: np.ndarray) -> np.ndarray:
    """A column as a model sees it, (N,), NaN where it is missing.

    Arguments:
        strict: As of `codes`.

    Raises:
        ValueError: As by `codes`, or if a number is too far from those of the training rows.
    """
    x = scaled(codes(column, known, strict), known)
    where = f"the column {known['name']}"
    refuse_large(x, where, column.index, _is_counted(column), scaled=True)
    return x


def unscaled(x: np.ndarray, known: Column) -> np.ndarray:
    """The reverse of `scaled`."""
    return x * known["std"] + known["mean"] if known["kind"] == "numeric" else x


def warn_of_outliers(x: Tensor, columns: Sequence[Column]) -> None:
    """Warns of a scaled number (N, D) so far from the others that it drowns them."""
    far = x.abs().amax(0)
    at = int(far.argmax())
    if far[at] > _FAR:
        warnings.warn(
            f"A value of {columns[at]['name']} lies {far[at]:.0f} standard deviations from the "
            "mean: if it is an error, leave that row out; else the logarithm of the column may be "
            "learned better.",
            stacklevel=2,
        )
