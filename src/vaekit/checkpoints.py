"""Checkpoints: read safely, and what they say of the packages they need."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import fsspec
import torch

from vaekit.plugins import RegistryError

__all__ = ["missing", "read_checkpoint"]


def read_checkpoint(path: str | Path | IO[bytes], map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint of vaekit: tensors and plain data, read with `weights_only`.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(path, str | Path):
        with fsspec.open(str(path), "rb") as file:
            return read_checkpoint(file, map_location)
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            "Expected a checkpoint of tensors and plain data alone, but the file is damaged, or "
            f"none, or holds something else: {str(error).splitlines()[0]}"
        ) from error
    if not (isinstance(checkpoint, dict) and "vaekit" in checkpoint):
        raise ValueError(f"Expected a checkpoint of a VAEModule but {path} is none.")
    return checkpoint


def missing(error: RegistryError, packages: Mapping[str, str]) -> str:
    """What an error about a part's name says where a checkpoint knows the package it came from."""
    for part, package in packages.items():
        if f"There is no {part}" in str(error):
            if package.startswith("this process"):
                return f"{error} It was registered in the process that wrote the checkpoint."
            return f"{error} The checkpoint was written with {package}: install that package."
    return str(error)
