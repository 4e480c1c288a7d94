"""Numbers that are too large for floating point, far labels, and damaged text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pytest
import torch

from vaekit import data
from vaekit.data.readers.arrays import classes_of, numbers_of
from vaekit.data.readers.frames import read_frame

WIDE = 2**63 + 1000


def csv(tmp_path: Path, value: str) -> Path:
    rows = [f"{at / 7:.3f},{at % 5}.5" for at in range(200)]
    rows[5] = f"{value},0.5"
    (tmp_path / "x.csv").write_text("x,value\n" + "\n".join(rows))
    return tmp_path / "x.csv"


@pytest.mark.parametrize("value", ["1.797e308", "1e300", "-1e200"])
def test_a_number_whose_square_is_infinite_is_refused_with_column_and_row(
    tmp_path: Path, value: str
) -> None:
    said = rf"column x but row 5, counted from 0, holds {float(value):g}".replace("+", r"\+")
    for seed in range(3):  # in the training rows, and among the others
        with pytest.raises(ValueError, match=said):
            data.Table(csv(tmp_path, value), seed=seed).info  # noqa: B018
    with pytest.raises(ValueError, match="row 5, counted from 0,"):
        data.Table(csv(tmp_path, value), context="x").info  # noqa: B018


def test_a_held_out_number_that_float32_cannot_hold_is_refused_with_its_row() -> None:
    frame = pd.DataFrame({"x": np.arange(60) / 7e9, "y": np.arange(60) / 7}).assign(part="train")
    frame.loc[58, ["x", "part"]] = [1e35, "test"]
    with pytest.raises(ValueError, match=r"scale of the training rows, in .*x but row 58"):
        data.Table(frame, split="part").info  # noqa: B018
    named = frame.set_axis([f"r{at}" for at in range(60)])
    with pytest.raises(ValueError, match=r"x but row r58 holds"):
        data.Table(named, split="part").info  # noqa: B018
    x, part = frame[["x", "y"]], frame["part"].to_numpy()
    with pytest.raises(ValueError, match=r"column 0 of x but row 58, counted from 0,"):
        data.Arrays(x, split=part, standardize=True).info  # noqa: B018


def test_large_numbers_of_one_size_are_read() -> None:
    luminosity = pd.DataFrame({"erg": np.random.default_rng(0).normal(5e45, 1e45, 60)})
    x = next(data.Table(luminosity, val=0, test=0).rows("train")).x
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_extreme_values_of_arrays_and_signals_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[7, 1] = 1e300
    with pytest.raises(ValueError, match=r"column 1 of x but row 7, counted from 0,"):
        data.Arrays(x, standardize=True).info  # noqa: B018
    with pytest.raises(ValueError, match=r"channel x1 but row 7"):
        data.Sequences([x, x]).info  # noqa: B018


# Whole numbers of 64 bits


WIDE_FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "tensor": torch.from_numpy,
    "frame": lambda x: pd.DataFrame({"a": x[:, 0], "b": x[:, 1] * 0.5}),
    "frame of pandas' own type": lambda x: pd.DataFrame(x).astype("UInt64"),
    "polars": lambda x: polars.DataFrame({"a": x[:, 0], "b": x[:, 1]}),
    "list": lambda x: x.tolist(),
    "objects": lambda x: x.astype(object),
}


@pytest.mark.parametrize("form", WIDE_FORMS)
def test_whole_numbers_beyond_2_63_are_refused(form: str) -> None:
    x = np.full((20, 2), 7, np.uint64)
    assert numbers_of(WIDE_FORMS[form](x)).double().max() == 7
    x[3, 0] = WIDE
    with pytest.raises(ValueError, match=r"below 2\^63"):
        numbers_of(WIDE_FORMS[form](x))


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "pt"])
def test_files_of_whole_numbers_beyond_2_63_are_refused(tmp_path: Path, suffix: str) -> None:
    x = np.arange(WIDE, WIDE + 60, dtype=np.uint64).reshape(30, 2)
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, x)
    elif suffix == "npz":
        np.savez(path, x=x)
    elif suffix == "pt":
        torch.save(torch.from_numpy(x), path)
    else:
        pd.DataFrame(x, columns=["a", "b"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"below 2\^63 in .* but it holds 9223372036854776\d\d\d"):
        (data.Table if suffix == "csv" else data.Arrays)(path).info  # noqa: B018
    if suffix == "csv":  # as names and categories they are exact
        table = data.Table(path, kinds={"a": "category"}, id="b", val=0, test=0)
        assert table.info.schema["columns"][0]["values"][0] == WIDE
        assert table.names[0] == str(WIDE + 1)


# Labels


@pytest.mark.parametrize(
    ("label", "classes", "found"),
    [
        (np.array([-5, 2**62, -5]), [-5, 2**62], [0, 1, 0]),
        (np.array([2**63, 2**63 + 1], np.uint64), [2**63, 2**63 + 1], [0, 1]),
        (torch.from_numpy(np.array([2**63, 2**63 + 1], np.uint64)), [2**63, 2**63 + 1], [0, 1]),
        (np.array([-1, 70_000, 5.0]), [5, 70_000], [-1, 1, 0]),
        (np.array([3, 0, -1]), None, [3, 0, -1]),
        (torch.arange(5000), None, list(range(5000))),
        (np.array([True, False]), None, [1, 0]),
    ],
)
def test_far_labels_are_classes_in_their_order(
    label: Any, classes: list[int] | None, found: list[int]
) -> None:
    own, names = classes_of(label)
    assert (own.tolist(), names) == (found, classes)
    again, _ = classes_of(label[:1], names)
    assert again.tolist() == found[:1]


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_far_labels_of_files_are_few_classes(tmp_path: Path, suffix: str) -> None:
    label = np.where(np.arange(40) % 2, -5, 2**62)
    x = np.random.default_rng(0).normal(size=(40, 3))
    path = tmp_path / f"x.{suffix}"
    if suffix == "npz":
        np.savez(path, x=x, label=label.astype(np.uint64))
    else:
        torch.save({"x": torch.from_numpy(x), "label": torch.from_numpy(label)}, path)
    module = data.Arrays(path)
    assert module.info.classes == 2
    again = data.Arrays(x[:3], label=[2**62, 3, -1], val=0, test=0).follow(module.info.schema)
    assert next(again.rows("train")).label.tolist()[1:] == [-1, -1]
    assert module.told()["labels"] == "2 classes"


# Text


@pytest.mark.parametrize("text", ["1\x002", "a\x00b", "1\x00"])
def test_a_nul_in_a_table_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    for suffix, separator in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"x.{suffix}"
        path.write_text(f"x{separator}y\n1{separator}2\n{text}{separator}3\n")
        with pytest.raises(ValueError, match="line 3 holds a NUL byte"):
            read_frame(path)
