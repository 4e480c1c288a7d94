"""What once went wrong with people's own data, of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import polars
import pytest
import scipy.sparse
import torch

from conftest import fit
from vaekit import Model, data
from vaekit.data.columns import table as of
from vaekit.data.columns.covariates import encoded, known_of, labels
from vaekit.data.columns.scale import moments
from vaekit.model.parts_for_data import parts_for


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


COUNTS = rng().poisson(3.0, (60, 4)) + 1


def table(rows: int = 60) -> pd.DataFrame:
    r = np.random.default_rng(1)
    job = r.choice(["a", "b", "c"], rows)
    return pd.DataFrame({"age": r.normal(40, 10, rows), "job": job, "visits": r.poisson(2, rows)})


def cells() -> anndata.AnnData:
    obs = pd.DataFrame({"type": ["T", "B"] * 30, "donor": np.arange(60) // 10})
    obs.index = [f"cell {at}" for at in range(60)]
    genes = pd.DataFrame(index=["g0", "g1", "g2", "g3"])
    return anndata.AnnData(COUNTS * 2, obs=obs, var=genes, layers={"counts": COUNTS})


def long(**more: Any) -> pd.DataFrame:
    who = np.repeat(np.arange(20), 5)
    return pd.DataFrame({"site": who % 2, "patient": who, "v": rng().normal(size=100), **more})


# Scales


def test_a_column_that_is_constant_in_training_has_scale_1() -> None:
    constant = np.r_[np.full(60, 0.1), np.full(9, 0.25)]
    frame = table(69).assign(a=constant, part=["train"] * 60 + ["val"] * 9)
    x = next(data.Table(frame, kinds={"a": "numeric"}, split="part").rows("val")).x["numeric"]
    assert x[:, 1].tolist() == pytest.approx([0.15] * 9)
    column = pd.Series(constant, name="a")
    assert encoded(column, "a", known_of(column, "a", np.arange(60))).max() < 1
    _, std = moments(torch.from_numpy(constant[:60, None]))
    assert std.item() == 1
    signals = long(part="train", c=0.1)
    assert data.Sequences(signals, id="patient", split="part").info.schema["std"][2] == 1


def test_small_numbers_keep_their_decimals() -> None:
    column = pd.Series(rng().random(50) * 1e-11, name="p")
    known = of.learned(column, "numeric", np.arange(50))
    back = of.restored(*_as_model_sees(column, known))
    pd.testing.assert_series_equal(back, column)


def _as_model_sees(column: pd.Series, known: of.Column) -> tuple[np.ndarray, of.Column, Any]:
    x, values = of.to_model(column, known, np.ones(len(column), bool))
    return x, known, values


def test_a_count_that_no_training_row_has_is_no_error() -> None:
    frame = table().assign(rare=[np.nan] * 50 + [0, 3, 9, 0, 1, 2, 0, 4, 1, 7])
    frame["part"] = ["train"] * 50 + ["val"] * 10
    kinds = {"rare": "count"}
    assert data.Table(frame, kinds=kinds, split="part").info.event_shape["count"] == (2,)
    with pytest.warns(UserWarning, match="Left out: rare"):
        assert data.Table(frame, split="part").info.event_shape["count"] == (1,)


# What a model knows


def test_labels_are_compared_by_their_values() -> None:
    column = pd.Series([0, 1, None, 2, 5.0])
    assert labels(column, [0, 1, 2]).tolist() == [0, 1, -1, 2, -1]
    assert labels(pd.Series([1, 2]), ["1", "2", "a"]).tolist() == [0, 1]
    known = of.learned(pd.Series(["1", "2", "a"] * 3, name="c"), "category", np.arange(9))
    assert of.codes(pd.Series([2, 1], name="c"), known).tolist() == [1.0, 0.0]


def test_the_columns_that_the_model_s_user_named_are_named_again(tmp_path: Path) -> None:
    known = data.Sequences(long(), id="patient", channels=["v"]).info.schema
    again = data.Sequences(long()).follow(known)
    assert len(again.numbers("train")) == 16
    cells().write_h5ad(tmp_path / "cells.h5ad")
    one = data.Counts(tmp_path / "cells.h5ad", layer="counts", val=0, test=0)
    other = data.Counts(tmp_path / "cells.h5ad", val=0, test=0).follow(one.info.schema)
    assert torch.equal(next(one.rows("train")).x, next(other.rows("train")).x)
    frame = pd.DataFrame(COUNTS, columns=list("abcd")).assign(type=["T", "B"] * 30)
    schema = data.Counts(frame, label="type").info.schema
    assert data.Counts(frame).follow(schema).info.event_shape == (4,)


def test_what_a_user_says_is_above_what_the_model_knows() -> None:
    schema = data.Table(table()).info.schema
    named = data.Table(table().assign(who=np.arange(60)), id="who").follow(schema)
    rows = named.numbers("train")
    assert named.names is not None
    assert named.names[rows].tolist() == [str(at) for at in rows.tolist()]


def test_a_schema_of_another_kind_is_refused() -> None:
    arrays = data.Arrays(rng().normal(size=(60, 2)), standardize=True)
    with pytest.raises(ValueError, match="data by --data Arrays, as the model's"):
        data.Table(table()).follow(arrays.info.schema)
    with pytest.raises(ValueError, match="data by --data Table, as the model's"):
        data.Arrays(rng().normal(size=(60, 2))).follow(data.Table(table()).info.schema)


def test_data_of_other_units_are_refused_in_python_too() -> None:
    one = data.Table(table())
    model = Model(one, **parts_for(one))
    other = table().assign(age=table()["age"] * 2)
    with pytest.raises(ValueError, match=r"data\.follow\(model\.info\.schema\)"):
        fit(model, data.Table(other), max_epochs=1)
    fit(model, data.Table(other).follow(model.info.schema), max_epochs=1)


def test_one_new_row_is_enough() -> None:
    schema = data.Table(table()).info.schema
    one = data.Table(table(1)).follow(schema)
    assert one.splits == ("train",)
    with pytest.raises(ValueError, match=r"--data\.val 0 --data\.test 0 hold out none"):
        data.Arrays(torch.rand(4, 2), val=0.6, test=0.4).info  # noqa: B018


def test_units_come_back_in_arrays_of_tables_too() -> None:
    one = data.Table(table())
    batch = next(one.rows("train"))
    ages = torch.from_numpy(table()["age"].to_numpy())[one.numbers("train")]
    assert torch.allclose(one.restored(batch.x)["numeric"][:, 0], ages, atol=1e-4)


def test_samples_of_a_frame_come_back_as_a_table(cli: Callable[..., Path]) -> None:
    frame = data.Table(table())
    trainer = fit(Model(frame, **parts_for(frame)), frame, max_epochs=1)
    trainer.save_checkpoint("model.ckpt")
    folder = cli("sample", "--ckpt_path", "model.ckpt", "--n", 9)
    made = pd.read_csv(folder / "sample/samples.csv")
    assert made.dtypes.to_dict() == table().dtypes.to_dict()
    with np.load(folder / "sample/samples.npz") as found:
        assert found["x.numeric"].mean() == pytest.approx(40, abs=15)


# The way of times


@pytest.mark.parametrize(
    "text", ["2020-01", "2020-01-02 10:00:00", "2020-01-02T10:00", "2020/01/02", "2020-01-02"]
)
def test_times_come_back_in_their_form(text: str) -> None:
    column = pd.Series(
        [text, text.replace("2020", "2021"), text.replace("2020", "2024")], name="t"
    )
    known = of.learned(column, of.kind_of(column, 100), np.arange(3))
    assert known["kind"] == "numeric"
    pd.testing.assert_series_equal(of.restored(*_as_model_sees(column, known)), column)


@pytest.mark.parametrize("text", ["2020-01-02T10:00:00Z", "2020-01-02T10:00:00.250+01:00"])
def test_times_of_no_one_form_are_categories(text: str) -> None:
    column = pd.Series(
        [text, text.replace("2020", "2021"), text.replace("2020", "2024")], name="t"
    )
    assert of.kind_of(column, 100) == "category"


# What files hold


def test_other_files_hold_the_held_out_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "later.npy", rng().normal(50, 3, (9, 2)).astype("f4"))
    early = rng().normal(40, 3, (60, 2))
    arrays = data.Arrays(early, val=str(tmp_path / "later.npy"), test=0, standardize=True)
    assert [len(arrays.numbers(split)) for split in arrays.splits] == [60, 9]
    assert next(arrays.rows("val")).x.mean() > 2
    np.save(tmp_path / "counts.npy", rng().poisson(3, (9, 2)))
    with pytest.raises(ValueError, match="Expected held-out rows of the range"):
        data.Arrays(-early, test=str(tmp_path / "counts.npy")).info  # noqa: B018
    cells()[:20].write_h5ad(tmp_path / "later.h5ad")
    counts = data.Counts(cells(), label="type", val=0, test=str(tmp_path / "later.h5ad"))
    assert [len(counts.numbers(split)) for split in counts.splits] == [60, 20]
    assert counts.names[counts.numbers("test")][3] == "cell 3"
    label = next(counts.rows("test")).label
    assert torch.equal(label, next(counts.rows("train", 20)).label)
    long().head(15).to_csv(tmp_path / "later.csv", index=False)
    own = {"id": "patient", "channels": ["v"], "val": 0}
    steps = data.Sequences(long(), **own, test=str(tmp_path / "later.csv"))
    assert [len(steps.numbers(split)) for split in steps.splits] == [20, 3]
    x = next(steps.rows("test")).x
    files = steps.write(tmp_path, "again", x, {}, steps.numbers("test"))
    back = pd.read_parquet(files[0])
    assert np.allclose(back["v"], pd.read_csv(tmp_path / "later.csv")["v"], atol=1e-5)


def test_a_test_file_may_lack_names_and_labels(tmp_path: Path) -> None:
    base = table().assign(name=[f"p{at}" for at in range(60)], sick=[0, 1] * 30)
    table(9).to_csv(tmp_path / "later.csv", index=False)
    arguments = {"id": "name", "label": "sick", "val": 0.1, "test": str(tmp_path / "later.csv")}
    module = data.Table(base, **arguments)
    assert next(module.rows("test")).label.tolist() == [-1] * 9
    assert module.names[module.numbers("test")].tolist() == [str(at) for at in range(9)]
    assert module.info.classes == 2


def test_a_row_without_a_group_is_one_by_itself() -> None:
    module = data.Arrays(torch.rand(40, 2), group=[None] * 30 + ["a"] * 10)
    assert len(module.numbers("val")) == 4
    with pytest.raises(ValueError, match="split or group but got both"):
        data.Table(table(), split="job", group="job").info  # noqa: B018


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (lambda: torch.rand(9, 3), {"mask": torch.ones(9, 2), "missing": "nan"}, "a mask of x's"),
        (lambda: torch.rand(9, 3), {"context": torch.full((9, 1), torch.nan)}, "NaN or infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_told(make: Any, arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.Arrays(make(), **arguments).info  # noqa: B018


def test_missing_labels_are_no_class() -> None:
    module = data.Arrays(torch.rand(60, 2), label=["a", "b", None] * 20, val=0, test=0)
    assert module.info.classes == 2
    assert next(module.rows("train")).label.tolist()[:3] == [0, 1, -1]


def test_frames_of_pandas_own_types_may_have_gaps() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None, 3] * 20, dtype="Int64"), "b": 0.5})
    assert data.Arrays(frame, missing="nan").info.event_shape == (2,)
    lists = table().assign(many=[[1, 2]] * 60)
    with pytest.warns(UserWarning, match="Left out: many"):
        assert "many" not in data.Table(lists).info.event_shape


def test_frames_of_polars_are_read_by_all() -> None:
    counts = polars.from_pandas(pd.DataFrame(COUNTS, columns=list("abcd")))
    assert data.Counts(counts).info.event_shape == (4,)
    assert data.Sequences(polars.from_pandas(long()), id="patient").info.event_shape == (2, 5)


def test_a_first_column_of_text_may_be_a_covariate(tmp_path: Path) -> None:
    frame = pd.DataFrame({"batch": ["x", "y"] * 30}).join(pd.DataFrame(COUNTS).add_prefix("g"))
    frame.to_csv(tmp_path / "c.csv", index=False)
    assert data.Counts(tmp_path / "c.csv", covariates="batch").info.context_features == 3


def test_names_of_people_name_the_rows() -> None:
    module = data.Table(
        table().reset_index(names="who").assign(who=lambda f: "p" + f.who.astype(str))
    )
    assert module.info.schema["id"] == "who"


def _zip(path: Path, **members: Any) -> Path:
    import zipfile

    np.savez(path, **{name: value for name, value in members.items() if name[0] != "_"})
    with zipfile.ZipFile(path, "a") as file:
        for name, text in members.items():
            if name[0] == "_":
                file.writestr(name[1:], text)
    return path


def test_what_else_an_archive_holds(tmp_path: Path) -> None:
    x = rng().normal(size=(60, 2))
    assert data.Arrays(_zip(tmp_path / "a.npz", x=x, _README="hello")).info.event_shape == (2,)
    upper = tmp_path / "B.NPZ"
    _zip(tmp_path / "b.npz", x=x).rename(upper)
    assert data.Arrays(upper).info.event_shape == (2,)
    outside = (tmp_path / "a.npz").read_bytes()
    evil = {"_../evil.npy": outside}
    for members, words in [
        ({"x": x, **evil}, "name of a file outside it"),
        ({"x": x, "x.a": x}, "x alone, or entries x.name of it"),
    ]:
        with pytest.raises(ValueError, match=words):
            data.Arrays(_zip(tmp_path / "c.npz", **members)).info  # noqa: B018
    assert not list(tmp_path.parent.glob("evil*"))
    scipy.sparse.save_npz(tmp_path / "coo.npz", scipy.sparse.coo_matrix(COUNTS))
    with pytest.raises(ValueError, match=r"save x\.tocsr\(\), for --data Counts"):
        data.Arrays(tmp_path / "coo.npz").info  # noqa: B018


def test_semicolons_are_told(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "a.csv", sep=";", index=False)
    with pytest.raises(ValueError, match="commas between the columns"):
        data.Table(tmp_path / "a.csv").info  # noqa: B018


def test_counts_keep_their_kind_in_hugging_face_s_form(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"x": COUNTS.tolist()}).save_to_disk(tmp_path / "set")
    assert parts_for(data.HuggingFace(tmp_path / "set"))["likelihood"]["class_path"] == (
        "NegativeBinomial"
    )


def test_a_configuration_with_data_and_a_path_contradict(
    cli: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        cli("fit", "-c", "mnist", "--data.path", "p.csv")
    assert "The configuration names data already" in capsys.readouterr().err
