"""Checkpoints: what is written beside the weights, and how a model is made of it again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import IO, Any

from torch import nn

from vaekit.model.model import Model
from vaekit.registry import specs
from vaekit.registry.plugins import RegistryError, find
from vaekit.registry.plugins import load as load_plugin
from vaekit.storage.files import CheckpointError, read

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


def data_of(checkpoint: Mapping[str, Any]) -> Any:
    """The spec of a checkpoint's data; of data that were in memory, of a module that knows their
    form alone, and has no rows; None where there is neither."""
    stored = checkpoint["vaekit"]
    owner = (stored["model"]["data"].get("schema") or {}).get("of")
    if stored["data"] is not None or owner is None:
        return stored["data"]
    with suppress(RegistryError):
        first = next(iter(specs.arguments(load_plugin(find("data", str(owner))))))
        return {"class_path": owner, "init_args": {first: ""}}
    return None


_FORM: dict[str, Any] = {
    "vaekit": Mapping,
    "vaekit.model": Mapping,
    "vaekit.training": Mapping,
    "vaekit.packages": Mapping,
    "vaekit.started": bool,
    "vaekit.data": (Mapping, NoneType),
    "state_dict": Mapping,
}
_FORM_TO_GO_ON: dict[str, Any] = {
    "callbacks": Mapping,
    "loops.fit_loop": Mapping,
    "optimizer_states.0": Mapping,
    "lr_schedulers": list,
    "run.ranks.0": Mapping,
    "run.rows": int,
    "run.skipped": int,
}


def read_checkpoint(path: str | Path | IO[bytes], on: bool = False) -> dict[str, Any]:
    """A checkpoint of vaekit, as `storage.files.read`.

    Arguments:
        on: For a fit to go on from.

    Raises:
        CheckpointError: If it is none, or damaged; a ValueError.
        FileNotFoundError: If there is no such file.
    """
    checkpoint = read(path)
    what = f"{path}: " if isinstance(path, str | Path) else ""
    held = checkpoint.get("vaekit")
    if isinstance(held, Mapping) and "prior" in held:
        raise CheckpointError(
            f"{what}Expected a checkpoint of a model but this is a prior that was fitted to one's "
            "codes: name that model's with --ckpt_path, and this with --prior."
        )
    for place, kind in {**_FORM, **(_FORM_TO_GO_ON if on else {})}.items():
        value: Any = checkpoint
        for key in place.split("."):
            if isinstance(value, list) and value and key == "0":
                value = value[0]
            else:
                value = value.get(key, ...) if isinstance(value, Mapping) else ...
        if not isinstance(value, kind):
            raise CheckpointError(
                f"{what}Expected a checkpoint of a VAEModule but its {place} is "
                f"{'missing' if value is ... else f'a {type(value).__name__}'}."
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
    except (TypeError, AttributeError, KeyError, IndexError) as error:  # of another version, say
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
    return restored(checkpoint, **instances).eval().to(device or "cpu")


def restored(checkpoint: Mapping[str, Any], **instances: Any) -> Model:
    """The model of a checkpoint that was read, with its weights; errors as for `load`."""
    model = rebuild(checkpoint, **instances)
    state = checkpoint["state_dict"].items()
    fill(model, {k.removeprefix(_PREFIX): v for k, v in state if k.startswith(_PREFIX)})
    return model


def fill(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads weights.

    Raises:
        CheckpointError: If they are another module's.
    """
    try:
        own = module.state_dict()
        for name in own.keys() & state.keys():
            if own[name].is_floating_point() != state[name].is_floating_point():
                raise TypeError(f"{name} is of {state[name].dtype}")
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"Expected weights of the checkpoint's model but {said[:300]}"
        ) from error
    for name, p in module.named_parameters():
        if bool(p.isnan().any()):
            raise CheckpointError(f"Expected weights that are numbers but {name} has NaN.")


def missing(error: RegistryError, packages: Mapping[str, str]) -> str:
    """What an error about a part's name says where a checkpoint knows the package it came from."""
    for part, package in ((k, str(v)) for k, v in packages.items()):
        _, _, name = part.partition(" ")  # of a part in another the error knows no kind
        if f"There is no {part}" in str(error) or f"There is no part {name}" in str(error):
            if package.startswith("this process, the module "):
                module = package.rpartition(" ")[2]
                return f"{error} {module} registered it: import that first (--import {module})."
            return f"{error} It was written with {package}: install that package."
    return str(error)
