"""Spellings of one category, such as Yes and yes, as one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import Series

_PAIRS = (
    {"yes": "yes", "y": "yes", "no": "no", "n": "no"},
    {"true": "true", "t": "true", "1": "true", "false": "false", "f": "false", "0": "false"},
)
"""Words that mean yes or no, true or false."""

_SHORT = {"no", "ja", "si", "y", "n"}
"""Words of one or two letters that mean the same in any case; AA, Aa and aa do not."""


def spellings_of(column: Series) -> dict[str, str]:
    """Returns the value for each spelling of a column of text, by the spelling's key.

    Spellings differ by spaces at their ends, or by the case of all or of first letters. The most
    frequent one is the value. A column without several spellings of a value gives {}.
    """
    counts = Counter(value for value in column.dropna() if isinstance(value, str))
    groups: dict[str, Counter[str]] = {}
    pairs = _pairs_of(counts)
    for value, times in counts.items():
        groups.setdefault(_key(value, pairs), Counter())[value] += times
    if all(len(group) == 1 for group in groups.values()):
        return {}
    return {key: group.most_common(1)[0][0].strip() for key, group in groups.items()}


def respelled(column: Series, values: Mapping[str, str]) -> Series:
    """Returns a column with the values of its spellings."""
    pairs = next((p for p in _PAIRS if set(values) <= set(p.values())), {})
    by_spelling = {
        value: values.get(_key(value, pairs), value)
        for value in column.dropna().unique()
        if isinstance(value, str)
    }
    return column.map(lambda value: by_spelling.get(value, value), na_action="ignore")


def merged(column: Series, values: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the spellings of each value of a column, of values with several."""
    groups: dict[str, list[str]] = {}
    after: Any = respelled(column, values)
    for before, value in dict.fromkeys(zip(column.dropna(), after.dropna(), strict=True)):
        groups.setdefault(value, []).append(before)
    return {value: spellings for value, spellings in groups.items() if len(spellings) > 1}


def _pairs_of(counts: Counter[str]) -> Mapping[str, str]:
    """The words for yes and no, or for true and false, if a column holds only these."""
    words = {value.strip().casefold() for value in counts}
    for pairs in _PAIRS:
        if words <= set(pairs) and words & set(pairs.values()):
            return pairs
    return {}


def _key(value: str, pairs: Mapping[str, str]) -> str:
    word = value.strip()
    folded = word.casefold()
    if folded in pairs:
        return pairs[folded]
    plain = word in (word.lower(), word.upper(), word.capitalize(), word.title())
    return folded if plain and (len(word) > 2 or folded in _SHORT) else word
