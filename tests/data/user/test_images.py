"""Images of a folder: how they are found, decoded, split and written, and which are refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from vaekit import testing
from vaekit.data.readers import images as decode
from vaekit.data.user.images import ImageFolder

Cli = Callable[..., Path]
QUICK = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")


def saved(path: Path, pixels: Any, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **how)
    return path


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def stored(folder: Path, **how: Any) -> np.ndarray:
    """All images (N, C, H, W) as they are stored, in the order of their names."""
    rows = ImageFolder(folder, val=0, test=0, **how).load()["train"]
    assert isinstance(rows.x, torch.Tensor)
    return rows.x.numpy()


# What is read


def test_the_digits_are_what_they_were(digits: Path) -> None:
    module = ImageFolder(digits, binarize="none")
    assert module.info.event_shape == (1, 8, 8)
    assert (module.info.levels, module.info.classes, module.info.data_range) == (256, 10, (0, 1))
    assert module.splits == ("train", "val", "test")
    original = load_digits()
    for split in module.splits:
        names = module.names[module.numbers(split).numpy()]
        at = [int(Path(name).stem) for name in names]
        batch = next(module.rows(split))
        assert torch.equal(batch.label, torch.from_numpy(original.target[at]))
        expected = torch.from_numpy(original.images[at] * 15).float()
        assert torch.equal((batch.x[:, 0] * 255).round(), expected)
    assert module.told()["images"] == "300 PNG files, 8x8 L, in 10 folders"
    assert module.told()["x"] == "image 1x8x8 from 0 to 1, 256 levels"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"binarize": "dynamic"},
        {"dequantize": True, "missing": 0.2},
        {"size": 5, "mode": "RGB"},
    ],
)
def test_it_obeys_the_laws(digits: Path, how: dict[str, Any]) -> None:
    testing.check_data(ImageFolder, {"path": str(digits), **how})


def test_sixteen_bits_obey_the_laws_and_stay(tmp_path: Path) -> None:
    images = noise(40, 5, 6, dtype=np.uint16)
    for at, image in enumerate(images):
        saved(tmp_path / f"{at:02}.png", image)
    for how in ({}, {"dequantize": True}, {"binarize": "static"}, {"missing": 0.1}):
        testing.check_data(ImageFolder, {"path": str(tmp_path), **how})
    assert np.array_equal(stored(tmp_path)[:, 0], images)
    module = ImageFolder(tmp_path)
    assert (module.info.levels, module.info.classes) == (65536, None)
    x = next(module.rows("train")).x
    assert x.dtype == torch.float32
    assert x.max() > 0.99
    assert np.abs(stored(tmp_path, size=3)).max() > 255
    low = stored(tmp_path, mode="L")
    assert np.abs(low[:, 0] * 257.0 - images).max() <= 129


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm", "JPEG"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    saved(tmp_path / f"a.{suffix}", np.full((6, 8, 3), 200, np.uint8))
    found = stored(tmp_path)
    assert found.shape == (1, 3, 6, 8)
    assert np.abs(found.astype(int) - 200).max() <= 2


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        *(("1", "L"), ("L", "L"), ("LA", "L"), ("I;16", "I;16")),
        *(("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB"), ("CMYK", "RGB")),
    ],
)
def test_the_mode_is_that_of_the_first(tmp_path: Path, mode: str, kept: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new(mode, (4, 4)).save(tmp_path / f"a.{suffix}")
    module = ImageFolder(tmp_path, val=0, test=0)
    assert module.info.schema is not None
    assert module.info.schema["mode"] == kept


def test_what_is_transparent_lies_over_the_background(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = 10, 20, 30, 255
    saved(tmp_path / "a.png", pixels)
    assert stored(tmp_path)[0, :, :, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    over = stored(tmp_path, background="#0000ff")
    assert over[0, :, :, 0].T.tolist() == [[10, 20, 30], [0, 0, 255]]
    assert stored(tmp_path, mode="RGBA")[0, :, :, 0].T.tolist() == pixels[:, 0].tolist()
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "a.png", transparency=0)
    assert stored(tmp_path).min() == 255


def test_later_grey_images_become_colours_and_colours_among_grey_are_refused(
    tmp_path: Path,
) -> None:
    saved(tmp_path / "a.png", np.full((2, 2, 3), (1, 2, 3), np.uint8))
    saved(tmp_path / "b.png", np.full((2, 2), 7, np.uint8))
    assert stored(tmp_path)[1].tolist() == [[[7, 7], [7, 7]]] * 3
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c.png has colours: --data.mode RGB"):
        stored(tmp_path)
    assert stored(tmp_path, mode="L").shape == (2, 1, 2, 2)
    saved(tmp_path / "c.png", np.full((2, 2, 3), 9, np.uint8))  # grey, in three channels
    assert stored(tmp_path)[1].tolist() == [[[9, 9], [9, 9]]]
    saved(tmp_path / "d.png", np.full((2, 2), 300, np.uint16))
    with pytest.raises(ValueError, match=r"d.png has 16: --data.mode L"):
        stored(tmp_path)
    assert stored(tmp_path, mode="I;16")[:, 0, 0, 0].tolist() == [7 * 257, 9 * 257, 300]


def test_images_are_cut_in_the_middle_and_resized(tmp_path: Path) -> None:
    pixels = np.zeros((12, 20), np.uint8)
    pixels[2:10, 6:14] = 255  # the middle 8x8
    saved(tmp_path / "a.png", pixels)
    assert stored(tmp_path).shape == (1, 1, 12, 20)
    assert stored(tmp_path, crop=8).min() == 255
    assert stored(tmp_path, crop=8, size=4).shape == (1, 1, 4, 4)
    assert np.array_equal(stored(tmp_path, size=12)[0, 0], pixels[:, 4:16])
    assert stored(tmp_path, size=[3, 5]).shape == (1, 1, 3, 5)
    stripes = np.tile(np.uint8([0, 255]), (64, 32))  # averaged, where only some were picked
    saved(tmp_path / "a.png", stripes)
    assert np.abs(stored(tmp_path, size=16).astype(int) - 128).max() < 40
    with pytest.raises(ValueError, match=r"at least 70 pixels.*/a.png is 64x64"):
        stored(tmp_path, crop=70)


def test_another_size_than_the_first_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    saved(tmp_path / "sub/b.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(ValueError, match=r"of 6x4 pixels.*sub/b.png is 6x5: --data.size"):
        stored(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_photo_that_was_taken_sideways_stands_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 255
    saved(tmp_path / f"a.{suffix}", pixels, exif=exif)
    found = stored(tmp_path)[0, 0]
    assert found.shape == (32, 16)
    assert found[:14].max() < 9
    assert found[18:].min() > 246


def test_a_large_jpeg_is_decoded_to_twice_the_size_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.linspace(0, 255, 512 * 512 * 3).reshape(512, 512, 3).astype(np.uint8)
    saved(tmp_path / "a.jpg", pixels, quality=95)
    sizes = []
    fitted = decode.ImageOps.fit

    def noted(image: Any, *args: Any) -> Any:
        sizes.append(image.size)
        return fitted(image, *args)

    monkeypatch.setattr(decode.ImageOps, "fit", noted)
    fast = stored(tmp_path, size=60)
    assert sizes == [(128, 128)]
    with Image.open(tmp_path / "a.jpg") as image:
        whole = np.asarray(fitted(image, (60, 60), Image.Resampling.BICUBIC))
    assert np.abs(fast[0].transpose(1, 2, 0).astype(int) - whole).max() <= 3


# What is listed


def test_hidden_files_others_and_links_inside_are_left_out(tmp_path: Path) -> None:
    saved(tmp_path / "photos/b/2.png", noise(4, 4))
    saved(tmp_path / "photos/a/1.png", noise(4, 4))
    saved(tmp_path / "photos/.git/3.png", noise(4, 4))
    saved(tmp_path / "photos/a/.4.png", noise(4, 4))
    (tmp_path / "photos/a/notes.txt").write_text("no image")
    (tmp_path / "photos/a/5.png").symlink_to("1.png")
    (tmp_path / "photos/again").symlink_to(".")
    os.mkfifo(tmp_path / "photos/a/6.png")
    module = ImageFolder(tmp_path / "photos", val=0, test=0)
    assert module.info.data_size == 2
    assert module.names.tolist() == ["a/1.png", "b/2.png"]
    outside = saved(tmp_path / "other/7.png", noise(4, 4))
    for link in (tmp_path / "photos/7.png", tmp_path / "photos/other"):
        link.symlink_to(outside if link.suffix else outside.parent)
        with pytest.raises(ValueError, match=f"{link.name} is a link to .*other"):
            stored(tmp_path / "photos")
        link.unlink()


@pytest.mark.parametrize("number", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_fit_lists_each_folder_and_opens_each_file_once(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    images = noise(number, 4, 4)
    for at, image in enumerate(images):
        saved(tmp_path / f"photos/{at % 10}/{at:05}.png", image)
    listings, openings = Counter[str](), Counter[str]()
    scandir, opened = os.scandir, Image.open

    def listing(path: Any = ".") -> Any:
        listings[os.path.normpath(path)] += 1
        return scandir(path)

    def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
        openings[file.name] += 1
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(os, "scandir", listing)
    monkeypatch.setattr(Image, "open", opening)
    small = ("--model.encoder.hidden", 8, "--model.decoder.hidden", 8, "--model.latent_shape", 2)
    cli("fit", "--data", "ImageFolder", "--data.path", "photos", *small, *QUICK)
    own = {path: times for path, times in listings.items() if path.startswith("photos")}
    assert own == dict.fromkeys(["photos", *(f"photos/{at}" for at in range(10))], 1)
    assert len(openings) == number
    assert set(openings.values()) == {1}


def test_the_images_are_in_the_same_order_however_the_folder_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(30):
        saved(tmp_path / f"{at % 3}/{at:02}.png", np.full((2, 2), at, np.uint8))
    one = stored(tmp_path)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: Any) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert np.array_equal(one, stored(tmp_path))


# How they are split


def test_folders_called_like_splits_are_the_splits(tmp_path: Path) -> None:
    for split, count in {"Train": 4, "valid": 2, "test": 3}.items():
        for at in range(count):
            saved(tmp_path / f"{split}/{'cat' if at % 2 else 'ape'}/{at}.png", noise(3, 3))
    module = ImageFolder(tmp_path)
    assert {split: len(module.numbers(split)) for split in module.splits} == {
        "train": 4,
        "val": 2,
        "test": 3,
    }
    assert module.classes == ["ape", "cat"]
    assert next(module.rows("train")).label.tolist() == [0, 0, 1, 1]
    assert next(module.rows("test")).label.tolist() == [0, 0, 1]
    saved(tmp_path / "more/1.png", noise(3, 3))
    with pytest.raises(ValueError, match=r"called like splits, but some are in more"):
        ImageFolder(tmp_path).info  # noqa: B018


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for at in range(20):
        saved(tmp_path / f"{'train' if at % 2 else 'bus'}/{at}.png", noise(3, 3))
    module = ImageFolder(tmp_path)
    with pytest.warns(UserWarning, match="train is called like a split but read as a class"):
        assert module.splits == ("train", "val", "test")
    assert module.classes == ["bus", "train"]


def test_images_beside_the_folders_have_no_class(tmp_path: Path) -> None:
    saved(tmp_path / "1.png", noise(3, 3))
    saved(tmp_path / "a/b/1.png", noise(3, 3))
    module = ImageFolder(tmp_path, val=0, test=0)
    assert next(module.rows("train")).label.tolist() == [-1, 0]
    assert module.classes == ["a/b"]
    (tmp_path / "a/b/1.png").unlink()
    assert next(ImageFolder(tmp_path, val=0, test=0).rows("train")).label is None


def test_the_images_of_a_folder_stay_together(tmp_path: Path) -> None:
    for at in range(60):
        saved(tmp_path / f"{at % 12:02}/{at}.png", noise(3, 3))
    module = ImageFolder(tmp_path, val=0.25, test=0.25, group="folder")
    folders = [
        {name.partition("/")[0] for name in module.names[module.numbers(split).numpy()]}
        for split in module.splits
    ]
    assert len(folders) == 3
    assert sum(map(len, folders)) == 12
    assert len(set.union(*folders)) == 12
