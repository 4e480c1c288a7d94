"""Files of data sets: where they are looked for, how they are downloaded, written and read."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def folder_of(root: str | Path | None) -> Path:
    """The folder of all data: root, or what VAEKIT_DATA names, or `data`."""
    return Path(os.environ.get("VAEKIT_DATA", "data") if root is None else root)


def existing(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """The first file of one of these names in these folders; None if there is none."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def not_found(owner: str, names: Sequence[str], root: Path) -> FileNotFoundError:
    """The error that says which files a data set needs and where to put them."""
    return FileNotFoundError(
        f"{owner} needs {' or '.join(names)}, which is not under {root}. Put it there, or name "
        "the folder that has it with --data.root or VAEKIT_DATA."
    )


def parsed(path: Path, read: Callable[[Path], T], what: str) -> T:
    """What a reader makes of a file.

    Arguments:
        what: What the file is expected to hold, for the error.

    Raises:
        ValueError: If it cannot be read, whatever the reason.
    """
    try:
        return read(path)
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"Expected {path} to hold {what} but it could not be read: {told}"
        ) from error


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when the block has ended without an error."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fetch(url: str, path: Path, md5: str) -> None:
    """Downloads a file with a progress bar; it gets its name when it is whole and checked.

    Raises:
        OSError: If it cannot be reached or written.
        ValueError: If its md5 is not the published one.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=30) as source, written(path) as target:
        size = int(source.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar:
            while chunk := source.read(1 << 16):
                digest.update(chunk)
                target.write(chunk)
                bar.update(len(chunk))
        if digest.hexdigest() != md5:
            raise ValueError(f"expected md5 {md5} but got {digest.hexdigest()}")


def download(owner: str, root: Path, path: Path, mirrors: Sequence[str], md5: str) -> None:
    """Downloads a file of a data set from the first of its mirrors that has it.

    Raises:
        FileNotFoundError: If none has it; the error says where to put the file.
    """
    errors = []
    for mirror in mirrors:
        url = f"{mirror}{path.name}"
        try:
            return fetch(url, path, md5)
        except (OSError, ValueError) as error:
            errors.append(f"{url}: {error}")
    raise FileNotFoundError(
        f"{owner} needs the file {path.name}, which is not under {root} and could not be "
        f"downloaded. Put it into {path.parent}, or name the folder that has it with --data.root "
        f"or VAEKIT_DATA. Tried: {'; '.join(errors)}"
    )
