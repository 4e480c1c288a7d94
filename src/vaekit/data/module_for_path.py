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
            "--data says what else it is (vaekit plugins lists what there is)."
        )
    if path.suffix.lower() == ".npz":
        names = _names_in(path)
        if {"indices", "indptr", "data"} <= names:
            name = "Counts"
        elif "lengths" in names:
            name = "Sequences"
    return name, "x" if name == "Arrays" else "path"


def _names_in(path: Path) -> set[str]:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}
    return set()
