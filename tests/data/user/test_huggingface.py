"""Data sets of Hugging Face: columns that become x and labels, splits, and what is refused."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from test_images_refused import bomb

from conftest import fit
from vaekit import Model, testing
from vaekit.data.user.huggingface import HuggingFace

datasets = pytest.importorskip("datasets")
Cli = Callable[..., Path]
QUICK = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")


def png(pixels: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def saved(path: Path, columns: dict[str, Any], **features: Any) -> str:
    found = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    found.save_to_disk(str(path))
    return str(path)


def of_digits(at: slice) -> Any:
    found = load_digits()
    images = [png((image * 15).astype(np.uint8)) for image in found.images[at]]
    names = [f"digit {9 - at}" for at in range(10)]  # not in their own order
    return datasets.Dataset.from_dict(
        {"image": images, "label": 9 - found.target[at], "note": ["text"] * len(images)},
        features=datasets.Features(
            image=datasets.Image(),
            label=datasets.ClassLabel(names=names),
            note=datasets.Value("string"),
        ),
    )


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """300 of scikit-learn's digits, as images with named classes."""
    of_digits(slice(300)).save_to_disk(str(tmp_path / "digits"))
    return str(tmp_path / "digits")


def test_images_and_their_classes_are_what_they_were(digits: str) -> None:
    module = HuggingFace(digits)
    info = module.info
    assert (info.event_shape, info.levels, info.classes) == ((1, 8, 8), 256, 10)
    assert info.schema is not None
    assert info.schema["classes"][0] == "digit 9"
    original = load_digits()
    for split in ("train", "val", "test"):
        at, batch = module.numbers(split), next(module.rows(split))
        assert torch.equal(batch.label, 9 - torch.from_numpy(original.target)[at])
        expected = torch.from_numpy(original.images * 15)[at].float()
        assert torch.equal((batch.x[:, 0] * 255).round(), expected)


@pytest.mark.parametrize("how", [{}, {"binarize": "static"}, {"size": 5, "mode": "RGB"}])
def test_images_obey_the_laws(digits: str, how: dict[str, Any]) -> None:
    testing.check_data(HuggingFace, {"path": digits, **how})


def test_its_splits_are_ours(tmp_path: Path) -> None:
    parts = {"train": slice(20), "validation": slice(20, 25), "test": slice(25, 40)}
    found = datasets.DatasetDict({name: of_digits(at) for name, at in parts.items()})
    found["unsupervised"] = of_digits(slice(40, 50))
    found.save_to_disk(str(tmp_path / "digits"))
    module = HuggingFace(tmp_path / "digits")
    assert [len(module.numbers(split)) for split in module.splits] == [20, 5, 15]
    assert torch.equal(
        next(module.rows("val")).label, 9 - torch.from_numpy(load_digits().target[20:25])
    )
    testing.check_data(HuggingFace, {"path": str(tmp_path / "digits")})
    one = HuggingFace(tmp_path / "digits", part="unsupervised")
    assert [len(one.numbers(split)) for split in one.splits] == [8, 1, 1]
    with pytest.raises(ValueError, match=r"the split extra .* but it has train, .*--data.part"):
        HuggingFace(tmp_path / "digits", part="extra").info  # noqa: B018


@pytest.mark.parametrize(
    ("feature", "dtype", "event", "levels"),
    [
        (datasets.Value("float64"), torch.float64, (1,), None),
        (datasets.List(datasets.Value("float32")), torch.float32, (6,), None),
        (datasets.List(datasets.Value("int32"), length=6), torch.int32, (6,), None),
        (datasets.List(datasets.List(datasets.Value("uint8"))), torch.uint8, (2, 3), 256),
        (datasets.Array2D((2, 3), "uint8"), torch.uint8, (2, 3), 256),
        (datasets.Array3D((1, 2, 3), "float32"), torch.float32, (1, 2, 3), None),
    ],
)
def test_numbers_become_x(
    tmp_path: Path, feature: Any, dtype: torch.dtype, event: tuple[int, ...], levels: int | None
) -> None:
    x = np.random.default_rng(0).integers(0, 200, (50, *event))
    x[0] = 3
    rows = (x[:, 0] if event == (1,) else x).tolist()
    path = saved(tmp_path / "numbers", {"x": rows}, x=feature)
    module = HuggingFace(path)
    assert (module.info.event_shape, module.info.levels) == (event, levels)
    stored = module.load()["train"].x
    assert isinstance(stored, torch.Tensor)
    assert stored.dtype == dtype
    assert np.array_equal(stored.numpy(), x)
    testing.check_data(HuggingFace, {"path": path})


def test_float64_values_keep_all_their_digits(tmp_path: Path) -> None:
    x = [0.1, 1e9 + 0.123]
    module = HuggingFace(
        saved(tmp_path / "x", {"x": x}, x=datasets.Value("float64")), val=0, test=0
    )
    assert module.load()["train"].x.flatten().tolist() == x


def test_channels_may_stand_last(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, 6, 5, 3), np.float32)
    path = saved(tmp_path / "x", {"x": x.tolist()}, x=datasets.Array3D((6, 5, 3), "float32"))
    with pytest.raises(ValueError, match=r"--data\.channels last"):
        HuggingFace(path).info  # noqa: B018
    assert HuggingFace(path, channels="last").info.event_shape == (3, 6, 5)


def test_the_columns_are_found_or_named(tmp_path: Path) -> None:
    numbers = datasets.Value("float32")
    whole = datasets.Value("int64")
    columns = {"a": [0.5] * 20, "b": [1.5] * 20, "label": [3] * 20, "other": [4] * 20}
    features = {"a": numbers, "b": numbers, "label": whole, "other": whole}
    path = saved(tmp_path / "table", columns, **features)
    with pytest.raises(ValueError, match=r"such as --data.x NAME, but got several, .*a \(float32"):
        HuggingFace(path).info  # noqa: B018
    with pytest.raises(ValueError, match=r"but got c of the columns a \(float32\), b"):
        HuggingFace(path, x="c").info  # noqa: B018
    batch = next(HuggingFace(path, x="b").rows("train"))
    assert batch.x.unique().tolist() == [1.5]
    assert batch.label.unique().tolist() == [3]
    batch = next(HuggingFace(path, x="a", label="other").rows("train"))
    assert batch.label.unique().tolist() == [4]
    module = HuggingFace(path, x="label")
    assert next(module.rows("train")).x.unique().tolist() == [3]
    assert module.info.classes is None
    with pytest.raises(ValueError, match=r"whole numbers \(label, other\) but got a"):
        HuggingFace(path, x="b", label="a").info  # noqa: B018
    text = saved(tmp_path / "text", {"text": ["a", "b"]}, text=datasets.Value("string"))
    with pytest.raises(ValueError, match=r"of the columns text \(string\)"):
        HuggingFace(text).info  # noqa: B018


@pytest.mark.parametrize(
    ("rows", "feature"),
    [
        ([[1, 2], [3]], datasets.List(datasets.Value("int64"))),
        ([[[1], [2, 3]], [[1], [2]]], datasets.List(datasets.List(datasets.Value("float32")))),
        ([1, None, 2], datasets.Value("int64")),
    ],
)
def test_rows_of_different_lengths_and_missing_ones_are_refused(
    tmp_path: Path, rows: Any, feature: Any
) -> None:
    path = saved(tmp_path / "x", {"x": rows}, x=feature)
    with pytest.raises(ValueError, match="numbers of one shape in each row but those of x differ"):
        HuggingFace(path).info  # noqa: B018


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"bytes": bomb(50_000), "path": None}, "image 2 of .* declares 50,000x50,000"),
        ({"bytes": b"no image", "path": None}, "image 2 of .* could not be read"),
        ({"bytes": None, "path": "nowhere.png"}, "image 2 of .* there is no file nowhere.png"),
        (None, "image 2 of .* it is empty"),
    ],
)
def test_a_bad_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Any, said: str
) -> None:
    good = png(np.full((4, 4), 9, np.uint8))
    (tmp_path / "good.png").write_bytes(good["bytes"])
    by_path = {"bytes": None, "path": str(tmp_path / "good.png")}
    # save_to_disk would look at the files, but data sets of the hub may name some that are gone.
    table = datasets.Dataset.from_dict({"x": [good, by_path, file]})
    table = table.cast_column("x", datasets.Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: table)
    with pytest.raises(ValueError, match=said):
        HuggingFace("some/images").info  # noqa: B018
    table = table.select([0, 1])
    rows = HuggingFace("some/images", val=0, test=0).rows("train")
    assert (next(rows).x * 255).round().unique().tolist() == [9]


def test_what_is_no_data_set_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"save_to_disk wrote \(--data ImageFolder reads") as told:
        HuggingFace(tmp_path).info  # noqa: B018
    assert "\n" not in str(told.value)

    def unreachable(*_: object) -> None:
        raise ConnectionError("Couldn't reach it\nRetry")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"nobody/nothing could not be loaded: .* it$"):
        HuggingFace("nobody/nothing").info  # noqa: B018
    empty = datasets.Dataset.from_dict({"x": []}, datasets.Features(x=datasets.Value("int8")))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: empty)
    with pytest.raises(ValueError, match=r"Expected rows in some/empty"):
        HuggingFace("some/empty").info  # noqa: B018
    damaged = saved(tmp_path / "x", {"x": [1.0] * 9}, x=datasets.Value("float32"))
    next(Path(damaged).glob("*.arrow")).write_bytes(b"no data")
    with pytest.raises(ValueError, match="could not be read"):
        HuggingFace(damaged).info  # noqa: B018


def test_a_data_set_of_the_hub_is_loaded_once_and_never_by_a_checkpoint_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def loaded(*args: object) -> Any:
        calls.append(args)
        return datasets.DatasetDict(train=of_digits(slice(20)), test=of_digits(slice(20, 30)))

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    module = HuggingFace("some/digits", name="small")
    assert module.splits == ("train", "test")
    assert calls == [("some/digits", "small")]
    alone = HuggingFace("some/digits")
    vars(alone)["prepare_data"] = lambda: None  # as the command line does
    with pytest.raises(ValueError, match=r"--data HuggingFace --data\.path some/digits"):
        alone.info  # noqa: B018
    assert len(calls) == 1


def test_without_the_package_it_says_what_to_install(
    digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vaekit\[datasets\]'"):
        HuggingFace(digits).info  # noqa: B018


def test_a_model_goes_through_the_commands_and_to_other_classes(
    cli: Cli, digits: str, tmp_path: Path
) -> None:
    cli("fit", "--data", "HuggingFace", "--data.path", digits, *QUICK)
    cli("sample", "--ckpt_path", "best", "--n", 3)
    assert len(list(Path("runs/version_0/sample/samples").iterdir())) == 3
    images = [png(image.astype(np.uint8)) for image in load_digits().images[:12]]
    features = {
        "picture": datasets.Image(),
        "label": datasets.ClassLabel(names=["new", "digit 0"]),
    }
    columns = {"picture": images, "label": [0, 1, 1] * 4}
    path = saved(tmp_path / "others", columns, **features)
    named = ("--data", "HuggingFace", "--data.path", path, "--split", "all")
    cli("predict", "--ckpt_path", "best", *named)
    with np.load("runs/version_0/predictions.npz") as found:
        assert found["label"].tolist() == [-1, 9, 9] * 4
        assert found["reconstruction"].shape == (12, 1, 8, 8)


def test_numbers_train_in_python(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 5)).tolist()
    path = saved(tmp_path / "x", {"x": x}, x=datasets.List(datasets.Value("float32")))
    module = HuggingFace(path)
    model = Model(module, latent_shape=2, likelihood="Gaussian")
    fit(model, module, max_epochs=1)
    assert model.sample(3).shape == (3, 5)
