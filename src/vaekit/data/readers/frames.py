"""Frames of columns from files: csv, tsv and parquet."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.readers.text import TextFormat, is_number, read_text

if TYPE_CHECKING:
    from pandas import DataFrame

_SEPARATORS = {".csv": ",", ".tsv": "\t"}

FRAMES = (*_SEPARATORS, ".parquet")
"""The suffixes of files that hold frames."""


def frame_of(source: Any, text: TextFormat = TextFormat()) -> DataFrame:  # noqa: B008 - frozen
    """Returns a frame of pandas, from a file or from a frame of pandas or polars.

    Each column gets one type of pandas: columns of Arrow types and of decimals are converted, and
    in a column of numbers and texts all values are text.

    Raises:
        ValueError: If the source is neither, or a column holds complex numbers; as `read_frame`.
    """
    import pandas as pd

    if isinstance(source, str | Path):
        return read_frame(source, text)
    if hasattr(source, "to_pandas"):
        frame = source.to_pandas()
    elif isinstance(source, pd.DataFrame):
        frame = source
    else:
        raise ValueError(f"Expected a file or a frame but got a {type(source).__name__}.")
    return _plain(frame, text)


def read_frame(path: str | Path, text: TextFormat = TextFormat()) -> DataFrame:  # noqa: B008
    """Reads a frame from a `.csv`, `.tsv` or `.parquet` file.

    Arguments:
        text: The format of a text file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another type, is empty or damaged, or wants a package that is
            not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FRAMES:
        raise ValueError(f"Expected a file of {', '.join(FRAMES)} but got {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file {path} but there is none.")
    if suffix == ".parquet":
        _refuse_without_pyarrow(path)
    try:
        frame = (
            _read_parquet(path)
            if suffix == ".parquet"
            else read_text(path, text.with_separator(_SEPARATORS[suffix]))
        )
    except Exception as error:
        raise ValueError(f"{path} could not be read: {_line(error)}") from error
    if not len(frame):
        raise ValueError(f"Expected rows in {path} but it holds none.")
    return _plain(frame, text)


def write_frame(frame: DataFrame, path: Path, index: bool = False) -> Path:
    """Writes a frame in the form that the path's suffix names, and returns the path.

    Where `.parquet` is named and pyarrow is not installed, it is `.csv`.

    Arguments:
        index: Whether the frame's index is written too, as the first column of text files.
    """
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        path = path.with_suffix(".csv")
    if path.suffix == ".parquet":
        frame.to_parquet(path, engine="pyarrow", index=index)
    else:
        frame.to_csv(path, sep=_SEPARATORS.get(path.suffix, ","), index=index)
    return path


def _refuse_without_pyarrow(path: Path) -> None:
    if find_spec("pyarrow") is None:
        raise ValueError(
            f"Expected pyarrow, to read {path}, but it is not installed: "
            "pip install 'vaekit[parquet]', or save the data as csv."
        )


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__


def _read_parquet(path: Path) -> DataFrame:
    import pandas as pd  # slow to import, and only needed here

    return pd.read_parquet(path, engine="pyarrow")


def _plain(frame: DataFrame, text: TextFormat) -> DataFrame:
    """Returns a frame with one type of pandas for each column, and text as names.

    Raises:
        ValueError: If a column holds complex numbers.
    """
    import pandas as pd

    if isinstance(frame.index, pd.MultiIndex):
        frame = frame.reset_index()
    if frame.columns.nlevels > 1:
        frame = frame.set_axis(["_".join(map(str, name)) for name in frame.columns], axis=1)
    frame = frame.rename(columns=str)
    changed: dict[int, Any] = {}
    for at, kind in enumerate(frame.dtypes):
        if isinstance(kind, np.dtype) and kind.kind in "biufMm" and not text.missing:
            continue
        column = _plain_column(frame.iloc[:, at])
        changed[at] = _with_missing(column, text.missing) if text.missing else column
    if not changed:
        return frame
    columns = [changed.get(at, frame.iloc[:, at]) for at in range(len(frame.columns))]
    return pd.concat(columns, axis=1)


def _plain_column(column: Any) -> Any:
    import pandas as pd

    kind = column.dtype
    if isinstance(kind, getattr(pd, "ArrowDtype", ())):
        return _from_arrow(column, kind)
    if kind.kind != "O" or isinstance(kind, pd.CategoricalDtype | pd.PeriodDtype):
        content = kind.kind
    else:
        content = pd.api.types.infer_dtype(column, skipna=True)
    if content in ("c", "complex"):
        raise ValueError(
            f"Expected real numbers in the column {column.name} but it holds complex numbers: "
            "give their real and imaginary parts as two columns."
        )
    if content == "decimal":
        return column.astype(np.float64)
    if content == "date":
        days = np.asarray(column.where(column.notna(), None), dtype="datetime64[s]")
        return pd.Series(days, column.index, name=column.name)
    if content in ("integer", "floating", "mixed-integer-float"):
        numbers = column.convert_dtypes(dtype_backend="numpy_nullable")
        is_float = str(numbers.dtype).startswith("Float")
        return numbers.astype(np.float64) if is_float else numbers
    if content in ("mixed", "mixed-integer") and _are_scalars(column):
        return column.where(column.isna(), column.astype(str))
    return column


def _are_scalars(column: Any) -> bool:
    values = column.dropna()
    return all(isinstance(value, str | int | float) for value in values) and any(
        isinstance(value, str) for value in values
    )


def _with_missing(column: Any, words: Collection[str]) -> Any:
    """Returns a column in which these words or numbers are missing."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    values: list[Any] = list(words)
    if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        values = [float(word) for word in words if is_number(word)]
    missing = column.isin(values)
    if not missing.any():
        return column
    is_integer = column.dtype.kind in "iu"
    return (column.astype("Int64") if is_integer else column).mask(missing)


def _from_arrow(column: Any, kind: Any) -> Any:
    """Converts a column of an Arrow type to the type that pandas has for its values."""
    import pandas as pd

    if str(kind).startswith("dictionary"):
        return column.astype("category")
    if kind.kind == "M":
        if getattr(kind.pyarrow_dtype, "tz", None) is not None:
            return pd.to_datetime(column.astype(object))
        unit = getattr(kind.pyarrow_dtype, "unit", "s")
        return column.astype(f"datetime64[{unit}]")
    if kind.kind in "iufb":
        if not column.isna().any():
            return column.astype(kind.numpy_dtype)
        return column.convert_dtypes(dtype_backend="numpy_nullable")
    if str(kind).startswith("decimal"):
        return column.astype(np.float64)
    plain = column.astype(object)
    return plain.where(column.notna(), None)
