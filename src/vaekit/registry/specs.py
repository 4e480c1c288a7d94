"""A part as data: its name or {class_path, init_args}, resolved, written short, and built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

from vaekit.networks.torch_modules import is_wrapped, wrapped
from vaekit.registry.plugins import (
    KINDS,
    Plugin,
    RegistryError,
    base,
    blame,
    find,
    find_any,
    list_plugins,
    load,
    nearest,
    unique,
)

Spec = dict[str, Any]

_EVERYWHERE = {"event_shape", "latent_shape", "context_features", "data_size", "data", "build"}
_RESERVED = {
    **dict.fromkeys(KINDS, _EVERYWHERE),
    "posterior": _EVERYWHERE | {"features"},
    "prior": _EVERYWHERE | {"context_columns"},
    "decoder": _EVERYWHERE | {"output_shape"},
    "schedule": set(),
    "data": set(),
}

_HELD_TO = {
    "posterior": "latent_shape",
    "prior": "latent_shape",
    "decoder": "output_shape",
    "likelihood": "event_shape",
}
"""The shape that a part of a kind is told, and that its contract holds each of its calls to."""

_DECLARES = {"encoder": "features", "likelihood": "output_shape"}
"""What a part of a kind says, for the next part to be built."""


# What is written


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


def is_plain(value: Any) -> bool:
    """Whether a value consists of what YAML and a checkpoint can hold."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)


def plain(part: Any) -> Any:
    """The part as data; of one that was given as a module, its class alone."""
    if isinstance(part, str | Mapping):
        return part
    return {"instance": f"{type(part).__module__}.{type(part).__qualname__}"}


def _nested(value: Any, change: Callable[[Spec], Any]) -> Any:
    """The value with every part inside it replaced by `change` of it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return change(as_spec(value))
    if isinstance(value, Mapping):
        return {k: _nested(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_nested(v, change) for v in value)
    return value


def shorten(value: Any) -> Any:
    """Specs with every class path that leads to a plugin replaced by the plugin's name."""

    def inner(spec: Spec) -> Spec:
        return change(spec, nested=True)

    def change(spec: Spec, nested: bool) -> Spec:
        init_args = {k: _nested(v, inner) for k, v in spec["init_args"].items()}
        return {"class_path": unique(spec["class_path"], nested), "init_args": init_args}

    return _nested(value, lambda spec: change(spec, nested=False))


def provenance(parts: Mapping[str, Any]) -> dict[str, str]:
    """The package and version of each plugin in some specs, by the words of `find`'s error."""
    found: dict[str, str] = {}

    def note(plugin: Plugin, spec: Spec) -> Spec:
        found[f"{plugin.kind} {spec['class_path']!r}"] = plugin.origin
        _nested(spec["init_args"], inner)
        return spec

    def inner(spec: Spec) -> Spec:
        return note(find_any(spec["class_path"]), spec)

    for kind, value in parts.items():
        spec = as_spec(value)
        note(find(kind, spec["class_path"]), spec)
    return found


# What a class takes


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class's `__init__`, with those passed on to its bases by `**kwargs`."""
    found: dict[str, inspect.Parameter] = {}
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        own = inspect.signature(ancestor.__init__).parameters  # type: ignore[misc]
        found = {**own, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            break
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in found.items() if name != "self" and p.kind in named}


def classes(kind: str) -> dict[str, Any]:
    """Returns the classes of a kind that can be imported, by their registered names."""
    found = {}
    for plugin in list_plugins(kind):
        with suppress(RegistryError):
            found[plugin.name] = load(plugin)
    return found


def reserved(kind: str) -> set[str]:
    """Names of arguments that vaekit fills in where a part of that kind has them."""
    return _RESERVED[kind]


def refusal(plugin: Plugin, name: str) -> str:
    """Why a plugin does not take an argument of that name, and which arguments it has."""
    accepted, ours = arguments(load(plugin)), reserved(plugin.kind)
    if name in accepted and name in ours:
        return f"The {plugin} is given {name} by vaekit: leave it out."
    own = [argument for argument in accepted if argument not in ours]
    hint, known = nearest(name, own), ", ".join(own) or "none"
    return f"The {plugin} has no argument {name!r}.{hint} It has: {known}."


# What is made of it


def resolve(kind: str, value: Any) -> Any:
    """The spec of a part under its registered name, with its plain defaults written out.

    A part that is given as a module stays that.

    Raises:
        RegistryError: If the name leads to no part, or has no argument of some name, or a module
            is no part of that kind.
    """
    if not isinstance(value, str | Mapping):
        return _given_module(kind, value)
    spec = as_spec(value)
    plugin = find(kind, spec["class_path"])
    return _completed(plugin, spec, plugin.unique_name())


def _given_module(kind: str, part: Any) -> Any:
    wanted = base(kind)
    if not (isinstance(part, wanted) or is_wrapped(kind, part)):
        raise RegistryError(
            f"Expected {kind} to be a name, a spec or a {wanted.__module__}.{wanted.__name__} but "
            f"got a {type(part).__name__}."
        )
    return part


def _completed(plugin: Plugin, spec: Spec, name: str) -> Spec:
    accepted, ours = arguments(load(plugin)), reserved(plugin.kind)
    for argument in spec["init_args"]:
        if argument not in accepted or argument in ours:
            raise RegistryError(refusal(plugin, argument))
    defaults = {
        argument: parameter.default
        for argument, parameter in accepted.items()
        if argument not in ours and is_plain(parameter.default)
    }

    def inner(spec: Spec) -> Spec:
        plugin = find_any(spec["class_path"])
        return _completed(plugin, spec, plugin.unique_name(among_all=True))

    given = {k: _nested(v, inner) for k, v in spec["init_args"].items()}
    return {"class_path": name, "init_args": deepcopy({**defaults, **given})}


def build(kind: str, value: Any, given: Mapping[str, Any] | None = None) -> Any:
    """Makes a part from its name or spec, and the parts inside it; a module stays that.

    A part whose `__init__` names `build` makes the parts inside it itself, and is given their
    specs.

    Arguments:
        given: What vaekit fills in where the part's `__init__` names it.

    Raises:
        RegistryError: If the name leads to no part, or an argument is unknown, missing or refused
            by it, or the part is not what its contract says of its construction.
    """
    given = dict(given or {})
    if isinstance(value, str | Mapping):
        part, title = _made(kind, value, given)
    else:
        part = _given_module(kind, value)
        title = f"{kind} {type(part).__name__}"
        try:
            part = wrapped(kind, part, given)
        except ValueError as error:
            raise RegistryError(f"The {title}: {error}") from error
    if kind not in ("schedule", "data"):
        _check_construction(kind, part, title)
        part.title = title
        part.spec = resolve(kind, value) if isinstance(value, str | Mapping) else None
        if kind in _HELD_TO and _HELD_TO[kind] in given:
            setattr(part, _HELD_TO[kind], given[_HELD_TO[kind]])
    return part


def _made(kind: str, value: str | Mapping[str, Any], given: dict[str, Any]) -> tuple[Any, str]:
    """The part of a spec, and its title."""
    spec = resolve(kind, value)
    plugin = find(kind, spec["class_path"])
    cls = load(plugin)
    _check_entries(plugin, cls, given)

    def inner(spec: Spec) -> Any:
        return build(find_any(spec["class_path"]).kind, spec, given)

    accepted, init_args = arguments(cls), spec["init_args"]
    if not ("build" in accepted and "build" in given):
        init_args = {k: _nested(v, inner) for k, v in init_args.items()}
    filled = {k: v for k, v in given.items() if k in accepted and k not in init_args}
    try:
        return cls(**filled, **init_args), str(plugin)
    except RegistryError:
        raise
    except ValueError as error:  # it refuses what it was given
        raise RegistryError(f"The {plugin}: {error}") from error
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        raise RegistryError(blame(error) or f"The {plugin}: {error}") from error


def _check_entries(plugin: Plugin, cls: Any, given: Mapping[str, Any]) -> None:
    """Refuses rows of several entries for a part that reads or writes rows of one."""
    shapes = given.get("output_shape" if plugin.kind == "decoder" else "event_shape")
    reads = plugin.kind in ("encoder", "decoder", "likelihood")
    if not reads or not isinstance(shapes, dict) or cls.accepts(shapes):
        return
    fit = [name for name, other in classes(plugin.kind).items() if other.accepts(shapes)]
    raise RegistryError(
        f"The {plugin} takes rows of one entry, but these have {', '.join(shapes)}. For several: "
        f"{', '.join(fit) or 'none'}."
    )


def _check_construction(kind: str, part: Any, title: str) -> None:
    """Holds a part to what its contract says of its construction."""
    if "_modules" not in vars(part):
        raise RegistryError(f"The {title} does not call super().__init__() in its __init__.")
    wanted = getattr(base(kind), "forward", None)
    if kind != "core" and wanted is not None:
        names = list(inspect.signature(wanted).parameters)[1:]
        try:
            inspect.signature(part.forward).bind(*names)
        except TypeError as error:
            raise RegistryError(
                f"The {title} expected a forward that takes ({', '.join(names)}) but its own "
                f"takes {inspect.signature(part.forward)}."
            ) from error
    declared = _DECLARES.get(kind)
    if declared and not hasattr(part, declared):
        raise RegistryError(
            f"The {title} expected an attribute {declared}, for which the next part is built, but "
            "has none."
        )
