"""Writes files completely or not at all, with a checksum that reading verifies."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning.pytorch.plugins.io import TorchCheckpointIO

_PART = ".part"  # of a file that is not whole yet
_END = b"PK\x05\x06"  # where the last 22 bytes of a zip file begin, if it has no comment
_TAG = b"sha256:"
_SEAL = len(_TAG) + 64


class CheckpointError(ValueError):
    """A checkpoint could not be read, or not be written; the message names the file."""


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to files, by `write` and `read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read(path)


def local(path: str | Path) -> Path | None:
    """The path on this machine's disks of a path or an address; None if it lies elsewhere."""
    try:
        files, name = url_to_fs(str(path))
    except (ImportError, ValueError):  # of a protocol that is not known here
        return None
    if not isinstance(files, LocalFileSystem):
        return None
    return Path(name) if "://" in str(path) else Path(path)


def beside(path: str | Path) -> Path:
    """The folder of a file; where it lies elsewhere, this one."""
    own = local(path)
    return Path() if own is None else own.parent


# Writing


def write(what: dict[str, Any] | str, path: str | Path) -> None:
    """Writes a checkpoint, with a checksum, or a text; the file is the old or the new one, whole.

    On a local disk it is written beside its target and flushed, and takes its place then.

    Raises:
        CheckpointError: If it cannot be written, as where a disk is full; an old file stays.
    """
    content = what.encode() if isinstance(what, str) else _sealed(what)
    target = local(path)
    try:
        if target is None:
            with fsspec.open(str(path), "wb") as file:
                file.write(content)
        else:
            _replace(target, content)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror or error}. What was there before is "
            "whole."
        ) from error


def _replace(target: Path, content: bytes | memoryview) -> None:
    part = target.with_name(target.name + _PART)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    with suppress(OSError):  # not every system opens folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too
        finally:
            os.close(folder)


def _sealed(checkpoint: dict[str, Any]) -> memoryview:
    """The bytes of a checkpoint, as torch writes it, with their sha256 as the zip's comment."""
    buffer = io.BytesIO()
    torch.save(_without_numpy(checkpoint), buffer)
    buffer.seek(0)
    if strange := torch.serialization.get_unsafe_globals_in_checkpoint(buffer):
        raise CheckpointError(
            f"Expected tensors and plain data in a checkpoint but got {', '.join(strange)}: give "
            "parts inside a part as class_path and init_args, not as objects."
        )
    # In the place of the length of the comment, which is 0.
    digest = hashlib.sha256(buffer.getbuffer()[:-2]).hexdigest().encode()
    buffer.seek(-2, os.SEEK_END)
    buffer.write(_SEAL.to_bytes(2, "little") + _TAG + digest)
    return buffer.getbuffer()


def _without_numpy(value: Any) -> Any:
    """The value with NumPy's numbers in it as Python's, which alone are read again."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {_without_numpy(k): _without_numpy(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_numpy(v) for v in value)
    return value


# Reading


def read(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """A checkpoint: tensors and plain data, read with `weights_only`, on the CPU.

    Raises:
        CheckpointError: If it is none, or damaged; the newest good one beside it is named.
        FileNotFoundError: If there is no such file.
    """
    if not isinstance(path, str | Path):
        return _load(path)
    if "::" in str(path):
        raise CheckpointError(f"Expected a path or one address but {path} is chained.")
    try:
        with fsspec.open(str(path), "rb") as file:
            return _load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no checkpoint {path}.{_beside(path)}") from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f"Expected a checkpoint but {path} is a folder: name a file in it, such as best.ckpt."
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}{_beside(path)}") from error
    except (OSError, ImportError, ValueError) as error:  # no permission, no such protocol
        raise CheckpointError(f"{path} could not be opened: {error}") from error


def _load(file: IO[bytes]) -> dict[str, Any]:
    _verify(file)
    file.seek(0)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, IndexError, KeyError) as error:
        raise CheckpointError(
            "Expected a checkpoint of tensors and plain data alone, but this holds something else."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError("Expected a checkpoint but this holds something else.")
    return checkpoint


def _verify(file: IO[bytes]) -> None:
    """Refuses a file that is not what was written; one that others wrote has no checksum."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise CheckpointError("Expected a checkpoint but the file is empty.")
    file.seek(0)
    if file.read(2) != b"PK":
        raise CheckpointError("Expected a checkpoint but the file is of another kind.")
    end = max(0, size - 22 - _SEAL)
    file.seek(end)
    tail = file.read()
    if tail[-22:-18] == _END and tail[-2:] == b"\0\0":
        return
    whole = tail[:4] == _END and tail[20:22] == _SEAL.to_bytes(2, "little")
    if not whole or tail[22:] != _TAG + _digest(file, end + 20):
        raise CheckpointError("Expected a checkpoint but the file is damaged, or cut short.")


def _digest(file: IO[bytes], size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size and (chunk := file.read(min(size, 2**20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()


def _beside(path: str | Path) -> str:
    """Names the newest good checkpoint in a file's folder, if there is one."""
    own = local(path)
    if own is None:
        return ""
    others = [other for other in own.parent.glob("*.ckpt") if other.name != own.name]
    for other in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True):
        with suppress(CheckpointError, OSError), other.open("rb") as file:
            _load(file)
            return f" The newest good one beside it is {other}."
    return ""
