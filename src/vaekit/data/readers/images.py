"""Image files as arrays of one form: each opened once, and checked before it is decoded."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

MODES = ("L", "RGB", "RGBA", "I;16")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Those that Pillow decodes by itself, without running another program."""

_PAGED = ("PNG", "GIF", "TIFF", "WEBP")
"""Formats that may hold several pages. In a JPEG, further images are previews of the first."""

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_NATURAL = {
    **dict.fromkeys(("1", "L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"), "RGB"),
    **dict.fromkeys(_DEEP, "I;16"),
}
"""What an image becomes, by its own mode, where nothing is said."""

_CHUNK = 32  # images of one task

Array = np.ndarray[Any, np.dtype[Any]]
Source = tuple[str, str | BytesIO] | tuple[str, str | BytesIO, int]
"""The name of an image in messages, its path or the file in memory, and perhaps its page."""


@dataclass(frozen=True)
class Form:
    """What each image becomes.

    Arguments:
        size: Height and width; None takes those of the first image, which all others must have.
        mode: One of L (grey), RGB, RGBA and I;16 (16-bit grey); None takes that of the first.
        crop: Side, in pixels, of the middle square that is cut out first; None cuts nothing.
        background: Colour that lies below transparent pixels, by name or as #rrggbb.
        max_pixels: How many pixels an image may have.
        pages: "first" reads the first page of a file, "all" reads each page, and None refuses a
            file of several pages.

    Raises:
        ValueError: If one of them is none of these.
    """

    size: tuple[int, int] | None = None
    mode: str | None = None
    crop: int | None = None
    background: str = "white"
    max_pixels: int = 50_000_000
    pages: str | None = None

    def __post_init__(self) -> None:
        if self.pages not in (None, "all", "first"):
            raise ValueError(f"Expected pages to be all or first but got {self.pages!r}.")
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(f"Expected a mode out of {', '.join(MODES)} but got {self.mode!r}.")
        sides = [*(self.size or ()), *(() if self.crop is None else (self.crop,))]
        if min([*sides, self.max_pixels]) < 1:
            raise ValueError(
                f"Expected size, crop and max_pixels of at least 1 but got {self.size}, "
                f"{self.crop} and {self.max_pixels}."
            )
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ValueError(
                "Expected a background as the name of a colour or as #rrggbb but got "
                f"{self.background!r}."
            ) from error

    @classmethod
    def of(
        cls,
        size: int | Sequence[int] | None,
        mode: str | None,
        crop: int | None,
        background: str | None,
        max_pixels: int,
        pages: str | None = None,
        schema: dict[str, Any] | None = None,
    ) -> Form:
        """The form by a user's words; what they leave open is as in a schema, a model's."""
        given = {"size": size, "mode": mode, "crop": crop, "background": background}
        given["pages"] = pages
        found = {**(schema or {}), **{k: v for k, v in given.items() if v is not None}}
        size = found.get("size")
        sides = [size] * 2 if isinstance(size, int) else size
        if sides is not None and len(sides) != 2:
            raise ValueError(f"Expected a size, or [height, width], but got {size}.")
        return cls(
            None if sides is None else (int(sides[0]), int(sides[1])),
            found.get("mode"),
            found.get("crop"),
            found.get("background") or "white",
            max_pixels,
            found.get("pages"),
        )


class ImageReader:
    """Turns image files into arrays (C, H, W) of one form, uint8 or (16-bit grey) uint16.

    The first image decides what the form leaves open.

    Arguments:
        form: What each image becomes.
    """

    def __init__(self, form: Form) -> None:
        self.form, self.mode, self.size = form, form.mode, form.size
        self.formats: set[str] = set()

    def __call__(self, name: str, source: str | BytesIO, page: int | None = None) -> Array:
        """The array of an image.

        Arguments:
            page: The page of the file, counted from 0; None for a file of one page.

        Raises:
            ValueError: If it is no image, a damaged or a too large one, or unlike the first.
        """
        image: Image.Image
        with _opened(name, source) as image:
            self._refuse_header(name, image)
            self.formats.add(str(image.format))
            with _readable(name):
                if page is not None:
                    image.seek(page)
                elif self.form.pages is None:
                    _refuse_pages(name, _pages(image))
                if self.form.size is not None and self.form.crop is None:
                    # A JPEG decodes to a fraction of its size, here twice what is wanted or more.
                    image.draft(None, (2 * max(self.form.size),) * 2)
                ImageOps.exif_transpose(image, in_place=True)
            with _readable(name):
                image = self._fitted(name, self._converted(name, self._cropped(name, image)))
        return _array(image)

    @property
    def schema(self) -> dict[str, Any]:
        """The form that was found, as plain data."""
        assert self.size is not None
        form = self.form
        return {
            "size": list(self.size),
            "mode": self.mode,
            "crop": form.crop,
            "background": form.background,
            "pages": form.pages,
        }

    @property
    def top(self) -> int:
        """The stored value that is white."""
        return 65535 if self.mode == "I;16" else 255

    def _refuse_header(self, name: str, image: Image.Image) -> None:
        width, height = image.size
        if width * height > self.form.max_pixels:
            raise ValueError(
                f"Expected images of at most {self.form.max_pixels:,} pixels but {name} declares "
                f"{width:,}x{height:,}: take it out, or raise --data.max_pixels."
            )
        if image.mode == "F":
            raise ValueError(
                f"Expected images of 8 or 16 bits but {name} holds floating-point values: write "
                "them as an .npy array, for --data Arrays."
            )
        if image.mode not in _NATURAL:
            raise ValueError(
                f"Expected a grey or colour image but {name} has the mode {image.mode}: convert "
                "it to PNG."
            )

    def _cropped(self, name: str, image: Image.Image) -> Image.Image:
        side = self.form.crop
        if side is None:
            return image
        width, height = image.size
        if min(width, height) < side:
            raise Unlike(
                f"Expected images of at least {side} pixels, as --data.crop wants, but {name} is "
                f"{width}x{height}."
            )
        left, upper = (width - side) // 2, (height - side) // 2
        return image.crop((left, upper, left + side, upper + side))

    def _converted(self, name: str, image: Image.Image) -> Image.Image:
        own = _NATURAL[image.mode]
        if self.mode is None:
            self.mode = own
        if self.form.mode is None and own != self.mode:
            self._refuse_more(name, image, own)
        return _as_mode(name, image, self.mode, self.form.background)

    def _refuse_more(self, name: str, image: Image.Image, own: str) -> None:
        """Refuses what would be lost: colours among grey images, and 16 bits among 8."""
        if own == "RGB" and self.mode != "RGB" and _has_colours(image):
            raise Unlike(
                f"Expected grey images, as the first is, but {name} has colours: --data.mode RGB "
                "takes all as colours, --data.mode L all as grey."
            )
        if own == "I;16" and self.mode == "L":
            raise Unlike(
                f"Expected 8 bits, as the first image has, but {name} has 16: --data.mode L takes "
                "all as 8 bits, --data.mode 'I;16' all as 16."
            )

    def _fitted(self, name: str, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.size is None:
            self.size = height, width
        if (height, width) == self.size:
            return image
        if self.form.size is None:
            raise Unlike(
                f"Expected images of {self.size[1]}x{self.size[0]} pixels, as the first is, but "
                f"{name} is {width}x{height}: --data.size 64, say, takes all at one size."
            )
        return ImageOps.fit(image, self.size[::-1], Image.Resampling.BICUBIC)


class Unlike(ValueError):
    """An image that can be read, but not be made into the form."""


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises of a file into one line."""
    try:
        yield
    except (Unlike, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            said = f"it is empty, or none of {', '.join(_FORMATS)}"
        raise ValueError(
            f"Expected an image but {name} could not be read: {said}. Replace it, or take it out."
        ) from error


@contextmanager
def _opened(name: str, source: str | BytesIO) -> Iterator[Image.Image]:
    """An image whose header is read, and no pixel."""
    with _readable(name):
        # Not by its name: Pillow maps some files then, and mistakes a TIFF that lies on its side.
        file = open(source, "rb") if isinstance(source, str) else source  # noqa: SIM115
    with file:
        with _readable(name):
            image = Image.open(file, formats=_FORMATS)
        with image:
            yield image


def pages_of(name: str, path: str) -> int:
    """Returns the number of pages of an image file."""
    with _opened(name, path) as image, _readable(name):
        return _pages(image)


def _pages(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1) if image.format in _PAGED else 1


def _refuse_pages(name: str, pages: int) -> None:
    if pages > 1:
        raise Unlike(
            f"Expected files of one image but {name} has {pages} pages: --data.pages first reads "
            "the first page of each file, and --data.pages all (of ImageFolder) reads each page."
        )


def _has_colours(image: Image.Image) -> bool:
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels != pixels[..., :1]).any())


def _as_mode(name: str, image: Image.Image, mode: str, background: str) -> Image.Image:
    """The image in a mode; 16-bit grey as Pillow's I, which it can resize."""
    if image.mode in _DEEP:
        image = image.convert("I")
        least, most = image.getextrema()
        if least < 0 or most > 65535:  # type: ignore[operator]
            raise Unlike(
                f"Expected images of 8 or 16 bits but {name} spans {least} to {most}: write them "
                "as an .npy array, for --data Arrays."
            )
        if mode == "I;16":
            return image
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data and mode != "RGBA":
        below = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(below, image.convert("RGBA"))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), np.int32) * 257)
    return image if image.mode == mode else image.convert(mode)


def _array(image: Image.Image) -> Array:
    """The pixels (C, H, W)."""
    pixels = np.asarray(image)
    if image.mode == "I":  # resizing goes a little beyond black and white
        pixels = pixels.clip(0, 65535).astype(np.uint16)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decoded(
    read: Callable[[slice], Sequence[Source]],
    n: int,
    decoder: ImageReader,
    cache: str | Path | None = None,
) -> Tensor:
    """All images as one tensor (n, C, H, W), decoded by as many threads as there are cores.

    Arguments:
        read: Gives some of them, by their places.
        cache: Folder of the file that holds them, which has no name and ends with the process;
            None holds them in memory.

    Raises:
        ValueError: If an image is refused, or there is no room for all.
    """

    def work(start: int) -> int:
        sources = read(slice(start, min(n, start + _CHUNK)))
        for at, source in enumerate(sources, start):
            pixels[at] = decoder(*source)
        return len(sources)

    with _without_pillow_s_limit():
        first = decoder(*read(slice(0, 1))[0])
        pixels = _room((n, *first.shape), first.dtype, cache)
        pixels[0] = first
        bar = tqdm(total=n, initial=1, desc="images", delay=3, leave=False, disable=None)
        with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
            for count in pool.map(work, range(1, n, _CHUNK)):
                bar.update(count)
    return torch.from_numpy(pixels)


@contextmanager
def _without_pillow_s_limit() -> Iterator[None]:
    """Leaves out Pillow's limit of pixels, in whose place the form's stands, and its warnings."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _room(shape: tuple[int, ...], dtype: np.dtype[Any], cache: str | Path | None) -> Array:
    """An empty array, in memory or in a file of its own.

    Raises:
        ValueError: If it would be more than half of the memory, or the disk holds no such file.
    """
    size = prod(shape) * dtype.itemsize
    if cache is None:
        if size > _memory() / 2:
            raise ValueError(
                f"Expected images that fit into half of the memory, {_memory() / 2**31:,.1f} GiB, "
                f"but {shape[0]:,} of {'x'.join(map(str, shape[1:]))} want {size / 2**30:,.1f} "
                "GiB: take a smaller --data.size, or keep them in a file with --data.cache FOLDER."
            )
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=cache) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not at some row
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", shape=shape)  # which stays when the file is closed
    except OSError as error:
        raise ValueError(
            f"Expected room for {size / 2**30:,.1f} GiB in --data.cache {cache} but got: "
            f"{error.strerror or error}."
        ) from error


def _memory() -> int:
    """Bytes of memory that this machine has."""
    if not hasattr(os, "sysconf"):
        return 2**63
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def saved(folder: Path, images: Array, names: Sequence[str]) -> None:
    """Writes images (n, C, H, W), uint8 or uint16, as PNG files.

    Arguments:
        names: Of the files, without suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        Image.fromarray(pixels).save(folder / f"{name}.png")
