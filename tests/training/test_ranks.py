"""Several processes: training equals that of one, evaluation counts every row once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from conftest import ROOT
from ranks import CASES, rows


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `ranks.py` found, in a process of its own."""
    path = tmp_path_factory.mktemp("ranks") / "results.pt"
    command = [sys.executable, str(ROOT / "tests" / "ranks.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_give_the_weights_of_one(case: tuple[Any, ...], results: dict[str, Any]) -> None:
    one, two = results["trained"][case]
    assert (one["weights"] - two["weights"]).abs().max() < 1e-12
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, rel=1e-6), name


def test_a_stand_in_row_counts_for_nothing_where_rows_are_coupled(results: dict[str, Any]) -> None:
    one, three = results["three"]
    assert (one["weights"] - three["weights"]).abs().max() < 1e-12


def test_the_cases_have_last_batches_that_divide_and_that_do_not() -> None:
    last = {n: [len(b) for b in rows(n, 8).rows("train", batch_size=8)][-1] for n, _ in CASES}
    assert last == {40: 8, 42: 2, 45: 3, 41: 1, 55: 1}


def test_ranks_draw_different_noise(results: dict[str, Any]) -> None:
    # seed_everything gives all ranks one seed, and with it their rows would share their noise.
    assert not torch.equal(*results["drawn"])


def test_predictions_of_two_ranks_are_whole_and_in_order(results: dict[str, Any]) -> None:
    one, two = results["predicted"]
    assert one["label"].tolist() == sorted(one["label"].tolist())
    assert len(one["label"]) == 9
    for name, values in one.items():
        assert torch.allclose(values, two[name], atol=1e-12), name
