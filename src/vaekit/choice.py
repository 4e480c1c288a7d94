"""What is chosen for a user's own data: the data module that reads a file, and parts that fit."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from math import ceil, inf, log2
from pathlib import Path
from typing import Any

from vaekit.batch import DataInfo
from vaekit.data.base import DataModule

__all__ = ["data_named", "epochs_for", "module_for", "parts_for", "with_data"]

_BY_SUFFIX = {
    **dict.fromkeys((".csv", ".tsv", ".parquet"), "Table"),
    ".h5ad": "Counts",
    **dict.fromkeys((".npy", ".npz", ".pt"), "Arrays"),
}
_SAVED = ("dataset_info.json", "dataset_dict.json")
"""What a data set of the package datasets is saved with."""

_STEPS, _FEWEST, _MOST = 10_000, 10, 300
"""Of a fit: about so many steps, within so many epochs."""


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


def data_named(words: list[str]) -> str | None:
    """The path that `--data.path` names where `--data` names no module."""
    if any(word == "--data" or word.startswith("--data=") for word in words):
        return None
    found = None
    for at, word in enumerate(words):
        if word == "--data.path":
            found = words[at + 1] if at + 1 < len(words) else None
        elif word.startswith("--data.path="):
            found = word.partition("=")[2]
    return found


def with_data(args: list[str], path: str) -> list[str]:
    """The words of a command line with the data module for a path named before its arguments."""
    name, argument = module_for(Path(path))
    left, skip = [], False
    for word in args:
        if skip or word.startswith("--data.path="):
            skip = False
        elif word == "--data.path":
            skip = True
        else:
            left.append(word)
    at = next((i for i, w in enumerate(left) if w.startswith("--data.")), len(left))
    return [*left[:at], "--data", name, f"--data.{argument}", path, *left[at:]]


# Parts


def parts_for(data: DataModule) -> dict[str, Any]:
    """Parts that fit data, for the arguments of `Model`: likelihood, encoder, decoder, and z.

    Example:
        >>> from vaekit import Model, data
        >>> digits = data.Digits()
        >>> parts_for(digits)["likelihood"]
        'Bernoulli'
        >>> model = Model(digits, **parts_for(digits))
    """
    info = data.info
    names = {
        name: _likelihood(entry, _kind(entry, data.kinds.get(name, "")), data)
        for name, entry in info.entries().items()
    }
    if not isinstance(info.event_shape, dict):
        encoder, decoder, latents = _networks(info, _kind(info, data.kinds.get("x", "")))
        found = {"likelihood": names["x"], "encoder": encoder, "decoder": decoder}
        return {**found, "latent_shape": latents}
    size = sum(entry.event_shape[0] for entry in info.entries().values())
    return {
        "likelihood": _spec("Mixed", columns=names),
        "encoder": _spec("EmbeddingEncoder", hidden=[256, 256]),
        "decoder": _spec("MLPDecoder", hidden=[256, 256]),
        "latent_shape": max(2, min(16, size)),
    }


def _spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


def _kind(info: DataInfo, known: str) -> str:
    """What the values of an entry are, where the data module does not say it."""
    if known:
        return known
    if info.levels == 2:
        return "binary"
    shape = info.event_shape
    sides = shape[-2:] if len(shape) in (2, 3) else ()
    return "image" if sides and min(sides) >= 8 else "numeric"


def _likelihood(info: DataInfo, kind: str, data: DataModule) -> Any:
    if kind == "count":
        own = {"library": 0} if getattr(data, "library", False) else {}
        return _spec("NegativeBinomial", **own)
    if info.levels == 2:
        return "Bernoulli"
    if isinstance(info.levels, int) and kind in ("category", "sequence"):
        return "Categorical"
    if kind == "image" and isinstance(info.levels, int):
        return "DiscretizedLogistic"
    return _spec("Gaussian", scale="learned" if kind == "image" else "elementwise")


def _networks(info: DataInfo, kind: str) -> tuple[Any, Any, int]:
    shape = info.event_shape
    assert isinstance(shape, tuple)
    if kind == "sequence":
        if len(shape) == 1:
            return _spec("GRUEncoder", tokens=True), "GRUDecoder", 16
        return "Conv1dEncoder", "Conv1dDecoder", 16
    if len(shape) in (2, 3) and min(shape[-2:]) >= 8:
        halvings = max(1, min(4, int(log2(min(shape[-2:]) / 4))))
        channels = [32, 64, 128, 256][:halvings]
        return _spec("ConvEncoder", channels=channels), _spec("ConvDecoder", channels=channels), 32
    return _spec("MLPEncoder", hidden=[256]), _spec("MLPDecoder", hidden=[256]), 16


def epochs_for(data: DataModule) -> int:
    """For how many epochs a fit trains where a user does not say it."""
    steps = ceil((data.info.data_size or inf) / data.batch_size)
    return max(_FEWEST, min(_MOST, ceil(_STEPS / steps)))
