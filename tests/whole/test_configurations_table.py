"""docs/configurations.md says of each configuration what its file says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml

from conftest import ROOT
from vaekit.registry import plugins

PAGE = (ROOT / "docs/configurations.md").read_text()
ROWS = {
    cells[1].strip(" `"): cells[4]
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := line.split("|")) == 6
}
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs").glob("*.yaml")}
MODELS = sorted(name for name, file in FILES.items() if "model" in file)


def settings(file: dict[str, Any]) -> dict[str, Any]:
    """What a file says of the model, and the data module as `data`."""
    return {**file.get("model", {}), **({"data": file["data"]} if "data" in file else {})}


def spec_of(value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    return value["class_path"], value.get("init_args", {})


def default_of(name: str, argument: str) -> Any:
    torch_class = getattr(torch.optim, name, None)
    cls: Any = torch_class or plugins.load(plugins.find_any(name))
    for base in cls.__mro__:  # a class may pass **kwargs to its base
        parameters = inspect.signature(base.__init__).parameters
        if argument in parameters:
            return parameters[argument].default
    raise AssertionError(f"{name} has no argument {argument}")


def value_of(everything: dict[str, Any], key: str) -> Any:
    """The value of `kind.argument.argument`; of a part the name."""
    kind, *path = key.split(".")
    value = everything[kind]
    for argument in path:
        name, init_args = spec_of(value)
        value = init_args[argument] if argument in init_args else default_of(name, argument)
    return value["class_path"] if isinstance(value, dict) else value


def keys_of(value: Any, key: str) -> Iterator[str]:
    """The keys of a part that a file names, and of its arguments."""
    if not isinstance(value, dict):
        yield key
        return
    for argument, inner in value.get("init_args", {}).items():
        yield from keys_of(inner, f"{key}.{argument}")


def pairs(name: str) -> dict[str, Any]:
    found = [item.partition(": ") for item in re.findall(r"`([^`]+)`", ROWS[name])]
    return {key: yaml.safe_load(value) for key, _, value in found}


def test_every_configuration_of_a_model_has_a_row() -> None:
    assert sorted(ROWS) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_a_row_says_what_the_file_says(name: str) -> None:
    everything = {**settings(FILES["digits"]), **settings(FILES[name])}
    told = pairs(name)
    assert told
    for key, value in told.items():
        found = value_of(everything, key)
        assert (list(found) if isinstance(found, tuple) else found) == value, key


@pytest.mark.parametrize("name", [name for name in MODELS if name != "digits"])
def test_a_row_leaves_out_no_hyperparameter_of_the_file(name: str) -> None:
    told = pairs(name)
    for kind, value in settings(FILES[name]).items():
        if kind in ("lr_scheduler", "lr_interval") or (kind == "data" and isinstance(value, str)):
            continue
        for key in keys_of(value, kind):
            plain_vae = value in ("DiagonalNormal", "StandardNormal")
            assert key in told or plain_vae, key
