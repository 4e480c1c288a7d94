"""Sprites of known factors, drawn where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, prod
from pathlib import Path
from typing import IO, Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vaekit.data.base import DataModule
from vaekit.data.readers.downloads import folder_of, parsed, written
from vaekit.data.rows.batches import Rows, Stored
from vaekit.data.rows.splits import split
from vaekit.numerics.random import generator

Array: TypeAlias = np.ndarray[Any, Any]

_FACTORS: dict[str, tuple[Any, ...]] = {
    "shape": ("square", "ellipse", "heart"),
    "scale": tuple((np.arange(5, 11) / 10).tolist()),
    "orientation": tuple(np.linspace(0, 2 * pi, 40).tolist()),
    "x": tuple(np.linspace(0, 1, 32).tolist()),
    "y": tuple(np.linspace(0, 1, 32).tolist()),
}
_SIZES = tuple(map(len, _FACTORS.values()))
_ALL = prod(_SIZES)
_BOX = 32  # pixels around a centre, which hold every sprite
_CHUNK = 256  # images that are drawn at a time, so that they stay in a core's cache


class Packed(Stored):
    """Binary images of which a byte keeps eight pixels.

    Arguments:
        bits: Rows of pixels as `np.packbits` makes them, with shape `(N, H, W / 8)`.
    """

    def __init__(self, bits: Array) -> None:
        n, height, width = bits.shape
        super().__init__((n, 1, height, 8 * width), torch.uint8)
        self.bits = bits

    def cut(self, index: Tensor) -> Tensor:
        pixels = np.unpackbits(self.bits[index.numpy()], axis=-1)
        return torch.from_numpy(pixels).unsqueeze(1)


class DSprites(DataModule):
    """737,280 binary images of a square, an ellipse or a heart, 64x64, with known factors.

    They are drawn, not downloaded, by a recipe fitted to the published images, from which ellipses
    and hearts differ in a few pixels. The numbers of the images are those of the published file:
    the shape changes slowest, y fastest. A label has the classes of all five factors, and
    `factors` says what these stand for: shape, scale, orientation in radians, counter-clockwise,
    and positions from 0 to 1, rightwards and downwards. The first and the last orientation look
    the same. Eight pixels take a byte, of a file that is not read into memory.

    Arguments:
        root: The folder whose folder `dsprites` keeps what was drawn, 377 MB; None takes the
            environment variable VAEKIT_DATA, or else `data`.
        rows: Draw so many of the images alone, chosen with the seed, and keep no file; None for
            all.
        val: Share of the rows held out for validation.
        test: Share of the rows held out for testing.
        missing: As elsewhere; masks take 4 KB a row, 3 GB for all.

    Raises:
        ValueError: If there are not that many images, or a kept file is damaged and was not drawn
            again by `prepare_data`.

    References:
        dSprites: Disentanglement testing Sprites dataset (Matthey, Higgins, Hassabis and Lerchner,
        2017), https://github.com/google-deepmind/dsprites-dataset

    Example:
        >>> sprites = DSprites(rows=200)
        >>> sprites.info.event_shape, sprites.info.levels
        ((1, 64, 64), 2)
        >>> next(sprites.rows("train", 50)).label.shape
        torch.Size([50, 5])
    """

    levels = 2
    factors: ClassVar[dict[str, tuple[Any, ...]]] = _FACTORS

    def __init__(
        self,
        root: str | Path | None = None,
        rows: int | None = None,
        val: float = 0.1,
        test: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, "none", False, seed, missing)
        if rows is not None and not 1 <= rows <= _ALL:
            raise ValueError(f"Expected rows, a number from 1 to {_ALL:,}, but got {rows:,}.")
        self.file = folder_of(root) / "dsprites" / "bits.npy"
        self.drawn, self.shares = rows, (val, test)

    def prepare_data(self) -> None:
        if self.drawn is not None:
            return
        try:
            parsed(self.file, _mapped, "dSprites")
        except ValueError:
            with written(self.file) as file:
                _draw_all(file)

    def load(self) -> dict[str, Rows]:
        if self.drawn is None:
            index = np.arange(_ALL)
            bits = parsed(self.file, _mapped, "dSprites, which prepare_data() draws,")
        else:
            order = torch.randperm(_ALL, generator=generator("sprites", self.seed))
            index = order[: self.drawn].sort()[0].numpy()
            self.names, bits = index, sprites(index)
        label = np.stack(np.unravel_index(index, _SIZES), axis=-1)  # (N, 5)
        rows = Rows(Packed(bits), label=torch.from_numpy(label), top=1)
        return split(rows, *self.shares, seed=self.seed)

    def _refuse_rows(self, rows: Rows, split: str) -> None:
        """Bits need no looking at: of all images it takes ten seconds."""


# Drawing


def sprites(index: Array) -> Array:
    """The images of these numbers (n,), as bits with shape (n, 64, 8)."""
    shape, *others = np.unravel_index(index, _SIZES)
    bits = np.empty((len(index), 64, 8), np.uint8)
    for number, inside in enumerate(_SHAPES):
        own = np.flatnonzero(shape == number)
        for at in (own[start : start + _CHUNK] for start in range(0, len(own), _CHUNK)):
            bits[at] = _drawn(inside, *(factor[at] for factor in others))
    return bits


def _drawn(
    inside: Callable[[Array, Array], Array], scale: Array, orientation: Array, x: Array, y: Array
) -> Array:
    """Images of one shape: its box in each, moved to its place among the 64 columns and rows."""
    last = len(_FACTORS["orientation"]) - 1
    angle = 2 * pi * (orientation % last) / last
    size = np.asarray(_FACTORS["scale"])[scale]
    (left, across), (top, down) = _box(x, size), _box(y, size)
    # y points downwards, so that this turns what it is given counter-clockwise on the screen.
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    u = (across * cos)[:, None, :] - (down * sin)[:, :, None]  # (n, 32, 32)
    v = (across * sin)[:, None, :] + (down * cos)[:, :, None]
    words = np.packbits(inside(u, v), axis=-1).view(">u4")[..., 0].astype(np.uint64)
    rows = np.zeros((len(x), 64), np.uint64)  # a word for each row of pixels
    place = top[:, None] + np.arange(_BOX)
    np.put_along_axis(rows, place, words << (64 - _BOX - left[:, None]).astype(np.uint64), axis=1)
    return rows.astype(">u8").view(np.uint8).reshape(-1, 64, 8)


def _box(position: Array, size: Array) -> tuple[Array, Array]:
    """Where the box around a centre begins, and its pixels' distances from that, in sizes."""
    centre = 16 + 32 * position / 31
    start = np.floor(centre).astype(int) - _BOX // 2
    pixels = start[:, None] + np.arange(_BOX) + 0.5
    return start, (pixels - centre[:, None]) / size[:, None]


def _in_square(u: Array, v: Array) -> Array:
    return (np.abs(u) <= 9.6) & (np.abs(v) <= 9.6)


def _in_ellipse(u: Array, v: Array) -> Array:
    return (u / 12.8) ** 2 + (v / 7.2) ** 2 <= 1


def _in_heart(u: Array, v: Array) -> Array:
    """Between the two points of the outline above and below, at t and pi - t.

    The outline is u = 9.6 sin^3 t, v = -.664 (13 cos t - 5 cos 2t - 2 cos 3t - cos 4t) - 1.4.
    """
    square = np.maximum(1 - np.cbrt((u / 9.6) ** 2), 0)  # of cos t
    double = 2 * square - 1  # cos 2t
    middle = 0.664 * (5 * double + 2 * double**2 - 1) - 1.4
    half = 0.664 * np.sqrt(square) * (19 - 8 * square)
    return np.abs(v - middle) < half


_SHAPES = (_in_square, _in_ellipse, _in_heart)


# The file


def _draw_all(file: IO[bytes]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (_ALL, 64, 8)}
    np.lib.format.write_array_header_1_0(file, header)
    step = _ALL // 180  # 2 MB
    for start in tqdm(range(0, _ALL, step), desc="drawing dSprites"):
        file.write(sprites(np.arange(start, start + step)).tobytes())


def _mapped(path: Path) -> Array:
    """The images in a file, which stay there until they are needed."""
    bits = np.load(path, mmap_mode="r", allow_pickle=False)
    expected = (_ALL, 64, 8)
    if not isinstance(bits, np.memmap) or bits.shape != expected or bits.dtype != np.uint8:
        raise ValueError(f"it is no array of shape {expected} and type uint8")
    if path.stat().st_size != bits.offset + bits.nbytes:
        raise ValueError("more follows after the array")
    some = np.arange(0, _ALL, _ALL // 73)
    if not np.array_equal(bits[some], sprites(some)):
        raise ValueError("its images are not those that are drawn")
    return bits
