"""Tables: columns of numbers, categories, counts and times, some values of which are missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.trees import Ranges, Tree, entries_of, first
from vaekit.data.base import DataModule
from vaekit.data.columns import table as of
from vaekit.data.columns.covariates import (
    classes,
    column_of,
    decoded,
    encoded,
    known_of,
    labels,
    listed,
    only_held_out,
    width,
)
from vaekit.data.readers.frames import frame_of, write_frame
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.prepare import other_files
from vaekit.data.rows.splits import is_in
from vaekit.data.user.table_pictures import marginals, pairs

if TYPE_CHECKING:
    from pandas import DataFrame


_GROUPED = ("numeric", "binary", "count")
"""Kinds whose columns stand side by side in one entry; each category is an entry of its own."""


class Table(DataModule):
    """A table from a `.csv`, `.tsv` or `.parquet` file, or a frame of pandas or polars.

    Each column is taken for numeric (also times), binary, a category or a count, by its values in
    the training rows; a missing value is one that the mask hides, as is a category that only
    held-out rows have. x has the entries numeric (standardised by the
    training rows), binary and count, whose columns stand side by side, and one entry for each
    category, by its name; where there is one entry alone, x is that. `frame` makes a frame of x
    again: the same columns, types, units and categories.

    Densities are those of the standardised columns: those of the columns as they are differ by the
    sum of the logarithms of their standard deviations.

    Arguments:
        path: The file, or a frame.
        kinds: What columns are to be taken for in the place of what their values suggest: numeric,
            binary, category, count or ignore, by name.
        label: A column that is no part of x but the rows' label. Each split has its share of each
            class, unless `split` or `group` says which rows stay together.
        context: Columns that are no part of x but conditioned on, in a list or with commas between
            them: categories become a column each, numbers are standardised.
        id: A column that names the rows; it goes through to what is written. None takes a first
            column without a name, or of text in which all values differ, or else such a column of
            text in more rows than `categories`.
        val: Share of the rows held out for validation, or a file that holds these rows.
        test: The same for testing.
        split: A column that says which split a row is in: train, val or test.
        group: A column of what rows that stay in one split have in common, such as a patient.
        categories: Columns of text that have more different values are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, a column cannot be what it is to be taken for, or new
            rows for a model hold a category that it was not trained with.

    References:
        Modeling Tabular Data using Conditional GAN (Xu et al., 2019), with the TVAE,
        https://arxiv.org/abs/1907.00503

    Example:
        >>> import pandas as pd
        >>> people = {"age": [31.5, 40.2, None], "job": ["cook", "nurse", "smith"]}
        >>> table = Table(pd.DataFrame({**people, "visits": [0, 7, 2]}).sample(90, replace=True))
        >>> table.info.event_shape
        {'numeric': (1,), 'count': (1,), 'job': (1,)}
        >>> table.frame(next(table.rows("train")).x).dtypes.astype(str).tolist()[::2]
        ['float64', 'int64']
    """

    draws_rows = True

    def __init__(
        self,
        path: Any,
        kinds: dict[str, str] | None = None,
        label: str | None = None,
        context: list[str] | str = [],  # noqa: B006 - read only
        id: str | None = None,
        val: float | str = 0.1,
        test: float | str = 0.1,
        split: str | None = None,
        group: str | None = None,
        categories: int = 100,
        batch_size: int = 128,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, "none", False, seed, missing)
        self.source, self.chosen = path, dict(kinds or {})
        self.label, self.context, self.id = label, listed(context), id
        self.held_out, self.by, self.most = (val, test), (split, group), categories
        if strange := {kind for kind in self.chosen.values() if kind not in of.KINDS}:
            raise ValueError(
                f"Expected kinds out of {', '.join(of.KINDS)} but got {', '.join(strange)}."
            )

    # Reading

    def load(self) -> dict[str, Rows]:
        frame = frame_of(self.source)
        self._check_names(frame)
        self.names = self._names(frame)
        splits = self._splits_of(frame)
        train = is_in([splits["train"]], len(frame))
        if self.schema is None or "columns" not in self.schema:
            self.schema = self._noting_split(self._learned(frame, np.flatnonzero(train)))
        rows = self._rows(frame, train & (not self.is_held_out))
        self.only_held_out = self._only_held_out(frame, train)
        found = {name: replace(rows, index=own.index) for name, own in splits.items()}
        other_files(self, found, self.held_out)
        self._declare(found)
        return found

    def _splits_of(self, frame: DataFrame) -> dict[str, Rows]:
        """Which rows are in which split; x is there only to be counted."""
        rows = Rows(torch.empty(len(frame), 0))
        names, groups = (None if name is None else frame[name].tolist() for name in self.by)
        label = self.label or (self.schema or {}).get("label")
        classes = frame[label].factorize()[0] if label in frame.columns else None
        return self._divided(rows, (names, groups), self.held_out, classes)

    def _check_names(self, frame: DataFrame) -> None:
        named = [*self.by]
        if not self.schema:  # new rows may lack labels and names
            named += [*self.chosen, *self.context, self.label, self.id]
        unknown = [name for name in named if name is not None and name not in frame.columns]
        if unknown:
            raise ValueError(
                f"Expected columns out of {', '.join(frame.columns)} but got "
                f"{', '.join(map(str, unknown))}."
            )
        if len(set(frame.columns)) < len(frame.columns):
            raise ValueError("Expected columns of different names but two have the same.")

    def _id(self, frame: DataFrame) -> str | None:
        """The column that names the rows."""
        if self.id is not None:
            return self.id if self.id in frame.columns else None
        if self.schema and "id" in self.schema:
            known = self.schema["id"]
            return known if known in frame.columns else None
        for at, name in enumerate(frame.columns):
            bare = at == 0 and name.startswith("Unnamed: ")
            text = frame[name].dtype.kind not in "biufM" and _all_differ(frame[name])
            several = (at == 0 and len(frame) > 9) or len(frame) > self.most
            if bare or (text and several and name not in self.chosen):
                return str(name)
        return None

    def _names(self, frame: DataFrame) -> np.ndarray | None:
        name = self._id(frame)
        if name is not None:
            return frame[name].astype(str).to_numpy().astype(str)
        counted = type(frame.index).__name__ == "RangeIndex"
        return None if counted else frame.index.astype(str).to_numpy().astype(str)

    def _learned(self, frame: DataFrame, train: np.ndarray) -> dict[str, Any]:
        """The schema: what is known of each column, in their order."""
        own, aside = self._id(frame), {self.label, *self.by} - {None}
        found = []
        for name in frame.columns:
            if name == own or name in aside or name in self.context:
                continue
            kind = self.chosen.get(name) or of.kind_for(frame[name], self.most, train)
            column = (
                {"name": name, "kind": kind}
                if kind == "ignore"
                else of.learned(frame[name], kind, train)
            )
            found.append(column)
        left = [c["name"] for c in found if c["kind"] == "ignore" and c["name"] not in self.chosen]
        if left:
            warnings.warn(
                f"Left out: {', '.join(left)}, of one value alone in the training rows, or "
                f"text of more than {self.most} different ones. --data.kinds says what else a "
                "column is, --data.id which one names the rows.",
                stacklevel=2,
            )
        if not any(c["kind"] != "ignore" for c in found):
            raise ValueError("Expected columns to learn from but none is left.")
        suffix = Path(self.source).suffix if isinstance(self.source, str | Path) else ".csv"
        schema: dict[str, Any] = {"columns": found, "id": own, "suffix": suffix}
        schema["order"] = [str(name) for name in frame.columns]
        schema["context"] = {n: known_of(frame[n], n, train) for n in self.context}
        schema["label"] = self.label
        schema["classes"] = None if self.label is None else classes(frame[self.label])
        return schema

    # To x, and back

    def _columns(self) -> list[of.Column]:
        assert self.schema is not None
        return [c for c in self.schema["columns"] if c["kind"] != "ignore"]

    def _entries(self) -> dict[str, list[of.Column]]:
        """The columns of each entry of x."""
        own = self._columns()
        groups = {kind: [c for c in own if c["kind"] == kind] for kind in _GROUPED}
        found = {kind: columns for kind, columns in groups.items() if columns}
        return found | {_entry(c["name"]): [c] for c in own if c["kind"] == "category"}

    def _rows(self, frame: DataFrame, strict: np.ndarray) -> Rows:
        """The rows as x.

        Arguments:
            strict: Whether a row must have known values, (N,).
        """
        assert self.schema is not None
        wanted = [c["name"] for c in self._columns()] + list(self.schema["context"])
        if lacking := [name for name in wanted if name not in frame.columns]:
            raise ValueError(
                f"Expected the columns {', '.join(wanted)}, with which the model was trained, but "
                f"{', '.join(lacking)} is missing."
            )
        x, mask = {}, {}
        for entry, columns in self._entries().items():
            values = [of.to_model(frame[c["name"]], c, strict) for c in columns]
            found = torch.from_numpy(np.stack(values, 1))
            mask[entry] = ~found.isnan()
            x[entry] = found.nan_to_num(0.0).float()
        seen = mask if not all(bool(m.all()) for m in mask.values()) else None
        single = len(x) == 1
        return Rows(
            first(x) if single else x,
            self._context(frame, strict),
            (first(seen) if single else seen) if seen else None,
            self._label(frame),
        )

    def _context(self, frame: DataFrame, strict: np.ndarray) -> Tensor | None:
        assert self.schema is not None
        parts = [
            encoded(column_of(frame, name, "context"), name, known, strict)
            for name, known in self.schema["context"].items()
        ]
        return torch.cat(parts, 1) if parts else None

    def _only_held_out(self, frame: DataFrame, train: np.ndarray) -> dict[str, str]:
        """Describes the values of each column that only held-out rows have."""
        assert self.schema is not None
        rows = None if self.is_held_out else train
        found = {c["name"]: of.only_held_out(frame[c["name"]], c, rows) for c in self._columns()}
        for name, known in self.schema["context"].items():
            found[name] = only_held_out(frame[name], known, rows)
        return {name: values for name, values in found.items() if values}

    def _label(self, frame: DataFrame) -> Tensor | None:
        assert self.schema is not None
        name = self.schema["label"]
        if name is None:
            return None
        if name not in frame.columns:
            return torch.full((len(frame),), -1)
        return torch.from_numpy(labels(frame[name], self.schema["classes"]))

    def _declare(self, splits: Mapping[str, Rows]) -> None:
        ranges: dict[str, tuple[float, float]] = {}
        levels: dict[str, int | None] = {}
        kinds = {}
        for entry, columns in self._entries().items():
            kind = columns[0]["kind"]
            most = len(columns[0].get("values", [])) - 1
            spans = {"numeric": (-inf, inf), "count": (0.0, inf)}
            ranges[entry] = spans.get(kind, (0.0, float(most)))
            levels[entry] = most + 1 if kind in ("binary", "category") else None
            kinds[entry] = kind
        single = not isinstance(splits["train"].x, dict)
        self._range: Ranges = next(iter(ranges.values())) if single else ranges
        self.levels = next(iter(levels.values())) if single else levels
        self.kinds = {"x": next(iter(kinds.values()))} if single else kinds
        if numeric := self._entries().get("numeric"):
            rows = splits["train"].x
            of.warn_of_outliers(rows["numeric"] if isinstance(rows, dict) else rows, numeric)

    def natural_range(self) -> Ranges:
        return self._range

    def scale(self) -> Any:
        found = {
            entry: [column["std"] for column in columns] if entry == "numeric" else None
            for entry, columns in self._entries().items()
        }
        return found if isinstance(self._range, Mapping) else next(iter(found.values()))

    def restored(self, x: Tree) -> Tree:
        entries = zip(entries_of(x).items(), self._entries().values(), strict=True)
        found = {
            name: leaf.double() * torch.tensor([c["std"] for c in columns], dtype=torch.float64)
            + torch.tensor([c["mean"] for c in columns], dtype=torch.float64)
            if columns[0]["kind"] == "numeric"
            else leaf
            for (name, leaf), columns in entries
        }
        return found if isinstance(x, dict) else first(found)

    def frame(self, x: Tree, context: Tensor | None = None) -> DataFrame:
        """Rows of the model, (n, *event), as a frame of the data's columns, types and units.

        Numbers beyond those of the training rows are brought back to the nearest of these.

        Arguments:
            context: Of the rows, (n, C), whose columns are written too.
        """
        import pandas as pd

        found = {c["name"]: of.restored(values, c) for c, values in self._in_units(x)}
        assert self.schema is not None
        at = 0
        for name, known in self.schema["context"].items() if context is not None else ():
            assert context is not None
            found[name] = decoded(context[:, at : at + width(known)].cpu(), known)
            at += width(known)
        return pd.DataFrame({name: found[name] for name in self.schema["order"] if name in found})

    def write(
        self,
        folder: Path,
        name: str,
        x: Tree | None,
        columns: Mapping[str, Any],
        rows: Tensor | None = None,
    ) -> list[Path]:
        import pandas as pd

        assert self.schema is not None
        frame = pd.DataFrame() if x is None else self.frame(x, columns.get("context"))
        further = {k: np.asarray(v) for k, v in columns.items() if k not in ("context", "label")}
        for key, values in further.items():
            parts = (
                {key: values}
                if values.ndim == 1
                else {
                    f"{key}{at}": part for at, part in enumerate(values.reshape(len(values), -1).T)
                }
            )
            for own, part in parts.items():
                frame[own if own not in frame else f"{own}_"] = part
        if "label" in columns and self.schema["label"] is not None:
            known = self.schema["classes"]
            found = [known[at] if at >= 0 else None for at in columns["label"].tolist()]
            frame[self.schema["label"]] = found
        if rows is not None:
            own = "row" if self.names is None else self.schema["id"] or "name"
            names = rows.numpy() if self.names is None else self.names[rows.numpy()]
            frame.insert(0, own if own not in frame else f"{own}_", names)
        return [write_frame(frame, folder / f"{name}{self.schema['suffix']}")]

    # What is said and drawn

    def told(self) -> dict[str, str]:
        found = super().told()
        for entry in self.info.entries():
            del found[entry]
        assert self.schema is not None
        columns = {c["name"]: of.told(c) for c in self.schema["columns"]}
        columns |= dict.fromkeys(self.schema["context"], "conditioned on")
        own = self.schema["id"]
        return {**columns, **({own: "names the rows"} if own else {}), **found}

    def draw(self, x: Tree, y: Tree | None = None) -> Any:
        known, before = zip(*self._in_units(x), strict=True)
        if y is None:
            return marginals(known, before)
        return pairs(known, before, [values for _, values in self._in_units(y)])

    def _in_units(self, x: Tree) -> list[tuple[of.Column, np.ndarray]]:
        """The columns and their numbers (n,), in their units or the places of their values."""
        return [
            (column, of.unscaled(leaf[:, at].double().cpu().numpy(), column))
            for leaf, columns in zip(entries_of(x).values(), self._entries().values(), strict=True)
            for at, column in enumerate(columns)
        ]


def _all_differ(column: Any) -> bool:
    try:
        return bool(column.is_unique and column.notna().all())
    except TypeError:  # of lists, or dicts
        return False


def _entry(name: str) -> str:
    """The name of a category's entry: its own, but for those of the other entries."""
    return f"{name}_" if name in (*_GROUPED, "x") else name
