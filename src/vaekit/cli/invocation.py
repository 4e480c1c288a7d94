"""What the words of a command line say before they are parsed: which run, and which data."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from vaekit.cli import allowed_imports, resume
from vaekit.cli.allowed_imports import words
from vaekit.cli.configs import config_path
from vaekit.cli.errors import why
from vaekit.cli.parser import Parser, bracketed
from vaekit.data.base import DataModule
from vaekit.data.module_for_path import module_for
from vaekit.model.checkpoints import read_checkpoint
from vaekit.model.parts_for_data import epochs_for, parts_for
from vaekit.registry import specs
from vaekit.storage.runs import found


def named(option: str, args: Iterable[str]) -> str | None:
    """What an option of a fit is given, before all is parsed: the last of what says it."""
    values = [os.environ.get(f"VAEKIT_FIT__{option}".upper())]
    words = allowed_imports.words(args)
    for word, value in pairwise(words):
        if word in ("-c", "--config"):
            with suppress(yaml.YAMLError, OSError, ValueError):  # reported when it is parsed
                content = yaml.safe_load(config_path(value).read_text())
                values.append(content.get(option) if isinstance(content, Mapping) else None)
    values += [value for word, value in pairwise(words) if word == f"--{option}"]
    found = next((value for value in reversed(values) if value is not None), None)
    if option != "data" and not isinstance(found, str | None):
        sys.exit(f"vaekit: error: --{option}: expected a path but got {found!r}")
    return found


def names_data(args: Iterable[str]) -> bool:
    """Whether a user says which data are meant, or where they lie."""
    said = {"--data", "--data.root"} & set(allowed_imports.words(args))
    return bool(said) or named_by_path(args) or named("data", args) is not None


def named_by_path(args: Iterable[str]) -> bool:
    """Whether a user names data of their own by a path."""
    return "--data.path" in allowed_imports.words(args)


# Where data are named by a path


def with_data(args: list[str]) -> list[str]:
    """The command line with the module for data that are named by their path alone."""
    path = data_named(args)
    if path is None:
        return args
    if named("data", args) is not None:
        print(
            "vaekit: error: The configuration names data already: leave out --data.path, or say "
            "which data module it is for, with --data.",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        return with_module(args, path)
    except (ValueError, OSError) as error:
        print(f"vaekit: error: {why(error)}", file=sys.stderr)
        sys.exit(2)


def data_named(words: list[str]) -> str | None:
    """The path that `--data.path` names where `--data` names no module."""
    if any(word == "--data" or word.startswith("--data=") for word in words):
        return None
    found = None
    for at, word in enumerate(words):
        if word == "--data.path":
            found = words[at + 1] if at + 1 < len(words) else None
        elif word.startswith("--data.path="):
            found = word.partition("=")[2]
    return found


def with_module(args: list[str], path: str) -> list[str]:
    """The words of a command line with the data module for a path named before its arguments."""
    name, argument = module_for(Path(path))
    left, skip = [], False
    for word in args:
        if skip or word.startswith("--data.path="):
            skip = False
        elif word == "--data.path":
            skip = True
        else:
            left.append(word)
    at = next((i for i, w in enumerate(left) if w.startswith("--data.")), len(left))
    return [*left[:at], "--data", name, f"--data.{argument}", path, *left[at:]]


def chosen(args: list[str]) -> tuple[DataModule, dict[str, Any], str]:
    """The data that a fit names by a path, the parts that are chosen for them, and a file, for the
    caller to remove, of what lies below its settings then.

    A part that the user names is not chosen.
    """
    try:
        data = _data(args)
        parts, said = parts_for(data), _parts_named(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"vaekit: error: {why(error)}\n(All options: vaekit fit --help)", file=sys.stderr)
        sys.exit(2)
    parts = {name: part for name, part in parts.items() if name not in said}
    settings = yaml.safe_load(config_path("digits").read_text())
    settings["model"] |= parts
    settings["trainer"]["max_epochs"] = epochs_for(data)
    del settings["data"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(settings, file)
    return data, parts, file.name


def _data(args: list[str]) -> DataModule:
    """The data module of a command line, whose other options are not looked at."""
    allowed_imports.import_named(args)  # among which may be the module
    own, said = [], allowed_imports.words(args)
    for at, word in enumerate(said):
        if re.match(r"--data[.=]|--data$", word):
            bare = "=" not in word and at + 1 < len(said)
            own += [word, said[at + 1]] if bare else [word]
    parser = Parser(prog="vaekit fit")
    plain: dict[str, Any] = {"instantiate": False, "required": False, "fail_untyped": False}
    parser.add_subclass_arguments(DataModule, "data", **plain)
    parser.read_no_files()
    config = parser.parse_args(bracketed(own))
    text = parser.dump(config, skip_unset=True, format="yaml", skip_validation=True)
    data: DataModule = specs.build("data", specs.shorten(yaml.safe_load(text)["data"]))
    data.prepare_data()
    data.setup()
    return data


def _parts_named(args: list[str]) -> set[str]:
    """The parts of a model that a user names, on the command line or in a configuration."""
    found = set()
    for word, value in pairwise([*allowed_imports.words(args), ""]):
        if word.startswith("--model.") and word.count(".") == 1:
            found.add(word.removeprefix("--model.").partition("=")[0])
        if word in ("-c", "--config"):
            with suppress(yaml.YAMLError, OSError, ValueError):  # reported when it is parsed
                content = yaml.safe_load(config_path(value).read_text())
                found |= set(content.get("model") or {}) if isinstance(content, Mapping) else set()
    return found


# Where a fit goes on


def going_on(args: list[str]) -> tuple[str | None, dict[str, Any] | None]:
    """The checkpoint that a fit goes on from, and its path, if it goes on from one."""
    said, runs = named("ckpt_path", args), Path(named("runs", args) or "runs")
    if said is None or {"-h", "--help"} & set(args):
        return None, None
    try:
        path = str(found(said, runs, on=True))
        checkpoint = read_checkpoint(path, on=True)
        configured = bool({"-c", "--config"} & set(words(args)))
        resume.refuse_foreign(checkpoint, path, runs, configured)
        return path, checkpoint
    except (ValueError, OSError) as error:
        print(f"vaekit: error: {why(error)}\n(All options: vaekit fit --help)", file=sys.stderr)
        sys.exit(2)


def settings_below(checkpoint: dict[str, Any] | None) -> str | None:
    """The file of a checkpoint's settings, if a fit goes on from one."""
    if checkpoint is None:
        return None
    try:
        return resume.settings_file(checkpoint)
    except (ValueError, yaml.YAMLError) as error:
        print(f"vaekit: error: {why(error)}", file=sys.stderr)
        sys.exit(2)
