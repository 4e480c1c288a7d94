"""Frames of columns from files: csv, tsv and parquet."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


def frame_of(source: Any) -> DataFrame:
    """A frame of pandas, from a file or from a frame of pandas or polars.

    Raises:
        ValueError: If it is neither; as `read_frame`.
    """
    import pandas as pd

    if isinstance(source, str | Path):
        frame = read_frame(source)
    elif hasattr(source, "to_pandas"):
        frame = source.to_pandas()
    elif isinstance(source, pd.DataFrame):
        frame = source
    else:
        raise ValueError(f"Expected a file or a frame but got a {type(source).__name__}.")
    return frame.rename(columns=str)


def read_frame(path: str | Path, **how: Any) -> DataFrame:
    """Reads a frame from a `.csv`, `.tsv` or `.parquet` file.

    Arguments:
        how: What else pandas' `read_csv` is told, such as `index_col`; of parquet nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another type, is empty or damaged, or wants a package that is
            not installed.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"Expected a file of {', '.join(_READERS)} but got {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file {path} but there is none.")
    if path.suffix.lower() == ".parquet":
        _refuse_without_pyarrow(path)
    try:
        frame = reader(path, how)
    except Exception as error:
        raise ValueError(f"{path} could not be read: {_line(error)}") from error
    if not len(frame):
        raise ValueError(f"Expected rows in {path} but it holds none.")
    if len(frame.columns) == 1 and re.search(r"[;\t|]", str(frame.columns[0])):
        raise ValueError(
            f"Expected commas between the columns of {path} but its first line is "
            f"{str(frame.columns[0])[:60]!r}: read it with pandas.read_csv(..., sep=...) and save "
            "it with to_csv, or name a .tsv file that has tabs."
        )
    return frame


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
        frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=index)
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


def _read_text(separator: str) -> Callable[[Path, dict[str, Any]], DataFrame]:
    def read(path: Path, how: dict[str, Any]) -> DataFrame:
        import pandas as pd  # slow to import, and only needed here

        frame = pd.read_csv(path, sep=separator, **how)
        _refuse_nul(path)
        return frame

    return read


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


def _read_parquet(path: Path, how: dict[str, Any]) -> DataFrame:
    import pandas as pd

    return pd.read_parquet(path, engine="pyarrow")


_READERS: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    ".csv": _read_text(","),
    ".tsv": _read_text("\t"),
    ".parquet": _read_parquet,
}

FRAMES = tuple(_READERS)
"""The suffixes of files that hold frames."""
