"""From what people have, files and Python's objects, to tensors; no code in a file is run."""

from __future__ import annotations

import mmap
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaekit.data.module_for_path import conversion
from vaekit.data.rows.batches import SPLITS
from vaekit.data.rows.limits import NumberError, refuse_wide
from vaekit.data.rows.splits import split_called

WHOLE = 2**31
"""Size in bytes up to which arrays are read whole, and others are mapped."""

_FEW, _MOST_CLASSES = 1000, 100
"""Whole numbers below the first are classes themselves; of others, at most the second many are
classes, and more are numbers."""

Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and type of each array of a file."""

LABELS = ("label", "labels", "y", "target", "targets")
OTHERS = ("context", "mask")
_X = ("x", "data", "image", "images", "feature", "features", "input", "inputs")
_OTHER_MODULES = {
    "Table": (".csv", ".tsv", ".parquet"),
    "Counts": (".h5ad",),
    "ImageFolder": (".png", ".jpg", ".jpeg"),
}


# Python's objects


def numbers_of(source: Any, name: str = "x") -> Tensor:
    """An array of real numbers as a tensor, not copied where torch has its type.

    Takes tensors, NumPy's arrays, frames and series of pandas and polars, SciPy's sparse arrays,
    and lists.

    Raises:
        ValueError: If it holds anything else; the error says how to mend it.
    """
    if isinstance(source, Tensor):
        return _dense(source, name)
    if hasattr(source, "toarray") and hasattr(source, "nnz"):
        return _of_numpy(_filled(source, name), name)
    if hasattr(source, "columns"):
        _refuse_text_columns(source, name)
        for column in source.columns:
            refuse_wide(source[column], f"the column {column} of {name}")
    if hasattr(source, "to_numpy"):
        refuse_wide(source, name)
        source = _values(source)
    if isinstance(source, list | tuple):
        try:
            values = np.asarray(source)
            # NumPy turns large whole numbers among others into float64.
            large = values.dtype == np.float64 and bool((np.abs(values) >= 2**63).any())
            source = np.asarray(source, dtype=object) if large else values
        except ValueError as error:
            raise ValueError(
                f"Expected rows of one length in {name} but got others: --data Sequences takes "
                "rows of different lengths."
            ) from error
    if not isinstance(source, np.ndarray):
        raise ValueError(f"Expected {name} to be a file, a tensor or an array but got {source!r}.")
    return _of_numpy(source, name)


def _values(source: Any) -> np.ndarray:
    """The values of a frame or a series, NaN where a type of pandas' own has none."""
    kinds = getattr(source, "dtypes", None)
    kinds = [kinds] if kinds is None or not hasattr(kinds, "__iter__") else list(kinds)
    if any(str(kind)[:1] in "IUFB" and hasattr(kind, "na_value") for kind in kinds):
        return np.asarray(source.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(source.to_numpy())


def _of_numpy(array: np.ndarray, name: str) -> Tensor:
    if array.dtype == object:
        array = _numbers_in(array, name)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected {name} to hold real numbers but it holds {array.dtype}: {_mend(array)}."
        )
    refuse_wide(array, name)
    if array.dtype.itemsize > 8:  # a long double
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _mend(array: np.ndarray) -> str:
    if array.dtype.kind == "c":
        return "give real and imaginary parts as two channels"
    if array.dtype.kind in "mM":
        return "give times as numbers, array.astype('datetime64[s]').astype('float64')"
    return "columns of text and of several types are for --data Table, from a .csv or a DataFrame"


def _numbers_in(array: np.ndarray, name: str) -> np.ndarray:
    """The numbers of an array of Python's objects."""
    try:
        if any(isinstance(value, str) for value in array.flat):
            raise TypeError("text")
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in array.flat):
            raise OverflowError("whole numbers of 2^63 and above")
        return array.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"Expected {name} to hold numbers below 2^63 but got {error}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {name} to hold real numbers but it holds Python objects, such as "
            f"{next(iter(array.flat), None)!r}: {_mend(array)}."
        ) from error


def _dense(x: Tensor, name: str) -> Tensor:
    """A tensor of real numbers that stand one beside the other, without a gradient."""
    strange = x.is_quantized or x.is_complex() or x.is_meta or x.is_nested
    if x.layout != torch.strided or strange or (x.is_floating_point() and x.itemsize < 2):
        kind = x.dtype if x.layout == torch.strided else x.layout
        raise ValueError(
            f"Expected {name} to be a dense tensor of real numbers but got one of {kind}."
        )
    refuse_wide(x, name)
    return x.detach()


def _filled(sparse: Any, name: str) -> np.ndarray:
    size = prod(sparse.shape) * sparse.dtype.itemsize
    if size > WHOLE:
        raise ValueError(
            f"Expected {name} to be small enough to be filled in but it would take "
            f"{size / 2**30:,.1f} GiB: --data Counts keeps counts sparse."
        )
    return np.asarray(sparse.toarray())


def _refuse_text_columns(frame: Any, name: str) -> None:
    for column in frame.columns:
        kind = str(getattr(frame[column], "dtype", "")).lower()
        if not kind.startswith(("int", "uint", "float", "bool", "boolean", "decimal")):
            raise ValueError(
                f"Expected columns of numbers in {name} but {column} holds {kind}: --data Table "
                "(data.Table) takes columns of every kind."
            )


def column_names(source: Any) -> list[str] | None:
    """What a frame calls its columns."""
    return [str(name) for name in source.columns] if hasattr(source, "columns") else None


def row_names(source: Any) -> np.ndarray | None:
    """What a frame of pandas calls its rows; None where it only counts them."""
    index = getattr(source, "index", None)
    if index is None or callable(index) or type(index).__name__ == "RangeIndex":
        return None
    return np.asarray(index.astype(str)).astype(str)


def classes_of(source: Any, known: list[Any] | None = None) -> tuple[Tensor, list[Any] | None]:
    """Labels as numbers, and what the classes are called if these are others.

    Text becomes classes. So do at most 100 different whole numbers (N,) if some are negative or
    large, in their order; -1 is an unknown class. Small whole numbers are classes in any type.
    Other numbers are unchanged.

    Arguments:
        known: The names of classes, in their order; others become -1, unknown.
    """
    if hasattr(source, "to_numpy"):
        source = source.to_numpy()
    array: Any = source if isinstance(source, Tensor) else np.asarray(source)
    text = isinstance(array, np.ndarray) and (
        array.dtype.kind in "US"
        or (array.dtype == object and any(isinstance(value, str) for value in array.flat))
    )
    if text:
        empty = np.asarray([v is None or v != v for v in array.flat]).reshape(array.shape)
        names = array.astype(str)
        classes = known or sorted(set(names[~empty].tolist()))
        names = np.where(empty, "", names) if "" not in classes else names
        place = {name: at for at, name in enumerate(classes)}
        found = [place.get(name, -1) for name in names.flat]
        return torch.tensor(found).reshape(names.shape), classes
    return _numbered(array, known)


def _numbered(array: Any, known: list[Any] | None) -> tuple[Tensor, list[Any] | None]:
    """Labels that are numbers as classes, as `classes_of`."""
    is_wide = str(array.dtype).removeprefix("torch.") == "uint64" and array.ndim == 1
    label = array if is_wide else numbers_of(array, "label")
    if not is_wide and label.is_floating_point():
        finite = bool(label.isfinite().all()) and bool((label.abs() < 2**53).all())
        if not (finite and bool((label == label.round()).all())):
            return label, known
        label = label.long()
    label = label.cpu().numpy() if isinstance(label, Tensor) else label
    values, place = np.unique(label, return_inverse=True)
    whole = [int(value) for value in values]
    numbers = bool(known) and all(isinstance(name, int) for name in known or ())
    small = not whole or (whole[0] >= -1 and whole[-1] < max(_FEW, 2 * len(whole)))
    if label.ndim != 1 or (small and not numbers):
        return torch.from_numpy(label.astype(np.int64)), known
    if known is None and len(whole) > _MOST_CLASSES:
        return torch.from_numpy(label.astype(np.float32)), None
    names = known if known and numbers else [value for value in whole if value != -1]
    number = {name: at for at, name in enumerate(names)}
    found = np.asarray([number.get(value, -1) for value in whole], dtype=np.int64)
    return torch.from_numpy(found[place.reshape(-1)]), names


# Files


def read_file(path: Path, key: str | None = None) -> dict[str, Any]:
    """The arrays of a file by the names x, label, context, mask and names; of one array, x.

    The arrays x_train, y_train, x_test and y_test become x, label and split, the names of the
    splits. What else a file holds is not looked at.

    Arguments:
        key: Which of several arrays is x; None for the one of that name, or the only one that can
            be it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another type, damaged, or holds no such array.
    """
    if path.is_dir():
        raise ValueError(
            f"Expected an array file but {path} is a folder: --data ImageFolder reads images."
        )
    if not path.is_file():
        raise FileNotFoundError(f"Expected an array file but there is none at {path}.")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        others = (name for name, kinds in _OTHER_MODULES.items() if path.suffix.lower() in kinds)
        hint = next((f" --data {name} --data.path {path} reads it." for name in others), None)
        hint = hint or f" {conversion(path)}"
        raise ValueError(f"Expected a file of type {', '.join(_READERS)} but got {path}.{hint}")
    try:
        return _READERS[suffix](path, key)
    except (_Choice, NumberError) as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:
        said = " ".join(str(error).split())
        # NumPy and torch go on to say how to load it all the same.
        if "pickle" in said or "Weights only load failed" in said or "Object arrays" in said:
            said = "it holds objects, or is of another kind"
        raise ValueError(
            f"Expected {path} to hold plain arrays, without pickled objects, but it could not be "
            f"read: {said}"
        ) from error


class _Choice(ValueError):
    """None of a file's arrays, or several of them, can be x."""


def _read_npy(path: Path, key: str | None) -> dict[str, Any]:
    if path.stat().st_size <= WHOLE:
        # Mapped copy-on-write: torch wants writable memory, and nothing is written to the file.
        return {"x": np.load(path, mmap_mode="c", allow_pickle=False)}
    # A private copy of what is larger than memory is refused by the system.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if hasattr(mmap, "MADV_RANDOM"):
        # Rows come in random order: a system that reads on beside each reads ten times as much.
        mapped.base.madvise(mmap.MADV_RANDOM)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {"x": _of_numpy(mapped, "x")}  # whose warning is silenced here


def _read_npz(path: Path, key: str | None) -> dict[str, Any]:
    shapes = _headers(path)
    if {"indices", "indptr", "data"} <= set(shapes):
        raise _Choice("it holds a sparse array: --data Counts reads it.")
    if {"row", "col", "data"} <= set(shapes):
        raise _Choice("it holds a sparse array by places: save x.tocsr(), for --data Counts.")
    with np.load(path, allow_pickle=False) as arrays:
        if key is None and (parts := _parts_in(shapes)):
            return _joined(parts, arrays)
        chosen = _chosen(shapes, key)
        return {
            name: arrays[own] if name in ("label", "names") else _of_numpy(arrays[own], own)
            for name, own in chosen.items()
        }


def _headers(path: Path) -> Shapes:
    """Shape and type of each array in an `.npz`, which are not read."""
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    found = {}
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if not name.endswith(".npy"):
                continue
            if name.startswith("/") or ".." in name.split("/"):
                raise _Choice(f"its array {name!r} has the name of a file outside it.")
            with file.open(name) as member:
                major, _ = np.lib.format.read_magic(member)
                shape, _, kind = read[min(major, 2)](member)
                found[name.removesuffix(".npy")] = shape, kind
    return found


def _read_pt(path: Path, key: str | None) -> dict[str, Any]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(found, Tensor):
        return {"x": _dense(found, "x")}
    tensors = found.values() if isinstance(found, dict) else [found]
    names = all(isinstance(name, str) for name in (found if isinstance(found, dict) else []))
    if not (names and all(isinstance(x, Tensor) for x in tensors)):
        raise TypeError("not a tensor or a dict of tensors")
    shapes = {name: (tuple(x.shape), np.dtype(np.float32)) for name, x in found.items()}
    if key is None and (parts := _parts_in(shapes)):
        return _joined(parts, found)
    chosen = _chosen(shapes, key).items()
    return {n: found[own] if n == "label" else _dense(found[own], own) for n, own in chosen}


def _chosen(shapes: Shapes, key: str | None) -> dict[str, str]:
    """Which arrays of a file are x (or its entries x.name), label, context, mask and names."""
    entries = [name for name in shapes if name.partition(".")[0] in ("x", "mask")]
    if key is None and any(name.partition(".")[0] == "x" for name in entries):
        if "x" in entries and any(name.startswith("x.") for name in entries):
            raise _Choice("Expected x alone, or entries x.name of it, but it holds both.")
        found = {name: name for name in entries}
    else:
        found = {"x": _x_of(shapes, key)}
        found |= {"mask": "mask"} if "mask" in shapes else {}
    shape = shapes[next(iter(found.values()))][0]
    n = shape[:1]
    found |= {name: name for name in ("context",) if name in shapes}
    if key is not None and (label_name := _label_of_part(key, shapes)):
        return {**found, "label": label_name}
    _refuse_rows_last(shape, shapes)
    left = {name: kind for name, (shape, kind) in shapes.items() if shape[:1] == n}
    left = {name: kind for name, kind in left.items() if name not in found.values()}
    label = "label" if "label" in shapes else next((name for name in LABELS if name in left), None)
    text = [name for name, kind in left.items() if kind.kind in "US" and name != label]
    text = [name for name in text if len(shapes[name][0]) == 1]
    return {
        **found,
        **({"label": label} if label else {}),
        **({"names": text[0]} if len(text) == 1 else {}),
    }


def _splits_in(shapes: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns the names of x and the label of each split, as of x_train, y_train and x_test."""
    splits: dict[str, dict[str, str]] = {}
    for name in shapes:
        before, _, after = name.lower().rpartition("_")
        for role, called in ((before, after), (after, before)):
            column = "x" if role in _X else "label" if role in LABELS else None
            if column and (split := split_called(called)):
                splits.setdefault(split, {}).setdefault(column, name)
    return splits


def _parts_in(shapes: Shapes) -> dict[str, dict[str, str]]:
    """Returns the splits of `_splits_in`, or none if their arrays do not fit together."""
    splits = _splits_in(shapes)
    parts = {split: splits[split] for split in SPLITS if "x" in splits.get(split, {})}
    events = {shapes[names["x"]][0][1:] for names in parts.values()}
    is_named = any(name.partition(".")[0] == "x" for name in shapes)
    return parts if "train" in parts and len(events) == 1 and not is_named else {}


def _joined(parts: dict[str, dict[str, str]], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rows of all splits, their labels and the names of their splits.

    The label of a split without labels is unknown.
    """
    xs = [numbers_of(arrays[part["x"]], part["x"]) for part in parts.values()]
    columns: dict[str, Any] = {"x": torch.cat(xs)}
    if len(xs) > 1:
        columns["split"] = np.repeat(list(parts), [len(x) for x in xs])
    names = [part.get("label") for part in parts.values()]
    labels = [None if name is None else np.asarray(arrays[name]) for name in names]
    for name, label, x in zip(names, labels, xs, strict=True):
        if label is not None and len(label) != len(x):
            raise _Choice(f"Expected {len(x)} rows in {name} but it has {len(label)}.")
    given_labels = [label for label in labels if label is not None]
    if given_labels:
        first = given_labels[0]
        is_text = first.dtype.kind in "USO"
        unknown = np.asarray(None if is_text else -1)
        full = [
            np.broadcast_to(unknown, (len(x), *first.shape[1:])) if label is None else label
            for label, x in zip(labels, xs, strict=True)
        ]
        label = np.concatenate(full)
        columns["label"] = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    return columns


def _label_of_part(key: str, shapes: Shapes) -> str | None:
    """Returns the label of the array x_train, say, and warns of the arrays of other splits."""
    splits = _splits_in(shapes)
    chosen = next((part for part in splits.values() if part.get("x") == key), None)
    if chosen is None:
        return None
    left = [name for part in splits.values() if part is not chosen for name in part.values()]
    if left:
        warnings.warn(
            f"--data.key {key} leaves {', '.join(left)} out. Without --data.key "
            "they are read as further splits.",
            stacklevel=2,
        )
    label = chosen.get("label")
    return label if label is not None and shapes[label][0][:1] == shapes[key][0][:1] else None


def _refuse_rows_last(shape: tuple[int, ...], shapes: Shapes) -> None:
    """Refuses an x whose last axis, not its first, has the length of the labels."""
    for name in LABELS:
        size = prod(shapes[name][0]) if name in shapes else 0
        if len(shape) > 2 and size not in (0, shape[0]) and size == shape[-1]:
            raise _Choice(
                f"Expected the rows on the first axis of x but {name} has {size} values, as the "
                f"last axis of x {'x'.join(map(str, shape))} has: save np.moveaxis(x, -1, 0)."
            )


def _x_of(shapes: Shapes, key: str | None) -> str:
    """The name of the array that is x."""
    held = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, (s, _) in shapes.items())
    if key is not None:
        if key not in shapes:
            raise _Choice(f"Expected an array named {key} but it holds {held or 'none'}.")
        return key
    fit = [
        name
        for name, (shape, kind) in shapes.items()
        if len(shape) > 1 and kind.kind in "biuf" and name not in (*LABELS, *OTHERS)
    ]
    if len(fit) != 1:
        raise _Choice(
            f"Expected an array named x, or one alone that can be it, but it holds {held}: "
            "--data.key NAME says which."
        )
    return fit[0]


_READERS: dict[str, Callable[[Path, str | None], dict[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
}
