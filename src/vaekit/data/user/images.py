"""Images that lie in a folder, as files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.trees import Tree
from vaekit.data.base import DataModule
from vaekit.data.readers.images import Form, ImageReader, decoded, saved
from vaekit.data.rows.batches import Rows

_SUFFIXES = {
    ".png",
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
}
_WRITTEN = 5000  # images that are written at most
_SPLITS = {"train", "val", "valid", "validation", "test"}


class OfImages(DataModule):
    """Base of data modules whose rows may be images: how they are described, and written."""

    classes: Sequence[str] | None = None
    """The names of the classes, in the order of their numbers."""

    def _labels(self, names: Sequence[str | None], classes: Sequence[str]) -> Tensor | None:
        """The number of each row's class by its name, -1 of one that is unknown.

        Arguments:
            classes: All of them, in their order, where no schema is followed that has others.
        """
        self.classes = (self.schema or {}).get("classes") or list(classes) or None
        if self.classes is None:
            return None
        number = {name: at for at, name in enumerate(self.classes)}
        return torch.tensor([-1 if name is None else number.get(name, -1) for name in names])

    def write(
        self,
        folder: Path,
        name: str,
        x: Tree | None,
        columns: Mapping[str, Any],
        rows: Tensor | None = None,
    ) -> list[Path]:
        """Writes images as PNG files into a folder of that name, of many the first 5,000.

        A file's name is the number of the row and what the user calls it.
        """
        mode = (self.schema or {}).get("mode")
        if mode is None or not isinstance(x, Tensor) or x.dim() != 4:
            return []
        top = 65535 if mode == "I;16" else 255
        x = x[:_WRITTEN].cpu().double().nan_to_num(0.0)
        levels = (x * (top + 1)).floor() if self.dequantize else (x * top).round()
        images = levels.clamp(0, top).numpy().astype(np.uint8 if top == 255 else np.uint16)
        numbers = range(len(x)) if rows is None else rows[:_WRITTEN].tolist()
        names = [f"{number:05}{self._stem(number, rows)}" for number in numbers]
        saved(folder / name, images, names)
        return [folder / name]

    def _stem(self, number: int, rows: Tensor | None) -> str:
        if rows is None or self.names is None:
            return ""
        return f"_{PurePosixPath(self.names[number]).stem[:100]}"


class ImageFolder(OfImages):
    """Images of a folder and of the folders in it.

    PNG, JPEG, WebP, BMP, GIF, TIFF and PNM files are read once, and held in memory as bytes. Grey
    values become x from 0 to 1. A row's class is the folder that holds its image. Folders that are
    called train, val (or valid, or validation) and test are the splits, and the folders in them
    the classes.

    Arguments:
        path: The folder.
        size: Side in pixels, or [height, width], to which images are resized, and cut in the
            middle where they are longer; None takes those of the first image, which all others
            must have then.
        mode: L (grey), RGB, RGBA or I;16 (16-bit grey); None takes that of the first image, or RGB
            for RGBA.
        crop: Side in pixels of the middle square that is cut out before images are resized.
        val: Share of the rows held out for validation, where no folders are the splits.
        test: Share of the rows held out for testing, likewise.
        group: "folder" keeps the images of one folder in one split.
        background: Colour that lies below transparent pixels, by name or as #rrggbb; None is
            white.
        max_pixels: How many pixels an image may have; of a larger one only the header is read.
        cache: Folder of a temporary file that holds the images, where they do not fit into memory.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no images, or one that is damaged, too large or unlike the first,
            or they do not fit into half of the memory.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for colour in ("red", "green", "blue"):
        ...     (folder / colour).mkdir()
        ...     Image.new("RGB", (40, 30), colour).save(folder / colour / "1.png")
        >>> data = ImageFolder(folder, size=16, val=0, test=0)
        >>> data.info.event_shape, data.told()["images"]
        ((3, 16, 16), '3 PNG files, 16x16 RGB, in 3 folders')
        >>> data.classes, next(data.rows("train")).label
        (['blue', 'green', 'red'], tensor([0, 1, 2]))
    """

    levels = 256
    kinds: Mapping[str, str] = {"x": "image"}

    def __init__(
        self,
        path: str | Path,
        size: int | list[int] | None = None,
        mode: Literal["L", "RGB", "RGBA", "I;16"] | None = None,
        crop: int | None = None,
        val: float = 0.1,
        test: float = 0.1,
        group: Literal["folder"] | None = None,
        background: str | None = None,
        max_pixels: int = 50_000_000,
        cache: str | Path | None = None,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, binarize, dequantize, seed, missing)
        if group not in (None, "folder"):
            raise ValueError(f"Expected group to be folder, or nothing, but got {group!r}.")
        self.path, self.cache = Path(path), cache
        self.shares, self.group = (val, test), group
        self.form = size, mode, crop, background, max_pixels
        Form.of(*self.form)  # refused before any file is read

    def load(self) -> dict[str, Rows]:
        paths = listed(self.path)
        self.names = np.array(paths)
        folders, splits = _folders(self.path, paths)
        label = self._labels(folders, sorted({name for name in folders if name is not None}))
        decoder = ImageReader(Form.of(*self.form, self.schema))

        def read(at: slice) -> list[tuple[str, str]]:
            return [(own, own) for own in (os.path.join(self.path, name) for name in paths[at])]

        x = decoded(read, len(paths), decoder, self.cache)
        self.levels = decoder.top + 1
        self._found = _found(paths, decoder)
        rows = Rows(x, label=label, top=decoder.top)
        grouped = self.group is not None and splits is None
        groups = [name.rpartition("/")[0] for name in paths] if grouped else None
        classes = None if label is None else label.numpy()
        found = self._divided(rows, (splits, groups), self.shares, classes)
        self.schema = self._noting_split({**decoder.schema, "classes": self.classes})
        return found

    def told(self) -> dict[str, str]:
        found = super().told()
        return {**found, "images": self._found}


def listed(folder: Path) -> list[str]:
    """The images of a folder and of those in it, relative to it, in the order of their names.

    Hidden ones are left out, and links to what lies in the folder itself.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there is no image, or a link leads out of the folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of images but there is none at {folder}.")
    found = sorted(_walked(os.fspath(folder)), key=lambda path: path.split("/"))
    if not found:
        raise ValueError(
            f"Expected images in {folder}, or in folders in it, but there are none that end on "
            f"{', '.join(sorted(_SUFFIXES))}."
        )
    return found


def _walked(top: str) -> Iterator[str]:
    """The images below a folder, each folder listed once."""
    inner = [""]
    while inner:
        relative = inner.pop()
        with os.scandir(os.path.join(top, relative)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                image = os.path.splitext(entry.name)[1].lower() in _SUFFIXES
                if entry.is_symlink():
                    if image or entry.is_dir():
                        _refuse_outside(top, entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    inner.append(f"{relative}{entry.name}/")
                elif image and entry.is_file(follow_symlinks=False):
                    yield relative + entry.name


def _refuse_outside(top: str, link: str) -> None:
    inside, leads = os.path.realpath(top), os.path.realpath(link)
    if os.path.commonpath([inside, leads]) != inside:
        raise ValueError(
            f"Expected images that lie in {top} but {link} is a link to {leads}: copy what it "
            "leads to, or name that folder."
        )


def _folders(folder: Path, paths: Sequence[str]) -> tuple[list[str | None], list[str] | None]:
    """The folder of each image as its class, None where it has none; and its split by name.

    Raises:
        ValueError: If some top folders are called like splits and others are not.
    """
    tops = {path.partition("/")[0] if "/" in path else "." for path in paths}
    named = {top for top in tops if top.lower() in _SPLITS}
    splits = None
    if len(named) > 1 and any(top.lower() == "train" for top in named):
        if others := tops - named:
            raise ValueError(
                f"Expected all images of {folder} in its folders {', '.join(sorted(named))}, as "
                f"they are called like splits, but some are in {', '.join(sorted(others)[:5])}."
            )
        splits = [path.partition("/")[0] for path in paths]
        paths = [path.partition("/")[2] for path in paths]
    return [path.rpartition("/")[0] or None for path in paths], splits


def _found(paths: Sequence[str], decoder: ImageReader) -> str:
    """The images in words."""
    height, width = decoder.size or (0, 0)
    folders = len({path.rpartition("/")[0] for path in paths})
    formats = " and ".join(sorted(decoder.formats))
    where = f", in {folders} folders" if folders > 1 else ""
    return f"{len(paths):,} {formats} files, {width}x{height} {decoder.mode}{where}"
