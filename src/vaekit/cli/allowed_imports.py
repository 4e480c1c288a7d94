"""What a command line, a configuration, a variable or a checkpoint can make vaekit import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import _common, set_parsing_settings

from vaekit.registry.plugins import Plugin, line_in

_OPEN = (
    "vaekit.callbacks",
    "vaekit.loggers",
    "torch.optim",
    *(
        f"lightning.pytorch.{name}"
        for name in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
    ),
    "lightning.fabric.plugins",
)
"""Where a class may lie that a configuration names, beside the registered parts."""

_trusted: set[str] = set()
"""The packages that the user named on the command line."""


class _Here(MetaPathFinder):
    """Finds in the working folder what the user named, and nothing else that lies there.

    It is asked last: nothing in the folder takes the place of a package.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        tops = {package.partition(".")[0] for package in _trusted}
        return PathFinder.find_spec(name, [os.getcwd()]) if name in tops else None


@contextmanager
def limited(packages: Iterable[str] = ()) -> Iterator[None]:
    """Lets jsonargparse import nothing but what is open, registered, or named by the user."""
    before, finder = dict(_common.parsing_settings), _Here()
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=list(_OPEN),
        instantiate_subclass_spec_in_any=False,
    )
    sys.meta_path.append(finder)
    try:
        _trust(packages)
        for package in packages:
            if find_spec(package.partition(".")[0]) is None:
                raise SystemExit(
                    f"vaekit: error: --allow-import: there is no package {package}, neither "
                    "installed nor in this folder"
                )
        yield
    finally:
        sys.meta_path.remove(finder)
        _common.parsing_settings.update(before)
        _trusted.clear()


def _trust(packages: Iterable[str]) -> None:
    new = [name for name in packages if _is_path(name)]
    _trusted.update(new)
    set_parsing_settings(import_path_allowlist=new)


def is_open(path: str) -> bool:
    """Returns whether a configuration may name a class that is not a registered part."""
    return trusted(path) or any(path.startswith(f"{module}.") for module in _OPEN)


def allow(plugin: Plugin, cls: type) -> None:
    """Lets a configuration name the class of a registered part."""
    paths = (plugin.path, f"{cls.__module__}.{cls.__qualname__}")
    set_parsing_settings(import_path_allowlist=[path for path in paths if _is_path(path)])


def _is_path(name: str) -> bool:
    """Whether it has the form of an import path."""
    return all(part.isidentifier() for part in name.split("."))


def trusted(path: str) -> bool:
    """Whether a configuration may name a module, as one of a package that the user named."""
    return any(path == name or path.startswith(f"{name}.") for name in _trusted)


def refused(path: str) -> str:
    """What is said of a path that may not be imported."""
    package = path.partition(".")[0]
    return (
        f"{path} is no registered part, nor Lightning's or torch.optim's, and is not imported. If "
        f"you trust the package {package}, say so on the command line: --allow-import {package}"
    )


# The command line


def words(args: Iterable[str]) -> list[str]:
    """Options and values, one by one, also of --option=value."""
    return [word for arg in args for word in (arg.split("=", 1) if arg[:1] == "-" else [arg])]


def split_off(args: list[str]) -> tuple[list[str], list[str], bool]:
    """The arguments without `--allow-import` and `--debug`, the packages named, and whether the
    traceback of an error is wanted. No configuration and no variable can say either."""
    rest: list[str] = []
    packages: list[str] = []
    given = iter(args)
    for arg in given:
        option, _, value = arg.partition("=")
        if option == "--allow-import":
            package = value or next(given, "")
            if not _is_path(package):
                raise SystemExit(
                    "vaekit: error: --allow-import: expected the name of a package but got "
                    f"{package!r}"
                )
            packages.append(package)
        elif arg != "--debug":
            rest.append(arg)
    return rest, packages, "--debug" in args


def import_named(args: Iterable[str]) -> None:
    """Imports what `--import` names, before anything is looked up."""
    for option, value in pairwise(words(args)):
        if option == "--import":
            names = value.strip("[] ").split(",")
            import_modules([name.strip(" '\"") for name in names])


def import_modules(modules: Iterable[str]) -> None:
    """Imports modules that the user named, of this folder where they are not installed."""
    for module in modules:
        _trust([module])
        try:
            import_module(module)
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            said = " ".join(f"{type(error).__name__}: {error}".split())
            missing = getattr(error, "name", None)
            if isinstance(error, ModuleNotFoundError) and Path(f"{missing}.py").is_file():
                said += (
                    f" ({missing}.py lies in this folder: name it too, --allow-import {missing})"
                )
            raise SystemExit(
                f"vaekit: error: {module}, which --import names, could not be imported: {said}"
                f"{line_in(error, [module])}"
            ) from error
