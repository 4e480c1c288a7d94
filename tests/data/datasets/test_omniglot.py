"""Omniglot and Caltech 101 Silhouettes: MATLAB files that are found, damaged or missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.sparse import csc_matrix

from conftest import fit
from vaekit import Model, data, testing

OMNIGLOT, CALTECH = "chardata.mat", "caltech101_silhouettes_28_split1.mat"
Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.Omniglot, "sizes", {"": 60, "test": 20})
    sizes = {"train": 50, "val": 20, "test": 30}
    monkeypatch.setattr(data.Caltech101Silhouettes, "sizes", sizes)


def omniglot() -> Arrays:
    """Grey noise, and alphabets that count on, in the place of the characters."""
    noise = np.random.default_rng(0)
    found: Arrays = {}
    for prefix, n in (("", 60), ("test", 20)):
        found[f"{prefix}data"] = noise.random((784, n))
        found[f"{prefix}target"] = np.eye(50)[:, np.arange(n) % 50]
        found[f"{prefix}targetchar"] = np.ones((1, n))
    return found


def caltech() -> Arrays:
    noise = np.random.default_rng(0)
    found: Arrays = {"classnames": np.array(["a", "bc"], dtype=object)}
    for part, n in (("train", 50), ("val", 20), ("test", 30)):
        found[f"{part}_data"] = noise.integers(0, 2, (n, 784), dtype=np.uint8)
        found[f"{part}_labels"] = 1 + np.arange(n, dtype=np.uint8)[:, None] * 2
    return found


def write(path: Path, arrays: Arrays, **kwargs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays, **kwargs)
    return path.parent


def upright(columns: np.ndarray) -> np.ndarray:
    """An image whose columns follow one another, pixel by pixel."""
    image = np.empty((28, 28))
    for place, value in enumerate(columns):
        image[place % 28, place // 28] = value
    return image


@pytest.mark.parametrize("below", ["", "omniglot", "Omniglot"])
@pytest.mark.parametrize("zipped", [False, True])
def test_omniglot_is_found_and_upright(below: str, zipped: bool, tmp_path: Path) -> None:
    arrays = omniglot()
    write(tmp_path / below / OMNIGLOT, arrays, do_compression=zipped)
    module = data.Omniglot(tmp_path, val=10, binarize="none")
    info = module.info
    assert (info.event_shape, info.levels, info.classes) == ((1, 28, 28), None, 50)
    assert [len(module.numbers(split)) for split in ("train", "val", "test")] == [50, 10, 20]
    for split, prefix, first in (("train", "", 0), ("val", "", 0), ("test", "test", 60)):
        batch, places = next(module.rows(split)), module.numbers(split) - first
        assert batch.label.tolist() == (places % 50).tolist()
        for x, place in zip(batch.x, places, strict=True):
            expected = upright(arrays[f"{prefix}data"][:, place])
            np.testing.assert_allclose(x[0], expected, rtol=1e-6)


def test_omniglot_s_held_out_rows_are_drawn_with_the_seed(tmp_path: Path) -> None:
    write(tmp_path / OMNIGLOT, omniglot())
    drawn = [data.Omniglot(tmp_path, val=10, seed=seed).numbers("val") for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].tolist() != list(range(50, 60))
    assert data.Omniglot(tmp_path, val=0).splits == ("train", "test")
    with pytest.raises(ValueError, match="from 0 to 59 but got 60"):
        data.Omniglot(tmp_path, val=60).info  # noqa: B018


@pytest.mark.parametrize("upwards", [False, True])
def test_alphabets_may_be_numbers_or_not_there(upwards: bool, tmp_path: Path) -> None:
    arrays = omniglot()
    for prefix in ("", "test"):
        label = arrays[f"{prefix}target"].argmax(0)[None] + 1
        arrays[f"{prefix}target"] = label.T if upwards else label
    write(tmp_path / OMNIGLOT, arrays)
    module = data.Omniglot(tmp_path, val=10)
    assert next(module.rows("test")).label.tolist() == list(range(20))
    del arrays["target"]
    write(tmp_path / OMNIGLOT, arrays)
    assert next(data.Omniglot(tmp_path, val=10).rows("test")).label is None


@pytest.mark.parametrize("below", ["", "caltech101silhouettes", "Caltech101Silhouettes"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.bool_])
def test_silhouettes_are_found_and_upright(below: str, dtype: type, tmp_path: Path) -> None:
    arrays = caltech()
    stored = {k: v.astype(dtype) if k.endswith("data") else v for k, v in arrays.items()}
    write(tmp_path / below / CALTECH, stored)
    module = data.Caltech101Silhouettes(tmp_path)
    info = module.info
    assert (info.event_shape, info.levels, info.classes) == ((1, 28, 28), 2, 99)
    for split, n in (("train", 50), ("val", 20), ("test", 30)):
        batch = next(module.rows(split))
        assert len(batch) == n
        assert batch.label.tolist() == list(range(0, 2 * n, 2))
        for x, columns in zip(batch.x, arrays[f"{split}_data"], strict=True):
            np.testing.assert_array_equal(x[0], upright(columns))


def test_they_obey_the_laws(tmp_path: Path) -> None:
    write(tmp_path / OMNIGLOT, omniglot())
    write(tmp_path / CALTECH, caltech())
    root = str(tmp_path)
    for binarize in ("none", "dynamic", "static"):
        own = {"root": root, "val": 10, "batch_size": 16, "binarize": binarize}
        testing.check_data(data.Omniglot, own)
    testing.check_data(data.Caltech101Silhouettes, {"root": root, "missing": 0.3})


@pytest.mark.parametrize("name", ["Omniglot", "Caltech101Silhouettes"])
def test_a_model_trains_on_them(name: str, tmp_path: Path) -> None:
    write(tmp_path / OMNIGLOT, omniglot())
    write(tmp_path / CALTECH, caltech())
    module = getattr(data, name)(
        tmp_path, batch_size=25, **({"val": 10} if name[0] == "O" else {})
    )
    trainer = fit(Model(module, latent_shape=2), module, max_epochs=2)
    assert trainer.global_step == 4
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])


# Damaged and hostile files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Omniglot needs chardata\.mat.*VAEKIT_DATA"):
        data.Omniglot(tmp_path).info  # noqa: B018
    with pytest.raises(FileNotFoundError, match=r"needs caltech101_silhouettes_28_split1\.mat"):
        data.Caltech101Silhouettes(tmp_path).info  # noqa: B018


def refused(module: data.DataModule, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        module.info  # noqa: B018
    assert "\n" not in str(caught.value)


V73 = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n"
)
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[: len(content) // 2], "could not be read: ."),
    "the last bytes": (lambda content: content[:-9], "could not be read: ."),
    "the head alone": (lambda content: content[:128], "it has no data but nothing"),
    "cut in the head": (lambda content: content[:100], "could not be read: ."),
    "empty": (lambda content: b"", "could not be read: ."),
    "no file": (lambda content: b"no file\n" * 99, "could not be read: ."),
    "HDF5": (lambda content: V73, "version 7.3; save it as version 7"),
    "zeros": (lambda content: content[:1000] + bytes(len(content) - 1000), "could not be read: ."),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(damage: str, zipped: bool, tmp_path: Path) -> None:
    write(
        tmp_path / OMNIGLOT,
        {k: omniglot()[k] for k in ("data", "testdata")},
        do_compression=zipped,
    )
    path = tmp_path / OMNIGLOT
    change, words = DAMAGE[damage]
    if zipped and damage == "zeros":
        words = "Expected"
    path.write_bytes(change(path.read_bytes()))
    refused(data.Omniglot(tmp_path, val=10), words)


def changed(name: str, value: Any) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: value})


OTHERS: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "without": (lambda arrays: arrays.pop("data"), "it has no data but target, targetchar"),
    "fewer rows": (
        changed("data", np.ones((784, 59))),
        r"shape \(784, 60\) but is double \(784, 59",
    ),
    "rows first": (changed("testdata", np.ones((20, 784))), r"but is double \(20, 784\)"),
    "text": (changed("data", ["x" * 60] * 784), r"data should be numbers .* but is char"),
    "cells": (changed("data", np.full((784, 60), "x", object)), "but is cell"),
    "a struct": (changed("data", {"a": 1}), "but is struct"),
    "sparse": (changed("data", csc_matrix(np.ones((784, 60)))), "but is sparse"),
    "complex": (changed("data", np.full((784, 60), 1j)), "real numbers but is complex"),
    "too large": (changed("data", np.full((784, 60), 255.0)), r"spans \[255, 255\]"),
    "not finite": (changed("data", np.full((784, 60), np.nan)), r"spans \[nan, nan\]"),
    "another label": (changed("target", np.ones((7, 60))), r"target should be numbers of shape"),
    "two ones": (changed("target", np.ones((50, 60))), "target should have a single 1 in each"),
    "no ones": (changed("testtarget", np.zeros((50, 20))), "testtarget should have a single 1"),
    "label 0": (changed("target", np.zeros((1, 60))), "whole numbers from 1 to 50"),
    "label 51": (changed("target", np.full((1, 60), 51)), "whole numbers from 1 to 50"),
    "half a label": (changed("target", np.full((60, 1), 1.5)), "whole numbers from 1 to 50"),
    "label NaN": (changed("target", np.full((1, 60), np.nan)), "whole numbers from 1 to 50"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_other_contents_is_refused(case: str, tmp_path: Path) -> None:
    change, words = OTHERS[case]
    arrays = omniglot()
    change(arrays)
    write(tmp_path / OMNIGLOT, arrays)
    refused(data.Omniglot(tmp_path, val=10), words)


SILHOUETTES: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "grey": (changed("val_data", np.full((20, 784), 0.5)), "val_data should be 0 or 1"),
    "two": (changed("test_data", np.full((30, 784), 2)), "test_data should be 0 or 1"),
    "no labels": (lambda arrays: arrays.pop("val_labels"), "it has no val_labels but"),
    "rows": (changed("train_data", np.ones((784, 50))), r"shape \(50, 784\) but is double"),
    "label 102": (changed("val_labels", np.full((20, 1), 102)), "whole numbers from 1 to 101"),
}


@pytest.mark.parametrize("case", SILHOUETTES)
def test_silhouettes_of_other_contents_are_refused(case: str, tmp_path: Path) -> None:
    change, words = SILHOUETTES[case]
    arrays = caltech()
    change(arrays)
    write(tmp_path / CALTECH, arrays)
    refused(data.Caltech101Silhouettes(tmp_path), words)


@pytest.mark.parametrize("name", ["Omniglot", "Caltech101Silhouettes"])
def test_the_published_sizes_are_expected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sizes = getattr(data, name).sizes
    assert sum(sizes.values()) == {"Omniglot": 32_415}.get(name, 8_671)
