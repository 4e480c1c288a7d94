"""From a name to a class: the plugins of installed packages and of this process."""

# Nothing here imports torch or a part before a name asks for it: `vaekit plugins` must answer at
# once.

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import distributions
from itertools import chain
from typing import TypeVar

from vaekit.registry.moved import new_path

KINDS = {
    "core": ("vaekit.models", "vaekit.contracts:Core"),
    "encoder": ("vaekit.encoders", "vaekit.contracts:Encoder"),
    "posterior": ("vaekit.posteriors", "vaekit.contracts:Posterior"),
    "prior": ("vaekit.priors", "vaekit.contracts:Prior"),
    "decoder": ("vaekit.decoders", "vaekit.contracts:Decoder"),
    "likelihood": ("vaekit.likelihoods", "vaekit.contracts:Likelihood"),
    "objective": ("vaekit.objectives", "vaekit.contracts:Objective"),
    "schedule": ("vaekit.schedules", "vaekit.contracts:Schedule"),
    "data": ("vaekit.data", "vaekit.data.base:DataModule"),
}
"""Each kind of plugin: its entry-point group, and the class that its plugins extend."""

C = TypeVar("C", bound=type)


class RegistryError(ValueError):
    """A name that does not lead to a part, and what there is instead."""


@dataclass(frozen=True)
class Plugin:
    """One entry point: metadata alone, nothing imported."""

    kind: str
    name: str
    value: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.package} {self.version})"

    @property
    def origin(self) -> str:
        """The package and its version; of a part of this process, the module that has it."""
        if self.package == _HERE:
            return f"{_HERE}, the module {self.value.partition(':')[0]}"
        return f"{self.package} {self.version}"

    @property
    def path(self) -> str:
        """The class's full path."""
        return self.value.replace(":", ".")

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that lead to the class; for vaekit, also through the public package."""
        if self.package != _OURS:
            return (self.path,)
        _, package, *_, name = self.path.split(".")
        return self.path, f"{_OURS}.{package}.{name}"

    def unique_name(self, among_all: bool = False) -> str:
        """The name that leads to this plugin alone: its own, or its path where that is shared.

        Arguments:
            among_all: Among the plugins of all kinds, as inside another part, where nothing says
                of which kind a part is.
        """
        found = _matches(None if among_all else self.kind, self.name)
        return self.name if found == [self] else self.path


_HERE = "this process"
_OURS = "vaekit"
_registered: dict[tuple[str, str], tuple[Plugin, type]] = {}
_loaded: dict[Plugin, type] = {}
_failures: dict[Plugin, BaseException] = {}


@cache
def _installed(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    kinds = {group: kind for kind, (group, _) in KINDS.items()}
    found: dict[str, list[Plugin]] = {}
    for package in distributions():
        entries = [entry for entry in package.entry_points if entry.group in kinds]
        # A package found twice on the path counts where it is found first.
        if entries and (name := package.name) not in found:
            found[name] = [
                Plugin(kinds[entry.group], entry.name, entry.value, name, package.version)
                for entry in entries
            ]
    return tuple(chain.from_iterable(found.values()))


def conflicts() -> list[str]:
    """What is wrong with the entry points of the packages that are installed, without imports."""
    found: dict[tuple[str, str], list[Plugin]] = {}
    for plugin in list_plugins():
        found.setdefault((plugin.kind, plugin.name), []).append(plugin)
    said = [
        f"{plugin} has a name of vaekit's own: it is reached by its full path alone, {plugin.path}"
        for plugin in list_plugins()
        if claims_ours(plugin)
    ]
    for (kind, name), both in found.items():
        others = [plugin for plugin in both if not claims_ours(plugin)]
        said += [_claims(kind, name, others)] if len(others) > 1 else []
    groups = [group for group, _ in KINDS.values()]
    for package in distributions():
        for entry in package.entry_points:
            near = get_close_matches(entry.group, groups, n=1, cutoff=0.85)
            if entry.group.startswith("vaekit.") and entry.group not in groups:
                hint = f" Did you mean {near[0]}?" if near else ""
                said.append(
                    f"{package.name} {package.version} puts {entry.name} into the group "
                    f"{entry.group}, which vaekit does not read.{hint}"
                )
    return list(dict.fromkeys(said))


def list_plugins(kind: str | None = None) -> list[Plugin]:
    """Returns the plugins of all kinds or of one, sorted by kind and name; imports none of them.

    Arguments:
        kind: One of "core", "encoder", "posterior", "prior", "decoder", "likelihood",
            "objective", "schedule" and "data"; None for all.

    Raises:
        ValueError: If there is no such kind.

    Example:
        >>> "ELBO" in [plugin.name for plugin in list_plugins("objective")]
        True
        >>> print(list_plugins("encoder")[0])
        encoder Conv1dEncoder (vaekit 0.1.0)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"Expected a kind out of {', '.join(KINDS)} but got {kind!r}.")
    found = [*_installed(tuple(sys.path)), *(plugin for plugin, _ in _registered.values())]
    order = list(KINDS)
    return sorted(
        (p for p in found if kind in (None, p.kind)),
        key=lambda p: (order.index(p.kind), p.package != _OURS, p.name),
    )


def claims_ours(plugin: Plugin) -> bool:
    """Whether another package's plugin has the name of a part of vaekit's own, of any kind."""
    ours = {p.name for p in _installed(tuple(sys.path)) if p.package == _OURS}
    return plugin.package not in (_OURS, _HERE) and plugin.name in ours


def _import(value: str) -> type:
    module, _, name = value.partition(":")
    return getattr(importlib.import_module(module), name)


def load(plugin: Plugin) -> type:
    """The plugin's class. It is imported once, and a failure is kept.

    Raises:
        RegistryError: If it cannot be imported, or is no class of its kind and name.
    """
    if plugin in _failures:
        raise _failure(plugin) from _failures[plugin]
    if (plugin.kind, plugin.name) in _registered:
        mine, cls = _registered[plugin.kind, plugin.name]
        if mine == plugin:
            return cls
    if plugin not in _loaded:
        try:
            _loaded[plugin] = _of_its_kind(plugin, _import(plugin.value))
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            _failures[plugin] = error
            raise _failure(plugin) from error
    return _loaded[plugin]


def _failure(plugin: Plugin) -> RegistryError:
    error = _failures[plugin]
    if isinstance(error, RegistryError):
        return error
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return RegistryError(
        f"The {plugin} could not be imported from {plugin.value}: {said}"
        f"{line_in(error, [plugin.value])}"
    )


def line_in(error: BaseException, modules: Iterable[str]) -> str:
    """The innermost line of these modules' packages that an error went through, in brackets."""
    packages = {module.partition(":")[0].partition(".")[0] for module in modules} - {_OURS}
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__", "").partition(".")[0] in packages:
            return f" ({frame.f_code.co_filename}, line {number})"
    return ""


def blame(error: BaseException) -> str | None:
    """An error of somebody's plugin in words that name it, its package and the line; else None."""
    known = [*_loaded.items(), *_registered.values()]
    others = [(plugin, cls) for plugin, cls in known if plugin.package != _OURS]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(f"{_OURS}."):
            continue
        part = type(frame.f_locals.get("self"))
        for plugin, cls in others:
            if part is cls or module == plugin.value.partition(":")[0]:
                said = f"{type(error).__name__}: {error}"
                title = f"{plugin.kind} {plugin.name} ({plugin.origin})"
                return f"The {title} failed: {said}{line_in(error, [plugin.value])}"
    return None


def base(kind: str) -> type:
    """The class that all plugins of a kind extend."""
    return _import(KINDS[kind][1])


def _of_its_kind(plugin: Plugin, cls: object) -> type:
    wanted = base(plugin.kind)
    if not (isinstance(cls, type) and issubclass(cls, wanted)):
        raise RegistryError(
            f"The {plugin} at {plugin.value} is no {wanted.__name__}: a plugin in the group "
            f"{KINDS[plugin.kind][0]} must be a subclass of {wanted.__module__}.{wanted.__name__}."
        )
    if cls.__name__ != plugin.name and plugin.package != _OURS:
        raise RegistryError(
            f"The {plugin} leads to a class named {cls.__name__}: an entry point's name must be "
            f"the name of its class."
        )
    return cls


def _matches(kind: str | None, name: str) -> list[Plugin]:
    """Returns the plugins of a name or path. A name of vaekit leads to no plugin of others."""
    dotted = new_path(name.replace(":", "."))
    found = [p for p in list_plugins(kind) if p.name == name or dotted in p.paths]
    return [p for p in found if p.package == _OURS] or found


def find(kind: str, name: str) -> Plugin:
    """Returns the plugin of a kind by its name, or by a path that leads to its class.

    Raises:
        RegistryError: If there is none, or several packages claim the name.
    """
    found = _matches(kind, name)
    if len(found) == 1:
        return found[0]
    if found:
        raise RegistryError(_claims(kind, name, found))
    raise RegistryError(_unknown(kind, name))


def is_plugin(path: str) -> bool:
    """Returns whether a name or path leads to a plugin, of whatever kind."""
    return bool(_matches(None, path))


def _claims(kind: str, name: str, found: list[Plugin]) -> str:
    claims = ", ".join(f"{p.package} {p.version} ({p.value})" for p in found)
    return (
        f"Several packages claim the {kind} {name}: {claims}. Name it by its full path, such "
        f"as {found[0].path}, or uninstall one of them."
    )


def _unknown(kind: str, name: str) -> str:
    names = [p.name for p in list_plugins(kind)]
    message = f"There is no {kind} {name!r}."
    elsewhere = [p for p in list_plugins() if p.name == name]
    if elsewhere:
        message = f"Expected {_article(kind)}, but {name} is {_article(elsewhere[0].kind)}."
    else:
        message += nearest(name, names)
    known = ", ".join(names) or "none"
    return (
        f"{message} Registered under {kind}: {known}. "
        "A class of your own needs @vaekit.register, in a module that --import names, or an "
        f"entry point in {KINDS[kind][0]}."
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """A question after the name that may have been meant, where one is near; else nothing."""
    close = get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def register(cls: C) -> C:
    """Registers a class of this process, such as one written in a notebook, under its own name.

    A second class of the same name takes the place of the first.

    Raises:
        RegistryError: If the class extends no kind, or an installed package has that name.

    Example:
        >>> from vaekit.contracts import Prior
        >>> @register
        ... class MyPrior(Prior):
        ...     pass
        >>> find("prior", "MyPrior").package
        'this process'
    """
    kinds = [kind for kind in KINDS if issubclass(cls, base(kind))]
    if len(kinds) != 1:
        bases = ", ".join(path.replace(":", ".") for _, path in KINDS.values())
        raise RegistryError(f"Expected {cls.__name__} to extend one of {bases}.")
    kind, name = kinds[0], cls.__name__
    clash = [p for p in _installed(tuple(sys.path)) if (p.kind, p.name) == (kind, name)]
    if clash:
        raise RegistryError(
            f"The name {name} is taken by the {clash[0]}: give your class another name."
        )
    value = f"{cls.__module__}:{cls.__qualname__}"
    _registered[kind, name] = (Plugin(kind, name, value, _HERE, "-"), cls)
    return cls


@contextmanager
def known(cls: type) -> Iterator[None]:
    """Registers a class for the time of a block, unless it leads to a plugin already."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    before = dict(_registered)
    if not any(plugin.path == path for plugin in list_plugins()):
        register(cls)
    try:
        yield
    finally:
        _registered.clear()
        _registered.update(before)


def find_any(name: str) -> Plugin:
    """Returns the plugin of any kind by its name, or by a path that leads to its class.

    Raises:
        RegistryError: If there is none, or several.
    """
    found = _matches(None, name)
    if len(found) == 1:
        return found[0]
    if found:
        claims = ", ".join(f"{p.path} (the {p})" for p in found)
        raise RegistryError(f"Several parts are called {name}: name one by its path, {claims}.")
    names = [plugin.name for plugin in list_plugins()]
    raise RegistryError(
        f"There is no part {name!r}.{nearest(name, names)} There are: {', '.join(names)}."
    )


def unique(path: str, among_all: bool = False) -> str:
    """Returns the unique name of the plugin whose class has this path, or the path if none has."""
    if len(plugins := _matches(None, path)) == 1:
        return plugins[0].unique_name(among_all)
    module, _, attribute = path.rpartition(".")
    cls = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    classes = {**_loaded, **dict(_registered.values())}
    found = (plugin for plugin, known in classes.items() if known is cls)
    return next((plugin.unique_name(among_all) for plugin in found), path)
