"""Held-out rows: nothing is learned from them, and each class is among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vaekit import Model, data
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import split

SPLIT = ["train"] * 50 + ["val"] * 5 + ["test"] * 5


def table() -> pd.DataFrame:
    """A table whose last test row has values that no training row has."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=60).round(2),
            "job": rng.choice(["cook", "nurse", "smith"], 60),
            "visits": [0, 3, 7, 0, 1, 12] * 10,
            "site": ["u", "v"] * 30,
            "part": SPLIT,
        }
    )
    return frame


def strange() -> pd.DataFrame:
    frame = table()
    frame.loc[59, ["size", "job", "visits", "site"]] = [1000.1234, "pilot", 400, "w"]
    return frame


def test_values_low_high_decimals_and_categories_are_of_training_rows() -> None:
    known, other = (data.Table(f, split="part", context="site") for f in (table(), strange()))
    with pytest.warns(UserWarning, match="no training row has"):
        assert other.info == known.info
    size = other.info.schema["columns"][0]
    assert (size["decimals"], size["high"]) == (2, table()["size"][:50].max())
    assert other.told()["only in held-out rows"] == (
        "size: up to 1000.12; job: pilot, taken as missing; visits: up to 400; "
        "site: w, taken as no category"
    )
    assert "only in held-out rows" not in known.told()


def test_numbers_of_held_out_rows_keep_their_values_and_new_categories_are_missing() -> None:
    module = data.Table(strange(), split="part", context="site")
    last = next(module.rows("test"))[4:]
    size = module.info.schema["columns"][0]
    assert last.x["numeric"].item() * size["std"] + size["mean"] == pytest.approx(1000.1234)
    assert last.x["count"].item() == 400
    assert last.mask["job"].tolist() == [[False]]
    assert last.context.tolist() == [[0, 0]]
    assert module.frame(last.x, last.context)["site"].tolist() == [None]
    assert all(m.all() for m in next(module.rows("train")).mask.values())
    # A model's data are read in the same way, as by `vaekit test`.
    again = data.Table(strange(), split="part", context="site").follow(module.info.schema)
    assert torch.equal(next(again.rows("test"))[4:].mask["job"], last.mask["job"])


def test_a_count_that_only_held_out_rows_contradict_is_a_number() -> None:
    frame = table()
    frame.loc[59, "visits"] = -4
    module = data.Table(frame, split="part")
    assert {c["name"]: c["kind"] for c in module.info.schema["columns"]}["visits"] == "numeric"


def test_a_category_of_no_training_row_stays_if_its_type_declares_it() -> None:
    group = pd.Categorical(["low", "high"] * 30, ["low", "middle", "high"], ordered=True)
    module = data.Table(pd.DataFrame({"group": group, "size": np.arange(60) / 7}))
    assert module.info.schema["columns"][0]["values"] == ["low", "middle", "high"]
    assert module.info.levels["group"] == 3


def test_files_of_held_out_rows_are_read_as_a_column_of_splits_says(tmp_path: Path) -> None:
    frame = strange()
    for name, own in frame.drop(columns="part").groupby(frame["part"]):
        own.to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: str(tmp_path / f"{name}.csv") for name in ("val", "test")}
    module = data.Table(tmp_path / "train.csv", **files)
    with pytest.warns(UserWarning, match="values of job that no training row has: pilot"):
        told = module.told()["only in held-out rows"]
    assert "job: pilot, taken as missing" in told
    assert "size: up to 1000.12" in told
    assert not next(module.rows("test")).mask["job"][4].item()


def test_batches_of_cells_that_only_held_out_rows_have_are_no_category() -> None:
    frame = pd.DataFrame({"batch": ["a", "b"] * 30, "A": range(60), "B": [3, 1] * 30})
    frame["part"] = SPLIT
    frame.loc[59, "batch"] = "c"
    module = data.Counts(frame, covariates="batch", split="part")
    assert module.info.schema["covariates"]["batch"]["categories"] == ["a", "b"]
    assert module.info.context_features == 3
    assert module.told()["only in held-out rows"] == "batch: c, taken as no category"
    assert next(module.rows("test")).context[4, 1:].tolist() == [0, 0]
    # A row without counts is in no split.
    frame.loc[58, ["A", "B", "batch"]] = [0, 0, "d"]
    told = data.Counts(frame, covariates="batch", split="part").told()
    assert told["only in held-out rows"] == "batch: c, taken as no category"


def test_tokens_that_only_held_out_rows_have_are_missing() -> None:
    rows = [["la", "do", "re"]] * 59 + [["la", "si"]]
    frame = pd.DataFrame(
        [(at, SPLIT[at], step) for at, row in enumerate(rows) for step in row],
        columns=["id", "part", "word"],
    )
    module = data.Sequences(frame, split="part")
    assert module.info.schema["vocabulary"] == ["do", "la", "re"]
    assert module.told()["only in held-out rows"] == "word: si, taken as missing"
    assert next(module.rows("test")).mask[4].tolist() == [True, False, False]


def test_a_range_that_only_held_out_rows_need_is_told() -> None:
    x = np.random.default_rng(0).random((60, 2))
    x[59, 0] = 7.5
    module = data.Arrays(x, split=np.asarray(SPLIT))
    assert module.info.data_range == (0, float("inf"))
    assert module.told()["only in held-out rows"] == "x: up to 7.5"


# Classes


@pytest.mark.parametrize("seed", range(20))
def test_a_rare_class_is_in_each_split(seed: int) -> None:
    classes = np.r_[np.ones(10), np.zeros(186), [2, 2, 2, 3]].astype(int)
    rows = Rows(torch.arange(200.0)[:, None])
    by_class, plain = (split(rows, 0.1, 0.1, seed, None, c) for c in (classes, None))
    counts = {n: np.bincount(classes[own.index], minlength=4) for n, own in by_class.items()}
    assert {n: c.sum() for n, c in counts.items()} == {n: len(own) for n, own in plain.items()}
    assert [c[2] for c in counts.values()] == [1, 1, 1]
    assert counts["train"][3] == 1
    assert all(c[1] == 1 for n, c in counts.items() if n != "train")
    again = split(rows, 0.1, 0.1, seed, None, classes)
    assert all(torch.equal(again[name].index, own.index) for name, own in by_class.items())


@pytest.mark.parametrize("classes", [np.zeros(90, int), np.arange(90)])
def test_one_class_and_a_class_for_each_row_change_no_split(classes: np.ndarray) -> None:
    rows = Rows(torch.arange(90.0)[:, None])
    own, plain = (split(rows, 0.2, 0.1, 3, None, c) for c in (classes, None))
    assert all(torch.equal(own[name].index, plain[name].index) for name in plain)


LABEL = np.r_[np.ones(10), np.zeros(170), -np.ones(20)].astype(int)


def _of_table() -> tuple[Any, dict[str, Any]]:
    frame = pd.DataFrame({"a": np.arange(200) / 7, "b": np.arange(200) / 3})
    return data.Table, {
        "path": frame.assign(kind=np.where(LABEL < 0, None, LABEL)),
        "label": "kind",
    }


def _of_arrays() -> tuple[Any, dict[str, Any]]:
    return data.Arrays, {"x": np.random.default_rng(0).normal(size=(200, 2)), "label": LABEL}


def _of_counts() -> tuple[Any, dict[str, Any]]:
    frame = pd.DataFrame({"A": range(1, 201), "kind": LABEL})
    return data.Counts, {"path": frame, "label": "kind"}


def _of_sequences() -> tuple[Any, dict[str, Any]]:
    frame = pd.DataFrame({"id": np.arange(200).repeat(2), "x": np.arange(400) % 3})
    return data.Sequences, {"path": frame.assign(kind=LABEL.repeat(2)), "label": "kind"}


@pytest.mark.parametrize("make", [_of_table, _of_arrays, _of_counts, _of_sequences])
def test_rows_are_split_by_their_classes(make: Any) -> None:
    cls, arguments = make()
    for seed in range(5):
        module = cls(**arguments, seed=seed)
        for name in ("val", "test"):
            held = LABEL[module.numbers(name)]
            assert [int((held == own).sum()) for own in (1, 0, -1)] == [1, 17, 2]
    assert module.info.schema["stratified"]


@pytest.mark.parametrize("make", [_of_table, _of_arrays, _of_counts, _of_sequences])
def test_the_training_rows_of_an_earlier_checkpoint_stay_training_rows(make: Any) -> None:
    """Its schema does not say that rows were split by classes: they were not."""
    cls, arguments = make()
    new = cls(**arguments, seed=1)
    schema = {k: v for k, v in new.info.schema.items() if k != "stratified"}
    old = cls(**arguments, seed=1).follow(schema if len(schema) > 1 else None)
    plain = split(Rows(torch.empty(200, 1)), 0.1, 0.1, 1)
    for name, rows in plain.items():
        assert torch.equal(old.numbers(name), rows.index)
        assert not torch.equal(new.numbers(name), rows.index)
    assert "stratified" not in (old.info.schema or {})
    again = cls(**arguments, seed=1).follow(new.info.schema)
    assert torch.equal(again.numbers("val"), new.numbers("val"))


def test_rows_split_otherwise_than_an_earlier_model_s_are_refused() -> None:
    cls, arguments = _of_table()
    info = cls(**arguments).info
    schema = {k: v for k, v in info.schema.items() if k != "stratified"}
    earlier = {**info.as_dict(), "schema": schema}
    model = Model(earlier, likelihood="Gaussian", latent_shape=2)
    with pytest.raises(ValueError, match=r"split by classes.*data\.follow\(model\.info\.schema\)"):
        model.check_data(info)
    model.check_data(cls(**arguments).follow(schema).info)


def test_groups_and_columns_of_splits_are_not_split_by_classes() -> None:
    cls, arguments = _of_arrays()
    group = np.arange(200) // 10
    module = cls(**arguments, group=group)
    assert len({int(g) for n in module.splits for g in set(group[module.numbers(n)])}) == 20
    assert module.info.schema is None
