"""Finds columns that may name the rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import Series

_QUANTITY = re.compile(
    r"""[(+-]?\s*[$€£¥]?\s*[+-]?
    (?!0\d+$)                      # a number with leading zeros is a code
    \d[\d.,'\s]*(e[+-]?\d+)?      # digits, with marks between them
    \s*([%€$£¥]|\s[a-zµ°/²³]{1,5})?-?\)?""",
    re.VERBOSE | re.IGNORECASE,
)
_TIME = re.compile(
    r"""\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T\s].*)?     # 2024-03-01, 1.3.2024
    |\d{4}-\d{2}                                      # 2024-03
    |(\d+\s*d(ays?)?\s*)?\d{1,2}:\d{2}(:\d{2}.*)?\s*([ap]m)?   # 8:00
    |.*\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b.*\d.*
    |\d.*\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b.*""",
    re.VERBOSE | re.IGNORECASE,
)
_NAMES = 1000  # values that are looked at


def are_row_names(column: Series) -> bool:
    """Whether a column is text in which all values differ, and no numbers, money or times."""
    from pandas.api.types import infer_dtype

    if column.dtype.kind in "biufMm" or infer_dtype(column, skipna=True) != "string":
        return False
    if not (column.is_unique and column.notna().all()):
        return False
    values = [str(value).strip() for value in column.iloc[:_NAMES]]
    quantities = sum(bool(_QUANTITY.fullmatch(v) or _TIME.fullmatch(v)) for v in values)
    return 2 * quantities < len(values)
