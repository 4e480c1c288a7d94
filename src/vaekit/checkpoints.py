"""Checkpoints: what is written beside the weights, and how a model is made of it again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from vaekit import specs, storage
from vaekit.model import Model
from vaekit.plugins import RegistryError

__all__ = ["describe", "load", "missing", "read_checkpoint", "rebuild"]

_PREFIX = "model."  # of the model's weights among those of the LightningModule


def describe(model: Model, training: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """What a checkpoint holds beside Lightning's own: plain data, from which all is made again.

    Arguments:
        training: The LightningModule's own arguments.
        data: The data module, if there is one.
    """
    named = {kind: part for kind, part in model.parts.items() if kind not in model.instances}
    stored = _data_spec(data)
    return {
        "model": model.spec,
        "started": model.started,
        "training": dict(training),
        "data": stored,
        "packages": specs.provenance({**named, "data": stored} if stored else named),
    }


def _data_spec(data: Any) -> Any:
    """The data module as plain data; None if it is not registered or was made of tensors."""
    spec = getattr(data, "spec", None)
    with suppress(RegistryError):
        return spec and specs.resolve("data", spec)
    return None


def read_checkpoint(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """A checkpoint of vaekit, as `storage.read`.

    Raises:
        CheckpointError: If it is none, or damaged; a ValueError.
        FileNotFoundError: If there is no such file.
    """
    checkpoint = storage.read(path)
    if not isinstance(checkpoint.get("vaekit"), Mapping):
        what = f"{path}: " if isinstance(path, str | Path) else ""
        raise storage.CheckpointError(
            f"{what}Expected a checkpoint of a VAEModule but it is none."
        )
    return checkpoint


def rebuild(checkpoint: Mapping[str, Any], **instances: Any) -> Model:
    """The model of a checkpoint that was read, without its weights; errors as for `load`."""
    stored = checkpoint["vaekit"]
    arguments = {**stored["model"], **instances}
    for name, value in arguments.items():
        if isinstance(value, Mapping) and "instance" in value:
            raise ValueError(
                f"The checkpoint was made around an instance of {value['instance']}: pass that "
                f"module again, as load(path, {name}=...)."
            )
    try:
        model = Model(**arguments)
    except RegistryError as error:
        raise RegistryError(missing(error, stored["packages"])) from error
    except TypeError as error:  # of another version, say
        raise ValueError(
            f"The checkpoint's description of its model is no Model's: {error}"
        ) from error
    model.started = stored["started"]
    return model


def load(path: str | Path | IO[bytes], device: Any = "cpu", **instances: Any) -> Model:
    """The model of a checkpoint, with its weights; only tensors and plain data are read.

    Arguments:
        path: The file, or an address that fsspec knows.
        device: Where its tensors go.
        instances: The parts that were given as modules, by kind.

    Raises:
        RegistryError: If a part is not installed; the package that it came from is named.
        ValueError: If the file is no checkpoint of vaekit, or an instance is missing.
    """
    checkpoint = read_checkpoint(path)
    model = rebuild(checkpoint, **instances)
    state = checkpoint["state_dict"].items()
    model.load_state_dict({k.removeprefix(_PREFIX): v for k, v in state if k.startswith(_PREFIX)})
    return model.eval().to(device or "cpu")


def missing(error: RegistryError, packages: Mapping[str, str]) -> str:
    """What an error about a part's name says where a checkpoint knows the package it came from."""
    for part, package in packages.items():
        _, _, name = part.partition(" ")  # of a part in another the error knows no kind
        if f"There is no {part}" in str(error) or f"There is no part {name}" in str(error):
            if package.startswith("this process, the module "):
                module = package.rpartition(" ")[2]
                return f"{error} {module} registered it: import that first (--import {module})."
            return f"{error} It was written with {package}: install that package."
    return str(error)
