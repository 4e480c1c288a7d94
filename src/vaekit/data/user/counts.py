"""Counts of genes in cells, or of anything of which most rows have none."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.base import DataModule
from vaekit.data.columns.covariates import (
    class_numbers,
    column_of,
    decoded,
    encoded,
    known_of,
    label_classes,
    label_names,
    label_values,
    listed,
    only_held_out,
    width,
)
from vaekit.data.readers.cells import Cells, read_cells
from vaekit.data.readers.frames import write_frame
from vaekit.data.readers.text import TextFormat
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.prepare import other_files
from vaekit.data.rows.sparse import Sparse
from vaekit.data.rows.splits import is_in
from vaekit.numerics.precision import at_least_float32

if TYPE_CHECKING:
    from pandas import DataFrame


class Counts(DataModule):
    """Counts, such as of genes in cells, that stay sparse until a batch is cut out of them.

    They come from `.h5ad` (with anndata installed), from `.npz` as `scipy.sparse.save_npz` writes
    it, or from `.csv`, `.tsv` and `.parquet` with a row for each cell, whose first column names it
    where it is text; in Python, from an AnnData, a sparse matrix of scipy's or a DataFrame. Files
    are read without running code that they may hold.

    The context of a row is the logarithm of its total, its library size, in column 0, which the
    likelihoods of counts take as `library: 0`, and then the covariates. Rows without any count
    have no such logarithm and are left out, with a warning. Genes are known by name: new data may
    have them in another order, and further ones.

    Arguments:
        path: The data.
        layer: Of an AnnData, the layer that holds the counts; None for X.
        covariates: Columns of obs, or of a table, to condition on, in a list or with commas
            between them: each category of the training rows becomes a column, numbers are
            standardised by the training rows. A category that only held-out rows have is 0 in all
            columns.
        label: A column of classes or numbers, for pictures and metrics. Each split has its share
            of each class, unless `split` or `group` is set. Numbers are classes if at most 100 of
            them differ, or if they are 0, 1, 2, ... or 1, 2, 3, ...
        library: Whether the context begins with the logarithm of the row's total: of its observed
            counts, without those that `missing` hides, and 0 if none of these is above 0.
        split: A column that says train, val or test of each row; `val` and `test` say nothing
            then.
        group: A column of what rows that stay in one split have in common, such as a donor.
        val: Share of the rows held out for validation, or a file that holds these rows.
        test: The same for testing.
        na: Words or numbers that mean a missing value in a text file, as in `Table`.
        header: Whether the first line of a text file holds the names of the columns.
        sep: The separator of a text file; None for that of its suffix.

    Raises:
        ValueError: If a value is no count, a file is damaged or of another type, there is no
            column of a name, or new data lack a gene or have a category that the model does not
            know.
        FileNotFoundError: If there is no such file.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), doi
        10.1038/s41592-018-0229-2

    Example:
        >>> import pandas as pd
        >>> cells = pd.DataFrame({"batch": ["a", "b"] * 10, "CD4": range(20), "CD8": [3, 0] * 10})
        >>> data = Counts(cells, covariates=["batch"], val=0, test=0.5)
        >>> data.info.event_shape, data.info.context_features, data.schema["genes"]
        ((2,), 3, ['CD4', 'CD8'])
    """

    kinds: Mapping[str, str] = {"x": "count"}
    draws_rows = True

    def __init__(
        self,
        path: str | Path | Any,
        layer: str | None = None,
        covariates: list[str] | str = [],  # noqa: B006 - read only
        label: str | None = None,
        library: bool = True,
        split: str | None = None,
        group: str | None = None,
        val: float | str = 0.1,
        test: float | str = 0.1,
        batch_size: int = 128,
        seed: int = 0,
        missing: float = 0.0,
        na: list[str] | str | None = None,
        header: bool = True,
        sep: str | None = None,
    ) -> None:
        super().__init__(batch_size, seed=seed, missing=missing)
        self.text = TextFormat(sep, header, na)
        self.source, self.layer, self.library = path, layer, library
        self.covariates, self.label = listed(covariates), label
        self.split, self.group, self.shares = split, group, (val, test)

    def natural_range(self) -> tuple[float, float]:
        return (0.0, inf)

    def _refuse_rows(self, rows: Rows, split: str) -> None:
        """Nothing: all values have been looked at where they lie."""

    def batch_effects(self, context: Tensor) -> tuple[int, ...]:
        """Returns all columns: library size and covariates, as in scVI."""
        return tuple(range(context.shape[1]))

    def load(self) -> dict[str, Rows]:
        model = self._of_model()
        named = [*(model["covariates"] if model else self.covariates)]
        named += [name for name in (self.label, self.split, self.group) if name is not None]
        named += [name for name in model.get("aside", []) if name not in named]
        cells = read_cells(
            self.source, self.layer, named, model.get("layer"), self.text.following(model)
        )
        if model:
            cells = _as_known(cells, model["genes"], model["size"])
        x = Sparse(cells.counts)
        totals = x.totals()
        library = model["library"] if model else self.library
        splits = self._splits_of(Rows(x), cells, totals if library else np.ones(len(x)))
        train = is_in([splits["train"]], len(x))
        self.schema = model or self._noting_split(self._schema_of(cells, np.flatnonzero(train)))
        self.names = cells.names
        strict = train & (not self.is_held_out)
        mask = self.observed(x, None) if library else None
        library_sizes = totals if mask is None else x.totals(mask)
        context, label = self._context(cells, library_sizes, strict), self._labels(cells)
        self.only_held_out = self._only_held_out(cells, splits)
        found = {n: replace(rows, context=context, label=label) for n, rows in splits.items()}
        other_files(self, found, self.shares)
        return found

    def _of_model(self) -> dict[str, Any]:
        """The schema of a model of counts; empty where there is no model."""
        if self.schema and "genes" not in self.schema:
            raise ValueError(
                "Expected a model of Counts but its data were of another kind: name data of that "
                "kind, with --data."
            )
        return self.schema or {}

    def _splits_of(self, rows: Rows, cells: Cells, totals: np.ndarray) -> dict[str, Rows]:
        """The rows of each split, those whose total is 0 left out."""
        kept = np.flatnonzero(totals > 0)
        if not len(kept):
            raise ValueError(f"Expected counts but all {len(totals):,} rows have none.")
        if len(kept) < len(totals):
            warnings.warn(
                f"{len(totals) - len(kept):,} of {len(totals):,} rows have no counts, and so no "
                "library size: they are left out.",
                stacklevel=2,
            )
            rows = rows.subset(torch.from_numpy(kept))
        names, groups = (
            None if name is None else column_of(cells.about, name, what).iloc[kept].tolist()
            for name, what in ((self.split, "split"), (self.group, "group"))
        )
        classes = None
        label = self.label or self._of_model().get("label")
        if cells.about is not None and label in cells.about:
            column = column_of(cells.about, str(label), "label")
            model = self._of_model()
            has_classes = (model["classes"] if model else label_classes(column)) is not None
            classes = class_numbers(column.iloc[kept], has_classes)
        return self._divided(rows, (names, groups), self.shares, classes)

    def _only_held_out(self, cells: Cells, splits: dict[str, Rows]) -> dict[str, str]:
        """Describes the covariates of which only held-out rows have some categories."""
        assert self.schema is not None
        train = is_in([splits["train"]], cells.counts.shape[0])
        kept = is_in(splits.values(), len(train))
        found = {}
        for name, known in self.schema["covariates"].items():
            column = column_of(cells.about, name, "covariate")[kept]
            rows = None if self.is_held_out else train[kept]
            found[name] = only_held_out(column, known, rows)
        return {name: values for name, values in found.items() if values}

    def _schema_of(self, cells: Cells, train: np.ndarray) -> dict[str, Any]:
        columns = {name: column_of(cells.about, name, "covariate") for name in self.covariates}
        label = None
        if self.label is not None:
            label = label_classes(column_of(cells.about, self.label, "label"))
        return {
            "genes": cells.genes,
            "size": cells.counts.shape[1],
            "library": self.library,
            "covariates": {n: known_of(column, n, train) for n, column in columns.items()},
            "label": self.label,
            "classes": label,
            "form": cells.form,
            "layer": self.layer,
            **({"text": self.text.plain} if self.text.plain else {}),
            "aside": [n for n in (self.label, self.split, self.group) if n is not None],
        }

    def _context(self, cells: Cells, totals: np.ndarray, strict: np.ndarray) -> Tensor | None:
        """The library size and the covariates of each row.

        Arguments:
            strict: Whether a row must have known categories, (N,).
        """
        assert self.schema is not None
        columns = []
        if self.schema["library"]:
            size = torch.from_numpy(np.maximum(totals, 1))  # those that are left out have none
            columns.append(size.log().float().unsqueeze(1))
        for name, known in self.schema["covariates"].items():
            column = column_of(cells.about, name, "covariate")
            columns.append(encoded(column, name, known, strict))
        return torch.cat(columns, 1).float() if columns else None

    def _labels(self, cells: Cells) -> Tensor | None:
        if self.label is None:
            return None
        assert self.schema is not None
        column = column_of(cells.about, self.label, "label")
        if self.schema["label"] is None:
            return None  # of a model without labels
        return label_values(column, self.label, self.schema["classes"])

    # The way back

    def write(
        self,
        folder: Path,
        name: str,
        x: Any,
        columns: Mapping[str, Any],
        rows: Tensor | None = None,
    ) -> list[Path]:
        """Writes rows as an AnnData where the data were one, else as a table.

        Covariates, classes and numbers of each row are columns of obs, latents `X_vae` of obsm.
        """
        if self.schema is None:
            return []
        x = None if x is None else at_least_float32(x).cpu()
        arrays = {k: at_least_float32(column).cpu() for k, column in columns.items()}
        about = self._about(arrays, self._called(arrays, x, rows))
        wide = {k: v.flatten(1).numpy() for k, v in arrays.items() if v.dim() > 1}
        wide.pop("context", None)
        wide = {"X_vae" if k == "z" else k: v for k, v in wide.items()}
        if self.schema["form"] == ".h5ad" and find_spec("anndata") is not None:
            return [_write_anndata(folder / f"{name}.h5ad", x, about, self._genes(), wide)]
        suffix = ".csv" if self.schema["form"] in (".csv", ".tsv") else ".parquet"
        frame = _as_frame(x, about, self._genes(), wide)
        return [write_frame(frame, folder / f"{name}{suffix}", index=True)]

    def _genes(self) -> list[str]:
        assert self.schema is not None
        return list(self.schema["genes"] or map(str, range(self.schema["size"])))

    def _called(self, arrays: Mapping[str, Tensor], x: Any, rows: Tensor | None) -> list[str]:
        """Names of rows that are written: those of the data, or their numbers."""
        if rows is None:
            n = len(x) if x is not None else len(next(iter(arrays.values())))
            return [f"sample{row}" for row in range(n)]
        if self.names is not None:
            return [str(name) for name in self.names[rows.numpy()]]
        return [str(row) for row in rows.tolist()]

    def _about(self, arrays: Mapping[str, Tensor], names: Sequence[str]) -> DataFrame:
        """What is said of each row: covariates, the label's class, and further numbers."""
        import pandas as pd

        assert self.schema is not None
        frame = pd.DataFrame(index=pd.Index(names, dtype=object))
        if "context" in arrays:
            at = int(self.schema["library"])
            for name, known in self.schema["covariates"].items():
                frame[name] = decoded(arrays["context"][:, at : at + width(known)], known)
                at += width(known)
        for name, values in arrays.items():
            if name == "label" and self.schema["label"] is not None:
                known, own = self.schema["classes"], self.schema["label"]
                found = label_names(values, known)
                frame[own] = found if known is None else pd.Categorical(found, categories=known)
            elif values.dim() == 1:
                frame[name] = values.numpy()
        return frame


def _as_known(cells: Cells, genes: list[str] | None, size: int) -> Cells:
    """The cells with the genes of a model, in its order."""
    if genes is None or cells.genes is None:
        if genes is not None:
            raise ValueError(
                "Expected genes by name, as the model knows them, but the data name none: give "
                "an AnnData, a table or a DataFrame."
            )
        if cells.counts.shape[1] != size:
            raise ValueError(
                f"Expected {size:,} columns, as the model has, but got {cells.counts.shape[1]:,}."
            )
        return cells
    place = {gene: at for at, gene in enumerate(cells.genes)}
    if missing := [gene for gene in genes if gene not in place]:
        raise ValueError(
            f"Expected the {len(genes):,} genes that the model knows but the data lack "
            f"{len(missing):,} of them, such as {', '.join(missing[:5])}."
        )
    if cells.genes != genes:
        cells.counts = cells.counts[:, [place[gene] for gene in genes]]
    return replace(cells, genes=genes)


def _matrix(x: Tensor) -> Any:
    """Counts as a sparse matrix of whole numbers; means of counts as they are."""
    from scipy import sparse

    values = x.numpy()
    if not bool((x == x.round()).all()):
        return values.astype(np.float32)
    return sparse.csr_matrix(
        values.astype(np.int32 if values.max(initial=0) < 2**31 else np.int64)
    )


def _write_anndata(
    path: Path, x: Any, about: DataFrame, genes: list[str], wide: Mapping[str, np.ndarray]
) -> Path:
    import pandas as pd
    from anndata import AnnData

    var = None if x is None else pd.DataFrame(index=pd.Index(genes, dtype=object))
    AnnData(None if x is None else _matrix(x), obs=about, var=var, obsm=dict(wide)).write_h5ad(
        path
    )
    return path


def _as_frame(
    x: Any, about: DataFrame, genes: list[str], wide: Mapping[str, np.ndarray]
) -> DataFrame:
    """What is said of each row, then wide columns, then the genes."""
    import pandas as pd

    parts = [about]
    for name, values in wide.items():
        names = [f"{name}_{at}" for at in range(values.shape[1])]
        parts.append(pd.DataFrame(values, index=about.index, columns=names))
    if x is not None:
        values = _matrix(x)
        dense = values if isinstance(values, np.ndarray) else values.toarray()
        parts.append(pd.DataFrame(dense, index=about.index, columns=genes))
    frame = pd.concat(parts, axis=1)
    taken: set[str] = set()
    names = []
    for name in reversed(frame.columns):  # genes keep their names
        names.append(f"{name}_" if name in taken else name)
        taken.add(name)
    return frame.set_axis(names[::-1], axis=1)
