"""Counts that are refused: what is no count, and hostile files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from test_data_counts import ALL, ROWS, cells, matrix, saved

from vaekit.data.user.counts import Counts


@pytest.mark.parametrize("value", [-1, 0.5, np.inf])
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix, pd.DataFrame])
def test_what_is_no_count_is_told_with_its_gene(value: float, make: Any) -> None:
    x = matrix().astype(float)
    x[17, 3] = value
    source = anndata.AnnData(make(x) if make is not pd.DataFrame else x, var=cells().var)
    with pytest.raises(ValueError, match=rf"gene NKG7 holds {value:g}.*--data.layer counts"):
        Counts(source).info  # noqa: B018


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="layer raw but the AnnData has: counts, wide"):
        Counts(cells(), layer="raw").info  # noqa: B018
    with pytest.raises(ValueError, match=r"gene CD4 holds .*--data.layer counts"):
        Counts(cells()).info  # noqa: B018
    with pytest.raises(ValueError, match="Expected no layer of a sparse matrix but got 'counts'"):
        Counts(sparse.csr_matrix(matrix()), layer="counts").info  # noqa: B018


HOSTILE: dict[str, dict[str, Any]] = {
    "indices from 0 to 4 but got 0 to 7": {"indices": np.asarray([0, 7, 2])},
    "indices from 0 to 4 but got 0 to 5": {"indices": np.asarray([0, 5, 2])},
    "indices from 0 to 4 but got -1 to 2": {"indices": np.asarray([0, -1, 2])},
    "indptr that does not fall": {"indptr": np.asarray([0, 5, 3])},
    "indptr from 0 to 3": {"indptr": np.asarray([0, 1, 9])},
    "Expected indptr of 3 numbers": {"indptr": np.asarray([0, 3])},
    "indices of a sparse matrix as one row of numbers": {"indices": np.asarray([0.0, 1.0, 2.0])},
    "data of a sparse matrix as one row of numbers": {"data": np.asarray([[1, 2, 3]])},
    "form csr or csc but got 'bsr'": {"format": np.asarray(b"bsr")},
    r"shape \(cells, genes\) but got \(0, 5\)": {"shape": np.asarray([0, 5])},
    "shape of a sparse matrix as two numbers": {"shape": np.asarray(["2", "5"])},
    "it holds objects": {"data": np.asarray([1, 2, None], dtype=object)},
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_hostile_npz_is_refused(tmp_path: Path, said: str) -> None:
    arrays = {
        "indices": np.asarray([0, 1, 2]),
        "indptr": np.asarray([0, 1, 3]),
        "data": np.asarray([1, 2, 3]),
        "shape": np.asarray([2, 5]),
        "format": np.asarray(b"csr"),
    }
    np.savez(tmp_path / "x.npz", **{**arrays, **HOSTILE[said]})
    with pytest.raises(ValueError, match=said):
        Counts(tmp_path / "x.npz").info  # noqa: B018


def test_a_hostile_h5ad_is_refused(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "cells.h5ad"
    cells().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["layers/counts/indices"][3] = 99
    with pytest.raises(ValueError, match="indices from 0 to 4 but got 0 to 99"):
        Counts(path, layer="counts").info  # noqa: B018
    path.write_bytes(b"no file")
    with pytest.raises(ValueError, match="hold an AnnData but it could not be read"):
        Counts(path).info  # noqa: B018


def test_other_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is none at"):
        Counts(tmp_path / "cells.h5ad").info  # noqa: B018
    with pytest.raises(ValueError, match=r"file of type \.h5ad, \.npz, \.csv"):
        Counts("cells.loom").info  # noqa: B018
    with pytest.raises(ValueError, match="but got list"):
        Counts([1, 2]).info  # noqa: B018
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="it has no format, shape, indptr, indices, data"):
        Counts(tmp_path / "x.npz").info  # noqa: B018


def test_without_anndata_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, known = saved(tmp_path, ".h5ad")
    monkeypatch.setattr("vaekit.data.readers.cells.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'vaekit\[anndata\]'"):
        Counts(source, **known).info  # noqa: B018


def test_missing_values_of_a_covariate_are_told() -> None:
    other = cells()
    other.obs["score"] = [np.nan, *range(ROWS - 1)]
    with pytest.raises(ValueError, match="value of score for each row but 1 of 60 have none"):
        Counts(other, **ALL).info  # noqa: B018


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, 3.5, 812.25], r"holds 3\.5\. Round estimated counts, as of RSEM and Salmon, with"),
        ([0.0, np.log1p(5.0), np.log1p(900.0)], "normalised or logged .*--data.layer counts"),
        ([-0.3, 40.0, 1.0], "normalised or logged"),
        ([0.0, np.nan, 3.0], "holds nan. Fill in the missing counts, or leave out"),
    ],
)
def test_what_is_no_count_is_told_with_the_likely_reason(values: list[float], words: str) -> None:
    frame = pd.DataFrame({"g0": values * 4, "g1": range(12)})
    with pytest.raises(ValueError, match=words):
        Counts(frame).info  # noqa: B018
