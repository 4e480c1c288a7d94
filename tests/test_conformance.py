"""Every part that is installed, whoever wrote it, obeys the laws of its kind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from vaekit import plugins, testing
from vaekit.testing.ranks import OF_RANKS
from vaekit.testing.subject import Made, Subject

SETTINGS: dict[str, dict[str, Any]] = {
    "Cyclical": {"steps": 10},
    "Linear": {"steps": 10},
    "Sigmoid": {"steps": 10},
    "Arrays": {"x": torch.rand(90, 5)},
}
"""Arguments of those that need some."""

FILES = ("MNIST", "FashionMNIST", "KMNIST")  # which no test downloads


def installed() -> list[Any]:
    """Every part that can be imported; what cannot be is told by `vaekit plugins --check`."""
    found = []
    for plugin in plugins.plugins():
        with suppress(plugins.RegistryError):
            plugins.load(plugin)
            found.append(pytest.param(plugin, id=f"{plugin.kind}-{plugin.name}"))
    return found


def subject(plugin: plugins.Plugin) -> Subject | Made:
    settings = SETTINGS.get(plugin.name, {})
    if plugin.kind in ("schedule", "data"):
        return Made(plugin.kind, plugin.path, settings)
    return Subject(plugin.kind, plugin.path, settings)


@pytest.mark.parametrize("plugin", installed())
def test_a_part_obeys_the_laws_of_its_kind(plugin: plugins.Plugin) -> None:
    if plugin.name in FILES and plugin.package == "vaekit":
        pytest.skip("its files are tried in the slow set")
    found = subject(plugin)
    ours = [law.__name__ for law in OF_RANKS if law in testing.laws(plugin.kind)]
    testing.check(found, without=ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plugin", [p for p in installed() if p.values[0].kind not in ("schedule", "data")]
)
def test_two_ranks_end_with_one_model(plugin: plugins.Plugin) -> None:
    testing.check(subject(plugin), only=OF_RANKS)


def test_two_ranks_end_with_one_likelihood_whose_scale_is_shared() -> None:
    part = Subject("likelihood", "Gaussian", {"scale": "optimal"})
    testing.check(part, only=OF_RANKS)


@pytest.mark.slow
def test_mnist_s_own_files_obey_the_laws(mnist_root: Path) -> None:
    testing.check_data("MNIST", {"root": os.fspath(mnist_root)})


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_plugin_of_ours_loads_and_is_documented(kind: str) -> None:
    found = [p for p in plugins.plugins(kind) if p.package == "vaekit"]
    assert found
    for plugin in found:
        assert (plugins.load(plugin).__doc__ or "").strip(), plugin
