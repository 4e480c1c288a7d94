"""Arrays from files or from Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.trees import Ranges, Tree, each, entries_of, first, flat, like
from vaekit.data.base import DataModule
from vaekit.data.columns.scale import (
    beyond,
    moments,
    refuse_overflow,
    standardized,
    warn_of_scales,
)
from vaekit.data.readers.arrays import classes_of, column_names, numbers_of, read_file, row_names
from vaekit.data.rows.batches import SPLITS, Rows, natural, span
from vaekit.data.rows.prepare import other_files, share
from vaekit.data.rows.splits import split_by_name
from vaekit.data.user.ranges import ImageFormat, checked, levels_of, measured, spread, top_of

_COLUMNS = ("x", "label", "context", "mask")


class Arrays(DataModule):
    """Rows from `.npy`, `.npz` or `.pt` files, or from tensors, arrays, frames and lists.

    Files are read without running code that they may hold: NumPy's without pickles, torch's with
    `weights_only`. An `.npz` or `.pt` of several arrays holds them under the names x, label,
    context and mask, and a column of text beside them names the rows; what else it holds is not
    looked at. The arrays x_train, y_train, x_test and y_test are splits and their labels; without
    rows for validation, `val` is a share of x_train. A lone `.npy` is mapped into memory, not
    read; of one above 2 GiB a thousand rows are looked at, and the others when they come.

    uint8 values 0 to 255 (or only 0 and 1), images of 16 bits, and images of whole numbers up to
    255 in other types become x from 0 to 1. They have two levels if each value is 0 or the largest
    one. Other values are taken as they are, in any type of numbers.

    Where a row has several entries (an image and a column, say), x is a dict with a source for
    each, or one file whose arrays have names such as `x.image`; so are mask and data_range.

    Arguments:
        x: The data (N, *event).
        label: Labels (N,) or (N, *), numbers or text. Each split has its share of each class (N,),
            unless `split` or `group` says which rows stay together.
        context: Columns (N, C) to condition on.
        mask: Like x, True where an element is observed; what is not observed may be NaN.
        val: Share of the rows held out for validation, or a file that holds these rows.
        test: The same for testing; with `val` 0 as well, all rows are for training.
        channels: Where the channels of images (N, *, *, *) stand: "first", as the parts for images
            want them, or "last", which moves them; None refuses what looks like the latter.
        data_range: Smallest and largest value of x; None takes the narrowest of [0, 1], [-1, 1],
            [0, inf) and the real line that holds the values that are observed. Integers of a
            finite range, tokens say, have as many levels as there are numbers in it. uint8 values
            of another range than [0, 1] are taken as they are. Of a dict only some entries may be
            named.
        key: Which array of an `.npz` or `.pt` is x; None for the one of that name, or the only
            one that can be it.
        standardize: Bring each column, or each channel (the second axis), to mean 0 and standard
            deviation 1 over the training rows; `restored` undoes it. Of a dict the entries of
            floating type.
        split: The name of each row's split, train, val or test, (N,), in the place of shares.
        group: What rows that stay in one split have in common, (N,).
        missing: "nan" takes NaN in x as not observed; a number hides such a share at random.

    Raises:
        ValueError: If arrays differ in length, a value is not finite or out of the range, or a
            file is of another type or cannot be read safely.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import torch
        >>> data = Arrays(torch.rand(100, 3), val=0.1, test=0.1)
        >>> data.info.event_shape, data.info.data_size
        ((3,), 80)
        >>> Arrays({"a": torch.rand(19, 3), "b": torch.rand(19, 2)}).info.event_shape
        {'a': (3,), 'b': (2,)}
    """

    def __init__(
        self,
        x: Any,
        label: Any = None,
        context: Any = None,
        mask: Any = None,
        val: float | str = 0.1,
        test: float | str = 0.1,
        channels: Literal["first", "last"] | None = None,
        data_range: tuple[float, float] | dict[str, tuple[float, float]] | None = None,
        key: str | None = None,
        standardize: bool = False,
        split: Any = None,
        group: Any = None,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
        missing: Literal["nan"] | float = 0.0,
    ) -> None:
        self.nan = missing in ("nan",) or missing != missing
        if self.nan:  # as a checkpoint can note and compare it
            self._init["missing"] = "nan"
        share = 0.0 if self.nan else float(missing)
        super().__init__(batch_size, binarize, dequantize, seed, share)
        self.sources = dict(zip(_COLUMNS, (x, label, context, mask), strict=True))
        if channels not in (None, "first", "last"):
            raise ValueError(f"Expected channels to be first or last but got {channels!r}.")
        if standardize and data_range is not None:
            raise ValueError("Expected one of standardize and data_range but got both.")
        self.shares, self.data_range, self.channels = (val, test), data_range, channels
        self.key, self.standardize, self.by = key, standardize, (split, group)
        self._range: Ranges = (0.0, 1.0) if data_range is None else data_range

    def natural_range(self) -> Ranges:
        return self._range

    def restored(self, x: Tree) -> Tree:
        scales = (self.schema or {}).get("scales", {})

        def back(name: str, leaf: Tensor) -> Tensor:
            if name not in scales:
                return leaf
            mean, std = (torch.tensor(m, dtype=torch.float64) for m in scales[name])
            return leaf.double() * std + mean

        found = {name: back(name, leaf) for name, leaf in entries_of(x).items()}
        return found if isinstance(x, dict) else found["x"]

    def _refuse_rows(self, rows: Rows, split: str) -> None:
        """Nothing: `load` has looked at all values."""

    def load(self) -> dict[str, Rows]:
        columns = self._columns()
        x, mask = columns["x"], columns.get("mask")
        for name, column in flat("x", x).items():
            if column.dim() < 2 or column.numel() == 0:
                one = ": x[:, None] has one number a row" if column.dim() == 1 else ""
                raise ValueError(
                    f"Expected {name} with shape (N, *event) but got {tuple(column.shape)}{one}."
                )
        for name, column in flat("x", x).items():
            self._refuse_channels_last(name, column)
        if self.channels == "last":
            if not any(leaf.dim() == 4 for leaf in entries_of(x).values()):
                raise ValueError("Expected images (N, H, W, C) for channels last but got none.")
            columns["x"] = x = each(_channels_first, x)
            if mask is not None:
                columns["mask"] = mask = each(_channels_first, mask)
        if self.nan:
            if mask is not None:
                _check_mask(x, mask)
            columns["mask"] = mask = each(_seen, x, like(x, mask))
        self._check(columns)
        mask = columns.get("mask")
        declared = self._declared(x)
        masks = entries_of(like(x, mask))
        is_signal = [n for n, leaf in entries_of(x).items() if _is_signal(leaf, masks[n])]
        formats = {n: self._image_format(n) for n in entries_of(x)}
        top = {
            n: top_of(n, leaf, declared[n], masks[n], formats[n])
            for n, leaf in entries_of(x).items()
        }
        self._note_images(entries_of(x), masks, top, formats)
        self.looked_at = all(  # of bytes from 0 to 255 there is nothing to see
            spread(leaf) is None or (leaf.dtype == torch.uint8 and top[entry] == 255)
            for entry, leaf in entries_of(x).items()
        )
        rows = Rows(**columns, top=top if isinstance(x, Mapping) else top["x"])
        self._warn_of_rows_last(x)
        splits = self._split(rows)
        if self.standardize or "scales" in (self.schema or {}):
            splits = self._standardized(splits)
        ready = splits["train"]
        self._find_ranges(ready.x, mask, entries_of(ready.top), declared)
        self.kinds = {**dict.fromkeys(is_signal, "signal"), **self.kinds}
        self.only_held_out = self._only_held_out(ready, declared)
        for other in other_files(self, splits, self.shares, "x"):
            wide = [other.natural_range(), other.levels], [self._range, self.levels]
            if wide[0] != wide[1]:
                raise ValueError(
                    f"Expected held-out rows of the range {wide[1][0]} and {wide[1][1]} levels, "
                    f"as those for training, but got {wide[0][0]} and {wide[0][1]}: "
                    "--data.data_range declares one for all."
                )
        return splits

    def _image_format(self, entry: str) -> ImageFormat | None:
        """Returns how the model reads an entry, or None if the rows follow no model."""
        is_scaled = self.standardize or "scales" in (self.schema or {})
        if is_scaled or not self.follows_model:
            return ImageFormat() if is_scaled else None
        keys = (entries_of((self.schema or {}).get(key)) for key in ("top", "levels"))
        return ImageFormat(*(value.get(entry, value.get("x")) for value in keys))

    def _note_images(
        self,
        x: Mapping[str, Tensor],
        masks: Mapping[str, Any],
        top: Mapping[str, float | None],
        formats: Mapping[str, ImageFormat | None],
    ) -> None:
        """Finds the levels of each entry that holds images, and notes them in the schema.

        Rows that follow a model leave its schema as it is.
        """
        self._levels: dict[str, int | None] = dict.fromkeys(x)
        self._scaled: dict[str, float] = {}
        for name, leaf in x.items():
            stored, model = top[name], formats[name]
            if stored is None or "scales" in (self.schema or {}):
                continue
            levels = None if model is None else model.levels
            keeps_grey = self.dequantize or self.binarize != "none"
            keeps_grey |= self.follows_model and levels is None  # of an earlier version
            self._levels[name] = levels_of(name, leaf, masks[name], stored, levels, keeps_grey)
            if leaf.dtype not in (torch.uint8, torch.uint16, torch.bool):
                self._scaled[name] = stored
        if self.follows_model or self.standardize or not any(self._levels.values()):
            return
        notes: dict[str, Any] = {"levels": self._levels}
        notes |= {"top": self._scaled} if self._scaled else {}
        notes = {k: v.get("x") if set(x) == {"x"} else v for k, v in notes.items()}
        self.schema = {**(self.schema or {}), **notes}

    def told(self) -> dict[str, str]:
        lines = super().told()
        for name, top in self._scaled.items():
            take = f"--data.data_range 0,{top:g} takes them as they are"
            lines[name] += f", whole numbers divided by {top:g} ({take})"
        return lines

    def _split(self, rows: Rows) -> dict[str, Rows]:
        names, groups = (None if by is None else _text(by, len(rows)) for by in self.by)
        if names is None and groups is None and self._stored is not None:
            return self._stored_splits(rows)
        splits = self._divided(rows, (names, groups), self.shares, _classes_in(rows))
        if self.schema or self._stratified:  # else x is what was given, and nothing is to be said
            self.schema = self._noting_split(self.schema or {}) or None
        return splits

    def _stored_splits(self, rows: Rows) -> dict[str, Rows]:
        """Returns the splits of a file that holds them; without val rows, val is a share."""
        if self.is_held_out:
            return {"train": rows}
        assert self._stored is not None
        splits = split_by_name(rows, self._stored)
        train, self._stratified = splits["train"], False
        if "val" not in splits and share(self.shares[0]):
            shares = (self.shares[0], 0.0)
            splits |= self._divided(train, (None, None), shares, _classes_in(train))
        self.schema = self._noting_split(self.schema or {})
        return {name: splits[name] for name in SPLITS if name in splits}

    def _warn_of_rows_last(self, x: Tree) -> None:
        """Warns of an array whose rows seem to be on its last axis."""
        for name, leaf in flat("x", x).items():
            n, *event = leaf.shape
            if self.follows_model or not (leaf.dim() == 3 and n == event[0] > 1 < n < event[1]):
                continue
            warnings.warn(
                f"{name} {'x'.join(map(str, leaf.shape))} is read as {n} rows of {event[0]}x"
                f"{event[1]}. If these are {event[1]} rows of {n}x{n}, put the rows first: "
                f"np.moveaxis(x, -1, 0).",
                stacklevel=2,
            )

    def _columns(self) -> dict[str, Any]:
        """The tensors by column; labels that are text become classes, whose names are kept."""
        columns: dict[str, Any] = {}
        for name, source in self.sources.items():
            if source is None:
                continue
            if isinstance(source, Mapping):
                if not source:
                    raise ValueError(f"Expected entries of {name} but got none.")
                columns[name] = {entry: _single(part, entry) for entry, part in source.items()}
            elif isinstance(source, str | Path):
                found = _folded(read_file(Path(source), self.key if name == "x" else None))
                own = found.get(name, found["x"])
                if name != "label":
                    parts = {n: numbers_of(leaf, n) for n, leaf in flat(name, own).items()}
                    own = _folded(parts)[name]
                columns = {**(found if name == "x" else {}), **columns, name: own}
            else:
                columns[name] = source if name == "label" else numbers_of(source, name)
        self.names = columns.pop("names", row_names(self.sources["x"]))
        self._stored = columns.pop("split", None)
        if "label" in columns:
            known = (self.schema or {}).get("classes")
            columns["label"], classes = classes_of(columns["label"], known)
            if classes:
                self.schema = {**(self.schema or {}), "classes": classes}
        for name in ("context", "mask"):
            if name in columns:
                columns[name] = each(_common, columns[name])
        return columns

    def _check(self, columns: dict[str, Any]) -> None:
        x, mask, n = columns["x"], columns.get("mask"), len(first(columns["x"]))
        for column, tree in columns.items():
            for name, array in flat(column, tree).items():
                if len(array) != n:
                    is_last = (
                        not isinstance(x, Mapping) and x.dim() > 2 and len(array) == x.shape[-1]
                    )
                    hint = ": np.moveaxis(x, -1, 0) puts the rows first" if is_last else ""
                    raise ValueError(
                        f"Expected {n} rows, as in x, but {name} has {len(array)}{hint}."
                    )
        if mask is not None:
            _check_mask(x, mask)
            columns["mask"] = each(Tensor.bool, mask)
        for name, label in flat("label", columns.get("label", {})).items():
            if not bool(label.isfinite().all()):
                raise ValueError(
                    f"Expected labels that are finite but {name} holds NaN or infinity: give -1 "
                    "where a class is unknown."
                )
        context = columns.get("context")
        if context is not None and (context.dim() != 2 or not bool(context.isfinite().all())):
            raise ValueError(
                "Expected a context of finite values with shape (N, C) but got "
                f"{'NaN or infinity in ' if context.dim() == 2 else ''}{tuple(context.shape)}."
            )

    def _refuse_channels_last(self, name: str, x: Tensor) -> None:
        """Refuses what looks like images whose last axis is the channels, unless that is said."""
        few = (1, 3, 4)
        last = x.dim() == 4 and x.shape[3] in few and x.shape[1] not in few
        pixels = x.dtype in (torch.uint8, torch.bool, torch.uint16) or x.is_floating_point()
        if self.channels is None and last and pixels:
            raise ValueError(
                f"Expected images (N, channels, height, width) but {name} has the shape "
                f"{tuple(x.shape)}, whose last axis looks like the channels: --data.channels last "
                "moves them, --data.channels first takes the array as it stands."
            )

    def scale(self) -> Any:
        scales = (self.schema or {}).get("scales")
        if not scales:
            return None
        found = {n: np.ravel(std).tolist() for n, (_, std) in scales.items()}
        return (
            found["x"]
            if set(found) == {"x"} and not isinstance(self._range, Mapping)
            else {name: found.get(name) for name in entries_of(self._range)}
        )

    def _standardized(self, splits: dict[str, Rows]) -> dict[str, Rows]:
        """The rows with entries on one scale, that of the training rows or of a model's."""
        rows, known = splits["train"], (self.schema or {}).get("scales", {})
        single = not isinstance(rows.x, dict)
        xs, tops, scales = entries_of(rows.x), entries_of(rows.top), dict(known)
        masks = entries_of(like(rows.x, rows.mask))
        observed = masks if known else entries_of(like(rows.x, self.observed(rows.x, rows.mask)))
        for name, x in xs.items():
            if not known and (single or x.is_floating_point()):
                found = moments(x, observed[name], rows.index)
                if not all(bool(moment.isfinite().all()) for moment in found):
                    refuse_overflow(x, masks[name], name)
                    continue  # which is refused with its reason
                scales[name] = [moment.tolist() for moment in found]
            if name in scales:
                mean, std = (torch.tensor(m, dtype=torch.float64) for m in scales[name])
                own = standardized(x, mean, std, masks[name], name)
                xs[name], tops[name] = own, None
        self.schema = {**(self.schema or {}), "scales": scales}
        x, top = (xs["x"], tops["x"]) if single else (xs, tops)
        return {name: replace(own, x=x, top=top) for name, own in splits.items()}

    def _declared(self, x: Tree) -> dict[str, tuple[float, float] | None]:
        """The range that the user declares of each entry of x."""
        declared: Any = self.data_range
        if not isinstance(declared, Mapping):
            declared = dict.fromkeys(entries_of(x), declared)
        if unknown := set(declared) - set(entries_of(x)):
            raise ValueError(
                f"Expected a data_range of {', '.join(entries_of(x))}, as in x, but got one of "
                f"{', '.join(sorted(unknown))}."
            )
        names = zip(entries_of(x), flat("x", x), strict=True)
        return {entry: checked(name, declared.get(entry)) for entry, name in names}

    def _only_held_out(self, train: Rows, declared: Any) -> dict[str, str]:
        """Describes the values for which a range is wider than the training rows need.

        The range holds all rows: a likelihood on a narrower one could not score the others.
        """
        found: dict[str, str] = {}
        if train.index is None:
            return found
        ranges = entries_of(like(train.x, self._range))
        for name, (x, mask, top) in train.entries().items():
            if declared[name] is None and top is None and spread(x) is None:
                own, whole = span(x, mask, train.index), span(x, mask)
                if own is None or whole is None or natural(*own[:2]) == ranges[name]:
                    continue
                if ranges[name] == natural(*whole[:2]):
                    found[name] = beyond(np.asarray(whole[:2]), *own[:2])
        return found

    def _find_ranges(self, x: Tree, mask: Tree | None, top: Any, declared: Any) -> None:
        """Finds, or checks, the range and the number of levels of x."""
        ranges, levels, kinds = {}, {}, {}
        masks, scales = entries_of(like(x, mask)), (self.schema or {}).get("scales", {})
        names = column_names(self.sources["x"])
        for (entry, leaf), name in zip(entries_of(x).items(), flat("x", x), strict=True):
            levels_of_entry = self._levels[entry]
            found = measured(
                name, leaf, masks[entry], top[entry], declared[entry], levels_of_entry
            )
            if entry in scales:
                found = (-inf, inf), None
            elif leaf.is_floating_point() and leaf.dim() == 2 and found[0][1] == inf:
                if spread(leaf) is None:
                    warn_of_scales(name, leaf, masks[entry], names)
            elif not leaf.is_floating_point() and found[0] == (0.0, inf):
                kinds[entry] = "count"
            ranges[entry], levels[entry] = found
        single = not isinstance(x, Mapping)
        self._range = ranges["x"] if single else ranges
        self.levels = levels["x"] if single else levels
        self.kinds = kinds


def _is_signal(x: Tensor, mask: Tensor | None) -> bool:
    """Returns whether an array (N, C, T) holds channels of time steps and not images.

    It does if it has fewer than 8 channels, or if values are negative and T > C: pixels of an
    array without an axis of channels are not negative.
    """
    if x.dim() != 3 or x.shape[2] < 8 or x.shape[1] >= x.shape[2]:
        return False
    if x.shape[1] < 8:
        return x.dtype not in (torch.uint8, torch.bool)
    bounds = span(x, mask, spread(x))
    return bounds is not None and bounds[0] < 0


def _classes_in(rows: Rows) -> np.ndarray | None:
    """Returns the class of each row, (N,), or None if the labels are not classes."""
    label = rows.label
    if label is None or label.dim() != 1 or label.is_floating_point():
        return None
    return (label if rows.index is None else label[rows.index]).numpy()


def _channels_first(x: Tensor) -> Tensor:
    """Images (N, H, W, C) as (N, C, H, W); other arrays as they are."""
    return x.movedim(3, 1) if x.dim() == 4 else x


def _seen(x: Tensor, mask: Tensor | None) -> Tensor:
    """Where x is observed: no NaN, and not hidden by a mask."""
    seen = ~x.isnan() if x.is_floating_point() else torch.ones(x.shape, dtype=torch.bool)
    return seen if mask is None else seen & mask.bool()


def _common(x: Tensor) -> Tensor:
    """x in a type for which torch has all operations."""
    kinds = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}
    return x.to(kinds.get(x.dtype, x.dtype))


def _text(source: Any, rows: int) -> np.ndarray:
    """A column that says something of each row, as text; None where it says nothing."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix != ".npy" or not path.is_file():
            raise ValueError(
                f"Expected split and group as a .npy file or an array but got {path}."
            )
        source = np.load(path, allow_pickle=False)
    given = np.asarray(source, dtype=object)
    column = np.vectorize(lambda v: None if v is None or v != v else str(v), otypes="O")(given)
    if column.shape != (rows,):
        raise ValueError(f"Expected a name for each of {rows} rows but got {column.shape}.")
    return column


def _check_mask(x: Tree, mask: Tree) -> None:
    shapes, wanted = (each(lambda leaf: tuple(leaf.shape), tree) for tree in (mask, x))
    if shapes != wanted:
        raise ValueError(f"Expected a mask of x's shape {wanted} but got {shapes}.")
    if not any(bool(leaf.any()) for leaf in entries_of(mask).values()):
        raise ValueError(
            "Expected a mask that is True where an element is observed, but it is False all over."
        )


def _folded(found: dict[str, Any]) -> dict[str, Any]:
    """Arrays by column; those with names such as `x.image` are the entries of a dict."""
    columns: dict[str, Any] = {}
    for name, array in found.items():
        column, _, entry = name.partition(".")
        if entry:
            columns.setdefault(column, {})[entry] = array
        else:
            columns[column] = array
    return columns


def _single(source: Any, name: str) -> Tensor:
    if not isinstance(source, str | Path):
        return numbers_of(source, name)
    return numbers_of(read_file(Path(source))["x"], name)
