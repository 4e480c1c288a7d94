"""Writes rows to arrays and to files in the user's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vaekit.contracts.trees import Tree, each, flat
from vaekit.data.base import DataModule
from vaekit.numerics.precision import at_least_float32


def write_rows(
    data: DataModule | None,
    folder: Path,
    name: str,
    x: Tree | None,
    columns: Mapping[str, Tensor],
    rows: Tensor | None = None,
    called: str = "x",
) -> None:
    """Writes rows to an `.npz` file, in the user's units and form, and says so.

    Half types are written as float32.

    Arguments:
        data: The data module, which knows that form; None where it is not known.
        name: Of the file, without its suffix.
        x: Rows of the model, (n, *event); None where there are codes alone.
        columns: What else there is of each row, by name.
        rows: The numbers of the rows in the data, (n,); None for samples.
        called: The name of x in the file.
    """
    x = None if x is None else each(lambda leaf: at_least_float32(leaf).cpu(), x)
    columns = {k: at_least_float32(column).cpu() for k, column in columns.items()}
    arrays: dict[str, Any] = dict(columns)
    if x is not None:
        arrays |= flat(called, x if data is None else data.restored(x))
    if rows is not None:
        arrays["row"] = rows
        if data is not None and data.names is not None:
            arrays["name"] = data.names[rows.numpy()]
    path = folder / f"{name}.npz"
    arrays = {k: np.asarray(column) for k, column in arrays.items()}
    np.savez(path, **arrays)
    print(f"  {path}")
    if data is not None:
        for file in data.write(folder, name, x, columns, rows):
            print(f"  {file}")
