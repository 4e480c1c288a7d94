"""Data sets of the Hugging Face package `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.trees import Ranges
from vaekit.data.readers.arrays import classes_of
from vaekit.data.readers.images import Array, Form, Source, decoded
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import split_called
from vaekit.data.user.arrays import Arrays
from vaekit.data.user.images import OfImages

_NUMBERS = ("int", "uint", "float", "bool")
_LABELS = ("label", "labels")
_ROWS = 10_000  # that are read at once


class HuggingFace(OfImages):
    """A data set of Hugging Face's `datasets`, from a folder or from the hub.

    It needs the extra `vaekit[datasets]`, and runs no code that comes with the data. Splits that
    are called train, validation and test are ours; of a data set without such, shares are held
    out. Images are read as by `ImageFolder`, and numbers as by `Arrays`.

    Arguments:
        path: A folder that `save_to_disk` wrote, or the name of a data set on the hub.
        x: The column that becomes x; None takes the only one that holds images, or else numbers.
        label: The column of the labels; None takes that of classes, or one called label.
        name: Of the hub's data set, which of its configurations.
        part: The one split that is read, and of which shares are held out; None reads all.
        size: Of images, the side in pixels, or [height, width], to which they are resized, and cut
            in the middle where they are longer; None takes those of the first, which all others
            must have then.
        mode: Of images L (grey), RGB, RGBA or I;16 (16-bit grey); None takes that of the first.
        crop: Of images, the side of the middle square that is cut out before they are resized.
        channels: Of numbers in four dimensions, where the channels stand: "first" or "last".
        val: Share of the rows held out for validation, where there are no splits.
        test: Share of the rows held out for testing, likewise.
        background: Colour that lies below transparent pixels, by name or as #rrggbb; None is
            white.
        max_pixels: How many pixels an image may have; of a larger one only the header is read.
        pages: "first" reads the first page of an image of several pages; None refuses it.
        cache: Folder of a temporary file that holds the images, where they do not fit into memory.

    Raises:
        ModuleNotFoundError: If `datasets` is not installed.
        ValueError: If there is no such data set or column, or its rows cannot become x.

    Example:
        >>> import tempfile
        >>> import datasets
        >>> datasets.disable_progress_bars()
        >>> points = datasets.Dataset.from_dict({"place": [[0.5, 2.0]] * 20, "label": [0, 1] * 10})
        >>> folder = tempfile.mkdtemp()
        >>> points.save_to_disk(folder)
        >>> data = HuggingFace(folder)
        >>> data.info.event_shape, data.info.classes
        ((2,), 2)
    """

    def __init__(
        self,
        path: str | Path,
        x: str | None = None,
        label: str | None = None,
        name: str | None = None,
        part: str | None = None,
        size: int | list[int] | None = None,
        mode: Literal["L", "RGB", "RGBA", "I;16"] | None = None,
        crop: int | None = None,
        channels: Literal["first", "last"] | None = None,
        val: float = 0.1,
        test: float = 0.1,
        background: str | None = None,
        max_pixels: int = 50_000_000,
        pages: Literal["first"] | None = None,
        cache: str | Path | None = None,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, binarize, dequantize, seed, missing)
        self.path, self.config, self.part = str(path), name, part
        self.columns, self.channels = (x, label), channels
        self.shares, self.cache = (val, test), cache
        if pages not in (None, "first"):
            raise ValueError(f"Expected pages to be first, or nothing, but got {pages!r}.")
        self.form = size, mode, crop, background, max_pixels, pages
        Form.of(*self.form)  # refused before any row is read
        self._range: Ranges = (0.0, 1.0)
        self._downloaded: Any = None

    def natural_range(self) -> Ranges:
        return self._range

    def prepare_data(self) -> None:
        """Downloads a data set of the hub, where it is not on this machine yet."""
        if self._downloaded is None and not Path(self.path).exists():
            try:
                self._downloaded = _package().load_dataset(self.path, self.config)
            except ModuleNotFoundError:
                raise
            except Exception as error:
                raise ValueError(
                    "Expected a folder that save_to_disk wrote, or the name of a data set on the "
                    f"Hugging Face hub, but {self.path} could not be loaded: {_first_line(error)}"
                ) from error

    def load(self) -> dict[str, Rows]:
        parts = self._parts()
        table = _joined(self.path, list(parts.values()))
        given, label = self.columns
        label = _label_of({n: f for n, f in table.features.items() if n != given}, label)
        x = _x_of(table.features, given, label)
        labels = None if label is None else self._numbered(table, label)
        if _is_image(table.features[x]):
            rows, schema = self._images(table, x)
        else:
            rows, schema = self._read_numbers(table, x)
        rows.label = labels
        names = list(chain(*([name] * len(p) for name, p in parts.items())))
        by = (None if len(parts) == 1 else names, None)
        splits = self._divided(rows, by, self.shares, None if labels is None else labels.numpy())
        self.schema = self._noting_split({**schema, "classes": self.classes})
        return splits

    def _parts(self) -> dict[str, Any]:
        """The splits by their names; of a data set without any, that one."""
        found = self._read()
        if not isinstance(found, Mapping):
            if self.part is not None:
                raise ValueError(f"Expected splits, as --data.part wants, in {self.path}.")
            return {"train": found}
        wanted = [n for n in found if split_called(n)] if self.part is None else [self.part]
        has_train = any(split_called(name) == "train" for name in wanted)
        if self.part not in (None, *found) or (self.part is None and not has_train):
            raise ValueError(
                f"Expected the split {self.part or 'train'} in {self.path} but it has "
                f"{', '.join(found)}: --data.part takes one of them."
            )
        return {name: found[name] for name in wanted}

    def _read(self) -> Any:
        """The data set, or several by the names of the splits."""
        if self._downloaded is not None:
            return self._downloaded
        if not Path(self.path).exists():
            raise ValueError(
                f"Expected the data set {self.path} of the hub to be named, since a checkpoint "
                f"alone does not download: --data HuggingFace --data.path {self.path}."
            )
        try:
            return _package().load_from_disk(self.path)
        except ModuleNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"Expected {self.path} to be a folder that save_to_disk wrote (--data ImageFolder "
                f"reads one of image files), but it could not be read: {_first_line(error)}"
            ) from error

    def _numbered(self, table: Any, column: str) -> Tensor:
        """The numbers of the classes; where their names are known, in the order of a model's."""
        names = getattr(table.features[column], "names", None)
        label = _tensor(table, column)
        if names is None:
            label, self.classes = classes_of(label, (self.schema or {}).get("classes"))
            return label
        found = self._labels([names[n] if n >= 0 else None for n in label.tolist()], names)
        return label if found is None else found

    def _images(self, table: Any, column: str) -> tuple[Rows, dict[str, Any]]:
        package = _package()
        table = table.select_columns([column]).cast_column(column, package.Image(decode=False))
        lock = Lock()

        def read(at: slice) -> list[Source]:
            with lock:
                files = table[at][column]
            return [self._source(*own) for own in enumerate(files, at.start)]

        reader = self._reader()
        x = decoded(read, len(table), reader, self.cache)
        self.kinds = {"x": "image"}
        return Rows(x, top=reader.top), self._schema_of(x, reader)

    def _source(self, row: int, file: dict[str, Any] | None) -> Source:
        called = f"image {row} of {self.path}"
        if file is None or (file["bytes"] is None and not Path(file["path"] or "").is_file()):
            where = "it is empty" if file is None else f"there is no file {file['path']}"
            raise ValueError(f"Expected an image in each row but of {called} {where}.")
        return called, file["path"] if file["bytes"] is None else BytesIO(file["bytes"])

    def _read_numbers(self, table: Any, column: str) -> tuple[Rows, dict[str, Any]]:
        x = _tensor(table, column)
        x = x.unsqueeze(1) if x.dim() == 1 else x
        arrays = Arrays(x, val=0, test=0, channels=self.channels, dequantize=self.dequantize)
        if self.follows_model:
            arrays.follow(self.schema)
        rows = arrays.load()["train"]
        self._range, self.levels = arrays.natural_range(), arrays.levels
        self.kinds = arrays.kinds
        return rows, {k: v for k, v in (arrays.schema or {}).items() if k != "stratified"}


def _package() -> Any:
    """The package `datasets`, slow to import and only needed here.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "HuggingFace needs the package datasets, which is not installed: pip install "
            "'vaekit[datasets]'"
        ) from error
    return datasets


def _joined(path: str, parts: list[Any]) -> Any:
    """All splits as one.

    Raises:
        ValueError: If they have other columns, or no row.
    """
    if any(part.features != parts[0].features for part in parts):
        raise ValueError(
            f"Expected the same columns in all splits of {path} but they differ: --data.part "
            "takes one split."
        )
    table = _package().concatenate_datasets(parts)
    if not len(table):
        raise ValueError(f"Expected rows in {path} but there are none.")
    return table


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, _package().Image)


def _holds_numbers(feature: Any) -> bool:
    """Whether each row of a column is a number, a list of numbers, or an array of them."""
    inner = getattr(feature, "feature", feature)
    if inner is not feature:
        return _holds_numbers(inner)
    return str(getattr(feature, "dtype", "")).startswith(_NUMBERS)


def _label_of(features: Mapping[str, Any], given: str | None) -> str | None:
    """The column of the labels, if there is one.

    Raises:
        ValueError: If there is none of the given name, or it holds no whole numbers.
    """
    dtypes = {name: str(getattr(feature, "dtype", "")) for name, feature in features.items()}
    whole = [name for name, dtype in dtypes.items() if dtype.startswith(("int", "uint"))]
    if given is not None:
        if given not in whole:
            raise ValueError(
                f"Expected a label out of the columns of classes or whole numbers "
                f"({', '.join(whole) or 'none'}) but got {given}."
            )
        return given
    classes = [n for n in whole if hasattr(features[n], "names")]
    if len(classes) == 1:
        return classes[0]
    return next((name for name in whole if name.lower() in _LABELS), None)


def _x_of(features: Mapping[str, Any], given: str | None, label: str | None) -> str:
    """The column that becomes x.

    Raises:
        ValueError: If it is not clear which one, or it holds neither images nor numbers.
    """
    images = [name for name, feature in features.items() if _is_image(feature)]
    numbers = [n for n, f in features.items() if n != label and _holds_numbers(f)]
    if given is None and len(found := images or numbers) == 1:
        return found[0]
    if given is None or given not in images + numbers:
        told = ", ".join(f"{name} ({_called(feature)})" for name, feature in features.items())
        raise ValueError(
            f"Expected one column of images or numbers, such as --data.x NAME, but got "
            f"{given or 'several, or none'} of the columns {told}."
        )
    return given


def _called(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _tensor(table: Any, column: str) -> Tensor:
    """A column of numbers, in the type that its features say.

    Raises:
        ValueError: If its rows differ in length, or one is missing.
    """
    feature = table.features[column]
    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    wanted = np.dtype(feature.dtype)
    # Integers come in a wider type, or as floating-point numbers where some are missing.
    kept = {"dtype": wanted} if wanted.kind == "f" else {}
    table = table.select_columns([column]).with_format("numpy", **kept)
    slices = (slice(at, at + _ROWS) for at in range(0, len(table), _ROWS))
    found = [_in_type(table[at][column], wanted) for at in slices]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found) or len({part.shape[1:] for part in parts}) != 1:
        raise ValueError(
            f"Expected numbers of one shape in each row but those of {column} differ, or some are "
            "missing: pad them, or leave rows out."
        )
    return torch.from_numpy(np.concatenate(parts))


def _in_type(rows: Array, wanted: np.dtype[Any]) -> Array | None:
    """Rows in the type that is wanted; None where they do not have one shape, or some miss."""
    if rows.dtype == object or (rows.dtype.kind == "f" and wanted.kind != "f"):
        return None
    return rows.astype(wanted)
