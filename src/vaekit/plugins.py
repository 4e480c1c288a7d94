"""From a name to a part: entry points, the classes they name, and the parts built from those."""

# Nothing here imports torch or a part before a name asks for it: `vaekit plugins` must answer at
# once.

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import distributions
from itertools import chain
from typing import Any, TypeVar

__all__ = [
    "KINDS",
    "Plugin",
    "RegistryError",
    "as_spec",
    "base",
    "build",
    "find",
    "find_any",
    "load",
    "plugins",
    "provenance",
    "refusal",
    "register",
    "reserved",
    "resolve",
    "shorten",
]

KINDS = {
    "core": ("vaekit.models", "vaekit.contracts:Core"),
    "encoder": ("vaekit.encoders", "vaekit.contracts:Encoder"),
    "posterior": ("vaekit.posteriors", "vaekit.contracts:Posterior"),
    "prior": ("vaekit.priors", "vaekit.contracts:Prior"),
    "decoder": ("vaekit.decoders", "vaekit.contracts:Decoder"),
    "likelihood": ("vaekit.likelihoods", "vaekit.contracts:Likelihood"),
    "objective": ("vaekit.objectives", "vaekit.contracts:Objective"),
    "schedule": ("vaekit.schedules", "vaekit.schedules:Schedule"),
    "data": ("vaekit.data", "vaekit.data.base:DataModule"),
}
"""Each kind of plugin: its entry-point group, and the class that its plugins extend."""

_EVERYWHERE = {"event_shape", "latent_shape", "context_features", "data_size", "data", "build"}
_GIVEN = {
    **dict.fromkeys(KINDS, _EVERYWHERE),
    "posterior": _EVERYWHERE | {"features"},
    "decoder": _EVERYWHERE | {"output_shape"},
    "schedule": set(),
    "data": set(),
}

Spec = dict[str, Any]
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


_HERE = "this process"
_registered: dict[tuple[str, str], tuple[Plugin, type]] = {}
_loaded: dict[Plugin, type] = {}
_failures: dict[Plugin, Exception] = {}


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


def plugins(kind: str | None = None) -> list[Plugin]:
    """All plugins, or those of one kind, from metadata and from `register`."""
    found = [*_installed(tuple(sys.path)), *(plugin for plugin, _ in _registered.values())]
    order = list(KINDS)
    return sorted(
        (p for p in found if kind in (None, p.kind)),
        key=lambda p: (order.index(p.kind), p.package != "vaekit", p.name),
    )


def _import(value: str) -> Any:
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
            _loaded[plugin] = _checked(plugin, _import(plugin.value))
        except Exception as error:  # other people's code may raise anything
            _failures[plugin] = error
            raise _failure(plugin) from error
    return _loaded[plugin]


def _failure(plugin: Plugin) -> RegistryError:
    error = _failures[plugin]
    if isinstance(error, RegistryError):
        return error
    return RegistryError(
        f"The {plugin} could not be imported from {plugin.value}: {type(error).__name__}: {error}"
    )


def base(kind: str) -> type:
    """The class that all plugins of a kind extend."""
    return _import(KINDS[kind][1])


def _checked(plugin: Plugin, cls: Any) -> type:
    wanted = base(plugin.kind)
    if not (isinstance(cls, type) and issubclass(cls, wanted)):
        raise RegistryError(
            f"The {plugin} at {plugin.value} is no {wanted.__name__}: a plugin in the group "
            f"{KINDS[plugin.kind][0]} must be a subclass of {wanted.__module__}.{wanted.__name__}."
        )
    if cls.__name__ != plugin.name:
        raise RegistryError(
            f"The {plugin} leads to a class named {cls.__name__}: an entry point's name must be "
            f"the name of its class."
        )
    return cls


def _matches(kind: str, name: str) -> list[Plugin]:
    dotted = name.replace(":", ".")
    return [p for p in plugins(kind) if p.name == name or p.value.replace(":", ".") == dotted]


def find(kind: str, name: str) -> Plugin:
    """The plugin of a kind by its name, or by its entry point's exact value.

    Raises:
        RegistryError: If there is none, or several packages claim the name.
    """
    found = _matches(kind, name)
    if len(found) == 1:
        return found[0]
    if found:
        claims = ", ".join(f"{p.package} {p.version} ({p.value})" for p in found)
        raise RegistryError(
            f"Several packages claim the {kind} {name}: {claims}. Name it by its full path, such "
            f"as {found[0].value.replace(':', '.')}, or uninstall one of them."
        )
    raise RegistryError(_unknown(kind, name))


def _unknown(kind: str, name: str) -> str:
    names = [p.name for p in plugins(kind)]
    message = f"There is no {kind} {name!r}."
    elsewhere = [p for p in plugins() if p.name == name]
    if elsewhere:
        message = f"Expected {_a(kind)}, but {name} is {_a(elsewhere[0].kind)}."
    else:
        message += _nearest(name, names)
    known = ", ".join(names) or "none"
    return (
        f"{message} Registered under {kind}: {known}. "
        f"A class of your own needs @vaekit.register or an entry point in {KINDS[kind][0]}."
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    """A question after the name that may have been meant, where one is near."""
    close = get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _a(kind: str) -> str:
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


def as_spec(value: str | Mapping[str, Any]) -> Spec:
    """`Name` or `{class_path, init_args}` as the latter.

    Raises:
        RegistryError: If it is neither.
    """
    if isinstance(value, str):
        return {"class_path": value, "init_args": {}}
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        unknown = set(value) - {"class_path", "init_args"}
        if not unknown:
            return {
                "class_path": value["class_path"],
                "init_args": dict(value.get("init_args") or {}),
            }
    raise RegistryError(
        f"Expected a part as Name or {{class_path: Name, init_args: {{...}}}} but got {value!r}."
    )


def _is_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _nested(value: Any, change: Callable[[Spec], Any]) -> Any:
    """The value with every part inside it replaced by `change` of it."""
    if _is_spec(value):
        return change(as_spec(value))
    if isinstance(value, Mapping):
        return {k: _nested(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_nested(v, change) for v in value)
    return value


def find_any(name: str) -> Plugin:
    """The plugin of whatever kind by its name, or by its entry point's exact value.

    Raises:
        RegistryError: If there is none, or several.
    """
    found = [plugin for kind in KINDS for plugin in _matches(kind, name)]
    if len(found) == 1:
        return found[0]
    if found:
        claims = ", ".join(f"{p.value.replace(':', '.')} (the {p})" for p in found)
        raise RegistryError(f"Several parts are called {name}: name one by its path, {claims}.")
    names = [plugin.name for plugin in plugins()]
    raise RegistryError(
        f"There is no part {name!r}.{_nearest(name, names)} There are: {', '.join(names)}."
    )


def shorten(value: Any) -> Any:
    """Specs with every class path that leads to a plugin replaced by the plugin's name."""

    def inner(spec: Spec) -> Spec:
        return change(spec, nested=True)

    def change(spec: Spec, nested: bool) -> Spec:
        init_args = {k: _nested(v, inner) for k, v in spec["init_args"].items()}
        return {"class_path": _short(spec["class_path"], nested), "init_args": init_args}

    return _nested(value, lambda spec: change(spec, nested=False))


def _short(path: str, nested: bool) -> str:
    module, _, attribute = path.rpartition(".")
    cls = getattr(sys.modules.get(module), attribute, None)
    classes = {**_loaded, **dict(_registered.values())}
    for plugin, known in classes.items():
        if known is cls:
            return _short_name(plugin, nested)
    return path


def _short_name(plugin: Plugin, nested: bool = False) -> str:
    """The name that leads to a plugin alone: its own, or its path where the name is shared.

    Inside another part, where nothing says of which kind a part is, it is shared among all kinds.
    """
    kinds = KINDS if nested else (plugin.kind,)
    unique = sum(len(_matches(kind, plugin.name)) for kind in kinds) == 1
    return plugin.name if unique else plugin.value.replace(":", ".")


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class's `__init__`, with those passed on to its bases by `**kwargs`."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        own = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        found = {**own, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            break
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in found.items() if name != "self" and p.kind in named}


def reserved(kind: str) -> set[str]:
    """Names of arguments that vaekit fills in where a part of that kind has them."""
    return _GIVEN[kind]


def resolve(kind: str, value: str | Mapping[str, Any]) -> Spec:
    """The spec of a part under its registered name, with its plain defaults written out.

    Raises:
        RegistryError: If the name leads to no part, or has no argument of some name.
    """
    spec = as_spec(value)
    plugin = find(kind, spec["class_path"])
    accepted, ours = arguments(load(plugin)), reserved(kind)
    for name in spec["init_args"]:
        if name not in accepted or name in ours:
            raise RegistryError(refusal(plugin, name))
    defaults = {
        name: parameter.default
        for name, parameter in accepted.items()
        if name not in ours and _is_plain(parameter.default)
    }
    given = {k: _nested(v, _resolve_any) for k, v in spec["init_args"].items()}
    return {"class_path": _short_name(plugin), "init_args": deepcopy({**defaults, **given})}


def _resolve_any(spec: Spec) -> Spec:
    plugin = find_any(spec["class_path"])
    return {**resolve(plugin.kind, spec), "class_path": _short_name(plugin, nested=True)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)


def build(
    kind: str,
    value: str | Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Makes a part from its name or spec, and the parts inside it.

    A part whose `__init__` names `build` makes the parts inside it itself, and is given their
    specs.

    Arguments:
        given: What vaekit fills in where the part's `__init__` names it.

    Raises:
        RegistryError: If the name leads to no part, or an argument is unknown, missing or refused
            by it.
    """
    spec, given = resolve(kind, value), dict(given or {})
    plugin = find(kind, spec["class_path"])
    cls = load(plugin)

    def inner(spec: Spec) -> Any:
        return build(find_any(spec["class_path"]).kind, spec, given)

    accepted, init_args = arguments(cls), spec["init_args"]
    if not ("build" in accepted and "build" in given):
        init_args = {k: _nested(v, inner) for k, v in init_args.items()}
    given = {k: v for k, v in given.items() if k in accepted and k not in init_args}
    try:
        part = cls(**given, **init_args)
    except RegistryError:
        raise
    except Exception as error:  # other people's code may raise anything
        raise RegistryError(f"The {plugin}: {error}") from error
    return _held(part, plugin)


def _held(part: Any, plugin: Plugin) -> Any:
    """The part, named for later errors, if it is what its contract says of its construction."""
    wanted = getattr(base(plugin.kind), "forward", None)
    if wanted is None:  # a schedule, or data
        return part
    if "_modules" not in vars(part):
        raise RegistryError(f"The {plugin} does not call super().__init__() in its __init__.")
    names = list(inspect.signature(wanted).parameters)[1:]
    try:
        inspect.signature(part.forward).bind(*names)
    except TypeError as error:
        raise RegistryError(
            f"The {plugin} expected a forward that takes ({', '.join(names)}) but its own takes "
            f"{inspect.signature(part.forward)}."
        ) from error
    part.title = str(plugin)
    return part


def refusal(plugin: Plugin, name: str) -> str:
    """Why a plugin does not take an argument of that name, and which arguments it has."""
    accepted, ours = arguments(load(plugin)), reserved(plugin.kind)
    if name in accepted and name in ours:
        return f"The {plugin} is given {name} by vaekit: leave it out."
    own = [argument for argument in accepted if argument not in ours]
    hint, known = _nearest(name, own), ", ".join(own) or "none"
    return f"The {plugin} has no argument {name!r}.{hint} It has: {known}."


def provenance(parts: Mapping[str, Any]) -> dict[str, str]:
    """The package and version of each plugin in some specs, by the words of `find`'s error."""
    found: dict[str, str] = {}

    def note(plugin: Plugin, spec: Spec) -> Spec:
        found[f"{plugin.kind} {spec['class_path']!r}"] = f"{plugin.package} {plugin.version}"
        _nested(spec["init_args"], inner)
        return spec

    def inner(spec: Spec) -> Spec:
        return note(find_any(spec["class_path"]), spec)

    for kind, value in parts.items():
        spec = as_spec(value)
        note(find(kind, spec["class_path"]), spec)
    return found
