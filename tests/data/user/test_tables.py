"""Tables: what columns are taken for, missing values, and the way back to the user's form."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris, load_wine

from conftest import fit
from vaekit import Model, data, load, testing
from vaekit.data.columns import table as of
from vaekit.data.readers.frames import read_frame, write_frame
from vaekit.model.parts_for_data import parts_for

Cli = Callable[..., Path]


def people(rows: int = 400, missing: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """A table of numbers, categories, counts and a column of two values, which hang together."""
    r = np.random.default_rng(seed)
    age = np.clip(r.normal(45, 15, rows), 18, 90).round(1)
    job = r.choice(["clerk", "cook", "nurse", "smith"], rows, p=[0.1, 0.4, 0.3, 0.2])
    income = 1000 + 40 * age + 1500 * (job == "nurse") - 300 * (job == "smith")
    frame = pd.DataFrame(
        {
            "name": [f"person {i}" for i in range(rows)],
            "age": age,
            "job": job,
            "income": (income + r.normal(0, 300, rows)).round(2),
            "married": np.where(r.random(rows) < 1 / (1 + np.exp((40 - age) / 8)), "yes", "no"),
            "visits": r.poisson(np.exp((age - 45) / 20)),
            "year": r.integers(1990, 2021, rows),
        }
    )
    for name in frame.columns[1:]:
        if missing:
            frame[name] = frame[name].where(r.random(rows) >= missing)
    return frame


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    people().to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


# What columns are taken for


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, 1.5, 2.25], "numeric"),
        ([0.5, 1.5, 0.5], "numeric"),  # two values that are fractions
        ([0, 1, 1], "binary"),
        ([0.0, 1.0, None], "binary"),
        ([3, 7, 7], "binary"),
        ([True, False, None], "binary"),
        (["no", "yes", None], "binary"),
        (["a", "b", "c"], "category"),
        (pd.Categorical(["a", "b", "a"], ["a", "b", "c"]), "category"),
        (pd.Categorical(["a", "b", "c"]), "category"),
        ([0, 0, 1, 7, 2, 0], "count"),
        ([0.0, 3.0, None, 9.0], "count"),
        ([1990, 2000, 2020], "numeric"),
        ([4, 5, 6], "numeric"),
        ([-1, 0, 5], "numeric"),
        (["2020-01-01", "2021-05-06", "2022-01-01"], "numeric"),
        (pd.to_datetime(["2020-01-01", "2021-05-06", "2022-01-01"]), "numeric"),
        ([f"text {i}" for i in range(200)], "ignore"),
        ([1, 1, 1], "ignore"),
        ([None, None, None], "ignore"),
    ],
)
def test_what_a_column_is_taken_for(values: Any, kind: str) -> None:
    assert of.kind_of(pd.Series(values, name="c"), 100) == kind


@pytest.mark.parametrize(
    "values",
    [
        [0.25, 1.5, -2.75],
        [3, 7, 20],
        [0, 1, 0],
        [1.0, 0.0, 1.0],
        [True, False, True],
        ["yes", "no", "yes"],
        ["a", "b", "c"],
        [7, 3, 7],
        [0, 30, 2],
        pd.Categorical(["b", "a", "c"], ["c", "b", "a", "d"], ordered=True),
        ["2020-01-31", "2021-05-06", "2022-01-01"],
        ["2020-01-31T10:00:01", "2021-05-06T00:00:00", "2022-01-01T23:59:59"],
        pd.to_datetime(["2020-01-31T00:00", "2021-05-06T12:00", "2022-01-01T00:00"]),
        pd.to_datetime(["2020-01-31T00:00", "2021-05-06T12:00", "2022-01-01T00:00"]).tz_localize(
            "Asia/Tokyo"
        ),
        pd.array([1, 50, 3], dtype="Int64"),
        pd.array([1.5, 2.5, 0.0], dtype="float32"),
    ],
    ids=lambda values: f"{getattr(values, 'dtype', type(values[0]).__name__)}-{values[0]}",
)
def test_a_column_comes_back_as_it_was(values: Any) -> None:
    column = pd.Series(values, name="c")
    known = of.learned(column, of.kind_of(column, 100), np.arange(len(column)))
    x, _ = of.to_model(column, known, np.ones(len(column), bool))
    back = of.restored(x, known)
    pd.testing.assert_series_equal(back, column)


def test_what_is_missing_is_hidden_and_what_is_there_is_kept(csv: Path) -> None:
    table, frame = data.Table(csv), read_frame(csv)
    info = table.info
    assert info.event_shape == {"numeric": (3,), "binary": (1,), "count": (1,), "job": (1,)}
    assert info.data_range == {
        "numeric": (-inf, inf),
        "binary": (0.0, 1.0),
        "count": (0.0, inf),
        "job": (0.0, 3.0),
    }
    assert info.levels == {"numeric": None, "binary": 2, "count": None, "job": 4}
    batch, numbers = next(table.rows("train")), table.numbers("train")
    order = ["age", "income", "year"]
    seen = frame.loc[numbers.numpy(), order].notna().to_numpy()
    assert batch.mask["numeric"].numpy().tolist() == seen.tolist()
    assert (~batch.mask["job"]).float().mean().item() == pytest.approx(0.1, abs=0.05)
    back = table.frame(batch.x)
    for name in back:
        known = frame[name].iloc[numbers.numpy()].reset_index(drop=True)
        there = known.notna()
        pd.testing.assert_series_equal(
            back[name][there], known[there], check_dtype=False, rtol=1e-5
        )
    assert back.dtypes.to_dict() == frame.dtypes.drop("name").to_dict()
    mean = batch.x["numeric"].masked_fill(~batch.mask["numeric"], torch.nan).nanmean(0)
    assert mean.abs().max() < 1e-4
    assert table.names[numbers][0] == frame["name"][int(numbers[0])]


def test_columns_may_be_said_to_be_others(csv: Path) -> None:
    kinds = {"year": "category", "visits": "numeric", "income": "ignore"}
    whole = people(missing=0)
    table = data.Table(whole, kinds=kinds, label="married", context=["job", "age"])
    info = table.info
    assert info.event_shape == {"numeric": (1,), "year": (1,)}
    assert info.levels["year"] == 31
    assert info.context_features == 4 + 1
    assert info.classes == 2
    batch = next(table.rows("train"))
    back = table.frame(batch.x, batch.context)
    assert list(back) == ["age", "job", "visits", "year"]
    known = whole.iloc[table.numbers("train").numpy()].reset_index(drop=True)
    pd.testing.assert_frame_equal(back, known[list(back)])
    with pytest.raises(ValueError, match="a value of age for each row but"):
        data.Table(people(), context=["age"]).info  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kinds": {"age": "number"}}, "kinds out of numeric, binary, .* but got number"),
        ({"kinds": {"agee": "numeric"}}, "columns out of name, age.* but got agee"),
        ({"kinds": {"job": "numeric"}}, "numbers in the numeric column job but"),
        ({"kinds": {"age": "count"}}, "whole numbers from 0 in the column of counts age"),
        ({"kinds": {"job": "binary"}}, "two values in the binary column job but it has 4"),
        ({"split": "job"}, "splits called train, val and test but got clerk"),
        ({"kinds": dict.fromkeys(people().columns, "ignore")}, "none is left"),
    ],
)
def test_bad_columns_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.Table(people(missing=0), **arguments).info  # noqa: B018


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"a": [1.0, inf, 2.0] * 9}), "finite numbers in the column a"),
        (pd.DataFrame([[1, 2]] * 9, columns=["a", "a"]), "two have the same"),
        (pd.DataFrame({"a": ["x"] * 9}), "Expected columns to learn from"),
        ([1, 2], "a file or a frame but got a list"),
    ],
)
@pytest.mark.filterwarnings("ignore:Left out")
def test_bad_frames_say_what_was_expected(frame: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.Table(frame).info  # noqa: B018


def test_an_outlier_and_a_column_left_out_are_said() -> None:
    frame = pd.DataFrame({"a": np.r_[np.random.default_rng(0).normal(size=5000), 1e6], "b": "x"})
    with pytest.warns(UserWarning, match="a holds 1000000 in row 5000, counted from 0, "):
        data.Table(frame, kinds={"b": "ignore"}, val=0, test=0).info  # noqa: B018
    with pytest.warns(UserWarning, match="Left out: b, with at most one value"):
        data.Table(frame[:100]).info  # noqa: B018


# A model's columns


def test_new_rows_are_read_as_the_model_s_were(csv: Path, tmp_path: Path) -> None:
    table = data.Table(csv)
    schema = table.info.schema
    new = people(50, missing=0, seed=1)
    other = data.Table(new, val=0, test=0).follow(schema)
    x = next(other.rows("train")).x
    known = next(c for c in schema["columns"] if c["name"] == "age")
    ages = (new["age"] - known["mean"]) / known["std"]
    assert np.allclose(x["numeric"][:, 0], ages, atol=1e-6)
    assert other.info.event_shape == table.info.event_shape
    with pytest.raises(ValueError, match=r"column job that were there .*but got 'pilot'"):
        data.Table(new.assign(job="pilot")).follow(schema).info  # noqa: B018
    with pytest.raises(ValueError, match="was trained, but job is missing"):
        data.Table(new.drop(columns="job")).follow(schema).info  # noqa: B018
    # In another order, and with a column more, they are the same rows.
    again = data.Table(new[new.columns[::-1]].assign(more=1), val=0, test=0).follow(schema)
    assert torch.equal(next(again.rows("train")).x["numeric"], x["numeric"])


def test_files_and_columns_say_the_splits(csv: Path, tmp_path: Path) -> None:
    people(60, seed=2).to_csv(tmp_path / "later.csv", index=False)
    table = data.Table(csv, val=0, test=str(tmp_path / "later.csv"))
    assert table.splits == ("train", "test")
    assert [len(table.numbers(split)) for split in table.splits] == [400, 60]
    assert table.names[table.numbers("test")][3] == "person 3"
    group = np.arange(400) // 8
    grouped = data.Table(people().assign(patient=group), group="patient")
    own = [set(group[grouped.numbers(split)]) for split in grouped.splits]
    assert not (own[0] & own[1] | own[0] & own[2] | own[1] & own[2])
    named = data.Table(people().assign(part=["train", "val"] * 200), split="part")
    assert [len(named.numbers(split)) for split in named.splits] == [200, 200]
    assert "part" not in [c["name"] for c in named.info.schema["columns"]]


def test_a_frame_of_polars_is_read() -> None:
    frame = people(missing=0)
    ours, theirs = data.Table(frame).info, data.Table(polars.from_pandas(frame)).info
    assert (ours.event_shape, ours.levels) == (theirs.event_shape, theirs.levels)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_frames_come_back_from_files(suffix: str, tmp_path: Path) -> None:
    frame = people()
    path = write_frame(frame, tmp_path / f"people{suffix}")
    pd.testing.assert_frame_equal(read_frame(path), frame)


# The laws, and training


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_table_obeys_the_laws(csv: Path, missing: float) -> None:
    testing.check_data("Table", {"path": str(csv), "missing": missing})


REAL = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer}


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".parquet", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", REAL)
def test_real_tables_train(name: str, suffix: str, tmp_path: Path) -> None:
    found = REAL[name](as_frame=True)
    frame = found.frame.assign(kind=found.target_names[found.target]).drop(columns="target")
    path = write_frame(frame, tmp_path / f"{name}{suffix}")
    table = data.Table(path, batch_size=32, missing=0.1)
    trainer = fit(Model(table, **parts_for(table)), table, max_epochs=8)
    assert trainer.callback_metrics["val/elbo"].isfinite()
    model = trainer.lightning_module.model
    made = table.frame(model.sample(20, sample=True))
    assert made.dtypes.to_dict() == frame.dtypes.to_dict()
    assert set(made["kind"]) <= set(frame["kind"])


def test_a_table_goes_in_and_comes_out(
    csv: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--data.path", csv, "--trainer.max_epochs", 2, "--data.kinds.visits", "numeric")
    said = capsys.readouterr().out
    for words in (
        "│ job ",
        "category: clerk, cook, nurse, smith",
        "names the rows",
        "Mixed",
    ):
        assert words in said
    assert "the baseline" in said
    cli("sample", "--ckpt_path", "best", "--n", 50)
    folder, frame = csv.parent / "runs/version_0", read_frame(csv)
    made = read_frame(folder / "sample/samples.csv")
    assert len(made) == 50
    assert made.dtypes.to_dict() == frame.dtypes.drop("name").to_dict()
    cli("reconstruct", "--ckpt_path", "best", "--n", 7)
    again = read_frame(folder / "reconstruct/reconstructions.csv")
    assert list(again) == list(frame)
    assert again["name"].isin(frame["name"]).all()
    cli("encode", "--ckpt_path", "best", "--split", "all")
    codes = read_frame(folder / "encode/codes.csv")
    assert codes["name"].tolist() == frame["name"].tolist()
    new = people(30, seed=3).drop(columns=["name"])
    new.to_csv(csv.parent / "new.csv", index=False)
    cli("predict", "--ckpt_path", "best", "--data.path", csv.parent / "new.csv", "--split", "all")
    found = read_frame(folder / "predictions.csv")
    assert list(found)[:7] == ["row", *new.columns]
    assert {"elbo", "distortion", "rate", "z0"} <= set(found)
    assert found["row"].tolist() == list(range(30))
    model = load(folder / "best.ckpt")
    assert data.Table(new).follow(model.info.schema).info.event_shape == model.info.event_shape


@pytest.mark.slow
def test_samples_have_the_marginals_and_correlations_of_the_data(tmp_path: Path, cli: Cli) -> None:
    """10 % of the values are missing; one command trains, another writes a csv."""
    frame = people(3000)
    frame.to_csv(tmp_path / "people.csv", index=False)
    cli("fit", "--data.path", "people.csv", "--trainer.max_epochs", 150)
    cli("sample", "--ckpt_path", "best", "--n", 6000)
    made = read_frame(tmp_path / "runs/version_0/sample/samples.csv")
    assert made.dtypes.to_dict() == frame.dtypes.drop("name").to_dict()
    for name in ("age", "income", "visits", "year"):  # Kolmogorov and Smirnov's distance
        both = np.sort(np.r_[made[name], frame[name].dropna()])
        below = [
            np.searchsorted(np.sort(x), both, "right") / len(x) for x in _pair(made, frame, name)
        ]
        assert np.abs(below[0] - below[1]).max() < 0.1, name
    for name in ("job", "married"):  # total variation
        shares = [x.value_counts(normalize=True) for x in _pair(made, frame, name)]
        assert (shares[0] - shares[1]).abs().sum() / 2 < 0.05, name
    gap = (_correlations(made) - _correlations(frame)).abs()
    assert gap.to_numpy().max() < 0.15
    assert _correlations(made).loc["income", "nurse"] > 0.5


def _pair(made: pd.DataFrame, frame: pd.DataFrame, name: str) -> list[pd.Series]:
    return [made[name], frame[name].dropna()]


def _correlations(frame: pd.DataFrame) -> pd.DataFrame:
    jobs = {job: (frame["job"] == job).where(frame["job"].notna()) for job in ("cook", "nurse")}
    married = (frame["married"] == "yes").where(frame["married"].notna())
    numbers = frame[["age", "income", "visits", "year"]]
    return numbers.assign(married=married, **jobs).astype(float).corr()
