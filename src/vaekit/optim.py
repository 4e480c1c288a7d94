"""Optimizers and schedulers of torch, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch.optim import lr_scheduler

from vaekit.plugins import RegistryError, as_spec

__all__ = ["make", "torch_spec"]


def torch_spec(value: str | Mapping[str, Any], module: str) -> dict[str, Any]:
    """The spec of an optimizer or a scheduler, by its full path.

    Raises:
        RegistryError: If the module of torch has no such class.
    """
    spec = as_spec(value)
    prefix, _, name = spec["class_path"].rpartition(".")
    home, base = _TORCH[module]
    found = getattr(home, name, None)
    if prefix not in ("", module) or not (isinstance(found, type) and issubclass(found, base)):
        raise RegistryError(f"Expected a class of {module} but got {spec['class_path']!r}.")
    return {"class_path": f"{module}.{name}", "init_args": spec["init_args"]}


_TORCH: dict[str, tuple[ModuleType, type]] = {
    "torch.optim": (torch.optim, torch.optim.Optimizer),
    "torch.optim.lr_scheduler": (lr_scheduler, lr_scheduler.LRScheduler),
}


def make(spec: Mapping[str, Any], first: Any) -> Any:
    """The optimizer of parameters, or the scheduler of an optimizer.

    Raises:
        RegistryError: If it refuses its arguments.
    """
    module, _, name = spec["class_path"].rpartition(".")
    try:
        return getattr(_TORCH[module][0], name)(first, **spec["init_args"])
    except (TypeError, ValueError) as error:
        raise RegistryError(f"{spec['class_path']}: {error}") from error
