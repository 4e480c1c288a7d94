"""What the words of a command line say before they are parsed: which run, and which data."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from vaekit import choice, imports, resume
from vaekit.checkpoints import read_checkpoint
from vaekit.imports import words
from vaekit.messages import why
from vaekit.parsing import config_path

__all__ = [
    "choosing_file",
    "going_on",
    "named_by_path",
    "names_data",
    "settings_below",
    "with_data",
]


def named(option: str, args: Iterable[str]) -> str | None:
    """What an option of a fit is given, before all is parsed: the last of what says it."""
    values = [os.environ.get(f"VAEKIT_FIT__{option}".upper())]
    words = imports.words(args)
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
    said = {"--data", "--data.root"} & set(imports.words(args))
    return bool(said) or named_by_path(args) or named("data", args) is not None


def named_by_path(args: Iterable[str]) -> bool:
    """Whether a user names data of their own by a path."""
    return "--data.path" in imports.words(args)


# Where data are named by a path


def with_data(args: list[str]) -> list[str]:
    """The command line with the module for data that are named by their path alone."""
    path = choice.data_named(words(args))
    if path is None or named("data", args) is not None:
        return args
    try:
        return choice.with_data(words(args), path)
    except (ValueError, OSError) as error:
        print(f"vaekit: error: {why(error)}", file=sys.stderr)
        sys.exit(2)


def choosing_file() -> str:
    """A file, for the caller to remove, of what lies below a fit whose parts are chosen."""
    settings = yaml.safe_load(config_path("digits").read_text())
    del settings["data"], settings["trainer"]["max_epochs"]
    for name in choice.CHOSEN:
        del settings["model"][name]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(settings, file)
    return file.name


# Where a fit goes on


def going_on(args: list[str]) -> tuple[str | None, dict[str, Any] | None]:
    """The checkpoint that a fit goes on from, and its path, if it goes on from one."""
    said, runs = named("ckpt_path", args), Path(named("runs", args) or "runs")
    if said is None or {"-h", "--help"} & set(args):
        return None, None
    try:
        path = str(resume.found(said, runs, on=True))
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
