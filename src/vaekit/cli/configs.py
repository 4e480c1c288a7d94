"""Configuration files: the packaged ones by name, their checks, and what they import."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from vaekit.cli import allowed_imports
from vaekit.cli.errors import one_line
from vaekit.registry import plugins

part_packages: dict[str, str] = {}
"""The packages of parts, as the configurations that were read note them."""

_MOST = 10_000  # entries of a configuration


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
        part_packages.update(re.findall(r"^# (\w+ '.+') is of (.+)$", text, re.MULTILINE))
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
        if not allowed_imports.trusted(str(module)):
            sys.exit(
                f"vaekit: error: {path} names {module} to import. If you trust it, say so on the "
                f"command line: --allow-import {module}"
            )
    allowed_imports.import_modules(map(str, modules))


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
    here = Path(__file__).parents[1]
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
