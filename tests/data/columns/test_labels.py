"""Labels: classes, or numbers of which there are too many to be classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vaekit import data
from vaekit.data.columns.covariates import label_classes, label_values, labels_of
from vaekit.data.readers.frames import read_frame


@pytest.mark.parametrize(
    ("values", "number"),
    [
        (["a", "b", "a"], 2),
        ([f"name {at}" for at in range(300)], 300),
        ([3, 7, 7], 2),
        ([0.5, 1.5], 2),
        (range(1000), 1000),
        (range(1, 1001), 1000),
        ([at for at in range(1000) if at % 20], 950),
        ([19.99 + at for at in range(397)], None),
        (range(150, 547), None),
        ([at**2 for at in range(397)], None),
    ],
)
def test_many_different_numbers_are_no_classes(values: Any, number: int | None) -> None:
    classes = label_classes(pd.Series(list(values)))
    assert (None if classes is None else len(classes)) == number


def test_a_label_comes_back() -> None:
    column = pd.Series([1.5, None, 3.25], name="price")
    values = label_values(column, None)
    assert values.dtype == torch.float32
    assert labels_of(values, None)[::2] == [1.5, 3.25]
    column = pd.Series(["b", None, "a"])
    assert label_values(column, ["a", "b"]).tolist() == [1, -1, 0]
    assert labels_of(torch.tensor([1, -1, 0]), ["a", "b"]) == ["b", None, "a"]


def test_prices_are_a_label_of_a_table_and_are_written(tmp_path: Path) -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"x": r.normal(size=500), "price": r.gamma(2, 100, 500).round(2)})
    table = data.Table(frame, label="price")
    assert table.info.classes is None
    assert "labels" not in table.told()
    batch = next(table.rows("val"))
    rows = table.numbers("val")
    assert batch.label.tolist() == frame["price"][rows.numpy()].astype("float32").tolist()
    (path,) = table.write(tmp_path, "out", batch.x, {"label": batch.label}, rows)
    np.testing.assert_allclose(read_frame(path)["price"], frame["price"][rows.numpy()], rtol=1e-6)
    new = data.Table(frame.drop(columns="price"), val=0, test=0).follow(table.info.schema)
    assert len(next(new.rows("train")).x) == 500


def test_prices_are_a_label_of_counts_and_are_written(tmp_path: Path) -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(r.poisson(3.0, (300, 4)) + 1, columns=list("abcd"))
    counts = data.Counts(frame.assign(price=r.gamma(2, 100, 300)), label="price")
    assert counts.info.classes is None
    batch = next(counts.rows("test"))
    assert batch.label.is_floating_point()
    columns = {"label": batch.label, "context": batch.context}
    (path,) = counts.write(tmp_path, "out", batch.x, columns, counts.numbers("test"))
    assert read_frame(path)["price"].tolist() == pytest.approx(batch.label.tolist())


def test_prices_are_a_label_of_arrays() -> None:
    r = np.random.default_rng(0)
    price = r.permutation(400) * 250 + 50_000
    arrays = data.Arrays(r.normal(size=(400, 3)), label=price)
    assert arrays.info.classes is None
    batch, rows = next(arrays.rows("val")), arrays.numbers("val").numpy()
    assert batch.label.tolist() == price[rows].astype("float32").tolist()
    few = data.Arrays(r.normal(size=(400, 3)), label=price % 7 + 10**6)
    assert few.info.classes == 7
