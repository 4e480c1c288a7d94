"""Parsing: part names that lead to plugins, configurations by name, and errors in plain words."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from vaekit import imports, plugins
from vaekit.checkpoints import missing
from vaekit.commands import COMMANDS
from vaekit.messages import one_line, plainer
from vaekit.model import MODEL_KINDS
from vaekit.optim import torch_spec

__all__ = [
    "ConfigFile",
    "Parser",
    "bracketed",
    "config_path",
    "default_files",
    "names_lead_to_plugins",
]

_refusals: list[tuple[str, str, str]] = []
"""Names, what the registry said of them while a command line was parsed, and what the user is told
in its place; the last first."""

_packages: dict[str, str] = {}
"""The packages of parts, as the configurations that were read note them."""

_MOST = 10_000  # entries of a configuration
_PART_KEYS = ("data", "prior", "model.optimizer", *(f"model.{kind}" for kind in MODEL_KINDS))
_NUMBERS = re.compile(r"(--[\w.]+=)?\[?((?:-?[\d.]+|-inf)(?:, ?-?(?:[\d.]+|inf))+)\]?")


class Parser(LightningArgumentParser):
    """A parser whose errors say which parts and arguments there are."""

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """The defaults, of a part its name alone: its arguments are no other part's defaults.

        But for a fit that goes on, whose parts cannot be others.
        """
        config = super().get_defaults(*args, **kwargs)
        if self.default_config_files not in ([], default_files()):
            return config
        for key in _PART_KEYS:
            if isinstance(part := config.get(key), Namespace):
                part.pop("init_args", None)
        return config

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help, which lists the parts of all packages."""
        for plugin in plugins.plugins():
            if not plugins.claims_ours(plugin):
                with suppress(plugins.RegistryError):
                    plugins.load(plugin)
        return super().format_help(*args, **kwargs)

    def read_no_files(self) -> None:
        """Lets a part's name be a name alone: a file of that name in this folder is not read."""
        actions: list[Any] = self._actions
        for action in actions:
            if hasattr(action, "_enable_path"):
                action._enable_path = False
                action.sub_add_kwargs = {**action.sub_add_kwargs, "sub_configs": False}

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Ends with the message, and without the pages of usage that would hide it."""
        if not self.exit_on_error:  # a parser within the parser, whose error is looked at
            super().error(message, ex)
        command = self.prog.replace(" [options]", "")
        said = _refusal(message) or plainer(message, self._option_string_actions)
        self.exit(2, f"vaekit: error: {said}\n(All options: {command} --help)\n")

    def _load_env_vars(self, env: Any, defaults: bool) -> Namespace:
        # Like -c, the variable may name one of our configurations.
        name = f"{self.env_prefix}_CONFIG".replace("-", "_").upper()
        if name in env:
            env = {**env, name: str(config_path(env[name]))}
        return super()._load_env_vars(env, defaults)

    def refuse_variables(self, env: Mapping[str, str], commands: Mapping[str, Any]) -> None:
        """Ends where a variable of the environment is none that is read.

        Those of a command that is not run are left for when it is.
        """
        prefix = str(self.env_prefix)
        known = {"VAEKIT_DATA", "VAEKIT_CONFIG"} | {
            f"{prefix}_{command}__{action.dest.replace('.', '__')}".replace("-", "_").upper()
            for command, parser in commands.items()
            for action in parser._option_string_actions.values()
        }
        left = [c.replace("-", "_") for c in COMMANDS if c not in commands]
        others = tuple(f"{prefix}_{c}__".upper() for c in left)
        for name in env:
            if re.fullmatch(f"{prefix}_[A-Z]*_*(IMPORT|ALLOW_IMPORT|DEBUG)", name):
                self.error(f"{name}: only the command line can say that")
            if name.startswith(f"{prefix}_") and name not in known and not name.startswith(others):
                self.error(f"There is no setting {name}.{plugins.nearest(name, known)}")


def bracketed(args: Iterable[str]) -> list[str]:
    """Arguments in which numbers between commas are written as the list that they are.

    Example:
        >>> bracketed(["--model.encoder.hidden", "256,128"])
        ['--model.encoder.hidden', '[256,128]']
        >>> bracketed(["--data.data_range=0,inf"])
        ['--data.data_range=[0,.inf]']
    """
    found = ((arg, _NUMBERS.fullmatch(arg)) for arg in args)
    return [f"{m[1] or ''}[{_yaml_numbers(m[2])}]" if m else arg for arg, m in found]


def _yaml_numbers(text: str) -> str:
    return re.sub(r"(?<![.\w])inf", ".inf", text)


def _refusal(message: str) -> str | None:
    """What the registry said, where jsonargparse reports it."""
    for name, said, told in _refusals:
        if _without(name, said) in _without(name, message):
            return told
    return None


def _without(name: str, text: str) -> str:
    """A text without a name and spaces: jsonargparse leaves the value out of what it reports."""
    return re.sub(r"\s", "", text.replace(name, ""))


# Names of parts


@contextmanager
def names_lead_to_plugins() -> Iterator[None]:
    """Lets jsonargparse ask the registry for the class of a part, and nobody else's code runs."""
    from jsonargparse import _typehints

    ordinary = _typehints.resolve_class_path_by_name
    kinds = {plugins.base(kind): kind for kind in plugins.KINDS}
    modules = {
        torch.optim.Optimizer: "torch.optim",
        torch.optim.lr_scheduler.LRScheduler: "torch.optim.lr_scheduler",
    }

    def resolve(cls: Any, name: str) -> str:
        with _noted(name):
            return found(cls, name)

    def found(cls: Any, name: str) -> str:
        bases = cls if isinstance(cls, tuple) else (cls,)
        for base in bases:
            if base in kinds:
                if name in (f"{base.__module__}.{base.__name__}", f"vaekit.data.{base.__name__}"):
                    kind = kinds[base]
                    option = kind if kind in ("data", "prior") else f"model.{kind}"
                    raise plugins.RegistryError(
                        f"Expected the name of a {kind} before its arguments, such as --{option} "
                        f"{plugins.plugins(kind)[0].name}."
                    )
                plugin = plugins.find(kinds[base], plugins.unique(name))
                imports.allow(plugin, plugins.load(plugin))
                return plugin.path
            if base is Logger and name in ("TensorBoardLogger", "WandbLogger"):
                return f"vaekit.loggers.{name}"  # which knows a folder, and holds no fit up
            if base in modules:
                return str(torch_spec(name, modules[base])["class_path"])
        return ordinary(cls, name)

    def parser_of(name: Any, *args: Any, **kwargs: Any) -> Any:
        # Of a part inside another, whose name jsonargparse takes for a path.
        if isinstance(name, str) and "." not in name:
            with _noted(name):
                plugin = plugins.find_any(name)
                imports.allow(plugin, plugins.load(plugin))
            name = plugin.path
        return ordinary_parser(name, *args, **kwargs)

    hint: Any = _typehints.ActionTypeHint
    ordinary_parser = hint.get_class_parser
    _refusals.clear()
    _packages.clear()
    _typehints.resolve_class_path_by_name = resolve
    hint.get_class_parser = staticmethod(parser_of)
    try:
        yield
    finally:
        _typehints.resolve_class_path_by_name = ordinary
        hint.get_class_parser = staticmethod(ordinary_parser)


@contextmanager
def _noted(name: str) -> Iterator[None]:
    """Keeps what the registry says of a name, for jsonargparse's report."""
    try:
        yield
    except plugins.RegistryError as error:
        _refusals.insert(0, (name, str(error), missing(error, _packages)))
        raise


# Configurations


class ConfigFile(ActionConfigFile):
    """A configuration file, or the name of one that vaekit brings along."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        path = config_path(values)
        try:
            text = path.read_text()
            content = yaml.safe_load(text)
        except UnicodeDecodeError as error:
            sys.exit(f"vaekit: error: The configuration {path} is no text: {error}")
        except yaml.YAMLError as error:
            sys.exit(
                f"vaekit: error: The configuration {path} is no valid YAML: {one_line(error)}"
            )
        if not isinstance(content, Mapping):
            sys.exit(
                f"vaekit: error: Expected options in the configuration {path}, such as trainer: "
                f"{{max_epochs: 5}}, but got {content or 'nothing'}."
            )
        if _is_large(content):
            sys.exit(
                f"vaekit: error: The configuration {path} has more than {_MOST} entries, or "
                "refers to itself."
            )
        _import(path, content)
        _packages.update(re.findall(r"^# (\w+ '.+') is of (.+)$", text, re.MULTILINE))
        super().__call__(parser, cfg, str(path), option_string)


def _import(path: Path, content: Mapping[str, Any]) -> None:
    """Imports what a configuration names, if the command line names it too."""
    for key in ("allow-import", "allow_import", "debug"):
        if key in content:
            sys.exit(f"vaekit: error: {path}: only the command line can say --{key}")
    if "config" in content:
        sys.exit(f"vaekit: error: {path}: a configuration names no other: give both, -c A -c B")
    modules = content.get("import") or []
    modules = [modules] if isinstance(modules, str) else modules
    if not isinstance(modules, list):
        sys.exit(f"vaekit: error: {path}: import: expected names of modules but got {modules!r}")
    for module in modules:
        if not imports.trusted(str(module)):
            sys.exit(
                f"vaekit: error: {path} names {module} to import. If you trust it, say so on the "
                f"command line: --allow-import {module}"
            )
    imports.import_modules(map(str, modules))


def _is_large(content: Any) -> bool:
    """Whether a configuration has more entries than a person writes, or refers to itself."""
    left, seen = [content], 0
    while left and seen < _MOST:
        value = left.pop()
        seen += 1
        if isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return bool(left)


def config_path(name: str) -> Path:
    """The file of a configuration: of a mere name, one that vaekit brings along; else a path."""
    mere = Path(name).name == name and not Path(name).suffix
    if not mere and Path(name).is_file():
        return Path(name)
    here = Path(__file__).parent
    known = {
        path.stem: path
        for folder in (here / "configs", here.parents[1] / "configs")  # installed, or a checkout
        for path in sorted(folder.glob("*.yaml"))
    }
    if mere and name in known:
        return known[name]
    own = f" A file of your own is named with its suffix or a slash, ./{name}."
    sys.exit(
        f"vaekit: error: there is no configuration file {name}, and none of that name among "
        f"vaekit's own: {', '.join(known)}.{plugins.nearest(Path(name).stem, known)}"
        f"{own if mere and Path(name).is_file() else ''}"
    )


def default_files() -> list[str]:
    """What lies below every configuration of a fit."""
    return [glob.escape(str(config_path("digits")))]
