"""Means, standard deviations and totals are those of the observed numbers, exactly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vaekit import data
from vaekit.data.columns.scale import deviation, moments
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.prepare import hidden_by, hide


def big(n: int = 300) -> np.ndarray:
    r = np.random.default_rng(5)
    return (1_234_567_890_123_456 + r.integers(-900, 900, n)).astype(np.float64)


def exact_std(x: np.ndarray) -> float:
    values = [Fraction(value) for value in x.tolist()]
    mean = sum(values) / len(values)
    return float(sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


@pytest.mark.parametrize("x", [big(), big() / 1e12, np.asarray([1e6, 1e6 + 1e-6] * 9)])
def test_the_standard_deviation_of_many_digits_is_not_1(x: np.ndarray) -> None:
    assert deviation(x) == pytest.approx(exact_std(x), rel=1e-9)
    mean, std = moments(torch.from_numpy(x[:, None]))
    assert std.item() == pytest.approx(exact_std(x), rel=1e-9)
    assert mean.item() == float(sum(map(Fraction, x.tolist())) / len(x))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e15 / 3, 1.7e18])
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_equal_numbers_have_the_standard_deviation_1(value: float, n: int) -> None:
    x = np.full(n, value)
    assert deviation(x) == 1.0
    assert moments(torch.from_numpy(x[:, None]))[1].item() == 1.0


def test_numbers_that_differ_by_rounding_have_the_standard_deviation_1() -> None:
    x = np.asarray([0.3, 0.1 + 0.2] * 20)
    assert x.std() > 0
    assert deviation(x) == 1.0
    assert moments(torch.from_numpy(x[:, None]))[1].item() == 1.0


def test_sixteen_digits_are_standardised(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([big(), np.arange(300.0)], 1))
    arrays = data.Arrays(tmp_path / "x.npy", standardize=True, val=0, test=0)
    x = next(arrays.rows("train")).x
    assert x.std(0, correction=0).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert arrays.info.scale[0] == pytest.approx(exact_std(big()), rel=1e-9)


def test_the_elements_that_are_hidden_are_those_of_earlier_versions() -> None:
    """Written down from the version before moments took account of them."""
    splits = {"train": Rows(torch.zeros(3, 4))}
    hide(splits, 0.5, seed=7)
    assert splits["train"].mask.int().tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]]
    x = {"a": torch.empty(2, 1, 2, 2), "b": torch.empty(2, 3)}
    shown = hidden_by(x, None, 0.5, 7, 0)
    assert shown["a"].int().tolist() == [[[[1, 1], [0, 1]]], [[[0, 0], [0, 0]]]]
    assert shown["b"].int().tolist() == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("entries", [False, True])
def test_arrays_take_moments_of_what_missing_leaves(entries: bool) -> None:
    r = np.random.default_rng(0)
    x = np.where(np.arange(600)[:, None] % 2, 100.0, 0.0) + r.normal(size=(600, 3))
    source = {"a": x, "b": x[:, :2]} if entries else x
    arrays = data.Arrays(source, standardize=True, missing=0.5, val=0.2, test=0)
    batch = next(arrays.rows("train", batch_size=1000))
    pairs = [(batch.x, batch.mask)] if not entries else [(batch.x[n], batch.mask[n]) for n in "ab"]
    for values, mask in pairs:
        for at in range(values.shape[1]):
            seen = values[:, at][mask[:, at]].double()
            assert seen.mean().item() == pytest.approx(0, abs=1e-6)
            assert seen.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_sequences_take_moments_of_what_missing_leaves() -> None:
    r = np.random.default_rng(0)
    source = [100 * (at % 2) + r.normal(size=(4 + at % 5, 2)) for at in range(80)]
    sequences = data.Sequences(source, missing=0.4, val=0.2, test=0)
    batch = next(sequences.rows("train", batch_size=1000))
    for channel in range(2):
        seen = batch.x[:, channel][batch.mask[:, channel]].double()
        assert seen.mean().item() == pytest.approx(0, abs=1e-6)
        assert seen.std(correction=0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("files", [False, True])
def test_the_library_size_is_the_total_of_the_observed_counts(tmp_path: Path, files: bool) -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(
        r.poisson(r.gamma(2, 2, (90, 12))), columns=[f"g{at}" for at in range(12)]
    )
    held_out = {"val": 0.2, "test": 0.2}
    if files:
        for name in held_out:
            frame.sample(20, random_state=1).to_csv(tmp_path / f"{name}.csv", index=False)
            held_out[name] = str(tmp_path / f"{name}.csv")
    counts = data.Counts(frame, missing=0.5, **held_out)
    for split in counts.splits:
        batch = next(counts.rows(split))
        total = (batch.x * batch.mask).sum(1).clamp(min=1)
        torch.testing.assert_close(batch.context[:, 0].exp(), total)


def test_a_row_without_an_observed_count_has_the_library_size_1() -> None:
    counts = data.Counts(pd.DataFrame(np.eye(40, 4, dtype=int) + 0), missing=0.9, val=0, test=0)
    batch = next(counts.rows("train"))
    hidden = (batch.x * batch.mask).sum(1) == 0
    assert hidden.any()
    assert not batch.context[hidden].any()
