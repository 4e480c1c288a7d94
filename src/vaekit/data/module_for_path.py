"""Selects the data module that reads a file or a folder."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

_BY_SUFFIX = {
    **dict.fromkeys((".csv", ".tsv", ".parquet"), "Table"),
    ".h5ad": "Counts",
    **dict.fromkeys((".npy", ".npz", ".pt"), "Arrays"),
}
_CONVERSIONS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"), "read_excel({path!r})"),
    **dict.fromkeys((".txt", ".dat"), "read_csv({path!r}, sep=None, engine='python')"),
    ".data": "read_csv({path!r}, sep=None, engine='python', header=None)",
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "read_json({path!r})"),
    ".feather": "read_feather({path!r})",
    ".orc": "read_orc({path!r})",
    ".dta": "read_stata({path!r})",
    ".sav": "read_spss({path!r})",
    ".sas7bdat": "read_sas({path!r})",
}
"""The function of pandas that reads a type of file which no data module reads."""

_SAVED = ("dataset_info.json", "dataset_dict.json")
"""What a data set of the package datasets is saved with."""


def module_for(path: Path) -> tuple[str, str]:
    """The name of the data module that reads a file or a folder, and its argument for the path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If none does.
    """
    if path.is_dir():  # not listed here: it may hold a million files, and is listed once
        saved = any((path / name).is_file() for name in _SAVED)
        return "HuggingFace" if saved else "ImageFolder", "path"
    if not path.exists():
        raise FileNotFoundError(f"Expected a file or a folder with data but there is no {path}.")
    name = _BY_SUFFIX.get(path.suffix.lower())
    if name is None:
        raise ValueError(
            f"Expected a file of {', '.join(_BY_SUFFIX)} or a folder of images but got {path}: "
            f"{conversion(path)}"
        )
    if path.suffix.lower() == ".npz":
        names = _names_in(path)
        if {"indices", "indptr", "data"} <= names:
            name = "Counts"
        elif "lengths" in names:
            name = "Sequences"
    return name, "x" if name == "Arrays" else "path"


def conversion(path: Path) -> str:
    """Returns a sentence on how to read a file whose type no data module is known to read."""
    suffixes = "".join(path.suffixes[-2:]).lower()
    reader = _CONVERSIONS.get(path.suffix.lower())
    if reader is not None:
        lines = ", lines=True" if path.suffix.lower() in (".jsonl", ".ndjson") else ""
        call = reader.format(path=path.name).removesuffix(")") + f"{lines})"
        return f"convert it with pandas.{call}.to_csv({path.stem + '.csv'!r}, index=False)."
    if path.suffix.lower() == ".mat":
        call = f"scipy.io.loadmat({path.name!r})['NAME']"
        return f"convert an array with numpy.save({path.stem + '.npy'!r}, {call}), rows first."
    if suffixes.endswith((".mtx", ".mtx.gz")):
        call = f"scipy.sparse.csr_matrix(scipy.io.mmread({path.name!r}))"
        return f"convert it with scipy.sparse.save_npz('{path.name.split('.')[0]}.npz', {call})."
    if path.suffix.lower() in (".gz", ".zip", ".bz2", ".xz", ".zst"):
        return "decompress it first."
    return "convert it to one of these, or name the data module that reads it with --data."


def _names_in(path: Path) -> set[str]:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}
    return set()
