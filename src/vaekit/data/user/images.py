"""Images that lie in a folder, as files."""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.trees import Tree
from vaekit.data.base import DataModule
from vaekit.data.readers.images import Form, ImageReader, Source, decoded, pages_of, saved
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import split_called
from vaekit.data.user.ranges import levels_of

_SUFFIXES = {
    ".png",
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
}
_WRITTEN = 5000  # images that are written at most
_EARLIER = dict(train="train", val="val", valid="val", validation="val", test="test")
"""Names of the folders that earlier versions read as splits."""

_PICTURES = {
    f"{name}{s}" for name in ("image", "img", "input", "photo", "picture") for s in ("", "s")
}
_MASKS = {f"{name}{s}" for name in ("mask", "label", "annotation", "target") for s in ("", "s")}
_MASKS |= {"segmentation", "segmentations", "gt", "groundtruth"}
"""Names of folders of images, and of masks that belong to these images."""


class OfImages(DataModule):
    """Base of data modules whose rows may be images: how they are described, and written."""

    classes: Sequence[str] | None = None
    """The names of the classes, in the order of their numbers."""

    form: tuple[Any, ...]
    """The arguments of `Form`, from size to pages."""

    def _reader(self) -> ImageReader:
        """Returns a reader for the form that the user or the model's schema names."""
        size, mode, crop, background, max_pixels, pages = self.form
        pages = "first" if self._is_earlier and pages is None else pages
        form = Form.of(size, mode, crop, background, max_pixels, pages, self.schema)
        return ImageReader(form)

    @property
    def _is_earlier(self) -> bool:
        """Whether the images follow a model of an earlier version: its rows stay the same."""
        schema = self.schema or {}
        is_same = schema.get("of") == type(self).__name__
        return self.follows_model and is_same and "pages" not in schema

    def _schema_of(self, x: Tensor, reader: ImageReader) -> dict[str, Any]:
        """Sets `levels` by the values of all images, and returns the schema of the images."""
        levels = (self.schema or {}).get("levels") if self.follows_model else None
        levels = levels if isinstance(levels, int) else None
        keeps_grey = self.dequantize or self.binarize != "none" or self._is_earlier
        self.levels = levels_of("an image", x, None, reader.top, levels, keeps_grey)
        if self._is_earlier:
            return {k: value for k, value in reader.schema.items() if k != "pages"}
        return {**reader.schema, "levels": levels or self.levels}

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
    values become x from 0 to 1, with two levels if all pixels are black or white. A row's class is
    the folder that holds its image. Folders that are called train, val and test are the splits
    (or training, dev, eval, testing and so on), and the folders in them the classes. A folder that
    holds only one folder is entered.

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
        pages: "all" reads each page of a file of several pages as an image, and keeps them in one
            split; "first" reads the first page; None refuses these files.
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
        pages: Literal["all", "first"] | None = None,
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
        self.form = size, mode, crop, background, max_pixels, pages
        Form.of(*self.form)  # refused before any file is read

    def load(self) -> dict[str, Rows]:
        reader = self._reader()
        pages = self._pages(listed(self.path), reader)
        self.names = np.array([path if page is None else f"{path}#{page}" for path, page in pages])
        paths = [path for path, _ in pages]
        folders, splits = self._folders(paths)
        label = self._labels(folders, sorted({name for name in folders if name is not None}))

        def read(at: slice) -> list[Source]:
            files = ((os.path.join(self.path, path), page) for path, page in pages[at])
            return [(f, f) if page is None else (f"{f}#{page}", f, page) for f, page in files]

        x = decoded(read, len(paths), reader, self.cache)
        schema = self._schema_of(x, reader)
        self._found = _found(paths, reader)
        rows = Rows(x, label=label, top=reader.top)
        groups = None
        if splits is None and (self.group is not None or len(set(paths)) < len(paths)):
            groups = paths if self.group is None else [path.rpartition("/")[0] for path in paths]
        classes = None if label is None else label.numpy()
        found = self._divided(rows, (splits, groups), self.shares, classes)
        self.schema = self._noting_split({**schema, "classes": self.classes})
        return found

    def _pages(self, paths: list[str], reader: ImageReader) -> list[tuple[str, int | None]]:
        """Returns the path and the page of each image; the page is None if a file has only one."""
        if reader.form.pages != "all":
            return [(path, None) for path in paths]
        counts = [pages_of(path, os.path.join(self.path, path)) for path in paths]
        return [
            (path, page if count > 1 else None)
            for path, count in zip(paths, counts, strict=True)
            for page in range(count)
        ]

    def _folders(self, paths: Sequence[str]) -> tuple[list[str | None], list[str] | None]:
        """Returns the class of each image, None if it has none, and the name of its split."""
        if self._is_earlier:
            return _folders(self.path, paths, _EARLIER.get)
        inner = paths
        if not set(_classes(paths)) & set((self.schema or {}).get("classes") or ()):
            inner = _entered(paths)
        folder = self.path / paths[0].removesuffix(inner[0])
        folders, splits = _folders(folder, inner, split_called)
        _refuse_masks(folder, inner, splits is not None)
        if splits is None and not self.follows_model:
            _warn_of_splits(folder, {path.partition("/")[0] for path in inner})
            _warn_of_inner_splits(folder, {name for name in folders if name is not None})
        return folders, splits

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


def _classes(paths: Sequence[str]) -> list[str | None]:
    """Returns the folder of each image, None if it has none."""
    return [path.rpartition("/")[0] or None for path in paths]


def _entered(paths: Sequence[str]) -> Sequence[str]:
    """Returns the paths below a folder that holds only one folder, which holds only folders."""
    while len({path.partition("/")[0] for path in paths}) == 1 and all(
        path.count("/") > 1 for path in paths
    ):
        paths = [path.partition("/")[2] for path in paths]
    return paths


def _folders(
    folder: Path, paths: Sequence[str], split_of: Callable[[str], str | None]
) -> tuple[list[str | None], list[str] | None]:
    """Returns the class of each image, None if it has none, and the split of each image.

    Raises:
        ValueError: If some top folders are called like splits and others are not.
    """
    tops = {path.partition("/")[0] if "/" in path else "." for path in paths}
    named = {top: split for top in tops if (split := split_of(top.lower()))}
    if "train" not in named.values() or len(set(named.values())) < 2:
        return _classes(paths), None
    if others := tops - set(named):
        raise ValueError(
            f"Expected all images of {folder} in its folders {', '.join(sorted(named))}, as "
            f"they are called like splits, but some are in {', '.join(sorted(others)[:5])}."
        )
    splits = [named[path.partition("/")[0]] for path in paths]
    return _classes([path.partition("/")[2] for path in paths]), splits


def _warn_of_splits(folder: Path, tops: set[str]) -> None:
    """Warns of folders that are called like splits but are read as classes."""
    called = sorted(top for top in tops if split_called(top))
    if called and len(tops) > 1:
        is_one = len(called) == 1
        warnings.warn(
            f"In {folder}, {', '.join(called)} {'is' if is_one else 'are'} called like "
            f"{'a split' if is_one else 'splits'} but read as {'a class' if is_one else 'classes'}"
            ". To use splits, name the folders train and val or test.",
            stacklevel=2,
        )


def _warn_of_inner_splits(folder: Path, classes: set[str]) -> None:
    """Warns of folders train and test that are inside of other folders, and are classes."""
    inner: dict[str, set[str]] = defaultdict(set)
    for name in classes:
        parts = name.split("/")
        for at in range(1, len(parts)):
            if split := split_called(parts[at]):
                inner["/".join(parts[:at])].add(split)
    parents = sorted(
        name for name, splits in inner.items() if "train" in splits and splits - {"train"}
    )
    if parents:
        warnings.warn(
            f"In {folder / parents[0]}, folders are called like splits but read as classes: "
            f"--data.path {folder / parents[0]} reads them as splits.",
            stacklevel=2,
        )


def _refuse_masks(folder: Path, paths: Sequence[str], has_splits: bool) -> None:
    """Refuses folders of images and of their masks, which are not two classes.

    Raises:
        ValueError: If two such folders next to each other hold files of the same names.
    """
    files: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in paths:
        parts = path.split("/")
        for at, part in enumerate(parts[:-1]):
            if part.lower().replace("_", "") in _PICTURES | _MASKS:
                name = "/".join(parts[at + 1 :]).rpartition(".")[0].lower()
                own = re.sub(rf"[-_]({'|'.join(_MASKS | _PICTURES)})$", "", name)
                files["/".join(parts[:at])][part].add(own)
    for parent, names in files.items():
        masks = [name for name in names if name.lower().replace("_", "") in _MASKS]
        for pictures in names.keys() - set(masks):
            for mask in masks:
                if len(names[pictures] & names[mask]) * 10 < len(names[mask]) * 9:
                    continue
                hint = f"--data.path {folder / parent / pictures} reads only the images"
                hint = f"move the folders {mask} elsewhere" if has_splits else hint
                raise ValueError(
                    f"Expected images of one kind but {folder / parent / mask} holds files of the "
                    f"same names as {pictures}, as masks of these images: {hint}."
                )


def _found(paths: Sequence[str], reader: ImageReader) -> str:
    """Describes the images."""
    height, width = reader.size or (0, 0)
    folders = len({path.rpartition("/")[0] for path in paths})
    formats = " and ".join(sorted(reader.formats))
    files = len(set(paths))
    pages = f"{len(paths):,} pages of " if files < len(paths) else ""
    inside = f", in {folders} folders" if folders > 1 else ""
    return f"{pages}{files:,} {formats} files, {width}x{height} {reader.mode}{inside}"
