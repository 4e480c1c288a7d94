"""Cells by genes, from files and from Python, with what is said of each cell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from vaekit.data.readers.frames import FRAMES, frame_of, read_frame
from vaekit.data.readers.text import TextFormat
from vaekit.data.rows.sparse import compressed, of_dense, of_matrix

if TYPE_CHECKING:
    from pandas import DataFrame


_ARRAYS = ("format", "shape", "indptr", "indices", "data")


@dataclass
class Cells:
    """Counts of genes in cells.

    Arguments:
        counts: Compressed sparse rows (N, genes) of scipy's, in the smallest type that holds them.
        form: The suffix of the files in which such data come.
        genes: Names of the columns; None where they have none.
        names: Names of the rows; None where they have none.
        about: What else is known of the rows, a frame of N rows; None for nothing.
    """

    counts: Any
    form: str
    genes: list[str] | None = None
    names: np.ndarray | None = None
    about: DataFrame | None = None


def read_cells(
    source: Any,
    layer: str | None,
    columns: Collection[str],
    usual: str | None = None,
    text: TextFormat = TextFormat(),  # noqa: B008 - frozen
) -> Cells:
    """Reads cells from a file, an AnnData, a sparse matrix or a frame.

    Arguments:
        layer: Of an AnnData or its file, where the counts are; None for X.
        columns: Of a frame, those that are no genes.
        usual: The layer that is taken where there is one of that name and none is named.
        text: The format of a text file.

    Raises:
        ValueError: If it is of another kind or damaged, or a value is no count.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(source, str | Path):
        return _of_file(Path(source), layer, columns, usual, text)
    if sparse.issparse(source):
        _refuse_layer(layer, "a sparse matrix")
        return Cells(of_matrix(source), ".npz")
    kind = type(source).__name__
    if kind == "DataFrame":
        _refuse_layer(layer, "a frame")
        return _of_frame(frame_of(source, text), columns, ".parquet")
    if all(hasattr(source, name) for name in ("X", "layers", "obs", "var_names")):
        return _of_anndata(source, layer or (usual if usual and usual in source.layers else None))
    raise ValueError(
        "Expected a file, an AnnData, a sparse matrix of scipy's or a pandas DataFrame but got "
        f"{kind}."
    )


def _of_file(
    path: Path, layer: str | None, columns: Collection[str], usual: str | None, text: TextFormat
) -> Cells:
    suffix = path.suffix.lower()
    if suffix not in (".h5ad", ".npz", *FRAMES):
        raise ValueError(
            f"Expected a file of type .h5ad, .npz, {', '.join(FRAMES)} but got {path}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of counts but there is none at {path}.")
    if suffix == ".h5ad":
        return _read_h5ad(path, layer, usual)
    _refuse_layer(layer, f"{path}, which is no .h5ad file")
    if suffix == ".npz":
        return Cells(_read_npz(path), ".npz")
    return _of_frame(_named_rows(read_frame(path, text), columns), columns, suffix)


def _refuse_layer(layer: str | None, what: str) -> None:
    if layer is not None:
        raise ValueError(f"Expected no layer of {what} but got {layer!r}.")


def _read_npz(path: Path) -> Any:
    """A matrix as `scipy.sparse.save_npz` writes it; scipy itself would trust its places."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if missing := [name for name in _ARRAYS if name not in arrays.files]:
                raise ValueError(
                    f"it has no {', '.join(missing)}, as scipy.sparse.save_npz of a csr or csc "
                    "matrix writes them"
                )
            found = {name: arrays[name] for name in _ARRAYS}
    except Exception as error:
        said = " ".join(str(error).split())
        if "pickle" in said or "allow_pickle" in said:  # NumPy goes on to say how to load it
            said = "it holds objects, or is of another kind"
        raise ValueError(
            f"Expected {path} to hold a sparse matrix but it could not be read: {said}."
        ) from error
    kind = found["format"].item() if found["format"].ndim == 0 else None
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    return compressed(kind, _sizes(found["shape"]), *(found[name] for name in _ARRAYS[2:]))


def _sizes(shape: Any) -> list[int]:
    shape = np.asarray(shape)
    if shape.ndim != 1 or shape.dtype.kind not in "iu":
        raise ValueError("Expected the shape of a sparse matrix as two numbers but got others.")
    return [int(size) for size in shape]


# Frames


def _named_rows(frame: DataFrame, columns: Collection[str]) -> DataFrame:
    """A frame with its first column as names of the rows, where that is text or has no name."""
    from pandas.api.types import is_numeric_dtype

    first = frame.columns[0]
    named = not is_numeric_dtype(frame[first].dtype) or str(first).startswith("Unnamed:")
    named = named and len(frame.columns) > 1 and first not in columns
    return frame.set_index(first) if named else frame


def _of_frame(frame: DataFrame, columns: Collection[str], form: str) -> Cells:
    from pandas import RangeIndex
    from pandas.api.types import is_numeric_dtype

    own = [str(name) in columns for name in frame.columns]
    about = frame.loc[:, own]
    values = frame.loc[:, [not other for other in own]]
    for name, kind in values.dtypes.items():
        if not is_numeric_dtype(kind):
            raise ValueError(
                f"Expected counts in each column but {name} holds {kind}: name it as covariate, "
                "label, split or group, or leave it out."
            )
    genes = _unique([str(name) for name in values.columns])

    def read(at: slice) -> np.ndarray:
        return values.iloc[at].to_numpy(np.float64, na_value=np.nan)

    names = None if isinstance(frame.index, RangeIndex) else _texts(frame.index)
    return Cells(of_dense(read, values.shape, genes), form, genes, names, about)


def _texts(index: Any) -> np.ndarray:
    return np.asarray([str(name) for name in index])


def _unique(genes: list[str]) -> list[str]:
    """Names that are not unique, with -1, -2, ... behind the second, the third, ..."""
    taken, times = set(genes), dict.fromkeys(genes, 0)
    if len(taken) == len(genes):
        return genes
    found, seen = [], set()
    for gene in genes:
        name = gene
        while name in seen or (name != gene and name in taken):
            times[gene] += 1
            name = f"{gene}-{times[gene]}"
        seen.add(name)
        found.append(name)
    warnings.warn(
        f"{len(genes) - len(taken):,} genes have the name of another: they are called by it with "
        "a number behind it.",
        stacklevel=2,
    )
    return found


# AnnData


def _of_anndata(source: Any, layer: str | None) -> Cells:
    genes = _unique([str(name) for name in source.var_names])
    matrix = source.X if layer is None else _layer(source.layers, layer)
    if hasattr(matrix, "to_memory"):  # it lies in a file
        matrix = matrix.to_memory()
    if matrix is None:
        raise ValueError("Expected counts in X of the AnnData but it has none: name a layer.")
    if sparse.issparse(matrix):
        counts = of_matrix(matrix, genes)
    else:
        counts = of_dense(lambda at: np.asarray(matrix[at]), matrix.shape, genes)
    return Cells(counts, ".h5ad", genes, _texts(source.obs_names), source.obs)


def _layer(layers: Any, name: str) -> Any:
    if name not in layers:
        found = ", ".join(layers) if len(layers) else "none"
        raise ValueError(f"Expected a layer {name} but the AnnData has: {found}.")
    return layers[name]


def _read_h5ad(path: Path, layer: str | None, usual: str | None) -> Cells:
    """The counts and what is said of the cells: nothing else of the file is read."""
    if find_spec("anndata") is None:
        raise ValueError(
            f"Expected anndata, to read {path}, but it is not installed: "
            "pip install 'vaekit[anndata]'."
        )
    import h5py  # comes with anndata

    try:
        with h5py.File(path, "r") as file:
            about, var = (_reader()(file[name]) for name in ("obs", "var"))
            genes = _unique([str(name) for name in var.index])
            layers = file.get("layers", {})
            layer = layer or (usual if usual and usual in layers else None)
            place = file["X"] if layer is None else _layer(layers, layer)
            counts = _of_h5(place, genes)
    except ValueError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"Expected {path} to hold an AnnData but it could not be read: {said}"
        ) from error
    if counts.shape != (len(about), len(genes)):
        raise ValueError(
            f"Expected counts of {len(about):,} cells and {len(genes):,} genes in {path} but got "
            f"{counts.shape}."
        )
    return Cells(counts, ".h5ad", genes, _texts(about.index), about)


def _reader() -> Callable[[Any], Any]:
    try:
        from anndata.io import read_elem
    except ImportError:  # before anndata 0.11
        from anndata.experimental import read_elem
    found: Callable[[Any], Any] = read_elem
    return found


def _of_h5(place: Any, genes: list[str]) -> Any:
    """Counts of a dense array of the file, or of a sparse matrix."""
    if not hasattr(place, "keys"):
        return of_dense(lambda at: place[at], place.shape, genes)
    kind = place.attrs.get("encoding-type", place.attrs.get("h5sparse_format", b""))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    shape = _sizes(place.attrs.get("shape", place.attrs.get("h5sparse_shape")))
    indptr, indices, values = (place[name][:] for name in _ARRAYS[2:])
    return compressed(kind.removesuffix("_matrix"), shape, indptr, indices, values, genes)
