"""The public API: what `import vaekit` reaches, and that each of its names is one thing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lightning.pytorch import Callback

import vaekit
from conftest import ROOT
from vaekit.registry import plugins

SRC = Path(vaekit.__file__).parent
PACKAGES = sorted(name for name in vaekit.__all__ if isinstance(getattr(vaekit, name), ModuleType))
LISTED = [name for name in PACKAGES if hasattr(getattr(vaekit, name), "__all__")]


def _classes(path: Path) -> list[str]:
    return [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]


def test_dir_lists_the_public_names() -> None:
    assert dir(vaekit) == sorted(vaekit.__all__)
    assert {"Model", "VAEModule", "load", "list_plugins", "register", "data"} <= set(dir(vaekit))
    assert set(dir(vaekit.data)) == set(vaekit.data.__all__)


def test_tab_completion_and_the_list_of_plugins_import_no_torch() -> None:
    code = (
        "import sys, vaekit; dir(vaekit); dir(vaekit.data); vaekit.list_plugins('encoder'); "
        "assert not {'torch', 'lightning', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["", *LISTED])
def test_each_public_name_is_there_and_is_imported_for_type_checkers(package: str) -> None:
    module: Any = import_module(f"vaekit.{package}".rstrip("."))
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert missing == []
    source = Path(module.__file__)
    tree = ast.parse(source.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    names |= {ast.unparse(target) for node in assigned for target in node.targets}
    assert set(module.__all__) - {"__version__"} <= names


def test_the_modules_named_in_the_readme_are_there() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "PLUGINS.md").read_text()
    names = set(re.findall(r"`vaekit\.([a-zA-Z_.]+)\b(?=[`(])", text))
    groups = {group.removeprefix("vaekit.") for group, _ in plugins.KINDS.values()}
    assert {"load", "model.parts_for", "contracts", "load_prior"} <= names
    for name in names - groups:
        value: Any = vaekit
        for attribute in name.split("."):
            value = getattr(value, attribute)


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in SRC.rglob("*.py"):
        for name in _classes(path):
            if not name.startswith("_"):
                homes.setdefault(name, []).append(str(path.relative_to(SRC)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


@pytest.mark.parametrize("plugin", vaekit.list_plugins(), ids=str)
def test_a_part_is_exported_by_the_package_of_its_kind(plugin: plugins.Plugin) -> None:
    if plugin.package == "vaekit":
        cls = plugins.load(plugin)
        public = getattr(vaekit, plugin.path.split(".")[1])
        assert getattr(public, cls.__name__) is cls


def test_all_callbacks_are_in_vaekit_callbacks() -> None:
    inner = [p for p in (SRC / "training" / "callbacks").glob("*.py") if p.stem != "__init__"]
    for path in inner:
        module = import_module(f"vaekit.training.callbacks.{path.stem}")
        for name in _classes(path):
            cls = getattr(module, name)
            if issubclass(cls, Callback | Warning) and not name.startswith("_"):
                assert getattr(vaekit.callbacks, name) is cls
                assert cls.__module__ == "vaekit.callbacks"  # the path that config.yaml contains


def test_list_plugins_returns_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from vaekit.cli.main import main

    main(["plugins"])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    printed = [tuple(cell.strip() for cell in row[1:5]) for row in rows]
    listed = [(p.kind, p.name, p.package, p.version) for p in vaekit.list_plugins()]
    assert printed == listed
    assert vaekit.list_plugins("prior") == [p for p in vaekit.list_plugins() if p.kind == "prior"]
    with pytest.raises(
        ValueError, match=r"Expected a kind out of core, encoder, .* but got 'priors'"
    ):
        vaekit.list_plugins("priors")


def _public_imports(text: str) -> set[str]:
    return set(re.findall(r"^\s*from (vaekit[\w.]*) import", text, re.MULTILINE))


def test_a_part_needs_no_import_but_of_public_packages() -> None:
    texts = [p.read_text() for p in (ROOT / "tests" / "parts").glob("*.py")]
    texts += [p.read_text() for p in (ROOT / "tests" / "packages").rglob("*.py")]
    used = set().union(*map(_public_imports, texts))
    assert used <= {"vaekit.contracts", "vaekit.networks", "vaekit.cores"}
    page = _public_imports((ROOT / "PLUGINS.md").read_text())
    assert page <= used | {"vaekit", "vaekit.data", "vaekit.testing"}
