"""Files of several splits, arrays whose rows come last, and files that no module reads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaekit import data, testing
from vaekit.data.module_for_path import module_for


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def keras(**more: Any) -> dict[str, Any]:
    """Arrays as Keras writes them, x equal in all rows of a split."""
    return {
        "x_test": np.full((20, 8, 8), 9, np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None],
        "x_train": rng().integers(100, 256, (60, 8, 8), dtype=np.uint8),
        "y_train": (np.arange(60) % 3).astype(np.uint8),
        "y_test": np.arange(20) % 3,
        **more,
    }


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    if path.suffix == ".pt":
        torch.save({name: torch.as_tensor(array) for name, array in arrays.items()}, path)
    else:
        np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_file_of_keras_was_refused(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"x{suffix}", keras())
    module = data.Arrays(path, val=0.1)
    assert (module.info.classes, module.info.data_size) == (3, 54)
    assert {split: len(module.numbers(split)) for split in module.splits} == {
        "train": 54,
        "val": 6,
        "test": 20,
    }
    assert module.numbers("test").tolist() == list(range(60, 80))
    test = next(module.rows("test"))
    assert (test.x[:, 0, 0] * 255).round().tolist() == list(range(9, 29))
    assert test.label is not None
    assert test.label.tolist() == (np.arange(20) % 3).tolist()
    train = next(module.rows("train"))
    assert float(train.x.min()) >= 100 / 255
    assert train.label is not None
    assert torch.equal(train.label, module.numbers("train") % 3)
    testing.check_data(data.Arrays, {"x": str(path)})
    assert data.Arrays(path, val=0).splits == ("train", "test")


def test_names_of_other_libraries_and_labels_in_a_column(tmp_path: Path) -> None:
    arrays = {
        f"{split}_{name}": array
        for split, n in {"train": 30, "val": 10, "test": 5}.items()
        for name, array in {
            "images": rng().random((n, 3)),
            "labels": (np.arange(n) % 2)[:, None],
        }.items()
    }
    module = data.Arrays(saved(tmp_path / "x.npz", arrays))
    assert [len(module.numbers(split)) for split in module.splits] == [30, 10, 5]
    assert module.info.classes == 2


@pytest.mark.parametrize("text", [False, True])
def test_test_rows_without_labels_are_of_an_unknown_class(text: bool, tmp_path: Path) -> None:
    arrays = keras()
    del arrays["y_test"]
    if text:
        arrays["y_train"] = np.asarray(["a", "b", "c"])[arrays["y_train"]]
    module = data.Arrays(saved(tmp_path / "x.npz", arrays))
    assert module.info.classes == 3
    assert set(next(module.rows("test")).label.tolist()) == {-1}
    assert set(next(module.rows("train")).label.tolist()) == {0, 1, 2}


def test_the_labels_of_the_chosen_array_were_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", keras())
    module = data.Arrays(path, key="x_train")
    with pytest.warns(UserWarning, match=r"--data\.key x_train leaves x_test, y_test out"):
        module.setup()
    assert (module.info.classes, module.info.data_size) == (3, 48)
    alone = {name: array for name, array in keras().items() if "train" in name}
    module = data.Arrays(saved(tmp_path / "one.npz", alone))
    assert (module.info.classes, module.splits) == (3, ("train", "val", "test"))


def test_splits_that_the_user_names_win_and_a_held_out_file_is_held_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", keras())
    names = np.asarray(["test"] * 40 + ["train"] * 40, dtype=object)
    module = data.Arrays(path, split=names)
    assert len(module.numbers("train")) == 40
    np.save(tmp_path / "x.npy", keras()["x_train"])
    module = data.Arrays(tmp_path / "x.npy", test=str(path))
    assert len(module.numbers("test")) == 80


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", keras(y_test=np.arange(7)))
    with pytest.raises(ValueError, match="Expected 20 rows in y_test but it has 7"):
        data.Arrays(path).info  # noqa: B018
    path = saved(tmp_path / "y.npz", keras(x_test=np.zeros((20, 4))))
    with pytest.raises(ValueError, match=r"it holds x_test 20x4, .*--data\.key NAME"):
        data.Arrays(path).info  # noqa: B018


# Rows on the last axis


@pytest.mark.parametrize("shape", [(28, 28, 60), (8, 8, 3, 60)])
def test_rows_on_the_last_axis_of_a_file_were_left_out(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    x = rng().random(shape)
    path = saved(tmp_path / "x.npz", {"x": x, "y": np.arange(60)[:, None] % 2})
    with pytest.raises(ValueError, match=r"y has 60 values, as the last axis of x .*np\.moveaxis"):
        data.Arrays(path).info  # noqa: B018
    with pytest.raises(ValueError, match=r"label has 60: np\.moveaxis"):
        data.Arrays(x, label=np.arange(60), channels="first").info  # noqa: B018


def test_a_shape_with_its_rows_last_is_named() -> None:
    module = data.Arrays(rng().random((28, 28, 60)))
    with pytest.warns(
        UserWarning, match=r"28x28x60 is read as 28 rows of 28x60\. If these are 60"
    ):
        module.setup()
    for shape in ((60, 28, 28), (28, 28, 28), (28, 20, 60), (28, 28), (30, 3, 16, 16)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data.Arrays(rng().random(shape)).setup()


# Files that no module reads


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xlsx", "pandas.read_excel('a.xlsx').to_csv('a.csv', index=False)"),
        ("a.XLS", "pandas.read_excel('a.XLS')"),
        ("a.txt", "pandas.read_csv('a.txt', sep=None, engine='python').to_csv('a.csv'"),
        ("a.data", "pandas.read_csv('a.data', sep=None, engine='python', header=None)"),
        ("a.jsonl", "pandas.read_json('a.jsonl', lines=True)"),
        ("a.mat", "numpy.save('a.npy', scipy.io.loadmat('a.mat')['NAME'])"),
        ("a.mtx", "scipy.sparse.save_npz('a.npz', "),
        ("a.zip", "decompress it first"),
        ("a.abc", "name the data module that reads it with --data"),
    ],
)
def test_a_file_that_no_module_reads_was_sent_to_another_module(
    name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("1 2 3")
    for read in (module_for, lambda path: data.Arrays(path).info):
        with pytest.raises(ValueError, match=r"\.npy") as error:
            read(tmp_path / name)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
