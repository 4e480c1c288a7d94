"""Finds columns that may name the rows, and text that is numbers, money or times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import Series

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_QUANTITY = re.compile(
    r"""[(+-]?\s*[$€£¥]?\s*[+-]?
    (?!0\d)                                          # a number with leading zeros is a code
    (\d{1,3}([,.'\s]\d{3})+|\d+)([.,]\d+)?(e[+-]?\d+)?  # 1,234.5 or 12,5
    \s*([%€$£¥]|\s[a-zµ°/²³]{1,5})?-?\)?""",
    re.VERBOSE | re.IGNORECASE,
)
_TIME = re.compile(
    rf"""\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}([T\s].*)?     # 2024-03-01, 1.3.2024
    |\d{{4}}-\d{{2}}                                      # 2024-03
    |(\d+\s*d(ays?)?\s*)?\d{{1,2}}:\d{{2}}(:\d{{2}}.*)?\s*([ap]m)?   # 8:00
    |(\d{{1,2}}(st|nd|rd|th)?[\s.-]*)?{_MONTH}[\s.,-]*(\d{{1,2}}(st|nd|rd|th)?[\s,]+)?\d{{2,4}}
     (\s.*\d:\d\d.*)?                                   # Mar 5, 2023 or 5 March 2023""",
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
    return not are_quantities(column.iloc[:_NAMES])


def are_quantities(values: Iterable[object]) -> bool:
    """Whether at least half of the values are text of numbers, money or times."""
    texts = [str(value).strip() for value in values]
    quantities = sum(bool(_QUANTITY.fullmatch(t) or _TIME.fullmatch(t)) for t in texts)
    return bool(texts) and 2 * quantities >= len(texts)
