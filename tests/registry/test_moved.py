"""Paths of earlier versions: an import says where a name is now, and a part's path still works."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from spellings import PARTS, spellings
from vaekit.registry import plugins
from vaekit.registry.moved import MODULES, NAMES, new_path
from vaekit.registry.plugins import find


def _is_there(path: str) -> bool:
    module, _, name = path.rpartition(".")
    return hasattr(import_module(module), name)


@pytest.mark.parametrize("path", MODULES)
def test_an_old_module_names_the_new_one(path: str) -> None:
    import_module(MODULES[path])
    if MODULES[path].startswith(f"{path}."):  # a package has the name of the old module
        assert hasattr(import_module(path), "__path__")
    else:
        package, _, name = path.rpartition(".")
        for statement in (
            f"import {path}",
            f"from {path} import x",
            f"from {package} import {name}",
        ):
            with pytest.raises(ImportError, match=f"^{path} is {MODULES[path]} now"):
                exec(statement)  # noqa: S102


@pytest.mark.parametrize("path", NAMES)
def test_an_old_name_names_the_new_one(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert _is_there(NAMES[path])
    with pytest.raises(ImportError, match="now") as error:
        exec(f"from {module} import {name}")  # noqa: S102
    home, _, now = NAMES[path].rpartition(".")
    text = str(error.value)  # of the name, or of its module with a list of its names
    listed = re.search(rf"In {home}: ([^.]*)\.", text)
    spelled = name if name == now else f"{name} as {now}"
    assert NAMES[path] in text or (listed and spelled in listed[1].split(", "))


@pytest.mark.parametrize(
    ("path", "now"),
    [
        ("vaekit.data.rows.Rows", "vaekit.data.rows.batches.Rows"),
        ("vaekit.distributions.elements", "vaekit.distributions.base.elements"),
        ("vaekit.cli.run", "vaekit.cli.app.run"),
        ("vaekit.storage.write", "vaekit.storage.files.write"),
        ("vaekit.model.MODEL_KINDS", "vaekit.model.model.MODEL_KINDS"),
    ],
)
def test_a_name_of_a_file_that_is_a_folder_now(path: str, now: str) -> None:
    module, _, name = path.rpartition(".")
    with pytest.raises(ImportError, match=rf"^{path} is {now} now\.$"):
        exec(f"from {module} import {name}")  # noqa: S102


def test_a_name_that_never_was_is_an_ordinary_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'never'"):
        exec("from vaekit.distributions import never")  # noqa: S102
    with pytest.raises(AttributeError, match="module 'vaekit' has no attribute 'never'"):
        _ = __import__("vaekit").never
    with pytest.raises(AttributeError, match=r"vaekit\.plugins is vaekit\.registry\.plugins now"):
        _ = __import__("vaekit").plugins
    assert not hasattr(import_module("vaekit.schedules"), "never")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'vaekit\.never'"):
        import_module("vaekit.never")


def test_a_part_is_found_by_its_three_paths() -> None:
    assert new_path("vaekit.encoders.MLPEncoder") == "vaekit.networks.mlp.MLPEncoder"
    assert spellings(find("data", "MNIST"))[0] == "vaekit.data.idx.MNIST"
    assert spellings(find("posterior", "VonMisesFisher")) == [
        "vaekit.posteriors.manifolds.VonMisesFisher",
        "vaekit.posteriors.manifolds.VonMisesFisherPosterior",
        "vaekit.posteriors.VonMisesFisherPosterior",
    ]
    for plugin in PARTS:
        for path in spellings(plugin):
            assert find(plugin.kind, path) == plugin
            assert plugins.unique(path) == plugin.name
