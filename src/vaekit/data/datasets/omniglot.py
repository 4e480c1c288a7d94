"""Omniglot and Caltech 101 Silhouettes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.data.base import DataModule
from vaekit.data.readers.downloads import existing, folder_of, not_found, parsed
from vaekit.data.readers.mat import Array, read_mat
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import hold_out


class _Local(DataModule):
    """Base of data in one file, which is looked for and not downloaded."""

    file: ClassVar[str]
    root: Path

    def load(self) -> dict[str, Rows]:
        own = type(self).__name__
        path = existing((self.root, self.root / own.lower(), self.root / own), (self.file,))
        if path is None:
            raise not_found(own, (self.file,), self.root)
        return self._split(parsed(path, self._read, f"the images of {own}"))

    def _read(self, path: Path) -> dict[str, Rows]:
        """The rows in a file, by what they are for."""
        raise NotImplementedError

    def _split(self, parts: dict[str, Rows]) -> dict[str, Rows]:
        return parts


class Omniglot(_Local):
    """32,415 grey images of handwritten characters of 50 alphabets, 28x28.

    They are those of the importance-weighted autoencoder: `chardata.mat` is looked for in `root`
    and in its folder `omniglot`; nothing is downloaded. The grey values from 0 to 1 become 0 or 1
    unless `binarize` is "none". Labels are alphabets, where the file has them.

    Arguments:
        root: The folder; None takes the environment variable VAEKIT_DATA, or else `data`.
        val: How many of the 24,345 rows for training are held out for validation, drawn with the
            seed; 0 trains on all. There are 8,070 rows for testing.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it holds no such images, or no row is left for training.

    Example:
        >>> Omniglot("images").levels, Omniglot("images", binarize="static").binarize
        (None, 'static')

    References:
        Human-level Concept Learning through Probabilistic Program Induction (Lake, Salakhutdinov
        and Tenenbaum, 2015), doi 10.1126/science.aab3050

        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519; the file is at https://github.com/yburda/iwae
    """

    file: ClassVar[str] = "chardata.mat"
    sizes: ClassVar[dict[str, int]] = {"": 24_345, "test": 8_070}
    """Of the arrays `data` and `target`, and of those whose names begin with `test`."""

    alphabets: ClassVar[int] = 50

    def __init__(
        self,
        root: str | Path | None = None,
        val: int = 1_345,
        batch_size: int = 100,
        binarize: Literal["none", "dynamic", "static"] = "dynamic",
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, binarize, False, seed, missing)
        self.root, self.val = folder_of(root), val

    def _read(self, path: Path) -> dict[str, Rows]:
        sizes, alphabets = self.sizes.items(), self.alphabets
        images = {f"{prefix}data": [(784, n)] for prefix, n in sizes}
        labels = {f"{prefix}target": [(alphabets, n), (1, n), (n, 1)] for prefix, n in sizes}
        arrays = read_mat(path, images, labels)
        return {
            prefix or "train": Rows(
                torch.from_numpy(_upright(arrays[f"{prefix}data"].T).astype(np.float32)),
                label=_classes(arrays, f"{prefix}target", n, alphabets),
            )
            for prefix, n in sizes
        }

    def _split(self, parts: dict[str, Rows]) -> dict[str, Rows]:
        return {**hold_out(parts["train"], self.val, self.seed), "test": parts["test"]}


class Caltech101Silhouettes(_Local):
    """8,671 binary images of the outlines of things of 101 classes, filled, 28x28.

    `caltech101_silhouettes_28_split1.mat` is looked for in `root` and in its folder
    `caltech101silhouettes`; nothing is downloaded. Its own splits are used: 4,100 rows for
    training, 2,264 for validation and 2,307 for testing.

    Arguments:
        root: The folder; None takes the environment variable VAEKIT_DATA, or else `data`.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it holds no such images.

    Example:
        >>> Caltech101Silhouettes("images").spec["init_args"]
        {'root': 'images'}

    References:
        Inductive Principles for Restricted Boltzmann Machine Learning (Marlin, Swersky, Chen and
        de Freitas, 2010); the file is at https://people.cs.umass.edu/~marlin/data.shtml
    """

    levels = 2
    file: ClassVar[str] = "caltech101_silhouettes_28_split1.mat"
    sizes: ClassVar[dict[str, int]] = {"train": 4_100, "val": 2_264, "test": 2_307}

    def __init__(
        self,
        root: str | Path | None = None,
        batch_size: int = 100,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, "none", False, seed, missing)
        self.root = folder_of(root)

    def _read(self, path: Path) -> dict[str, Rows]:
        images = {f"{part}_data": [(n, 784)] for part, n in self.sizes.items()}
        labels = {f"{part}_labels": [(1, n), (n, 1)] for part, n in self.sizes.items()}
        arrays = read_mat(path, images | labels)
        for name in images:
            if not np.isin(arrays[name], (0, 1)).all():
                raise ValueError(f"{name} should be 0 or 1")
        return {
            part: Rows(
                torch.from_numpy(_upright(arrays[f"{part}_data"]).astype(np.uint8)),
                label=_classes(arrays, f"{part}_labels", n, 101),
                top=1,
            )
            for part, n in self.sizes.items()
        }


def _upright(images: Array) -> Array:
    """Images (N, 784), stored column by column, with shape (N, 1, 28, 28)."""
    return np.ascontiguousarray(images.reshape(-1, 1, 28, 28).swapaxes(2, 3))


def _classes(arrays: Mapping[str, Array], name: str, rows: int, classes: int) -> Tensor | None:
    """The classes (N,) of labels, which count from 1 or are columns with a single 1."""
    if name not in arrays:
        return None
    label = arrays[name].astype(np.float64)
    if label.size != rows:
        if not (np.isin(label, (0, 1)).all() and (label.sum(0) == 1).all()):
            raise ValueError(f"{name} should have a single 1 in each column, and else 0")
        label = label.argmax(0) + 1.0
    if not np.isin(label, np.arange(1, classes + 1)).all():
        raise ValueError(f"{name} should be whole numbers from 1 to {classes}")
    return torch.from_numpy(label.reshape(-1)).long() - 1
