"""Parsing: part names that lead to plugins, configurations by name, and errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from vaekit.cli import allowed_imports
from vaekit.cli.commands import COMMANDS
from vaekit.cli.configs import config_path, default_files, part_packages
from vaekit.cli.errors import plainer
from vaekit.model.checkpoints import missing
from vaekit.model.model import MODEL_KINDS
from vaekit.registry import plugins
from vaekit.training.optimizers import torch_spec

_refusals: list[tuple[str, str, str]] = []
"""Names, what the registry said of them while a command line was parsed, and what the user is told
in its place; the last first."""


_CLASS_PATH = re.compile(r"""(class_path["']?:\s+["']?)([\w.]+)""")
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
        for plugin in plugins.list_plugins():
            if not plugins.claims_ours(plugin):
                with suppress(plugins.RegistryError):
                    plugins.load(plugin)
        return _with_names(super().format_help(*args, **kwargs))

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Returns the configuration, as `--print_config` shows it, with parts by their names."""
        return _with_names(super().dump(*args, **kwargs))

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
            if re.fullmatch(f"{prefix}_([A-Z]+(_[A-Z]+)?)?_*(IMPORT|ALLOW_IMPORT|DEBUG)", name):
                self.error(f"{name}: only the command line can say that")
            if name.startswith(f"{prefix}_") and name not in known and not name.startswith(others):
                self.error(f"There is no setting {name}.{plugins.nearest(name, known)}")


def _with_names(text: str) -> str:
    """Returns a help text or a configuration with the names of parts instead of class paths."""
    return _CLASS_PATH.sub(lambda m: m[1] + plugins.unique(m[2], among_all=True), text)


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

_TORCH = {
    torch.optim.Optimizer: "torch.optim",
    torch.optim.lr_scheduler.LRScheduler: "torch.optim.lr_scheduler",
}
"""The module whose classes an option takes, by their base class."""


def _is_accepted(path: str) -> bool:
    """Returns whether the command line takes the path of a class."""
    if path.startswith("torch.optim."):  # classes of other modules, such as SWALR, are refused
        return path.rpartition(".")[0] in _TORCH.values()
    with suppress(plugins.RegistryError):
        plugins.load(plugins.find_any(path))  # raises for a broken plugin
        return True
    return allowed_imports.is_open(path)


@contextmanager
def names_lead_to_plugins() -> Iterator[None]:
    """Lets jsonargparse ask the registry for the class of a part, and for the names in the help.

    It replaces three functions of jsonargparse 4.52 to 4.53, which has no public way to do so.
    """
    from jsonargparse import _typehints

    ordinary = _typehints.resolve_class_path_by_name
    kinds = {plugins.base(kind): kind for kind in plugins.KINDS}

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
                        f"{plugins.list_plugins(kind)[0].name}."
                    )
                plugin = plugins.find(kinds[base], plugins.unique(name))
                allowed_imports.allow(plugin, plugins.load(plugin))
                return plugin.path
            if base is Logger and name in ("TensorBoardLogger", "WandbLogger"):
                return f"vaekit.loggers.{name}"  # which knows a folder, and holds no fit up
            if base in _TORCH:
                return str(torch_spec(name, _TORCH[base])["class_path"])
        return ordinary(cls, name)

    def parser_of(name: Any, *args: Any, **kwargs: Any) -> Any:
        # Of a part inside another, whose name jsonargparse takes for a path.
        if isinstance(name, str) and ("." not in name or plugins.is_plugin(name)):
            with _noted(name):
                plugin = plugins.find_any(name)
                allowed_imports.allow(plugin, plugins.load(plugin))
            name = plugin.path
        return ordinary_parser(name, *args, **kwargs)

    def known_names(action: Any) -> str:
        label, _, paths = ordinary_help(action).partition(": ")
        accepted = filter(_is_accepted, paths.split(", "))
        names = [plugins.unique(path, among_all=True) for path in accepted]
        return f"{label}: {', '.join(names)}" if names else ""

    hint: Any = _typehints.ActionTypeHint
    ordinary_parser, ordinary_help = hint.get_class_parser, hint.extra_help
    _refusals.clear()
    part_packages.clear()
    _typehints.resolve_class_path_by_name = resolve
    hint.get_class_parser = staticmethod(parser_of)
    hint.extra_help = known_names
    try:
        yield
    finally:
        _typehints.resolve_class_path_by_name = ordinary
        hint.get_class_parser = staticmethod(ordinary_parser)
        hint.extra_help = ordinary_help


@contextmanager
def _noted(name: str) -> Iterator[None]:
    """Keeps what the registry says of a name, for jsonargparse's report."""
    try:
        yield
    except plugins.RegistryError as error:
        _refusals.insert(0, (name, str(error), missing(error, part_packages)))
        raise
