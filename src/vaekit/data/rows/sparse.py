"""Counts of which most are 0: compressed rows, out of which dense batches are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vaekit.data.rows.batches import Stored, slices

_MOST = 2**32 - 1
_LOGGED = 25  # logarithms of counts are smaller
_TYPES = (np.uint8, np.uint16, np.uint32)


class Sparse(Stored):
    """Rows of counts as compressed sparse rows; what is cut out of them is dense.

    Arguments:
        csr: A matrix (N, genes) of scipy's.

    Example:
        >>> rows = Sparse(sparse.csr_array(np.eye(3, dtype=np.uint8)))
        >>> rows[torch.tensor([2, 0])]
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    def __init__(self, csr: Any) -> None:
        super().__init__(tuple(csr.shape), torch.float32)
        self.csr = csr

    def cut(self, index: Tensor) -> Tensor:
        return torch.from_numpy(self.csr[index.numpy()].astype(np.float32).toarray())

    def totals(self, mask: Any = None) -> np.ndarray:
        """The sum of each row, (N,).

        Arguments:
            mask: Which elements count, (N, genes); None for all.
        """
        parts = []
        for at in slices(len(self), 1000):
            rows = self.csr[at]
            rows = rows if mask is None else rows.multiply(mask[at].numpy()).tocsr()
            parts.append(np.asarray(rows.sum(1, dtype=np.float64)).ravel())
        return np.concatenate(parts)


def compressed(
    kind: str,
    shape: Sequence[int],
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    genes: Sequence[str] | None = None,
) -> Any:
    """The arrays of a compressed sparse matrix as rows of counts in the smallest type.

    They are not trusted: places outside the matrix would be read from memory that is not its own.

    Arguments:
        kind: "csr", or "csc", which is turned into the former.
        genes: Names of the columns, for errors.

    Raises:
        ValueError: If the arrays are none of such a matrix, or a value is no count.
    """
    if kind not in ("csr", "csc"):
        raise ValueError(
            f"Expected a sparse matrix of the form csr or csc but got {kind!r}: matrix.tocsr() "
            "turns it into one."
        )
    rows, columns = _shape(shape)
    if genes is not None and len(genes) != columns:
        raise ValueError(f"Expected counts of {len(genes):,} genes but got {columns:,} columns.")
    major, minor = (rows, columns) if kind == "csr" else (columns, rows)
    _refuse_places(major, minor, indptr, indices, values)

    def column(at: int) -> int:
        return int(indices[at] if kind == "csr" else np.searchsorted(indptr, at, "right") - 1)

    counts = _as_counts(values, column, genes)
    make = sparse.csr_array if kind == "csr" else sparse.csc_array
    # Both of one type, or scipy copies the places into the wider one.
    own = np.int32 if max(len(indices), rows, columns) < 2**31 else np.int64
    indices, indptr = (array.astype(own, copy=False) for array in (indices, indptr))
    return make((counts, indices, indptr), shape=(rows, columns)).tocsr()


def of_matrix(matrix: Any, genes: Sequence[str] | None = None) -> Any:
    """A sparse matrix of scipy's as rows of counts in the smallest type."""
    own = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
    return compressed(own.format, own.shape, own.indptr, own.indices, own.data, genes)


def of_dense(
    read: Callable[[slice], np.ndarray], shape: Sequence[int], genes: Sequence[str] | None = None
) -> Any:
    """Dense rows as sparse ones, some at a time.

    Arguments:
        read: Gives a slice of the rows.
    """
    rows, columns = _shape(shape)
    parts = [of_matrix(sparse.csr_array(read(at)), genes) for at in slices(rows, columns)]
    return sparse.vstack(parts, format="csr")


def _shape(shape: Sequence[int]) -> tuple[int, int]:
    found = [int(size) for size in shape]
    if len(found) != 2 or min(found) < 1:
        raise ValueError(f"Expected counts of shape (cells, genes) but got {tuple(found)}.")
    return found[0], found[1]


def _refuse_places(
    major: int, minor: int, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> None:
    """Refuses arrays that name places outside the matrix, or are of other lengths."""
    for name, array, kinds in (
        ("indptr", indptr, "iu"),
        ("indices", indices, "iu"),
        ("data", values, "biuf"),
    ):
        if array.ndim != 1 or array.dtype.kind not in kinds:
            raise ValueError(
                f"Expected {name} of a sparse matrix as one row of numbers but got "
                f"{array.dtype} of shape {array.shape}."
            )
    if len(indptr) != major + 1:
        raise ValueError(
            f"Expected indptr of {major + 1:,} numbers, as the shape wants, but got "
            f"{len(indptr):,}."
        )
    ends = int(indptr[0]), int(indptr[-1])
    if ends != (0, len(indices)) or len(indices) != len(values):
        raise ValueError(
            f"Expected indptr from 0 to {len(values):,}, the number of values, and as many "
            f"indices but got {ends[0]:,} to {ends[1]:,} and {len(indices):,}."
        )
    if (indptr[1:] < indptr[:-1]).any():
        raise ValueError("Expected indptr that does not fall but it does.")
    for at in _parts(len(indices)):
        part = indices[at]
        if int(part.min()) < 0 or int(part.max()) >= minor:
            raise ValueError(
                f"Expected indices from 0 to {minor - 1:,} but got {int(part.min()):,} to "
                f"{int(part.max()):,}."
            )


def _as_counts(
    values: np.ndarray, column: Callable[[int], int], genes: Sequence[str] | None
) -> np.ndarray:
    """The values in the smallest type that holds them."""
    largest = 0
    for at in _parts(len(values)):
        part = values[at]
        wrong = ~((part >= 0) & (part <= _MOST) & (part == np.floor(part)))
        if wrong.any():
            first = int(wrong.argmax())
            place = column(at.start + first)
            gene = f"column {place}" if genes is None else f"gene {genes[place]}"
            raise ValueError(
                f"Expected counts, whole numbers from 0, but {gene} holds {part[first]:g}. "
                f"{_hint(values, part[first])}"
            )
        largest = max(largest, int(part.max()))
    kind = next(kind for kind in _TYPES if largest <= np.iinfo(kind).max)
    return values.astype(kind, copy=False)


def _hint(values: np.ndarray, wrong: float) -> str:
    """Returns a hint on how to get counts from other values."""
    if np.isnan(wrong):
        return "Fill in the missing counts, or leave out those rows or genes."
    layer = "name the layer with raw counts, as in --data.layer counts"
    if wrong >= 0 and np.isfinite(wrong) and float(np.nanmax(values)) > _LOGGED:
        return (
            "Round estimated counts, as of RSEM and Salmon, with numpy.rint. If these are "
            f"normalised values, {layer}."
        )
    return (
        f"If these are normalised or logged values of an .h5ad file, {layer}. Round other numbers "
        "with numpy.rint."
    )


def _parts(n: int) -> Iterator[slice]:
    return slices(n, 1)
