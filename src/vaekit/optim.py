"""Optimizers and schedulers of torch, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vaekit.plugins import RegistryError, as_spec

__all__ = ["make", "torch_spec"]


def torch_spec(value: str | Mapping[str, Any], module: str) -> dict[str, Any]:
    """The spec of a class in a module of torch, checked."""
    spec = as_spec(value)
    prefix, _, name = spec["class_path"].rpartition(".")
    found = getattr(_TORCH[module], name, None)
    if prefix not in ("", module) or not isinstance(found, type):
        raise RegistryError(f"Expected a class of {module} but got {spec['class_path']!r}.")
    return {"class_path": f"{module}.{name}", "init_args": spec["init_args"]}


_TORCH = {"torch.optim": torch.optim, "torch.optim.lr_scheduler": torch.optim.lr_scheduler}


def make(spec: Mapping[str, Any], first: Any) -> Any:
    module, _, name = spec["class_path"].rpartition(".")
    try:
        return getattr(_TORCH[module], name)(first, **spec["init_args"])
    except (TypeError, ValueError) as error:
        raise RegistryError(f"{spec['class_path']}: {error}") from error
