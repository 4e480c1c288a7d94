"""MNIST and its successors: IDX files that are found, damaged, missing or downloaded."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from vaekit import data
from vaekit.data.readers.downloads import fetch
from vaekit.data.readers.idx import read_idx


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(folder: Path, train: int = 60, zipped: bool = True) -> None:
    """A tiny data set in MNIST's files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part, n in (("train", train), ("t10k", 20)):
        images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for name, array in (
            ("images-idx3", images),
            ("labels-idx1", np.arange(n, dtype=np.uint8)),
        ):
            content = idx(array)
            path = folder / f"{part}-{name}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", ["", "mnist", "MNIST", "MNIST/raw"])
def test_idx_files_are_found(zipped: bool, below: str, tmp_path: Path) -> None:
    write_mnist(tmp_path / below, zipped=zipped)
    module = data.MNIST(tmp_path, val=10)
    assert [sum(len(b) for b in module.rows(s)) for s in ("train", "val", "test")] == [50, 10, 20]
    assert next(module.rows("val")).label.tolist() == list(range(50, 60))
    assert module.info.event_shape == (1, 28, 28)


DAMAGE = {
    "cut": (lambda b: b[:-10], "but .* holds"),
    "long": (lambda b: b + b"x", "but .* holds"),
    "magic": (lambda b: b"\0\0\x0d" + b[3:], "IDX file of unsigned bytes"),
    "empty": (lambda b: b"", "IDX file of unsigned bytes"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_idx_files_are_named(case: str, tmp_path: Path) -> None:
    damage, words = DAMAGE[case]
    path = tmp_path / "images"
    path.write_bytes(damage(idx(np.zeros((3, 2, 2), np.uint8))))
    with pytest.raises(ValueError, match=words):
        read_idx(path)


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((300, 9, 9), np.uint8)))[:-20])
    with pytest.raises(ValueError, match="whole gzip file"):
        read_idx(path)


def test_missing_files_are_downloaded_and_checked(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mirror")
    files = sorted((tmp_path / "mirror").iterdir())
    sums = {f.name[:-3]: hashlib.md5(f.read_bytes()).hexdigest() for f in files}

    class Mirrored(data.MNIST):
        mirrors = ["file:///nowhere/", f"{(tmp_path / 'mirror').as_uri()}/"]  # noqa: RUF012
        md5 = sums

    module = Mirrored(tmp_path / "root", val=10)
    assert module.info.data_size == 50
    assert len(list((tmp_path / "root/Mirrored/raw").iterdir())) == 4
    Mirrored.mirrors = []
    Mirrored(tmp_path / "root", val=10).prepare_data()  # not asked for again


def test_a_download_with_the_wrong_checksum_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(ValueError, match="expected md5 0"):
        fetch((tmp_path / "file").as_uri(), tmp_path / "to" / "file", "0" * 32)
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("cls", [data.MNIST, data.FashionMNIST, data.KMNIST])
def test_offline_the_error_says_where_to_put_which_file(
    cls: type[data.MNIST], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cls, "mirrors", ["file:///nowhere/"])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz") as caught:
        cls(tmp_path).info  # noqa: B018
    assert str(tmp_path / cls.__name__ / "raw") in str(caught.value)
    assert "VAEKIT_DATA" in str(caught.value)


def test_more_held_out_rows_than_there_are_is_an_error(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match="from 0 to 59 but got 60"):
        data.MNIST(tmp_path, val=60).info  # noqa: B018


def test_real_mnist(mnist_root: Path) -> None:
    module = data.MNIST(mnist_root)
    info = module.info
    assert (info.data_size, info.event_shape, info.levels) == (50_000, (1, 28, 28), 256)
    x = torch.cat([b.x for b in module.rows("test")])
    assert x.shape == (10_000, 1, 28, 28)
    assert x.mean().item() == pytest.approx(0.1325, abs=1e-3)
