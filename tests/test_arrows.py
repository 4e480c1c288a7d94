"""The order of folders: every import in `src/vaekit` points down, and none goes in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "vaekit"

ORDER = [  # from top to bottom; folders in one row do not import each other
    ["__main__"],
    ["cli"],
    ["testing", "callbacks"],
    ["training"],
    ["evaluation"],
    ["model"],
    ["data"],
    ["registry", "posteriors", "priors", "likelihoods", "objectives"],
    ["networks", "cores", "schedules"],
    ["contracts"],
    ["distributions"],
    ["numerics", "metrics", "storage", "loggers"],
]
"""The folders and files directly below `src/vaekit`. `__init__.py` is not in the list: it imports
all of them, most of them lazily, and only `cli` imports it, for `__version__`."""

ROW = {name: row for row, names in enumerate(ORDER) for name in names}
FILES = sorted(SRC.rglob("*.py"))
INNER = [path for path in FILES if path.name != "__init__.py"]


def _module(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in FILES}


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (module, name) of each import of vaekit in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in MODULES else (node.module or "", alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def _used(path: Path) -> set[str]:
    """Returns the modules of vaekit that a file imports, without itself."""
    found = {module for module, _ in _imports(path) if module.split(".")[0] == "vaekit"}
    return found - {_module(path)}


def _folder(module: str) -> str:
    return [*module.split("."), ""][1]


def _graph() -> dict[str, set[str]]:
    """Returns, for each folder, the folders that it imports."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if _folder(module):
            folders = {_folder(used) for used in _used(path)} - {_folder(module), ""}
            graph.setdefault(_folder(module), set()).update(folders)
    return graph


def _assert_no_circle(graph: dict[str, set[str]]) -> None:
    graph, done = dict(graph), set[str]()
    while graph:
        free = {node for node, needs in graph.items() if needs - {node} <= done}
        assert free, f"a circle among {sorted(graph)}"
        done |= free
        graph = {node: needs for node, needs in graph.items() if node not in free}


def test_every_import_points_down() -> None:
    graph = _graph()
    for folder in sorted(graph, key=lambda name: ROW.get(name, -1)):
        print(f"{folder:<14} {' '.join(sorted(graph[folder]))}")
    assert set(graph) == set(ROW), "a folder is missing in ORDER, or is in it but not there"
    upward = [(a, b) for a in graph for b in graph[a] if ROW[b] <= ROW[a]]
    assert not upward
    print(f"{len(graph)} folders, {len(ORDER)} rows, {sum(map(len, graph.values()))} arrows")


def test_there_are_few_folders() -> None:
    assert len(_graph()) <= 22


def test_files_do_not_import_each_other() -> None:
    _assert_no_circle({_module(path): _used(path) & set(map(_module, INNER)) for path in INNER})


@pytest.mark.parametrize("folder", ["cli", "contracts", "data", "training"])
def test_the_inside_of_a_folder_has_an_order_too(folder: str) -> None:
    graph: dict[str, set[str]] = {}
    for path in (SRC / folder).rglob("*.py"):
        name = [*_module(path).split("."), ""][2]
        if name:
            inside = {u.split(".")[2] for u in _used(path) if u.startswith(f"vaekit.{folder}.")}
            graph.setdefault(name, set()).update(inside - {name})
    _assert_no_circle(graph)


@pytest.mark.parametrize("path", INNER, ids=_module)
def test_an_import_names_the_file_that_defines_the_object(path: Path) -> None:
    packages = {module for module in MODULES if MODULES[module].name == "__init__.py"}
    through = [(m, name) for m, name in _imports(path) if m in packages and name]
    assert [pair for pair in through if pair != ("vaekit", "__version__")] == []
    assert "\n__all__" not in path.read_text(), "only public __init__.py files define __all__"


@pytest.mark.parametrize("name", ["contracts", "distributions", "schedules", "cores"])
def test_what_parts_are_made_of_imports_nothing_but_torch(name: str) -> None:
    files = [SRC / f"{name}.py"] if (SRC / f"{name}.py").is_file() else (SRC / name).glob("*.py")
    roots = {
        (node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    plain = {"__future__", "collections", "contextlib", "dataclasses", "functools", "copy", "math"}
    assert {root.split(".")[0] for root in roots} <= plain | {
        "typing",
        "warnings",
        "torch",
        "vaekit",
    }


@pytest.mark.parametrize("file", ["cores/vae.py", "model/model.py", "training/module.py"])
def test_the_core_and_the_model_get_parts_by_name(file: str) -> None:
    parts = {"networks", "posteriors", "priors", "likelihoods", "objectives", "schedules"}
    used = {_folder(module) for module in _used(SRC / file)}
    assert not used & parts
    assert file == "training/module.py" or "data" not in used


if __name__ == "__main__":
    test_every_import_points_down()
