"""Imports point one way: the arrows of the house, and no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "vaekit"
TESTS = Path(__file__).parent

PARTS = {"encoders", "decoders", "posteriors", "priors", "likelihoods", "sequences", "sets"}
PARTS |= {"signals"}
BASE = {"batch", "draw", "part", "contracts", "distributions", "precision", "ranks"}
BLOCKS = BASE | {"nn", "schedules", "levels", "mixtures", "concrete", "manifolds"}
LAUNCH = {"model", "checkpoints", "plugins", "specs", "data"}
ARROWS = {
    "": {"plugins", "callbacks", "data", "batch", "model", "module", "checkpoints"}
    | {"importance", "prior_files", "testing"},
    "__main__": {"", "cli", "commands", "doctor", "new_plugin", "plugins"},
    "new_plugin": set(),
    "testing": BASE
    | {
        "compiled",
        "data",
        "importance",
        "manifolds",
        "model",
        "noise",
        "plugins",
        "schedules",
        "specs",
    },
    "doctor": {"", "commands", "loggers", "plugins"},
    "cli": LAUNCH
    | {"module", "callbacks", "commands", "parsing", "quiet", "resume", "summary", "trainer"}
    | {"before", "choice", "results"}
    | {"arguments", "finite", "guard", "imports", "limits", "messages", "noise", "storage"},
    "collapse": {"batch", "contracts", "factors", "model", "noise", "precision"},
    "limits": set(),
    "arguments": LAUNCH | {"callbacks", "collapse", "guard", "imports", "parsing", "trainer"},
    "resume": {"optim", "specs", "storage"},
    "before": {
        "checkpoints",
        "choice",
        "data",
        "imports",
        "messages",
        "parsing",
        "resume",
        "specs",
    },
    "parsing": {
        "checkpoints",
        "commands",
        "imports",
        "messages",
        "model",
        "optim",
        "plugins",
    },
    "messages": {"imports", "plugins", "specs"},
    "imports": {"plugins"},
    "choice": {"batch", "data"},
    "commands": set(),
    "trainer": {"model", "batch", "data", "results", "pictures", "prior_files", "storage"}
    | {"summary"},
    "prior_files": {"checkpoints", "contracts", "data", "distributions", "model", "plugins"}
    | {"precision", "specs", "storage"},
    "results": {"batch", "data", "precision"},
    "callbacks": {"module", "model", "checkpoints", "data", "pictures", "noise", "precision"}
    | {"finite", "guard", "storage"},
    "loggers": set(),
    "summary": {"model", "batch", "data", "noise", "contracts", "metrics", "precision"}
    | {"prior_files"},
    "pictures": {"model", "batch", "contracts"},
    "module": BASE
    | {"model", "checkpoints", "guard", "optim", "metrics", "noise", "quiet", "table"}
    | {"collapse", "compiled", "importance"},
    "importance": {"batch", "contracts", "noise", "part", "precision"},
    "compiled": {"batch", "model", "schedules"},
    "guard": {"batch", "finite", "metrics", "noise", "optim", "settled", "storage"},
    "settled": {"finite"},
    "finite": {"batch", "model"},
    "table": {"model"},
    "quiet": set(),
    "checkpoints": {"model", "plugins", "specs", "storage"},
    "storage": set(),
    "model": {"alternatives", "specs", "contracts", "part", "batch", "precision"},
    "alternatives": {"batch", "contracts", "specs"},
    "optim": {"plugins", "specs", "contracts"},
    "vae": BASE,
    "objectives": BLOCKS | {"factors"},
    "factors": {"distributions"},
    **{part: BLOCKS for part in PARTS},
    "signals": BLOCKS | {"sequences"},
    "posteriors": BLOCKS | {"flows"},
    "priors": BLOCKS | {"fitting", "flows"},
    "flows": {"distributions", "nn"},
    "fitting": set(),
    "data": {"batch", "noise", "precision", "specs"},
    "metrics": set(),
    "specs": {"plugins", "wrapped"},
    "wrapped": {"batch", "contracts", "nn", "part"},
    "levels": {"batch", "contracts"},
    "concrete": {"distributions", "draw", "part", "precision", "schedules"},
    "plugins": {"contracts"},
    "nn": {"batch"},
    "schedules": set(),
    "contracts": {"batch", "draw", "part", "distributions", "precision"},
    "part": {"batch", "draw", "distributions", "precision"},
    "draw": {"batch", "distributions", "precision"},
    "batch": set(),
    "manifolds": {"distributions", "precision", "radial"},
    "radial": {"precision"},
    "distributions": set(),
    "ranks": set(),
    "mixtures": {"distributions", "precision"},
    "noise": set(),
    "precision": set(),
}


def _floor(module: str) -> str:
    """The floor that a module of vaekit stands on: the part of its name after vaekit."""
    return module.partition(".")[2].partition(".")[0]


def _imports(path: Path) -> set[str]:
    """Floors that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vaekit":
            modules = {p.stem for p in SRC.iterdir()}
            names = [f"vaekit.{a.name}" if a.name in modules else "vaekit" for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        else:
            continue
        found |= {_floor(name) for name in names if name.split(".")[0] == "vaekit"}
    return found


FILES = sorted(SRC.rglob("*.py"))


def _own_floor(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_a_file_imports_only_what_stands_below_it(path: Path) -> None:
    own = _own_floor(path)
    assert own in ARROWS, f"{path} stands on no floor of the list"
    assert _imports(path) - {own} <= ARROWS[own]


def test_the_arrows_form_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if _own_floor(path):  # the package's face imports lazily, and nothing below imports it
            graph.setdefault(_own_floor(path), set()).update(
                _imports(path) - {_own_floor(path), ""}
            )
    done: set[str] = set()
    while graph:
        free = {floor for floor, needs in graph.items() if needs <= done}
        assert free, f"a circle among {sorted(graph)}"
        done |= free
        graph = {floor: needs for floor, needs in graph.items() if floor not in free}


@pytest.mark.parametrize(
    "name",
    ["contracts", "part", "draw", "batch", "distributions", "precision", "manifolds", "radial"],
)
def test_what_parts_are_made_of_imports_nothing_but_torch(name: str) -> None:
    files = [SRC / f"{name}.py"] if name != "contracts" else (SRC / name).glob("*.py")
    trees = [ast.parse(path.read_text()) for path in files]
    roots = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    plain = {"__future__", "collections", "contextlib", "dataclasses", "functools", "math"}
    assert roots <= plain | {"typing", "warnings", "torch", "vaekit"}


@pytest.mark.parametrize("name", ["vae", "model", "module"])
def test_the_core_and_the_model_get_parts_by_name(name: str) -> None:
    assert not _imports(SRC / f"{name}.py") & {*PARTS, "objectives", "data", "schedules"}


@pytest.mark.parametrize("path", [*FILES, *sorted(TESTS.rglob("*.py"))], ids=lambda p: p.name)
def test_a_file_is_read_at_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
