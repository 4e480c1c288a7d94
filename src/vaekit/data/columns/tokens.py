"""What the steps of sequences hold: tokens, which have names, or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.columns.covariates import classes, labels
from vaekit.data.columns.token_score import token_score
from vaekit.data.rows.limits import refuse_large, refuse_wide

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_ALL = slice(None)
_FEW = 8  # at most 8 different whole numbers are tokens without a score


def vocabulary_of(
    values: DataFrame, tokens: bool | None, lengths: np.ndarray
) -> tuple[list[Any] | None, str]:
    """Returns the tokens in their order, None if the steps are numbers of signals.

    The second says in words why whole numbers are tokens or a signal; "" for other values.

    Arguments:
        tokens: Whether the steps are tokens; None to infer it.
        lengths: How many steps each sequence has, (N,).
    """
    from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

    kinds = values.dtypes
    texts = [n for n, k in kinds.items() if not is_numeric_dtype(k) or is_bool_dtype(k)]
    if len(values.columns) > 1 and (texts or tokens):
        raise ValueError(
            "Expected numbers in each of several channels, or one channel of tokens, but got "
            f"{', '.join(f'{n} of {k}' for n, k in kinds.items())}: name the channels with "
            "--data.channels, the column of times with --data.time, and a column of one value for "
            "each sequence as label, split or group."
        )
    whole, reason = is_integer_dtype(kinds.iloc[0]) and len(values.columns) == 1, ""
    if tokens is None and whole and not texts:
        tokens, reason = _are_tokens(values.iloc[:, 0], lengths)
    if tokens is False or not (tokens or texts):
        if texts:
            raise ValueError(f"Expected numbers in {texts[0]}, for signals, but got others.")
        return None, reason
    return _tokens(values.iloc[:, 0]), reason


def _are_tokens(column: Series, lengths: np.ndarray) -> tuple[bool, str]:
    """Whether whole numbers are tokens: few different ones, or by their score; and in words."""
    observed = column.notna().to_numpy()
    number = np.repeat(np.arange(len(lengths)), lengths)[observed]
    is_unsigned = str(column.dtype).lower().startswith("uint")
    values = column[observed].to_numpy(dtype=np.uint64 if is_unsigned else np.int64)
    different = len(np.unique(values))
    if different <= _FEW:
        words = f"tokens, of {different} different values"
        return True, f"{words} (--data.tokens false reads a signal)"
    counts = np.bincount(number, minlength=len(lengths))
    score = token_score(values, counts[counts > 0])
    kind, other = ("tokens", "a signal") if score.are_tokens else ("a signal", "tokens")
    scores = (score.tokens, score.signal)[:: 1 if score.are_tokens else -1]
    return score.are_tokens, (
        f"{kind}: {scores[0]:.2f} nats per held-out time step, {scores[1]:.2f} as {other} "
        f"(--data.tokens {str(not score.are_tokens).lower()} reads {other})"
    )


def _tokens(column: Series) -> list[Any]:
    found = classes(as_tokens(column))
    if len(found) < 2:
        raise ValueError(f"Expected at least two different tokens but got {len(found)}.")
    if all(isinstance(word, int) for word in found) and not isinstance(found[0], bool):
        largest = max(found)
        if min(found) >= 0 and largest < max(256, 2 * len(found)):
            return list(range(largest + 1))  # they stand for themselves
    return found


def as_tokens(column: Series) -> Series:
    """A column of tokens: whole numbers, which a missing one has made others, as such."""
    from pandas.api.types import is_float_dtype

    if not is_float_dtype(column.dtype):
        return column
    seen = column.dropna()
    if (seen != seen.round()).any():
        raise ValueError(f"Expected tokens in {column.name} but it holds {seen.iloc[0]:g}.")
    return column.astype("Int64")


def whole_with_gaps(values: DataFrame) -> DataFrame:
    """Returns columns of whole numbers that missing values turned into floats as whole numbers."""
    from pandas.api.types import is_float_dtype

    columns = {}
    for name, column in values.items():
        x = column.dropna()
        if is_float_dtype(column.dtype) and 0 < len(x) < len(column):
            is_whole = bool(((x == x.round()) & (x.abs() < 2**53)).all())
            columns[name] = column.astype("Int64") if is_whole else column
    return values.assign(**columns)


def read_numbers(
    values: DataFrame, schema: Mapping[str, Any], strict: np.ndarray | slice = _ALL
) -> np.ndarray:
    """The steps as numbers (S, C), NaN where there is none; of tokens (S,), -1 there.

    Arguments:
        strict: Whether a step must be a known token, (S,); an unknown one of the others is taken
            as missing.
    """
    own = [str(name) for name in values.columns]
    if missing := [name for name in schema["channels"] if name not in own]:
        raise ValueError(
            f"Expected the channels {', '.join(schema['channels'])} but there is no "
            f"{', '.join(missing)}."
        )
    values = values[schema["channels"]]
    if schema["vocabulary"] is None:
        return _finite(values)
    column = as_tokens(values.iloc[:, 0])
    found = labels(column, schema["vocabulary"])
    unknown = (found < 0) & column.notna().to_numpy()
    if unknown[strict].any():
        others = sorted({str(value) for value in column[strict][unknown[strict]]})
        raise ValueError(
            f"Expected tokens that the model knows but got {', '.join(others[:5])}: it has "
            "learned nothing of these."
        )
    return found


def _finite(values: DataFrame) -> np.ndarray:
    for name in values.columns:
        refuse_wide(values[name], f"channel {name}")
    try:
        found = values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected numbers in each channel but got {error}.") from error
    for at, name in enumerate(values.columns):
        if np.isinf(found[:, at]).any():
            raise ValueError(f"Expected finite values but channel {name} holds an infinite one.")
        refuse_large(found[:, at], f"channel {name}", range(len(found)), counted=True)
    return found
