"""Image files of several pages, folders that are called like splits, and folders of masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vaekit import testing
from vaekit.data.rows.splits import split_called
from vaekit.data.user.huggingface import HuggingFace
from vaekit.data.user.images import ImageFolder
from vaekit.data.user.tables import Table

Cli = Callable[..., Path]
PAGED = ("tif", "gif", "webp", "png")


def grey(n: int, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


def save_pages(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *more = map(Image.fromarray, images)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=more, **lossless)


def folder_of(path: Path, *folders: str, n: int = 8) -> Path:
    """A folder of folders of n images each, called 0.png and so on."""
    for seed, folder in enumerate(folders):
        for at, image in enumerate(grey(n, seed=seed)):
            (path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path / folder / f"{at}.png")
    return path


def earlier(module: Any) -> dict[str, Any]:
    """The schema that an earlier version noted."""
    return {k: v for k, v in module.info.schema.items() if k not in ("pages", "levels")}


# Pages


@pytest.mark.parametrize("suffix", PAGED)
def test_only_the_first_page_was_read_without_a_message(tmp_path: Path, suffix: str) -> None:
    for at in range(4):
        save_pages(tmp_path / f"{at}.{suffix}", grey(5, seed=at))
    with pytest.raises(ValueError, match=r"0\.\w+ has 5 pages: .*pages first.*pages all") as error:
        ImageFolder(tmp_path).info  # noqa: B018
    assert "\n" not in str(error.value)
    first = ImageFolder(tmp_path, pages="first", val=0, test=0, mode="L")
    assert first.info.data_size == 4
    module = ImageFolder(tmp_path, pages="all", val=0, test=0, mode="L")
    assert module.info.data_size == 20
    assert module.names is not None
    assert module.names[:2].tolist() == [f"0.{suffix}#0", f"0.{suffix}#1"]
    assert module.told()["images"].startswith("20 pages of 4 ")
    expected = np.concatenate([grey(5, seed=at) for at in range(4)])
    stored = module._splits["train"].x.numpy()[:, 0]
    assert np.abs(stored.astype(int) - expected).max() <= (1 if suffix == "webp" else 0)


def test_the_pages_of_a_file_are_in_one_split(tmp_path: Path) -> None:
    for at in range(10):
        save_pages(tmp_path / f"{'ab'[at % 2]}/{at}.tif", grey(3, seed=at))
    save_pages(tmp_path / "a/one.tif", grey(1))
    module = ImageFolder(tmp_path, pages="all", val=0.2, test=0.2)
    assert module.splits == ("train", "val", "test")
    assert module.names is not None
    files = [
        {name.partition("#")[0] for name in module.names[module.numbers(split).numpy()]}
        for split in module.splits
    ]
    assert sum(map(len, files)) == 11
    assert "a/one.tif" in module.names
    assert module.classes == ["a", "b"]
    testing.check_data(ImageFolder, {"path": str(tmp_path), "pages": "all"})


def test_a_model_of_an_earlier_version_reads_the_first_page(tmp_path: Path) -> None:
    save_pages(tmp_path / "new/0.tif", grey(5))
    schema = earlier(ImageFolder(folder_of(tmp_path / "old", "a"), val=0, test=0))
    module = ImageFolder(tmp_path / "new", val=0, test=0).follow(schema)
    assert module.info.data_size == 1
    assert "pages" not in (module.schema or {})
    later = ImageFolder(tmp_path / "new", val=0, test=0, pages="all")
    again = ImageFolder(tmp_path / "new", val=0, test=0).follow(later.info.schema)
    assert again.info.data_size == 5


def test_pages_are_refused_in_a_data_set_too(tmp_path: Path) -> None:
    save_pages(tmp_path / "0.tif", grey(5))
    rows = {"image": [str(tmp_path / "0.tif")] * 4}
    set_of = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    set_of.save_to_disk(str(tmp_path / "set"))
    with pytest.raises(ValueError, match="has 5 pages"):
        HuggingFace(tmp_path / "set").info  # noqa: B018
    assert HuggingFace(tmp_path / "set", pages="first").info.event_shape == (1, 8, 8)
    with pytest.raises(ValueError, match="Expected pages to be first"):
        HuggingFace(tmp_path / "set", pages="all")  # type: ignore[arg-type]


# Folders that are called like splits


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("training", "testing"), ("train", "test")),
        (("Training", "Test"), ("train", "test")),
        (("train", "dev"), ("train", "val")),
        (("train", "eval"), ("train", "val")),
        (("TRAIN", "evaluation", "held-out"), ("train", "val", "test")),
        (("train_set", "validation_set"), ("train", "val")),
        (("digits/train", "digits/test"), ("train", "test")),
        (("data/digits/train", "data/digits/test"), ("train", "test")),
    ],
)
def test_folders_called_like_splits_were_classes(
    folders: tuple[str, ...], splits: tuple[str, ...], tmp_path: Path
) -> None:
    folder_of(tmp_path, *(f"{folder}/{kind}" for folder in folders for kind in "ab"))
    module = ImageFolder(tmp_path)
    assert module.splits == splits
    assert module.classes == ["a", "b"]
    assert module.names is not None
    for split, folder in zip(splits, folders, strict=True):
        names = module.names[module.numbers(split).numpy()]
        assert len(names) == 16
        assert all(name.startswith(folder) for name in names)


def test_a_table_and_a_folder_know_the_same_names_of_splits(tmp_path: Path) -> None:
    names = ["train", "Training", "eval", "Dev", "testing", "held_out"]
    assert [split_called(name) for name in names] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    frame = pd.DataFrame({"x": np.arange(60.0) ** 0.5, "part": names * 10})
    sizes = {split: len(rows) for split, rows in Table(frame, split="part").load().items()}
    assert sizes == {"train": 20, "val": 20, "test": 20}
    with pytest.raises(ValueError, match="Expected splits called train, val and test but got cat"):
        Table(frame.assign(part="cat"), split="part").load()


def test_folders_that_look_like_splits_but_are_not_used_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path, "val", "test")
    module = ImageFolder(tmp_path)
    with pytest.warns(UserWarning, match="test, val are called like splits but read as classes"):
        module.setup()
    assert module.classes == ["test", "val"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not again if it follows a model
        again = ImageFolder(tmp_path).follow(module.info.schema)
        assert again.classes is None
        assert again.info.classes == 2


def test_a_folder_of_one_class_is_not_entered(tmp_path: Path) -> None:
    module = ImageFolder(folder_of(tmp_path / "one", "cat", n=20))
    assert module.info.classes == 1
    assert module.classes == ["cat"]
    model = ImageFolder(folder_of(tmp_path / "two", "cat/2020", "dog/2020"))
    new = ImageFolder(folder_of(tmp_path / "new", "cat/2020"), val=0, test=0)
    new.follow(model.info.schema)
    assert next(new.rows("train")).label.tolist() == [0] * 8


def test_rows_that_follow_an_earlier_model_are_split_as_they_were(tmp_path: Path) -> None:
    folder_of(tmp_path / "new", "training/a", "testing/a")
    schema = earlier(ImageFolder(folder_of(tmp_path / "old", "a", "b")))
    module = ImageFolder(tmp_path / "new").follow(schema)
    assert module.splits == ("train", "val", "test")
    assert ImageFolder(tmp_path / "new").splits == ("train", "test")


def test_the_splits_of_a_data_set_have_the_same_names(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"x": np.random.default_rng(0).normal(size=(9, 2)).tolist()})
    parts = datasets.DatasetDict({"Training": rows, "eval": rows, "testing": rows})
    parts.save_to_disk(str(tmp_path / "set"))
    assert HuggingFace(tmp_path / "set").splits == ("train", "val", "test")


# Masks


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("img", "label"), ("Image", "Annotations"), ("set/images", "set/gt")],
)
def test_masks_were_a_class_of_images(images: str, masks: str, tmp_path: Path) -> None:
    folder_of(tmp_path, images, masks)
    with pytest.raises(ValueError, match="files of the same names") as error:
        ImageFolder(tmp_path).info  # noqa: B018
    assert f"--data.path {tmp_path / images} reads only the images" in str(error.value)
    assert ImageFolder(tmp_path / images).info.data_size == 6


def test_masks_whose_names_say_so_and_masks_of_splits_are_refused(tmp_path: Path) -> None:
    folder_of(
        tmp_path, *(f"{split}/{kind}" for split in ("train", "test") for kind in ("images",))
    )
    for split in ("train", "test"):
        for at in range(8):
            (tmp_path / split / "masks").mkdir(exist_ok=True)
            Image.fromarray(grey(1)[0]).save(tmp_path / split / "masks" / f"{at}_mask.png")
    with pytest.raises(ValueError, match="move the folders masks elsewhere"):
        ImageFolder(tmp_path).info  # noqa: B018


def test_classes_whose_files_have_the_same_names_are_classes(tmp_path: Path) -> None:
    assert ImageFolder(folder_of(tmp_path / "a", "mask", "no_mask")).info.classes == 2
    folder_of(tmp_path / "b", "images")
    folder_of(tmp_path / "b", "labels", n=1)
    (tmp_path / "b/labels/0.png").rename(tmp_path / "b/labels/other.png")
    assert ImageFolder(tmp_path / "b").info.classes == 2


def test_splits_next_to_other_folders_one_folder_deeper_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path, "mnist/train", "mnist/test", "pictures")
    words = f"In {tmp_path / 'mnist'}, folders are called like splits .*--data.path .*mnist reads"
    with pytest.warns(UserWarning, match=words):
        ImageFolder(tmp_path).setup()
