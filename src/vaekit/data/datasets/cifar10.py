"""CIFAR-10, from its binary files or the archive of them."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import torch

from vaekit.data.base import DataModule
from vaekit.data.readers.downloads import download, existing, folder_of, not_found, parsed
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import hold_out

_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_FILES = (*_TRAIN, "test_batch.bin")
_ARCHIVE = "cifar-10-binary.tar.gz"
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # a label, and an image


class CIFAR10(DataModule):
    """60,000 colour images of ten classes, 32x32: 50,000 for training, 10,000 for testing.

    The archive `cifar-10-binary.tar.gz`, or the six `.bin` files that are in it, are looked for in
    `root`, in its folders `cifar10`, `CIFAR10` and `CIFAR10/raw`, and the files in a folder
    `cifar-10-batches-bin` of these; else the archive is downloaded into `CIFAR10/raw`. It is read
    as it is, and never unpacked. Values 0 to 255 become x from 0 to 1.

    Arguments:
        root: The folder; None takes the environment variable VAEKIT_DATA, or else `data`.
        val: How many of the 50,000 rows, the last ones, are held out for validation; 0 trains on
            all.

    Raises:
        FileNotFoundError: If the files are not there and cannot be downloaded.
        ValueError: If a file is damaged, or `val` leaves no row for training.

    Example:
        >>> CIFAR10("images", val=1_000).spec["init_args"]
        {'root': 'images', 'val': 1000}

    References:
        Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009),
        https://www.cs.toronto.edu/~kriz/cifar.html
    """

    levels = 256
    mirrors: ClassVar[list[str]] = ["https://www.cs.toronto.edu/~kriz/"]
    md5: ClassVar[str] = "c32a1d4ab5d03f1284b67883e8d87530"
    images: ClassVar[int] = 10_000
    """Of each file."""

    def __init__(
        self,
        root: str | Path | None = None,
        val: int = 5_000,
        batch_size: int = 128,
        dequantize: bool = False,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, "none", dequantize, seed, missing)
        self.root = folder_of(root)
        self.val = val

    @property
    def _folders(self) -> tuple[Path, ...]:
        own = type(self).__name__
        return self.root, self.root / own.lower(), self.root / own, self.root / own / "raw"

    def _existing(self) -> Path | None:
        """The folder that has all files, or else the archive."""
        for folder in self._folders:
            for place in (folder, folder / "cifar-10-batches-bin"):
                if all((place / name).is_file() for name in _FILES):
                    return place
        return existing(self._folders, (_ARCHIVE,))

    def prepare_data(self) -> None:
        if self._existing() is None:
            path = self._folders[-1] / _ARCHIVE
            download(type(self).__name__, self.root, path, self.mirrors, self.md5)

    def load(self) -> dict[str, Rows]:
        path = self._existing()
        if path is None:
            raise not_found(type(self).__name__, (_ARCHIVE, "its six .bin files"), self.root)
        read = self._unpacked if path.is_dir() else self._archived
        files = parsed(path, read, "the binary files of CIFAR-10")
        train = _rows([files[name] for name in _TRAIN])
        return {**hold_out(train, self.val), "test": _rows([files[_FILES[-1]]])}

    def _unpacked(self, folder: Path) -> dict[str, np.ndarray]:
        found = {}
        for name in _FILES:
            path = folder / name
            self._refuse_size(name, path.stat().st_size)
            found[name] = _records(name, path.read_bytes())
        return found

    def _archived(self, path: Path) -> dict[str, np.ndarray]:
        """The files in the archive, each of which is looked at before it is read."""
        most = len(_FILES) * self.images * _RECORD + 2**20  # two notes are in it, too
        found: dict[str, np.ndarray] = {}
        with _Limited(path, most) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member, name in _members(tar):
                if name not in _FILES:
                    continue
                self._refuse_size(name, member.size)
                source = tar.extractfile(member)
                assert source is not None  # it is a file
                found[name] = _records(name, source.read())
            while file.read(2**16):  # to its end, where its checksum is
                pass
        if lacking := [name for name in _FILES if name not in found]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        return found

    def _refuse_size(self, name: str, size: int) -> None:
        expected = self.images * _RECORD
        if size != expected:
            raise ValueError(f"{name} should have {expected:,} bytes but has {size:,}")


class _Limited(gzip.GzipFile):
    """A gzip file of which no more than so many bytes are read: few may unpack to very many."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, "rb")
        self.left = most

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("it unpacks to more than those files have")
        return data


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The files in an archive and their names, without their folders.

    Raises:
        ValueError: If a member would lie outside the archive's folder, or is a link or a device.
    """
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"its member {member.name!r} lies outside it")
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"its member {member.name!r} is neither a file nor a folder")
        if member.isfile():
            yield member, path.name


def _records(name: str, content: bytes) -> np.ndarray:
    """The records of a file, a label and an image each, with shape (N, 3073)."""
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if (most := records[:, 0].max()) > 9:
        raise ValueError(f"{name} should have labels from 0 to 9 but has {most}")
    return records


def _rows(files: list[np.ndarray]) -> Rows:
    x = np.concatenate([records[:, 1:] for records in files]).reshape(-1, *_SHAPE)
    label = np.concatenate([records[:, 0] for records in files])
    return Rows(torch.from_numpy(x), label=torch.from_numpy(label).long(), top=255)
