"""Reads IDX files."""

from __future__ import annotations

import gzip
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_idx(path: Path) -> Tensor:
    """The unsigned bytes of an IDX file, gzipped or not.

    Raises:
        ValueError: If it is no IDX file of unsigned bytes, or its length is not what its header
            says.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(
            f"Expected a whole gzip file but {path} could not be read: {error}"
        ) from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"Expected an IDX file of unsigned bytes but {path} begins {data[:4]!r}.")
    dims = data[3]
    start = 4 + 4 * dims
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    if len(data) != start + prod(shape):
        raise ValueError(
            f"Expected {start + prod(shape):,} bytes for shape {shape} but {path} holds "
            f"{len(data):,}."
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())
