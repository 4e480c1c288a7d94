"""Means and standard deviations of large, close and constant numbers."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import numpy as np
import pandas as pd
import pytest
import torch

from vaekit import data
from vaekit.data.columns.covariates import known_of
from vaekit.data.columns.scale import deviation, moments


def exact(x: np.ndarray) -> tuple[float, float]:
    """Returns the mean and the standard deviation in exact arithmetic."""
    numbers = [Fraction(value.item()) for value in x]
    mean = sum(numbers, Fraction()) / len(numbers)
    variance = sum(((n - mean) ** 2 for n in numbers), Fraction()) / len(numbers)
    return float(mean), sqrt(variance)


def sixteen_digits() -> np.ndarray:
    return 1234567890123456.0 + np.random.default_rng(0).integers(-900, 900, 300)


NUMBERS = {
    "sixteen digits": sixteen_digits,
    "sixteen digits that differ by one": lambda: 1234567890123456.0 + np.arange(300) % 2,
    "nanoseconds": lambda: 1.7e18 + np.random.default_rng(1).integers(0, 1000, 300) * 1e3,
    "a thousandth of a second": lambda: 1.7e9 + np.random.default_rng(2).random(300) * 1e-3,
    "one far value first": lambda: np.append(1e9, np.random.default_rng(3).normal(size=5000)),
    "around zero": lambda: np.random.default_rng(4).normal(size=300),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_moments_are_those_of_exact_arithmetic(name: str) -> None:
    x = NUMBERS[name]()
    mean, std = exact(x)
    assert deviation(x) == pytest.approx(std, rel=1e-9)
    means, deviations = moments(torch.tensor(x).unsqueeze(1))
    assert means.item() == pytest.approx(mean, rel=1e-15, abs=1e-12 * std)
    assert deviations.item() == pytest.approx(std, rel=1e-9)


CONSTANT = {
    "a tenth": np.full(1000, 0.1),
    "a tenth in float32": np.full(1000, 0.1, np.float32),
    "a third": np.full(999, 1 / 3),
    "a tenth with rounding": np.asarray([0.1 + 0.2, 0.3] * 50),
    "a large number": np.full(1000, 1e17 / 3),
    "sixteen digits": np.full(1000, 1234567890123457.0),
    "zero": np.zeros(10),
    "nothing": np.zeros(0),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_numbers_have_the_standard_deviation_one(name: str) -> None:
    x = CONSTANT[name]
    assert deviation(x) == 1
    if len(x):
        mean, std = moments(torch.tensor(x).unsqueeze(1))
        assert std.item() == 1
        assert mean.item() == pytest.approx(x[0], rel=1e-15)


def test_the_standard_deviation_of_16_digit_numbers_is_not_1() -> None:
    x = np.stack([sixteen_digits(), np.random.default_rng(1).normal(size=300)], 1)
    module = data.Arrays(x, standardize=True)
    rows = torch.cat([batch.x for batch in module.rows("train")]).double()
    assert rows.std(0, correction=0).tolist() == pytest.approx([1, 1], rel=1e-6)
    assert rows.mean(0).tolist() == pytest.approx([0, 0], abs=1e-3)  # of a mean within 1/8
    number = x[module.numbers("train"), 0]
    assert module.info.scale[0] == pytest.approx(exact(number)[1], rel=1e-9)


def test_a_covariate_of_16_digit_numbers_keeps_its_standard_deviation() -> None:
    column = pd.Series(sixteen_digits().astype(np.int64))
    spec = known_of(column, "number", np.arange(300))
    assert spec["std"] == pytest.approx(exact(column.to_numpy())[1], rel=1e-9)


def test_moments_leave_out_what_is_not_observed() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(1e15 + rng.integers(0, 999, (50, 3, 4)))
    mask = torch.tensor(rng.random(x.shape) < 0.5)
    mask[:10, 0] = False  # the first value that is observed is in a later row
    mask[:, 2] = False
    rows = torch.arange(5, 50)
    mean, std = moments(torch.where(mask, x, torch.nan), mask, rows)
    for channel in range(2):
        expected = exact(x[rows][:, channel][mask[rows][:, channel]].numpy())
        assert mean[channel].item() == pytest.approx(expected[0], rel=1e-15)
        assert std[channel].item() == pytest.approx(expected[1], rel=1e-9)
    assert (mean[2].item(), std[2].item()) == (0, 1)
    assert mean.shape == std.shape == (3, 1)


def test_moments_of_many_rows_do_not_depend_on_the_pieces_that_are_read() -> None:
    x = np.random.default_rng(0).integers(0, 999, (3 * 2**21, 1)) + 1e15
    mask = torch.ones(x.shape, dtype=torch.bool)
    mask[: 2**22] = False  # nothing in the first piece is observed
    mean, std = moments(torch.tensor(x), mask)
    second = x[2**22 :, 0] - 1e15
    assert mean.item() == pytest.approx(1e15 + second.mean(), rel=1e-15)
    assert std.item() == pytest.approx(second.std(), rel=1e-9)
