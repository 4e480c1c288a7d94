"""Columns that are said of rows, such as a batch or an age, as numbers and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.columns.exact import digits_of
from vaekit.data.columns.scale import deviation
from vaekit.data.rows.limits import refuse_large, refuse_wide

if TYPE_CHECKING:
    from pandas import DataFrame, Series


_BOOLS, _ALL = ("bool", "boolean"), slice(None)
_MOST_CLASSES, _DENSE, _EXACT = 100, 0.9, 2**53

Known = dict[str, Any]
"""What is known of a column, as plain data: its categories, or its mean and standard deviation."""


def listed(names: list[str] | str) -> list[str]:
    """Names in a list, or in one text with commas between them, as on a command line.

    Example:
        >>> listed("batch,age"), listed(["batch"])
        (['batch', 'age'], ['batch'])
    """
    return [n for n in names.split(",") if n] if isinstance(names, str) else list(names)


def column_of(frame: DataFrame | None, name: str, what: str) -> Series:
    """A column that the user named.

    Arguments:
        what: The argument by which it was named.

    Raises:
        ValueError: If there is none.
    """
    found = [] if frame is None else [str(column) for column in frame.columns]
    if frame is None or name not in found:
        has = f"{', '.join(found[:10])}" if found else "the data have none"
        raise ValueError(f"Expected a column {name!r}, as {what}, but there are: {has}.")
    return frame.iloc[:, found.index(name)]


def _refuse_missing(column: Series, name: str) -> None:
    if missing := int(column.isna().sum()):
        raise ValueError(
            f"Expected a value of {name} for each row but {missing:,} of {len(column):,} have "
            "none: fill them in, or leave those rows out."
        )


def _is_categorical(column: Series) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_bool_dtype(column.dtype) or not is_numeric_dtype(column.dtype))


def _numbers(column: Series, name: str) -> np.ndarray:
    refuse_wide(column, name)
    values = column.to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"Expected finite numbers in {name} but one is infinite.")
    refuse_large(values, name, column.index, type(column.index).__name__ == "RangeIndex")
    return values


def known_of(column: Series, name: str, train: np.ndarray) -> Known:
    """What is known of a column: its categories, or the moments of the training rows.

    Arguments:
        train: The numbers of the training rows.

    Raises:
        ValueError: If a value is missing, or a number is not finite.
    """
    _refuse_missing(column, name)
    if _is_categorical(column):
        ordered = bool(getattr(column.dtype, "ordered", False))
        found = classes(column.iloc[train])
        return {"categories": found, "type": str(column.dtype), "ordered": ordered}
    values = _numbers(column, name)[train]
    mean, std = float(values.mean()), deviation(values)
    return {"mean": mean, "std": std, "type": str(column.dtype), **digits_of(values)}


def classes(column: Series) -> list[Any]:
    """The values of a column of categories, in their order; those of others are sorted.

    They are plain data: what is neither text nor a number, such as a date, is written as text.
    """
    if str(column.dtype) == "category":
        found = column.cat.categories.tolist()
    else:
        found = column.dropna().unique().tolist()
        try:
            found = sorted(found)
        except TypeError:  # of several types
            found = sorted(found, key=str)
    return [plain(value) for value in found]


def plain(value: Any) -> Any:
    """A value as plain data: what is neither text nor a number is written as text."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else str(value)


def places_of(known: Sequence[Any]) -> Callable[[Any], int]:
    """Which of some known values a value is, -1 for none.

    1, 1.0 and True are one, as where a file has gaps; so are 1 and "1" where all known values are
    text.
    """
    text = all(isinstance(value, str) for value in known)

    def key(value: Any) -> Any:
        value = plain(value)
        return str(value) if text else value

    place = {key(value): at for at, value in enumerate(known)}
    return lambda value: place.get(key(value), -1)


def labels(column: Series, known: Sequence[Any]) -> np.ndarray:
    """The place of each value among those that are known, -1 for others."""
    place = places_of(known)
    pairs = zip(column.astype(object), column.isna(), strict=True)
    found = [-1 if missing else place(value) for value, missing in pairs]
    return np.asarray(found, dtype=np.int64)


def label_classes(column: Series) -> list[Any] | None:
    """Returns the classes of a column of labels, or None if its numbers are not classes.

    Text, categories and booleans are always classes. Numbers are classes if at most 100 of them
    differ. More numbers are classes if they are whole, start at 0 or 1, use 90 % of the numbers up
    to the largest, and occur twice on average. Whole numbers that float64 cannot hold are classes
    too.
    """
    from pandas.api.types import is_integer_dtype

    values = column.dropna()
    number = values.nunique()
    if _is_categorical(column) or number <= _MOST_CLASSES:
        return classes(column)
    low, high = float(values.min()), float(values.max())
    is_whole = bool((values % 1 == 0).all())
    is_dense = low in (0, 1) and number >= _DENSE * (high - low + 1) and 2 * number <= len(values)
    is_inexact = is_integer_dtype(column.dtype) and max(-low, high) > _EXACT
    return classes(column) if (is_whole and is_dense) or is_inexact else None


def class_numbers(column: Series, has_classes: bool | None = None) -> np.ndarray | None:
    """Returns the class of each row, (N,), -1 if it has none; None without classes.

    Arguments:
        has_classes: Whether the label holds classes; None to infer it.
    """
    if has_classes is None:
        has_classes = label_classes(column) is not None
    return column.factorize()[0] if has_classes else None


def label_values(column: Series, name: str, class_names: Sequence[Any] | None) -> Tensor:
    """Converts a column of labels to a tensor (N,).

    Arguments:
        name: The name of the column, for errors.
        class_names: The classes that `label_classes` returned.

    Returns:
        The number of each class, -1 for a missing or unknown class. Without classes, the numbers
        in float64, NaN for a missing number.

    Raises:
        ValueError: If there are no classes and a value is text or infinite.
    """
    if class_names is not None:
        return torch.from_numpy(labels(column, class_names))
    if _is_categorical(column):
        raise ValueError(f"Expected numbers in the label {name}, as in training, but got text.")
    values = torch.tensor(column.to_numpy(np.float64, na_value=np.nan))
    if values.isinf().any():
        raise ValueError(f"Expected finite numbers in the label {name} but one is infinite.")
    return values


def label_names(values: Tensor, class_names: Sequence[Any] | None) -> Any:
    """Converts labels (n,) back to the values of the user's column, as a list or an array.

    Whole numbers are returned as integers. A missing class is None, a missing number NaN.
    """
    if class_names is not None:
        return [class_names[at] if at >= 0 else None for at in values.long().tolist()]
    numbers = values.double().cpu().numpy()
    is_whole = bool(((numbers % 1 == 0) & (np.abs(numbers) <= _EXACT)).all())  # NaN is not
    return numbers.astype(np.int64) if is_whole else numbers


def values_only_held_out(
    column: Series, known: Sequence[Any], train: np.ndarray | None, instead: str
) -> str:
    """Names the values of a column that only held-out rows have; "" if there are none.

    It warns of values that the schema does not know.

    Arguments:
        known: The values that the schema knows.
        train: Whether each row is for training, (N,); None if the training rows are elsewhere.
        instead: Says what becomes of values that the schema does not know.
    """
    column = column.astype(object)
    trained = known if train is None else classes(column[train])
    place, known_place = places_of(trained), places_of(known)
    values = classes(column if train is None else column[~train])
    found = [value for value in values if place(value) < 0]
    shown = ", ".join(map(str, found[:4]))
    shown = f"{shown} and {len(found) - 4:,} more" if found[4:] else shown
    if all(known_place(value) >= 0 for value in found):
        return shown
    warnings.warn(
        f"Held-out rows have values of {column.name} that no training row has: {shown}. They are "
        f"{instead}.",
        stacklevel=2,
    )
    return f"{shown}, {instead}"


def only_held_out(column: Series, known: Known, train: np.ndarray | None) -> str:
    """Names the categories that only held-out rows have; "" if there are none."""
    if "categories" not in known:
        return ""
    return values_only_held_out(column, known["categories"], train, "taken as no category")


def encoded(column: Series, name: str, known: Known, strict: np.ndarray | slice = _ALL) -> Tensor:
    """A column as numbers (N, C): one-hot, or with the moments of the training rows taken off.

    Arguments:
        strict: Whether each row must be of a known category, (N,); an unknown category of another
            row is 0 in all columns.

    Raises:
        ValueError: If a value is missing, is no number, or is of no category that is known.
    """
    _refuse_missing(column, name)
    if "categories" in known:
        at = labels(column, known["categories"])
        if (at[strict] < 0).any():
            others = sorted({str(value) for value in column[strict][at[strict] < 0]})
            own = ", ".join(map(str, known["categories"][:10]))
            raise ValueError(
                f"Expected {name} of the model's categories, {own}, but got "
                f"{', '.join(others[:5])}: it has learned nothing of these."
            )
        one_hot = torch.eye(len(known["categories"]) + 1, dtype=torch.float64)[:, :-1]
        return one_hot[torch.from_numpy(at)]  # the last row, at -1, is 0
    if _is_categorical(column):
        raise ValueError(f"Expected numbers in {name}, as the model knows, but got text.")
    values = (_numbers(column, name) - known["mean"]) / known["std"]
    counted = type(column.index).__name__ == "RangeIndex"
    refuse_large(values, name, column.index, counted, scaled=True)
    return torch.from_numpy(values).unsqueeze(1)


def width(known: Known) -> int:
    """How many numbers a column becomes."""
    return len(known["categories"]) if "categories" in known else 1


def decoded(values: Tensor, known: Mapping[str, Any]) -> Any:
    """Numbers (n, C) as a column of the user's values, of the type that it had."""
    import pandas as pd

    if "categories" in known:
        names = known["categories"]
        seen = values.any(1).tolist()
        places = zip(values.argmax(1).tolist(), seen, strict=True)
        found = [names[at] if one else None for at, one in places]
        if known["type"] == "category":
            return pd.Categorical(found, categories=names, ordered=known["ordered"])
        kind = "boolean" if not all(seen) else known["type"]
        return pd.array(found, dtype=kind) if known["type"] in _BOOLS else found
    numbers = values[:, 0].double().numpy() * known["std"] + known["mean"]
    if known.get("decimals") is not None:
        numbers = np.round(numbers, known["decimals"])
    kind = pd.api.types.pandas_dtype(known["type"])
    whole = pd.api.types.is_integer_dtype(kind)
    return pd.array(np.round(numbers) if whole else numbers, dtype=kind)
