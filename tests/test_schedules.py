"""Schedules against their definitions."""

import math
from typing import Any

import pytest

from vaekit.contracts.schedule import check_weights, final_weight, weight_at
from vaekit.schedules import Constant, Cyclical, Linear, Sigmoid, Step


def test_linear_reaches_its_end_and_stays() -> None:
    schedule = Linear(steps=10, start=0.5, end=2.5)
    assert [schedule(s) for s in (0, 5, 10, 11, 1000)] == [0.5, 1.5, 2.5, 2.5, 2.5]


def test_sigmoid_is_symmetric_and_begins_and_ends_exactly() -> None:
    schedule = Sigmoid(steps=8)
    assert (schedule(0), schedule(8), schedule(9)) == (0.0, 1.0, 1.0)
    for step in range(9):
        assert math.isclose(schedule(step) + schedule(8 - step), 1.0)


def test_cyclical_repeats() -> None:
    schedule = Cyclical(steps=10, rise=0.5)
    assert [schedule(s) for s in range(10)] == [schedule(s + 30) for s in range(10)]
    assert max(schedule(s) for s in range(10)) == 1.0
    assert schedule(5) == 1.0


def test_weights_may_be_numbers_or_schedules() -> None:
    assert weight_at(0.3, 7) == 0.3
    assert weight_at(Constant(0.3), 7) == 0.3
    assert weight_at(Linear(steps=4), 2) == 0.5


@pytest.mark.parametrize("make", [lambda: Linear(steps=0), lambda: Cyclical(steps=3, rise=0.0)])
def test_impossible_schedules_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="Expected"):
        make()


def test_where_no_step_is_known_the_final_weight_counts() -> None:
    schedules = (Linear(10, end=3.0), Cyclical(1000, end=3.0), Step(at=5, end=3.0))
    assert [final_weight(s) for s in (*schedules, 3.0)] == [3.0] * 4


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan"), None, "1"])
def test_a_weight_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="beta to be a schedule or a finite number of at least 0"):
        check_weights(beta=value)
