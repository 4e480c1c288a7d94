"""Test that each test starts at the seed given by --seed, and that no file draws earlier."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import pytest_make_collect_report

DRAWS = [lambda: torch.rand(()).item(), np.random.random, random.random]


@pytest.fixture
def first_draws() -> list[float]:
    return [draw() for draw in DRAWS]


def test_a_test_and_its_fixtures_begin_at_the_seed(
    first_draws: list[float], pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("seed")
    generator = torch.Generator().manual_seed(seed)
    assert first_draws == [
        torch.rand((), generator=generator).item(),
        np.random.RandomState(seed).random(),
        random.Random(seed).random(),
    ]


@pytest.mark.parametrize("draw", [lambda: None, *DRAWS])
def test_a_file_that_draws_at_import_is_refused(draw: Callable[[], Any]) -> None:
    file = SimpleNamespace(nodeid="tests/test_x.py")
    report: Any = SimpleNamespace(passed=True, outcome="passed", longrepr=None)
    collecting = pytest_make_collect_report(file)
    next(collecting)
    drew = draw() is not None
    with pytest.raises(StopIteration):
        collecting.send(report)
    assert (report.outcome == "failed") == drew
    assert ("tests/test_x.py" in str(report.longrepr)) == drew
