"""Frey faces: the frames of a film of one face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vaekit.data.base import DataModule
from vaekit.data.readers.downloads import existing, folder_of, not_found, parsed
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import split


class FreyFaces(DataModule):
    """1,965 grey images of one face, 28x20, frames of a film.

    `freyfaces.npz` (an array `images`) or `frey_rawface.mat`, the original, is looked for in
    `root` and in its folder `freyfaces`; nothing is downloaded. Grey values 0 to 255 become x from
    0 to 1.

    Arguments:
        root: The folder; None takes the environment variable VAEKIT_DATA, or else `data`.
        val: How many rows are held out for validation, drawn with the seed.
        test: How many rows are held out for testing.

    Raises:
        FileNotFoundError: If neither file is there.
        ValueError: If the file holds no such images, or no row is left for training.

    Example:
        >>> FreyFaces("faces", val=100).spec["init_args"]
        {'root': 'faces', 'val': 100}

    References:
        Global Coordination of Local Linear Models (Roweis, Saul and Hinton, 2002); the file is at
        https://cs.nyu.edu/~roweis/data.html
    """

    levels = 256
    shape: ClassVar[tuple[int, ...]] = (1965, 28, 20)

    def __init__(
        self,
        root: str | Path | None = None,
        val: int = 200,
        test: int = 200,
        batch_size: int = 100,
        dequantize: bool = False,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, "none", dequantize, seed, missing)
        self.root = folder_of(root)
        self.held_out = val, test

    def load(self) -> dict[str, Rows]:
        x = self._images().unsqueeze(1)
        val, test = self.held_out
        if min(val, test) < 0 or val + test >= len(x):
            raise ValueError(
                f"Expected val and test, numbers of rows, to leave some of {len(x):,} but got "
                f"{val:,} and {test:,}."
            )
        return split(Rows(x, top=255), val / len(x), test / len(x), seed=self.seed)

    def _images(self) -> Tensor:
        path = existing((self.root, self.root / "freyfaces"), tuple(_READERS))
        if path is None:
            raise not_found("FreyFaces", tuple(_READERS), self.root)
        images = parsed(path, _READERS[path.name], "Frey faces")
        if images.shape != self.shape or images.dtype != np.uint8:
            raise ValueError(
                f"Expected images of shape {self.shape} and type uint8 in {path} but got "
                f"{images.shape} and {images.dtype}."
            )
        return torch.from_numpy(np.ascontiguousarray(images))


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays["images"])


def _read_mat(path: Path) -> np.ndarray:
    from scipy.io import loadmat  # comes with scikit-learn, and only needed here

    return np.asarray(loadmat(path)["ff"]).T.reshape(-1, 28, 20)  # a column for each image


_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "freyfaces.npz": _read_npz,
    "frey_rawface.mat": _read_mat,
}
