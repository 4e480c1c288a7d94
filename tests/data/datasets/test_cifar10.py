"""CIFAR-10: files and archives that are found, damaged, hostile, missing or downloaded."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import Model, data, testing

TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]
FILES = [*TRAIN, "test_batch.bin"]
ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.CIFAR10, "images", 12)
    monkeypatch.setattr(data.CIFAR10, "mirrors", ["file:///nowhere/"])


def contents() -> dict[str, bytes]:
    """Files of noise, whose labels count on."""
    noise = np.random.default_rng(0)
    found = {}
    for number, name in enumerate(FILES):
        records = noise.integers(0, 256, (12, 3073), dtype=np.uint8)
        records[:, 0] = (np.arange(12) + number) % 10
        found[name] = records.tobytes()
    return found


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents().items():
        (folder / name).write_bytes(content)


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def members() -> list[tuple[tarfile.TarInfo, bytes]]:
    folder = "cifar-10-batches-bin"
    files = [member(f"{folder}/{name}", content) for name, content in contents().items()]
    start = [member(folder, type=tarfile.DIRTYPE), member(f"{folder}/readme.html", b"<html>")]
    return start + files


def write_archive(path: Path, inside: list[tuple[tarfile.TarInfo, bytes]] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members() if inside is None else inside:
            tar.addfile(info, io.BytesIO(content))
    return path


def refused(root: Path, words: str) -> str:
    """What is said of what cannot be read; nothing is written."""
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match=words) as caught:
        data.CIFAR10(root, val=5).info  # noqa: B018
    assert sorted(root.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


FOLDERS = ["", "cifar10", "CIFAR10", "CIFAR10/raw"]


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin", None])
@pytest.mark.parametrize("below", FOLDERS)
def test_files_and_archives_are_found(below: str, inner: str | None, tmp_path: Path) -> None:
    if inner is None:
        write_archive(tmp_path / below / ARCHIVE)
    else:
        write_files(tmp_path / below / inner)
    before = sorted(tmp_path.rglob("*"))
    module = data.CIFAR10(tmp_path, val=5)
    info = module.info
    assert (info.event_shape, info.levels, info.classes) == ((3, 32, 32), 256, 10)
    assert [len(module.numbers(split)) for split in ("train", "val", "test")] == [55, 5, 12]
    batch = next(module.rows("val"))
    assert batch.label.tolist() == [(place + 4) % 10 for place in range(7, 12)]
    record = np.frombuffer(contents()["data_batch_5.bin"], np.uint8).reshape(12, 3073)[-1]
    red, green = record[1:1025].reshape(32, 32), record[1025:2049].reshape(32, 32)
    for channel, plane in ((0, red), (1, green)):
        assert torch.equal(batch.x[-1, channel], torch.from_numpy(plane.copy()) / 255)
    test = next(module.rows("test"))
    assert test.label.tolist() == [(place + 5) % 10 for place in range(12)]
    assert sorted(tmp_path.rglob("*")) == before


def test_all_rows_train_where_none_are_held_out(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert data.CIFAR10(tmp_path, val=0).splits == ("train", "test")
    with pytest.raises(ValueError, match="from 0 to 59 but got 60"):
        data.CIFAR10(tmp_path, val=60).info  # noqa: B018


@pytest.mark.parametrize("dequantize", [False, True])
def test_it_obeys_the_laws(dequantize: bool, tmp_path: Path) -> None:
    write_archive(tmp_path / ARCHIVE)
    arguments = {"root": str(tmp_path), "val": 10, "batch_size": 16, "dequantize": dequantize}
    testing.check_data(data.CIFAR10, arguments)


def test_a_model_trains_on_it(tmp_path: Path) -> None:
    write_files(tmp_path)
    module = data.CIFAR10(tmp_path, val=10, batch_size=25)
    model = Model(module, latent_shape=2, likelihood="DiscretizedLogistic")
    trainer = fit(model, module, max_epochs=2)
    assert trainer.global_step == 4
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])


# Damaged and hostile files

OUTSIDE = {
    "upwards": member("../outside.bin", b"x"),
    "inside, and upwards": member("cifar-10-batches-bin/../../outside.bin", b"x"),
    "absolute": member("/tmp/outside.bin", b"x"),
    "upwards, a folder": member("../folder", type=tarfile.DIRTYPE),
}
LINKS = {
    "link": member("data_batch_1.bin", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member("data_batch_1.bin", type=tarfile.LNKTYPE, linkname="../x"),
    "device": member("data_batch_1.bin", type=tarfile.CHRTYPE),
    "pipe": member("data_batch_1.bin", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("case", [*OUTSIDE, *LINKS])
def test_a_hostile_member_is_refused(case: str, last: bool, tmp_path: Path) -> None:
    bad = {**OUTSIDE, **LINKS}[case]
    write_archive(tmp_path / ARCHIVE, [*members(), bad] if last else [bad, *members()])
    words = "lies outside it" if case in OUTSIDE else "neither a file nor a folder"
    assert bad[0].name in refused(tmp_path, words)


@pytest.mark.parametrize("size", [0, 3073 * 11, 3073 * 12 + 1, 3073 * 13])
def test_a_member_of_another_length_is_refused(size: int, tmp_path: Path) -> None:
    inside = members()
    inside[4] = member("cifar-10-batches-bin/data_batch_3.bin", bytes(size))
    write_archive(tmp_path / ARCHIVE, inside)
    refused(tmp_path, f"data_batch_3.bin should have 36,876 bytes but has {size:,}$")


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
    refused(tmp_path, r"test_batch.bin should have 36,876 bytes but has 3,073$")


def test_a_label_that_names_no_class_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(bytes([10] * 3073 * 12))
    refused(tmp_path, "data_batch_2.bin should have labels from 0 to 9 but has 10")


def test_a_file_that_is_lacking_is_named(tmp_path: Path) -> None:
    write_archive(tmp_path / ARCHIVE, members()[:-2])
    refused(tmp_path, r"it lacks data_batch_5.bin, test_batch.bin$")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "end": lambda content: content[:-6],
    "flipped": lambda content: content[:5000] + bytes(99) + content[5099:],
    "empty": lambda content: b"",
    "no gzip": lambda content: b"no file" * 99,
    "no tar": lambda content: gzip.compress(b"no tar" * 999),
    "empty tar": lambda content: gzip.compress(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_is_refused(damage: str, tmp_path: Path) -> None:
    path = write_archive(tmp_path / ARCHIVE)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    refused(tmp_path, r"binary files of CIFAR-10 but it could not be read: \w")


BOMBS = {
    "another name": lambda: [member("zeros", bytes(30_000_000))],
    "a name of ours": lambda: [member("data_batch_1.bin", bytes(30_000_000))],
    "a header": lambda: [member("x", b"", pax_headers={"comment": "0" * 30_000_000})],
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_archive_that_unpacks_to_very_much_is_not_unpacked(
    bomb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / ARCHIVE, BOMBS[bomb]() + members())
    read, unpacked = gzip.GzipFile.read, []

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        content = read(file, size)
        unpacked.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    refused(tmp_path, "unpacks to more|but has 30,000,000")
    assert 0 < sum(unpacked) < 2_000_000


# Downloads


def test_a_missing_archive_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "mirror" / ARCHIVE)
    monkeypatch.setattr(data.CIFAR10, "mirrors", [f"{archive.parent.as_uri()}/"])
    with pytest.raises(FileNotFoundError, match="expected md5 c32a1d4ab5d03f1284b67883e8d87530"):
        data.CIFAR10(tmp_path / "root").prepare_data()
    assert not list((tmp_path / "root").rglob("*.*"))
    monkeypatch.setattr(data.CIFAR10, "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    module = data.CIFAR10(tmp_path / "root", val=5)
    assert module.info.data_size == 55
    files = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert files == [tmp_path / "root/CIFAR10/raw" / ARCHIVE]
    monkeypatch.setattr(data.CIFAR10, "mirrors", [])
    data.CIFAR10(tmp_path / "root").prepare_data()


def test_offline_the_error_says_where_to_put_which_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary\.tar\.gz") as caught:
        data.CIFAR10(tmp_path).info  # noqa: B018
    assert str(tmp_path / "CIFAR10" / "raw") in str(caught.value)
    assert "VAEKIT_DATA" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"or its six \.bin files, which is not under"):
        data.CIFAR10(tmp_path).load()
