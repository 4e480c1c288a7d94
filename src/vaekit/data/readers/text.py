"""Tables in text files: lines above the header, the header, and the type of each column."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaekit.data.columns.row_names import are_quantities

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_NAMED_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": r"\s+", " ": r"\s+"}
_OTHER_SEPARATORS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','", r"\s+": "space"}
"""The separators that a file may have instead of the expected one, as an option names them."""

_MISSING = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a"),
        *("-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "-NaN", "-nan", "NaN", "nan"),
        *("NULL", "None", "null"),
    )
)
"""Words that mean a missing value in a column of numbers, as in pandas."""

_FREQUENT = 0.05
"""The fraction of the rows from which on such a word is a value of a column of words."""

_SNIFFED = 50  # records from which the layout of a file is found
_EXTRA = "\0"  # the name of the column behind the last one
_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)", re.ASCII | re.IGNORECASE
)
_BOOLS = {"true": True, "false": False}
_PADDED = re.compile(r"[+-]?0\d+")


@dataclass(frozen=True)
class TextFormat:
    """The format of a text file.

    Arguments:
        sep: The separator between columns, or one of the words comma, semicolon, tab and space;
            None for that of the file's suffix.
        header: Whether the first line holds the names of the columns.
        na: The words that mean a missing value, in addition to empty cells, in a list or with
            commas between them; None to infer them for each column. In a column of numbers the
            usual words, such as NA, are missing too.
        values: The values of columns that a model knows, by name: other usual words are missing
            there. Empty for columns of numbers.
        is_given: Whether the user named the separator.
    """

    sep: str | None = None
    header: bool = True
    na: Sequence[str] | str | None = None
    values: Mapping[str, Collection[str]] | None = None
    is_given: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        """What differs from the default, as plain data for a schema."""
        na = self.na if self.na is None or isinstance(self.na, str) else list(self.na)
        own = {"sep": self.sep, "header": self.header, "na": na}
        usual = {"sep": None, "header": True, "na": None}
        return {name: value for name, value in own.items() if value != usual[name]}

    def following(
        self, schema: Mapping[str, Any], values: Mapping[str, Collection[str]] | None = None
    ) -> TextFormat:
        """Returns this with the format of a model's data for all options that are not set.

        Arguments:
            schema: The model's schema.
            values: The values of columns that the model knows.
        """
        return replace(self, **{**schema.get("text", {}), **self.plain}, values=values)

    def with_separator(self, usual: str) -> TextFormat:
        """Returns this with the separator in full."""
        sep = usual if self.sep is None else self.sep
        is_given = self.sep is not None
        return replace(self, sep=_NAMED_SEPARATORS.get(sep, sep), is_given=is_given)

    @property
    def missing(self) -> frozenset[str] | None:
        """The words that mean a missing value; None to infer them."""
        if self.na is None:
            return None
        words = self.na.split(",") if isinstance(self.na, str) else self.na
        return frozenset(str(word).strip() for word in words)


@dataclass
class _Layout:
    """The header of a file.

    Arguments:
        sep: The separator.
        names: The names of the columns.
        skipped: The number of rows above the first row of data, with empty rows.
    """

    sep: str
    names: list[str]
    skipped: int


def read_text(path: Path, text: TextFormat) -> DataFrame:
    """Reads a text file with a row in each line.

    Numbers are read exactly. Whole numbers with gaps have the type Int64. Whole numbers with
    leading zeros, such as zip codes, are text. Warnings name the lines that were skipped, the
    names of columns that look like values, and the words that were read as missing.

    Raises:
        ValueError: If a row has more values than there are columns, or the file has another
            separator or holds a NUL byte.
    """
    _refuse_nul(path)
    layout = _layout(path, text)
    frame = _typed(path, layout)
    extra = frame.pop(_EXTRA)
    if extra.notna().any():
        _refuse_long_rows(path, layout)
    unnamed = [name for name in frame if name.startswith("Unnamed: ")]
    frame = frame.drop(columns=[name for name in unnamed if frame[name].isna().all()])
    if not len(frame):
        return frame
    padded = _padded_columns(path, layout, frame)
    import pandas as pd

    cells = {
        str(name): _Cells(padded.get(str(name), column), name in padded, text)
        for name, column in frame.items()
    }
    notes = _Notes(w for column in cells.values() if column.is_number for w in column.words)
    columns = {name: column.column(notes) for name, column in cells.items()}
    notes.warn([name for name in padded if not name.startswith("Unnamed: ")])
    return pd.DataFrame(columns)


# The layout


class _Record(NamedTuple):
    """A row of a text file.

    Arguments:
        line: The number of its last line.
        number: The number of the row, with empty rows.
        cells: Its cells.
    """

    line: int
    number: int
    cells: list[str]


def _records(path: Path, sep: str) -> Iterator[_Record]:
    """Yields the rows of a file that are not empty."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if sep == r"\s+":
            for number, line in enumerate(file, 1):
                if cells := line.split():
                    yield _Record(number, number, cells)
            return
        reader = csv.reader(file, delimiter=sep, skipinitialspace=True)
        for number, cells in enumerate(reader, 1):
            if any(cells) or len(cells) > 1:
                yield _Record(reader.line_num, number, [cell.strip() for cell in cells])


def _layout(path: Path, text: TextFormat) -> _Layout:
    """Finds the header, and skips the lines above it.

    Raises:
        ValueError: If the file has another separator, or holds nothing.
    """
    assert text.sep is not None
    sep = text.sep
    csv.field_size_limit(2**31 - 1)
    notes, above = [], 0
    if separator := _named_separator(path):
        sep, above = separator, 1
        notes.append(f"line 1, which names the separator {separator!r},")
    records = [row for row in islice(_records(path, sep), _SNIFFED) if row.number > above]
    if not records:
        raise ValueError("it is empty")
    if not text.is_given:
        _refuse_other_separator(path, sep)
    while len(records) > 1 and _is_above_header(records, text.header):
        above = records[0].number
        text_above = sep.join(cell for cell in records[0].cells if cell)[:60]
        notes += [f"line {records[0].line} ({text_above})"] if text_above else []
        records = records[1:]
    if notes:
        warnings.warn(
            f"Skipped {' and '.join(notes)} above the {'header' if text.header else 'rows'} of "
            f"{path.name}.",
            stacklevel=2,
        )
    first = records[0]
    if not text.header:
        return _Layout(sep, [f"column{at}" for at in range(1, _width(records) + 1)], above)
    return _Layout(sep, _names(first.cells, path.name), first.number)


def _named_separator(path: Path) -> str | None:
    """The separator that a first line such as sep=; names, as Excel writes it."""
    with path.open(encoding="utf-8-sig") as file:
        match = re.fullmatch(r'"?sep=(.)"?', file.readline().rstrip("\r\n"))
    return match[1] if match else None


def _width(records: Sequence[_Record]) -> int:
    """The most frequent number of columns, without empty columns at the end."""
    lengths = Counter(len(row.cells) for row in records)
    width = max(lengths, key=lambda n: (lengths[n], n))
    rows = [row.cells for row in records if len(row.cells) == width]
    while width > 1 and not any(cells[width - 1] for cells in rows):
        width -= 1
    return width


def _is_above_header(records: Sequence[_Record], header: bool) -> bool:
    """Whether the first record is a comment or a title.

    A comment begins with #, and a title fills at most half of the cells. If they have as many
    cells as the other lines, the next line must look like a header: it has no numbers, but a
    column below it has.
    """
    first, rest = records[0].cells, [row.cells for row in records[1:] if any(row.cells)]
    width, filled = _width(records[1:]), sum(map(bool, first))
    if not filled:
        return True
    is_title = bool(first[0]) and width > 1 and 2 * filled <= width
    if not (first[0].startswith("#") or is_title):
        return False
    if len(first) < width:
        return True
    is_header = bool(rest) and all(rest[0][:width]) and not any(map(is_number, rest[0]))
    return header and is_header and _has_numbers(rest)


def is_number(cell: str) -> bool:
    """Whether a text is a number."""
    return bool(_NUMBER.fullmatch(cell))


def _names(cells: list[str], file: str) -> list[str]:
    """The names of the columns, each different from the others.

    It warns of names that are numbers or repeat.
    """
    cells = [cells[0].removeprefix("#").strip() or cells[0], *cells[1:]]
    names: dict[str, None] = {}
    distinct, times = set(cells), Counter[str]()
    for at, cell in enumerate(cells):
        name = cell or f"Unnamed: {at}"
        while name in names or (times[cell] and name in distinct):
            times[cell] += 1
            name = f"{cell}.{times[cell]}"
        names[name] = None
    filled = [cell for cell in cells if cell]
    numbers = [cell for cell in filled if is_number(cell)]
    repeated = [name for name, times in Counter(filled).items() if times > 1]
    if repeated or _are_values(numbers, len(filled)):
        examples = ", ".join((repeated or numbers)[:5])
        problem = "repeat" if repeated else "are numbers"
        warnings.warn(
            f"Read the first line of {file} as the names of the columns, but some {problem} "
            f"({examples}). If the file has no header, set --data.header false.",
            stacklevel=2,
        )
    return list(names)


def _are_values(numbers: Sequence[str], names: int) -> bool:
    """Whether names that are numbers look like values, and not like years or positions."""
    if any(not _WHOLE.fullmatch(number) or number[0] in "+-" for number in numbers):
        return True
    integers = [int(number) for number in numbers]
    first = min(integers, default=0)
    is_range = integers == list(range(first, first + len(integers)))
    are_years = all(1000 <= number < 3000 for number in integers)
    return 2 * len(integers) >= names and not (is_range or are_years)


def _refuse_other_separator(path: Path, sep: str) -> None:
    """Refuses a file that another separator, but not this one, divides into equal columns.

    Raises:
        ValueError: If it is such a file.
    """
    with path.open(encoding="utf-8-sig") as file:
        lines = [line.rstrip("\r\n") for line in islice(file, _SNIFFED) if line.strip()]
    if max(map(len, (_cells(line, sep) for line in lines))) > 1 and (
        sep != "," or len({len(_cells(line, sep)) for line in lines}) == 1
    ):
        return
    for other, name in _OTHER_SEPARATORS.items():
        counts = {len(_cells(line, other)) for line in lines}
        if other == r"\s+" and not _has_numbers([_cells(line, other) for line in lines]):
            continue  # words of a text
        if other != sep and len(lines) > 1 and len(counts) == 1 and counts != {1}:
            names = {",": "commas", "\t": "tabs", r"\s+": "spaces", ";": "semicolons"}
            raise ValueError(
                f"Expected {names.get(sep, repr(sep))} between the columns but there are "
                f"{names.get(other, repr(other))}: set --data.sep {name}."
            )


def _has_numbers(rows: Sequence[list[str]]) -> bool:
    """Whether a column holds numbers in all rows but the first."""
    columns = zip(*rows[1:], strict=False)
    return any(all(map(is_number, column)) for column in columns)


def _cells(line: str, sep: str) -> list[str]:
    if sep == r"\s+":
        return line.split()
    return next(csv.reader([line], delimiter=sep, skipinitialspace=True), [])


# Rows


def _refuse_nul(path: Path) -> None:
    """Refuses a text with a NUL, which pandas takes for the end of a number."""
    lines = 1
    with path.open("rb") as file:
        while part := file.read(2**20):
            if (at := part.find(b"\0")) >= 0:
                raise ValueError(
                    f"Expected text but line {lines + part.count(bytes([10]), 0, at)} holds a NUL "
                    "byte: the file is damaged, or of another kind."
                )
            lines += part.count(b"\n")


def _typed(path: Path, layout: _Layout, **options: Any) -> DataFrame:
    """Reads the rows with one type for each column, and one column more than there are names."""
    import pandas as pd  # slow to import, and only needed here

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path,
                sep=layout.sep,
                skiprows=layout.skipped,
                header=None,
                names=[*layout.names, _EXTRA],
                index_col=False,  # never a column of the file
                low_memory=False,  # in pieces, a column would have several types
                float_precision="round_trip",
                keep_default_na=False,
                na_values=[""],
                skipinitialspace=True,
                dtype_backend="numpy_nullable",
                **options,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        _refuse_long_rows(path, layout)
        raise


def _refuse_long_rows(path: Path, layout: _Layout) -> None:
    """Refuses a row with more values than columns. One extra empty value at the end is allowed."""
    n = len(layout.names)
    for line, number, cells in _records(path, layout.sep):
        if number > layout.skipped and (len(cells) > n + 1 or any(cells[n:])):
            names = ", ".join(layout.names[:8]) + (", ..." if n > 8 else "")
            raise ValueError(
                f"Expected {n} values in each line, one for each column ({names}), but line "
                f"{line} has {len(cells)}. Add the missing column name, or remove the values."
            )


def _padded_columns(path: Path, layout: _Layout, frame: DataFrame) -> dict[str, Series]:
    """The columns of whole numbers that are written with leading zeros, as text."""
    from pandas.api.types import is_integer_dtype

    names = [name for name in frame.columns if is_integer_dtype(frame[name].dtype)]
    if not names or not _has_padded(path):
        return {}
    text = _typed(path, layout, dtype=dict.fromkeys(names, "string"))
    return {
        name: text[name]
        for name in names
        if any(isinstance(cell, str) and _PADDED.fullmatch(cell) for cell in text[name].unique())
    }


def _has_padded(path: Path) -> bool:
    """Whether a file may hold a number with leading zeros."""
    pattern, before = re.compile(rb"[^0-9.a-zA-Z:/_-][+-]?0[0-9]"), b"\n"
    with path.open("rb") as file:
        while part := file.read(2**22):
            if pattern.search(before + part):
                return True
            before = part[-4:]
    return False


# Columns


class _Notes:
    """The warnings about words for missing values.

    Arguments:
        marks: The words that mean a missing value in the file's columns of numbers.
    """

    def __init__(self, marks: Iterable[str]) -> None:
        self.marks = frozenset(marks)
        self.missing: dict[str, list[str]] = {}
        self.values: dict[str, list[str]] = {}

    def warn(self, padded: Sequence[str]) -> None:
        if self.missing:
            warnings.warn(
                f"Read as missing: {_by_word(self.missing)}. --data.na lists the words that mean "
                "a missing value; --data.na '' leaves only empty cells.",
                stacklevel=3,
            )
        if self.values:
            warnings.warn(
                f"Read as values, since they are frequent: {_by_word(self.values)}. --data.na "
                f"{','.join(self.values)} reads them as missing.",
                stacklevel=3,
            )
        if padded:
            warnings.warn(
                f"Read as text, since they have leading zeros: {', '.join(padded)}. "
                "In a table, --data.kinds.COLUMN numeric reads a column as numbers.",
                stacklevel=3,
            )


def _by_word(columns: dict[str, list[str]]) -> str:
    """Words, each with the columns that hold it."""
    return "; ".join(
        f"{word!r} in {', '.join(names[:5])}{' and others' if names[5:] else ''}"
        for word, names in columns.items()
    )


class _Cells:
    """The cells of a column, and whether they are numbers.

    Arguments:
        column: As pandas reads it.
        is_code: Whether its numbers have leading zeros.
        text: The format of the file.
    """

    def __init__(self, column: Series, is_code: bool, text: TextFormat) -> None:
        self.typed, self.na = column, text.missing
        self.known = (text.values or {}).get(str(column.name))
        self.words: Counter[str] = Counter()
        self.is_number = str(column.dtype) != "string"
        if self.is_number:
            return
        self.text = np.asarray(column.str.strip().astype(object).fillna(""), dtype=object)
        possible = _MISSING | (self.na or frozenset())
        self.is_word = np.asarray([cell in possible for cell in self.text], dtype=bool)
        self.words = Counter(self.text[self.is_word].tolist())
        self.is_missing = (self.text == "") | self.is_word
        rest = self.text[~self.is_missing]
        numbers = None if is_code or not len(rest) else _numbers(rest)
        if numbers is not None:
            self.is_number, self.typed = True, _with_gaps(numbers, self.is_missing)
        self.are_words = not are_quantities(set(rest))

    def column(self, notes: _Notes) -> Any:
        """The column in a type of NumPy's if no value is missing, else of pandas."""
        if self.is_number:
            return _as_plain(self.typed)
        filled = len(self.text) - int((self.text == "").sum())
        for word, times in self.words.items():
            if self.na is not None:
                is_value = word not in self.na
            elif self.known is not None:
                is_value = word in self.known
            else:
                is_frequent = times >= _FREQUENT * filled
                is_value = self.are_words and word not in notes.marks and is_frequent
                columns = notes.values if is_value else notes.missing
                columns.setdefault(word, []).append(str(self.typed.name))
            if is_value:
                self.is_missing &= self.text != word
        return np.where(self.is_missing, np.nan, self.text)


def _as_plain(column: Any) -> Any:
    """A column of numbers in the type of NumPy, but for whole numbers and bools with gaps."""
    kind = getattr(column.dtype, "numpy_dtype", None)
    if kind is None:
        return column
    if kind.kind == "f":
        return column.to_numpy(np.float64, na_value=np.nan)
    from pandas import isna

    return column if isna(column).any() else column.to_numpy(kind)


def _numbers(cells: np.ndarray) -> Any:
    """Returns text as booleans or numbers, None if it is neither or has leading zeros."""
    texts = set(cells)
    if all(text.lower() in _BOOLS for text in texts):
        return np.asarray([_BOOLS[cell.lower()] for cell in cells])
    if any(_PADDED.fullmatch(text) for text in texts) or not all(map(is_number, texts)):
        return None
    if not all(map(_WHOLE.fullmatch, texts)):
        return cells.astype(np.float64)
    low, high = (end(int(text) for text in texts) for end in (min, max))
    if low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
        return None
    kind = np.uint64 if high >= 2**63 else np.int64
    return np.asarray([int(cell) for cell in cells], dtype=kind)


def _with_gaps(numbers: np.ndarray, missing: np.ndarray) -> Any:
    """Numbers with missing values between them."""
    import pandas as pd

    if not missing.any():
        return numbers
    if numbers.dtype.kind == "f":
        column = np.full(len(missing), np.nan)
        column[~missing] = numbers
        return column
    values = np.zeros(len(missing), numbers.dtype)
    values[~missing] = numbers
    is_bool = numbers.dtype.kind == "b"
    return (pd.arrays.BooleanArray if is_bool else pd.arrays.IntegerArray)(values, missing)
