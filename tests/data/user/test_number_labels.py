"""Labels that are numbers, such as prices, and labels that are classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import fit
from vaekit import Model, testing
from vaekit.data.columns.covariates import label_classes, label_names, label_values
from vaekit.data.user.arrays import Arrays
from vaekit.data.user.counts import Counts
from vaekit.evaluation.pictures import latent_plane

PRICES = np.random.default_rng(0).permutation(np.arange(397) * 37 + 120)


def cells(label: Any = PRICES) -> pd.DataFrame:
    counts = np.random.default_rng(1).poisson(3.0, (len(label), 5)) + 1
    table = pd.DataFrame(counts, columns=[f"g{at}" for at in range(5)])
    return table.assign(price=label)


CLASSES = {
    "text": [f"name {at}" for at in range(300)],
    "booleans": [True, False] * 200,
    "a hundred numbers": list(np.arange(100) * 7.5) * 2,
    "0 to 199": list(range(200)) * 3,
    "1 to 199, some missing": [*[at for at in range(1, 200) if at % 17], None] * 3,
    "numbers that float64 cannot hold": list(2**60 + np.arange(300)),
    "a categorical": pd.Categorical(list(range(1000, 1300))),
}
NUMBERS = {
    "prices": PRICES,
    "decimals": np.random.default_rng(2).normal(size=400),
    "0 to 199 with gaps": [at for at in range(0, 400, 2)] * 3,
    "2 to 201": list(range(2, 202)) * 3,
    "large numbers": np.arange(300) * 1e30 + 0.0,
    "row numbers": list(range(1, 401)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_text_and_few_or_dense_numbers_are_classes(name: str) -> None:
    column = pd.Series(CLASSES[name])
    classes = label_classes(column)
    assert classes is not None
    assert len(classes) == column.nunique()
    values = label_values(column, "label", classes)
    assert values.dtype == torch.int64
    back = pd.Series(label_names(values, classes))
    assert back.isna().tolist() == column.isna().tolist()
    assert back.dropna().tolist() == column.dropna().tolist()


@pytest.mark.parametrize("name", NUMBERS)
def test_hundreds_of_different_numbers_are_no_classes(name: str) -> None:
    column = pd.Series(NUMBERS[name])
    assert label_classes(column) is None
    values = label_values(column, "label", None)
    assert values.dtype == torch.float64
    back = label_names(values, None)
    assert back.dtype == column.dtype
    assert back.tolist() == column.tolist()


def test_a_price_is_a_label_of_numbers(tmp_path: Path) -> None:
    module = Counts(cells(), label="price")
    assert module.info.classes is None
    assert module.told()["labels"] == "numbers from 120 to 14772"
    for split in module.splits:
        label = torch.cat([batch.label for batch in module.rows(split)])
        assert label.tolist() == PRICES[module.numbers(split)].tolist()
        path = module.write(tmp_path, split, None, {"label": label}, module.numbers(split))[0]
        assert pd.read_parquet(path)["price"].tolist() == label.int().tolist()


def test_prices_in_all_places_that_use_labels(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    prices = PRICES + 0.25
    cells(np.where(np.arange(397) % 50 == 3, np.nan, prices)).to_csv(path, index=False)
    testing.check_data(Counts, {"path": str(path), "label": "price"})
    module = Counts(path, label="price")
    likelihood = {"class_path": "NegativeBinomial", "init_args": {"library": 0}}
    model = Model(module, 3, encoder="MLPEncoder", likelihood=likelihood)
    assert fit(model, module, max_epochs=1).callback_metrics["val/elbo"].isfinite()
    batch = next(module.rows("train", 100))
    axes = latent_plane(model, batch).axes
    assert axes[-1].get_ylabel() == "label"  # a colour bar from the smallest to the largest price
    unknown = torch.full_like(batch.label, torch.nan)
    batch.label = unknown
    assert all(axis.get_ylabel() != "label" for axis in latent_plane(model, batch).axes)
    files = module.write(tmp_path, "rows", None, {"label": unknown})
    assert pd.read_csv(files[0])["price"].isna().all()


def test_a_held_out_file_keeps_its_prices(tmp_path: Path) -> None:
    for name in ("train", "test"):
        cells().to_csv(tmp_path / f"{name}.csv", index=False)
    module = Counts(tmp_path / "train.csv", label="price", test=str(tmp_path / "test.csv"))
    assert module.info.classes is None
    assert next(module.rows("test")).label.tolist() == PRICES.tolist()


def test_held_out_rows_without_a_label_of_numbers_have_nan(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, 3))
    np.savez(tmp_path / "train.npz", x=x, label=np.arange(20) / 7)
    np.savez(tmp_path / "val.npz", x=x)
    module = Arrays(tmp_path / "train.npz", val=str(tmp_path / "val.npz"))
    assert module.told()["labels"].startswith("numbers from 0 to ")
    assert next(module.rows("val")).label.isnan().all()


def test_a_model_that_took_prices_as_classes_keeps_them() -> None:
    module = Counts(cells(), label="price")
    schema = {**module.info.schema, "classes": sorted(PRICES.tolist())}
    follower = Counts(cells(), label="price").follow(schema)
    assert follower.info.classes == 397
    label = next(follower.rows("train")).label
    assert label.dtype == torch.int64
    plain = Counts(cells(), label="price").follow({**schema, "label": None, "classes": None})
    assert next(plain.rows("train")).label is None


def test_a_label_of_numbers_refuses_text_and_infinity() -> None:
    schema = Counts(cells(), label="price").info.schema
    wrong: list[tuple[Any, str]] = [
        (["dear"] * 397, "Expected numbers in the label price, as in training, but got text"),
        (np.where(PRICES > 14000, np.inf, PRICES), "finite numbers in the label price"),
    ]
    for column, message in wrong:
        with pytest.raises(ValueError, match=message):
            Counts(cells(column), label="price").follow(schema).info  # noqa: B018
