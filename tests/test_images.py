"""Images of a folder: how they are found, decoded, split and written, and which are refused."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from conftest import fit
from vaekit import Model, data, load, pictures, testing
from vaekit.data import decode
from vaekit.data.images import ImageFolder

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


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """300 of scikit-learn's digits, in a folder for each class."""
    found = load_digits()
    for at, (image, target) in enumerate(zip(found.images[:300], found.target, strict=False)):
        saved(tmp_path / f"digits/{target}/{at:04}.png", (image * 15).astype(np.uint8))
    return tmp_path / "digits"


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


# What is refused


def damaged(kind: str, path: Path) -> None:
    whole = saved(path, noise(32, 32)).read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "garbled":
        path.write_bytes(whole[:60] + bytes(40) + whole[100:])
    else:
        path.write_bytes(
            {"empty": b"", "text": b"no image", "script": b"%!PS-Adobe-3.0 EPSF"}[kind]
        )


@pytest.mark.parametrize("kind", ["truncated", "garbled", "empty", "text", "script"])
@pytest.mark.parametrize("name", ["a.png", "c.png"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, kind: str, name: str) -> None:
    saved(tmp_path / "b.png", noise(32, 32))
    damaged(kind, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} could not be read: .* take it out") as refused:
        stored(tmp_path)
    assert "\n" not in str(refused.value)


def bomb(side: int) -> bytes:
    """A small PNG that declares so many pixels on each side."""

    def chunk(name: bytes, body: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + end

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99))


@pytest.mark.parametrize("side", [8_000, 12_000, 50_000])
def test_a_bomb_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side))

    def never(*_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=rf"a.png declares {side:,}x{side:,}: take it out"):
            stored(tmp_path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_limit_above_pillow_s_own_holds(tmp_path: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a.png")
    assert stored(tmp_path, max_pixels=200_000_000, size=2).shape == (1, 1, 2, 2)


def test_what_cannot_be_read_so_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is none at"):
        stored(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there are none that end on .*\.png"):
        stored(tmp_path)
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif holds floating-point .* --data Arrays"):
        stored(tmp_path)
    Image.fromarray(np.full((3, 3), 70_000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif spans 70000 to 70000"):
        stored(tmp_path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"size": 0}, "size, crop and max_pixels of at least 1"),
        ({"size": [3]}, r"\[height, width\]"),
        ({"crop": 0}, "at least 1"),
        ({"mode": "F"}, "a mode out of L, RGB, RGBA, I;16"),
        ({"background": "nocolour"}, "background as the name of a colour"),
        ({"group": "patient"}, "group to be folder"),
        ({"max_pixels": 0}, "at least 1"),
    ],
)
def test_arguments_are_refused_before_a_file_is_read(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageFolder("nowhere", **how)


def test_what_does_not_fit_into_memory_lies_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(50, 4, 4)
    for at, image in enumerate(images):
        saved(tmp_path / f"photos/{at:02}.png", image)
    monkeypatch.setattr(decode, "_memory", lambda: 1599)
    with pytest.raises(ValueError, match=r"GiB: take a smaller --data.size, or .*--data.cache"):
        stored(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"--data.cache .*nowhere but got: No such file"):
        stored(tmp_path / "photos", cache=tmp_path / "nowhere")
    (tmp_path / "cache").mkdir()
    assert np.array_equal(stored(tmp_path / "photos", cache=tmp_path / "cache")[:, 0], images)
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(decode, "_memory", lambda: 1600)
    assert np.array_equal(stored(tmp_path / "photos")[:, 0], images)


# What is written


@pytest.mark.parametrize(
    ("mode", "dtype", "channels"),
    [("L", np.uint8, 1), ("RGB", np.uint8, 3), ("RGBA", np.uint8, 4), ("I;16", np.uint16, 1)],
)
@pytest.mark.parametrize("dequantize", [False, True])
def test_rows_are_written_as_they_were_read(
    tmp_path: Path, mode: Any, dtype: Any, channels: int, dequantize: bool
) -> None:
    images = noise(12, 5, 4, channels, dtype=dtype).squeeze()
    for at, image in enumerate(images):
        saved(tmp_path / f"photos/{at % 2}/same{at // 4}.{at}.png", image)
    module = ImageFolder(tmp_path / "photos", mode=mode, dequantize=dequantize)
    rows = module.numbers("train")
    x = next(module.rows("train")).x
    assert module.write(tmp_path, "out", x, {}, rows) == [tmp_path / "out"]
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == len(rows) == 10
    for path, row in zip(written, rows.tolist(), strict=True):
        original = tmp_path / "photos" / module.names[row]
        assert path.name == f"{row:05}_{original.name}"
        with Image.open(path) as one, Image.open(original) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_of_many_images_the_first_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.data.images._WRITTEN", 3)
    module = ImageFolder(tmp_path)
    assert module.write(tmp_path, "unknown", torch.rand(5, 1, 2, 2), {}) == []
    module.follow({"mode": "L"})  # as for samples, for which no image is read
    assert module.write(tmp_path, "samples", torch.rand(5, 1, 2, 2), {}) == [tmp_path / "samples"]
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"]
    assert module.write(tmp_path, "none", None, {}) == []
    assert module.write(tmp_path, "none", {"a": torch.rand(5, 1)}, {}) == []


def test_transparent_images_are_drawn_over_white() -> None:
    x = torch.tensor([0.2, 0.4, 0.6, 0.5]).reshape(1, 4, 1, 1)
    assert pictures.image_grid(x, 1, 0.0, 1.0).ravel().tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert pictures._kind((4, 8, 8)) == "image"


# What a user does


def test_a_model_of_a_folder_goes_through_all_commands(
    cli: Cli, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--data", "ImageFolder", "--data.path", digits, *QUICK)
    cli("sample", "--ckpt_path", "best", "--n", 5)
    cli("reconstruct", "--ckpt_path", "best", "--n", 7)
    cli("predict", "--ckpt_path", "best")
    run = Path("runs/version_0")
    assert "runs/version_0/sample/samples\n" in capsys.readouterr().out
    assert sorted(p.name for p in (run / "sample/samples").iterdir())[4] == "00004.png"
    shown = list((run / "reconstruct/reconstructions").iterdir())
    assert len(shown) == 7
    with np.load(run / "predictions.npz") as found:
        names, labels = found["name"].tolist(), found["label"].tolist()
        assert found["reconstruction"].shape == (30, 1, 8, 8)
        first = (found["reconstruction"][0, 0] * 255).round()
        row = int(found["row"][0])
    assert [name.partition("/")[0] for name in names] == list(map(str, labels))
    written = run / f"predictions/{row:05}_{Path(names[0]).name}"
    with Image.open(written) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), first)


def test_other_images_follow_the_model_s_size_mode_and_classes(
    cli: Cli, tmp_path: Path, digits: Path
) -> None:
    how = ("--data.size", 6, "--data.crop", 8, "--data.mode", "L")
    cli("fit", "--data", "ImageFolder", "--data.path", digits, *how, *QUICK)
    schema = load("runs/version_0/best.ckpt").info.schema
    assert schema is not None
    assert (schema["size"], schema["crop"], schema["mode"]) == ([6, 6], 8, "L")
    for at, folder in enumerate(("7", "new", "3") * 4):
        saved(tmp_path / f"others/{folder}/{at}.png", noise(20, 30, 3))
    others = ("--data", "ImageFolder", "--data.path", tmp_path / "others", "--split", "all")
    cli("predict", "--ckpt_path", "best", *others)
    with np.load("runs/version_0/predictions.npz") as found:
        assert found["label"].tolist() == [3] * 4 + [7] * 4 + [-1] * 4
        assert found["reconstruction"].shape == (12, 1, 6, 6)
    saved(tmp_path / "others/3/2.png", noise(4, 4))  # smaller than the model's crop
    with pytest.raises(SystemExit):
        cli("predict", "--ckpt_path", "best", *others)


@pytest.mark.slow
def test_the_commands_of_readme_run(cli: Cli, tmp_path: Path) -> None:
    for at in range(12):
        saved(tmp_path / f"photos/{at % 2}/{at}.jpg", noise(70, 90, 3))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    section = readme.partition("## Your own images\n")[2].partition("\n## ")[0]
    fit_command, sample = re.findall(r"^    vaekit (.*)$", section, re.MULTILINE)
    cli(*fit_command.split(), *QUICK)
    cli(*sample.split())
    with Image.open("runs/version_0/sample/samples/00099.png") as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_a_bad_folder_is_told_in_a_line_on_the_command_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "photos/a.png", noise(4, 4))
    (tmp_path / "photos/b.png").write_bytes(bomb(50_000))
    for path, said in (("photos", "declares 50,000x50,000"), ("nowhere", "there is none at")):
        with pytest.raises(SystemExit):
            cli("fit", "--data", "ImageFolder", "--data.path", path, *QUICK)
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(lines) == 1
        assert said in lines[0]


def test_colours_train_in_python(tmp_path: Path) -> None:
    for at in range(40):
        saved(tmp_path / f"{at:02}.jpg", noise(40, 30, 3))
    module = data.ImageFolder(tmp_path, size=16, mode="RGBA")
    model = Model(module, latent_shape=2, encoder="ConvEncoder", decoder="ConvDecoder")
    fit(model, module, max_epochs=1)
    assert model.sample(3).shape == (3, 4, 16, 16)
