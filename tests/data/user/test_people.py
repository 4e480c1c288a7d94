"""Arrays as people have them: each works, or ends with one line that names the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, Dataset

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, data
from vaekit.contracts.batch import batch_of

ROWS = 60


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


GREY = rng().integers(0, 256, (ROWS, 8, 8), dtype=np.uint8)
TABLE = rng().normal(size=(ROWS, 4))


def frame(kind: Any = float) -> pd.DataFrame:
    return pd.DataFrame(TABLE.astype(kind), columns=["age", "size", "rate", "time"])


WORK: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    # what it is: what a user gives, further arguments, what is expected of its description
    "uint16": (lambda: rng().integers(0, 900, (ROWS, 4)).astype("u2"), {}, {"range": (0, inf)}),
    "uint32": (lambda: rng().integers(0, 900, (ROWS, 4)).astype("u4"), {}, {"range": (0, inf)}),
    "uint64": (lambda: rng().integers(0, 900, (ROWS, 4)).astype("u8"), {}, {"range": (0, inf)}),
    "int8": (lambda: rng().integers(-9, 9, (ROWS, 4)).astype("i1"), {}, {"range": (-inf, inf)}),
    "big-endian": (lambda: TABLE.astype(">f8"), {}, {"range": (-inf, inf)}),
    "big-endian integers": (lambda: GREY[:, 0].astype(">i2"), {}, {"range": (0, inf)}),
    "grey images of 16 bits": (
        lambda: (GREY.astype(int) * 257).astype(">u2"),
        {},
        {"shape": (8, 8), "range": (0, 1), "levels": 65536},
    ),
    "negative strides": (lambda: TABLE[::-1, ::-1], {}, {"range": (-inf, inf)}),
    "every second column": (lambda: TABLE[:, ::2], {}, {"shape": (2,)}),
    "lists of lists": (lambda: TABLE.tolist(), {}, {"shape": (4,)}),
    "objects that are numbers": (lambda: TABLE.astype(object), {}, {"shape": (4,)}),
    "a frame of pandas": (frame, {}, {"shape": (4,)}),
    "a frame of pandas, integers": (lambda: frame(int), {}, {"shape": (4,)}),
    "a frame of polars": (lambda: polars.from_pandas(frame()), {}, {"shape": (4,)}),
    "a sparse matrix": (lambda: scipy.sparse.random(ROWS, 9, 0.3).tocsr(), {}, {"shape": (9,)}),
    "a sparse array": (lambda: scipy.sparse.csc_array(np.eye(ROWS)), {}, {"shape": (ROWS,)}),
    "grey images": (lambda: GREY, {}, {"shape": (8, 8), "levels": 256}),
    "colours of 16 bits": (
        lambda: rng().integers(0, 65536, (ROWS, 8, 8, 3)).astype("u2"),
        {"channels": "last"},
        {"shape": (3, 8, 8), "range": (0, 1), "levels": 65536},
    ),
    "text as labels": (lambda: TABLE, {"label": ["a", "b", "a"] * 20}, {"classes": 2}),
    "whole floats as labels": (lambda: TABLE, {"label": [0.0, 2.0] * 30}, {"classes": 3}),
    "floats as labels": (lambda: TABLE, {"label": TABLE[:, 0]}, {"classes": None}),
    "a series as labels": (
        lambda: TABLE,
        {"label": pd.Series(["x", "y"] * 30, dtype="category")},
        {"classes": 2},
    ),
    "NaN as missing": (
        lambda: np.where(TABLE > 1, np.nan, TABLE),
        {"missing": "nan"},
        {"range": (-inf, inf)},
    ),
    "NaN as missing, as a float": (
        lambda: np.where(TABLE > 1, np.nan, TABLE),
        {"missing": float("nan")},
        {"range": (-inf, inf)},
    ),
    "columns of many scales": (
        lambda: TABLE * [1e-3, 1, 1e5, 1e9],
        {"standardize": True},
        {"range": (-inf, inf)},
    ),
    "one value of 1e20": (
        lambda: np.where(np.arange(ROWS * 4).reshape(ROWS, 4) == 5, 1e20, TABLE),
        {"standardize": True},
        {"range": (-inf, inf)},
    ),
    "times": (
        lambda: 1.7e9 + 100 * TABLE,
        {"standardize": True},
        {"range": (-inf, inf)},
    ),
    "counts as bytes": (
        lambda: rng().integers(0, 10, (ROWS, 4)).astype("u1"),
        {"data_range": (0, inf)},
        {"range": (0, inf)},
    ),
    "tokens as bytes": (
        lambda: rng().integers(0, 10, (ROWS, 4)).astype("u1"),
        {"data_range": (0, 9)},
        {"range": (0, 9), "levels": 10},
    ),
}


@pytest.mark.parametrize("case", WORK)
def test_what_people_have_trains(case: str) -> None:
    make, arguments, expected = WORK[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        module = data.Arrays(make(), batch_size=16, **arguments)
        info = module.info
    found = {"shape": info.event_shape, "range": info.data_range, "levels": info.levels}
    found["classes"] = info.classes
    assert {name: found[name] for name in expected} == expected
    conv = {"encoder": "ConvEncoder", "decoder": "ConvDecoder"} if "image" in case else {}
    likelihood = "DiscretizedLogistic" if info.levels else "Gaussian"
    trainer = fit(Model(module, 2, likelihood=likelihood, **conv), module, max_epochs=1)
    assert trainer.callback_metrics["val/elbo"].isfinite()


@pytest.mark.parametrize("case", ["columns of many scales", "times"])
def test_what_was_standardised_comes_back_in_its_units(case: str) -> None:
    make, arguments, _ = WORK[case]
    x = make()
    module = data.Arrays(x, label=np.arange(ROWS), **arguments)
    batch = next(module.rows("train"))
    assert batch.x.mean(0).abs().max() < 1e-5
    assert torch.allclose(batch.x.var(0, correction=0), torch.ones(4), atol=1e-4)
    back = module.restored(batch.x)
    assert torch.allclose(back, torch.from_numpy(x)[batch.label], rtol=1e-6)
    # Another's schema is followed: the same rows become the same x.
    other = data.Arrays(x[:20], label=np.arange(20), val=0, test=0).follow(module.schema)
    again = next(other.rows("train"))
    assert torch.equal(module.restored(again.x), other.restored(again.x))
    assert torch.allclose(module.restored(again.x), torch.from_numpy(x[:20]), rtol=1e-6)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "text": (lambda: np.array([["a", "b"]] * 9), {}, "--data Table"),
    "objects with text": (lambda: np.array([[1, "b"]] * 9, dtype=object), {}, "--data Table"),
    "a frame with text": (lambda: frame().assign(job="x"), {}, "job holds .*--data Table"),
    "a frame of polars with text": (
        lambda: polars.from_pandas(frame().assign(job="x")),
        {},
        "job holds .*--data Table",
    ),
    "rows of many lengths": (lambda: [[1, 2], [3]], {}, "--data Sequences"),
    "complex numbers": (lambda: TABLE.astype(complex), {}, "as two channels"),
    "dates": (lambda: np.zeros((9, 2), "M8[s]"), {}, r"astype\('float64'\)"),
    "one axis": (lambda: TABLE[:, 0], {}, r"x\[:, None\] has one number a row"),
    "NaN": (lambda: np.where(TABLE > 1, np.nan, TABLE), {}, "--data.missing nan"),
    "1e20": (lambda: np.where(TABLE > 1, 1e20, TABLE), {}, "--data.standardize true"),
    "labels with NaN": (lambda: TABLE, {"label": TABLE[:, 0] / 0}, "-1 where a class is unknown"),
    "what is nothing": (lambda: {"a": 1}.keys(), {}, "a file, a tensor or an array"),
    "too large to fill": (
        lambda: scipy.sparse.csr_matrix((100_000, 100_000)),
        {},
        "--data Counts keeps counts sparse",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_does_not_work_names_the_remedy(case: str) -> None:
    make, arguments, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as error:
        data.Arrays(make(), **arguments).info  # noqa: B018
    assert "\n" not in str(error.value)


WARNED: dict[str, tuple[Callable[[], Any], str]] = {
    "columns of many scales": (lambda: TABLE * [1e-3, 1, 1, 1e9], "column 3 .*standardize true"),
    "a named column": (lambda: frame() * [1e-9, 1, 1, 1], "age of x .*standardize true"),
    "times": (lambda: 1.7e9 + 1000 * TABLE, "column . of x .*standardize true"),
    "counts as bytes": (lambda: rng().integers(0, 10, (ROWS, 4)).astype("u1"), "data_range 0,9"),
    "five rows": (lambda: TABLE[:5], "5 rows: 1 of them are for validation"),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_is_doubtful_is_said(case: str) -> None:
    make, words = WARNED[case]
    with pytest.warns(UserWarning, match=words):
        splits = data.Arrays(make()).splits
    assert splits == ("train", "val", "test")


# Files


def test_the_only_array_that_can_be_x_is_taken(tmp_path: Path) -> None:
    names = np.array([f"cell {i}" for i in range(ROWS)])
    told = np.array("made with a microscope")
    np.savez(tmp_path / "a.npz", images=GREY, y=np.arange(ROWS) % 3, names=names, told=told)
    module = data.Arrays(tmp_path / "a.npz")
    assert (module.info.event_shape, module.info.classes) == ((8, 8), 3)
    assert module.names is not None
    assert module.names[module.numbers("val")][0].startswith("cell ")
    np.savez(tmp_path / "b.npz", images=GREY, masks=GREY)
    with pytest.raises(ValueError, match=r"images 60x8x8, masks 60x8x8: --data\.key NAME"):
        data.Arrays(tmp_path / "b.npz").info  # noqa: B018
    assert data.Arrays(tmp_path / "b.npz", key="masks").info.event_shape == (8, 8)
    with pytest.raises(ValueError, match="an array named mask but it holds images"):
        data.Arrays(tmp_path / "b.npz", key="mask").info  # noqa: B018


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    notes = np.array([{"who": "me"}], dtype=object)
    np.savez(tmp_path / "a.npz", x=TABLE, notes=notes, text=np.array(["a", "b"]))
    assert data.Arrays(tmp_path / "a.npz").info.event_shape == (4,)
    np.savez(tmp_path / "b.npz", x=notes)
    with pytest.raises(ValueError, match="plain arrays, without pickled objects"):
        data.Arrays(tmp_path / "b.npz").info  # noqa: B018


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.csv", "--data Table --data.path .*x.csv reads it"),
        ("x.parquet", "--data Table"),
        ("x.h5ad", "--data Counts"),
        ("x.png", "--data ImageFolder"),
        ("sparse.npz", "--data Counts reads it"),
        ("folder", "--data ImageFolder reads images"),
    ],
)
def test_other_files_name_the_module_that_reads_them(
    name: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "sparse.npz":
        scipy.sparse.save_npz(path, scipy.sparse.eye(9).tocsr())
    else:
        path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=words):
        data.Arrays(path).info  # noqa: B018


def test_from_the_command_line(cli: Callable[..., Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, names=np.arange(ROWS).astype(str))
    own = ("--model.encoder", "ConvEncoder", "--model.decoder", "ConvDecoder")
    fast = ("--trainer.max_epochs", 1, "--model.likelihood", "Gaussian")
    cli("fit", "--data", "Arrays", "--data.x", "a.npz", *own, *fast)
    cli("predict", "--ckpt_path", "best", "--split", "all")
    with np.load(tmp_path / "runs/version_0/predictions.npz") as found:
        assert found["row"].tolist() == list(range(ROWS))
        assert found["name"].tolist() == [str(i) for i in range(ROWS)]
    np.save(tmp_path / "c.npy", np.random.default_rng(0).poisson(3, (ROWS, 4)).astype("u1"))
    counts = ("--data.data_range", "0,inf", "--model.likelihood", "Poisson")
    cli("fit", "--data", "Arrays", "--data.x", "c.npy", *counts, "--trainer.max_epochs", 1)
    np.save(tmp_path / "w.npy", np.where(TABLE > 1, np.nan, TABLE) * [1e-3, 1, 1, 1e9])
    wide = ("--data.missing", "nan", "--data.standardize", "true", *fast)
    cli("fit", "--data", "Arrays", "--data.x", "w.npy", *wide)
    cli("sample", "--ckpt_path", "best", "--n", 500)
    with np.load(tmp_path / "runs/version_2/sample/samples.npz") as found:
        assert found["x"].dtype == np.float64
        assert np.abs(found["x"]).mean(0)[3] > 1e6
        assert np.abs(found["x"]).mean(0)[0] < 1e-2
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)


# Loaders of one's own


class _Dicts(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"x": torch.rand(4), "label": torch.tensor(at % 3)}


def test_a_loader_of_dicts_trains() -> None:
    import lightning.pytorch as pl

    loader = DataLoader(_Dicts(), batch_size=20)
    module = VAEModule(Model(DataInfo((4,), (0.0, 1.0)), 2, likelihood="Gaussian"))
    trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
    trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["val/elbo"].isfinite()


def test_a_batch_of_somebody_s_own() -> None:
    x, y = torch.rand(5, 3), torch.arange(5)
    for rows in (x, [x], (x, y), {"x": x, "label": y}, {"x": x, "index": y}):
        assert batch_of(rows, DataInfo((3,))).x is x
    entries = DataInfo({"a": (3,), "b": (3,)})
    assert batch_of({"a": x, "b": x}, entries).x == {"a": x, "b": x}
    assert batch_of({"x": {"a": x, "b": x}, "label": y}, entries).label is y
    for rows, words in [
        ({"image": x}, "a dict with x, but got one with image"),
        ({"a": x}, "of a, b, but got one with a"),
        ((x, y, y), "a vaekit Batch, x alone, a pair .* but got tuple"),
        ("text", "but got str"),
    ]:
        with pytest.raises(ValueError, match=words):
            batch_of(rows, entries if "of a, b" in words else DataInfo((3,)))


# What every data module can do


def test_a_share_is_hidden_once_by_the_seed() -> None:
    x = torch.rand(400, 3, 4, 4)
    module, again = (data.Arrays(x, missing=0.3, seed=5) for _ in range(2))
    other = data.Arrays(x, missing=0.3, seed=6)
    found, same, different = (next(m.rows("train")).mask for m in (module, again, other))
    assert torch.equal(found, same)
    assert not torch.equal(found[:100], different[:100])
    assert (~found).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(found[:, 0], found[:, 2])  # all channels of a pixel
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="missing, a share"):
            data.Arrays(x, missing=share)
    both = data.Arrays(torch.where(x > 0.5, x, torch.nan), missing="nan")
    assert torch.equal(next(both.rows("train")).mask, ~next(both.rows("train")).x.isnan())


def test_a_group_is_on_one_side() -> None:
    group = np.repeat(np.arange(20), 10)[rng().permutation(200)]
    module = data.Arrays(torch.rand(200, 2), group=group, val=0.2, test=0.1)
    own = [set(group[module.numbers(split)]) for split in module.splits]
    assert len(own) == 3
    assert not (own[0] & own[1] | own[0] & own[2] | own[1] & own[2])
    assert [len(module.numbers(split)) for split in module.splits] == [140, 40, 20]
    with pytest.raises(ValueError, match="at least 3 groups"):
        data.Arrays(torch.rand(9, 2), group=[0] * 5 + [1] * 4).info  # noqa: B018
    with pytest.raises(ValueError, match="a name for each of 9 rows"):
        data.Arrays(torch.rand(9, 2), group=[0] * 5).info  # noqa: B018


def test_a_column_says_the_split() -> None:
    names = ["Train"] * 40 + ["valid"] * 15 + ["test"] * 5
    module = data.Arrays(TABLE, split=names)
    assert [len(module.numbers(split)) for split in module.splits] == [40, 15, 5]
    assert module.numbers("val").tolist() == list(range(40, 55))
    with pytest.raises(ValueError, match="train, val and test but got fold1"):
        data.Arrays(TABLE, split=["fold1"] * ROWS).info  # noqa: B018
    with pytest.raises(ValueError, match="rows of the split train"):
        data.Arrays(TABLE, split=["val"] * ROWS).info  # noqa: B018
