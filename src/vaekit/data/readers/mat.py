"""Reads MATLAB files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

_NUMBERS = {
    *("double", "single", "logical"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
"""What MATLAB calls arrays of real numbers."""


def read_mat(
    path: Path,
    needed: Mapping[str, Iterable[Shape]],
    optional: Mapping[str, Iterable[Shape]] | None = None,
) -> dict[str, Array]:
    """Arrays of real numbers in a MATLAB file, each of which is looked at before it is read.

    Arguments:
        needed: The shapes that each array may have, by its name.
        optional: The same of arrays that are read where all of them are there.

    Raises:
        ValueError: If an array is not there or is another.
    """
    from scipy.io import loadmat, whosmat  # slow to import, and only needed here

    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(path)}
    except NotImplementedError as error:
        raise ValueError("it is of MATLAB's version 7.3; save it as version 7") from error
    wanted = dict(needed)
    if optional and optional.keys() <= found.keys():
        wanted |= optional
    for name, shapes in wanted.items():
        if name not in found:
            raise ValueError(f"it has no {name} but {', '.join(found) or 'nothing'}")
        shape, kind = found[name]
        if shape not in shapes or kind not in _NUMBERS:
            told = " or ".join(map(str, shapes))
            raise ValueError(f"{name} should be numbers of shape {told} but is {kind} {shape}")
    arrays = loadmat(path, variable_names=list(wanted))
    for name in wanted:
        if arrays[name].dtype.kind not in "biuf" or arrays[name].shape != found[name][0]:
            raise ValueError(f"{name} should be real numbers but is {arrays[name].dtype}")
    return {name: arrays[name] for name in wanted}
