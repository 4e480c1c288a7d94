"""Every example in a docstring, of the package that is installed, wherever that is."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import vaekit

MODULES = [found.name for found in pkgutil.walk_packages(vaekit.__path__, "vaekit.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_of_a_module_are_true(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed, capsys.readouterr().out


def test_there_are_examples() -> None:
    modules = map(importlib.import_module, ("vaekit.likelihoods.real", "vaekit.contracts.trees"))
    tried = sum(doctest.testmod(module).attempted for module in modules)
    assert tried > 10
