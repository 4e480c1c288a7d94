"""Lazy public names: an `__init__` that imports a module when one of its names is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from vaekit.registry.moved import missing_name


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and the `__dir__` of a package.

    Arguments:
        package: The full name of the package.
        homes: Public name -> module that defines it; for a submodule, its own path.
    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is not None:
            module = import_module(home)
            return module if home == f"{package}.{name}" else getattr(module, name)
        raise AttributeError(missing_name(package, name))

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return get, names
