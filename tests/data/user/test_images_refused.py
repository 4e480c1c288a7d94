"""Images that are refused: damaged files, bombs, and what does not fit into memory."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_images import noise, saved, stored

from vaekit.data.readers import images as decode
from vaekit.data.user.images import ImageFolder


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
