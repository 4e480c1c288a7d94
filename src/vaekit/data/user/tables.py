"""Tables: columns of numbers, categories, counts and times, some values of which are missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.trees import Ranges, Tree, entries_of, first
from vaekit.data.base import DataModule
from vaekit.data.columns import exact
from vaekit.data.columns import table as of
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
from vaekit.data.columns.row_names import are_row_names
from vaekit.data.columns.spellings import merged, respelled, spellings_of
from vaekit.data.readers.frames import frame_of, write_frame
from vaekit.data.readers.text import TextFormat
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

    vaekit infers from the training rows whether a column is numeric (or a time), binary, a
    category or a count. Missing values are masked, as is a category that only held-out rows have.
    x has the entries numeric (standardised by the training rows), binary and count, whose columns
    stand side by side, and one entry for each category, by its name; a table with one entry has
    that as x. `frame` makes a frame of x again: the same columns, types, units and categories.
    The rows of `rows` are in float64, so that `frame` gives them back exactly.

    Densities are those of the standardised columns: those of the columns as they are differ by the
    sum of the logarithms of their standard deviations.

    Arguments:
        path: The file, or a frame.
        kinds: What columns are to be taken for in the place of what their values suggest: numeric,
            binary, category, count or ignore, by name.
        label: A column with the label of each row, which is not in x. It holds classes, or numbers
            if there are more than 100 different ones that do not count from 0 or 1. Each split has
            its share of each class, unless `split` or `group` says which rows stay together.
        context: Columns that are no part of x but conditioned on, in a list or with commas between
            them: categories become a column each, numbers are standardised.
        id: A column that names the rows; it is copied to the files that are written. None takes a
            first column without a name, or of text in which all values differ, or else such a
            column of text in more rows than `categories`; never one of numbers, money or dates.
        val: Share of the rows held out for validation, or a file that holds these rows.
        test: The same for testing.
        split: A column that says which split a row is in: train, val or test.
        group: A column of what rows that stay in one split have in common, such as a patient.
        categories: Columns of text that have more different values are left out.
        na: Words or numbers that mean a missing value, in addition to empty cells, in a list or
            with commas between them. None infers it: a word such as NA or None means a missing
            value in a column of numbers, and in a column of words if it is rare.
        header: Whether the first line of a text file holds the names of the columns.
        sep: The separator of a text file, or one of the words comma, semicolon, tab and space;
            None for that of its suffix.

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
    is_exact = True

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
        na: list[str] | str | None = None,
        header: bool = True,
        sep: str | None = None,
    ) -> None:
        super().__init__(batch_size, "none", False, seed, missing)
        self.source, self.chosen = path, dict(kinds or {})
        self.label, self.context, self.id = label, listed(context), id
        self.held_out, self.by, self.most = (val, test), (split, group), categories
        self.text = TextFormat(sep, header, na)
        self._values: dict[str, exact.Values] = {}  # of the loaded rows
        if strange := {kind for kind in self.chosen.values() if kind not in of.KINDS}:
            raise ValueError(
                f"Expected kinds out of {', '.join(of.KINDS)} but got {', '.join(strange)}."
            )

    # Reading

    def load(self) -> dict[str, Rows]:
        text = self.text.following(self.schema or {}, self._known_words())
        frame = frame_of(self.source, text)
        self._check_names(frame)
        self.names = self._names(frame)
        frame, spellings = self._respelled(frame)
        splits = self._splits_of(frame)
        train = is_in([splits["train"]], len(frame))
        if self.schema is None or "columns" not in self.schema:
            schema = self._learned(frame, np.flatnonzero(train))
            schema |= {"spellings": spellings} if spellings else {}
            schema |= {"text": self.text.plain} if self.text.plain else {}
            self.schema = self._noting_split(schema)
            self._warn_of_outliers(frame, train)
        rows = self._rows(frame, train & (not self.is_held_out))
        self.only_held_out = self._only_held_out(frame, train)
        found = {name: replace(rows, index=own.index) for name, own in splits.items()}
        for other in other_files(self, found, self.held_out):
            for name, values in other._values.items():
                own = self._values.get(name)
                self._values[name] = values if own is None else own.joined(values)
        self._declare(found)
        return found

    def _known_words(self) -> dict[str, set[str]] | None:
        """The values of each column of a model's data, by which new words are read."""
        if not self.schema or "columns" not in self.schema:
            return None
        known = {c["name"]: set(map(str, c.get("values", ()))) for c in self.schema["columns"]}
        for name, context in self.schema["context"].items():
            known[name] = set(map(str, context.get("categories", ())))
        if self.schema["label"] is not None:
            known[self.schema["label"]] = set(map(str, self.schema["classes"] or ()))
        return known

    def _respelled(self, frame: DataFrame) -> tuple[DataFrame, dict[str, dict[str, str]]]:
        """The frame with one spelling of each category, and the values by column and spelling."""
        known = (self.schema or {}).get("spellings", {})
        if not known and not self.schema:
            skipped = {self._id(frame), *self.by, *self.chosen}
            for name in frame.columns:
                column = frame[name]
                if (
                    name in skipped
                    or column.dtype != object
                    or not _has_few_values(column, self.most)
                ):
                    continue
                if values := spellings_of(column):
                    known = {**known, name: values}
        own = {name: values for name, values in known.items() if name in frame.columns}
        if not own:
            return frame, known
        groups = {name: merged(frame[name], values) for name, values in own.items()}
        told = (
            f"{name}: {', '.join(map(repr, spellings))} are {value!r}"
            for name, group in groups.items()
            for value, spellings in group.items()
        )
        if any(groups.values()):
            warnings.warn(
                f"Read several spellings of one category as one: {'; '.join(told)}. "
                "--data.kinds.COLUMN category keeps those of a column.",
                stacklevel=2,
            )
        return frame.assign(**{n: respelled(frame[n], v) for n, v in own.items()}), known

    def _warn_of_outliers(self, frame: DataFrame, train: np.ndarray) -> None:
        """Warns of numbers of the training rows that drown the others."""
        rows = np.flatnonzero(train) if self.names is None else self.names[train]
        outliers = (
            of.find_outlier(of.codes(frame.loc[train, c["name"]], c), c, rows, self.names is None)
            for c in self._columns()
            if c["kind"] in ("numeric", "count") and not c["times"]
        )
        of.warn_of_outliers([outlier for outlier in outliers if outlier])

    def _splits_of(self, frame: DataFrame) -> dict[str, Rows]:
        """Which rows are in which split; x is there only to be counted."""
        rows = Rows(torch.empty(len(frame), 0))
        names, groups = (None if name is None else frame[name].tolist() for name in self.by)
        label = self.label or (self.schema or {}).get("label")
        classes = None
        if label in frame.columns:
            known = "classes" in (self.schema or {})
            has_classes = (self.schema or {}).get("classes") is not None if known else None
            classes = class_numbers(frame[label], has_classes)
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
        others = {self.label, *self.by, *self.context}
        for at, name in enumerate(frame.columns):
            if name in others:
                continue
            bare = at == 0 and name.startswith("Unnamed: ")
            several = (at == 0 and len(frame) > 9) or len(frame) > self.most
            if bare or (several and name not in self.chosen and are_row_names(frame[name])):
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
        names = [n for n in frame.columns if n not in {own, *aside, *self.context}]
        kinds = {n: self.chosen.get(n) or of.kind_for(frame[n], self.most, train) for n in names}
        shown = self._observed_numbers(kinds, len(frame))
        found = [
            {"name": name, "kind": kind}
            if kind == "ignore"
            else of.learned(frame[name], kind, train, shown.get(name))
            for name, kind in kinds.items()
        ]
        self._warn_of_ignored(frame.iloc[train], kinds)
        if not any(c["kind"] != "ignore" for c in found):
            raise ValueError("Expected columns to learn from but none is left.")
        suffix = Path(self.source).suffix if isinstance(self.source, str | Path) else ".csv"
        schema: dict[str, Any] = {"columns": found, "id": own, "suffix": suffix}
        schema["order"] = [str(name) for name in frame.columns]
        schema["context"] = {n: known_of(frame[n], n, train) for n in self.context}
        schema["label"] = self.label
        schema["classes"] = None if self.label is None else label_classes(frame[self.label])
        return schema

    def _observed_numbers(self, kinds: Mapping[str, str], rows: int) -> dict[str, np.ndarray]:
        """Whether `missing` leaves each row of a column of numbers observed, (N,), by column."""
        if not self.missing:
            return {}
        entries = _entries([{"name": n, "kind": k} for n, k in kinds.items() if k != "ignore"])
        x = {entry: torch.empty(rows, len(own)) for entry, own in entries.items()}
        if not x:
            return {}
        masks = entries_of(self.observed(x if len(x) > 1 else first(x), None))
        return {
            column["name"]: mask[:, at].numpy()
            for (_, columns), mask in zip(entries.items(), masks.values(), strict=True)
            for at, column in enumerate(columns)
        }

    def _warn_of_ignored(self, frame: DataFrame, kinds: Mapping[str, str]) -> None:
        left = [n for n, kind in kinds.items() if kind == "ignore" and n not in self.chosen]
        alone = [name for name in left if _has_few_values(frame[name], 1)]
        codes = [name for name in left if name not in alone and frame[name].dtype.kind in "iu"]
        text = [name for name in left if name not in [*alone, *codes]]
        words = [name for name, kind in kinds.items() if kind in ("category", "binary")]
        for name in (n for n in [*text, *words] if n not in self.chosen):
            if marks := of.not_numbers(frame[name]):
                warnings.warn(f"{name}: {marks}", stacklevel=2)
        reasons = {
            "with at most one value in the training rows": alone,
            "whole numbers whose differences float64 cannot hold, as of codes": codes,
            f"with more than {self.most} different values that are not numbers "
            "(--data.categories raises this limit, --data.id names the column that names the "
            "rows)": text,
        }
        parts = [f"{_first_names(names)}, {why}" for why, names in reasons.items() if names]
        if left:
            warnings.warn(
                f"Left out: {'; '.join(parts)}. --data.kinds.COLUMN sets the kind of a column.",
                stacklevel=2,
            )

    # To x, and back

    def _columns(self) -> list[of.Column]:
        assert self.schema is not None
        return [c for c in self.schema["columns"] if c["kind"] != "ignore"]

    def _entries(self) -> dict[str, list[of.Column]]:
        """The columns of each entry of x."""
        return _entries(self._columns())

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
        self._values = {}
        for entry, columns in self._entries().items():
            values = []
            for column in columns:
                own, numbers = of.to_model(frame[column["name"]], column, strict)
                values.append(own)
                if numbers is not None:
                    self._values[column["name"]] = numbers
            found = torch.from_numpy(np.stack(values, 1))
            mask[entry] = ~found.isnan()
            x[entry] = found.nan_to_num(0.0)
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
            missing = torch.nan if self.schema["classes"] is None else -1
            return torch.full((len(frame),), missing)
        return label_values(frame[name], name, self.schema["classes"])

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

    def natural_range(self) -> Ranges:
        return self._range

    def scale(self) -> Any:
        found = {
            entry: [column["std"] for column in columns] if entry == "numeric" else None
            for entry, columns in self._entries().items()
        }
        return found if isinstance(self._range, Mapping) else next(iter(found.values()))

    def restored(self, x: Tree) -> Tree:
        columns = iter(map(_in_units, self._by_column(x)))
        found = {
            entry: torch.from_numpy(np.stack([next(columns)[1] for _ in own], 1))
            for entry, own in self._entries().items()
        }
        return found if isinstance(x, dict) else first(found)

    def frame(self, x: Tree, context: Tensor | None = None, mask: Tree | None = None) -> DataFrame:
        """Returns rows (n, *event) as a frame of the data's columns, types and units.

        Numbers beyond those of the data are clipped. Numbers are rounded to the resolution of
        their column: its decimals, its days or its seconds.

        Arguments:
            context: The context of the rows, (n, C), which becomes columns too.
            mask: Like x, True where an element is observed; the others are missing in the frame.
        """
        import pandas as pd

        masks = [leaf > 0 for _, leaf in self._by_column(mask)] if mask is not None else []
        found = {}
        for at, (column, values) in enumerate(self._by_column(x)):
            restored = of.restored(values, column, self._values.get(column["name"]))
            found[column["name"]] = of.with_gaps(restored, masks[at]) if masks else restored
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
            frame[self.schema["label"]] = label_names(columns["label"], self.schema["classes"])
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
        known, before = zip(*map(_in_units, self._by_column(x)), strict=True)
        if y is None:
            return marginals(known, before)
        return pairs(known, before, [values for _, values in map(_in_units, self._by_column(y))])

    def _by_column(self, x: Tree) -> list[tuple[of.Column, np.ndarray]]:
        """Returns the columns, each with its values in x, (n,)."""
        return [
            (column, leaf[:, at].double().cpu().numpy())
            for leaf, columns in zip(entries_of(x).values(), self._entries().values(), strict=True)
            for at, column in enumerate(columns)
        ]


def _in_units(column_and_x: tuple[of.Column, np.ndarray]) -> tuple[of.Column, np.ndarray]:
    """A column and its numbers (n,) in its units, or the places of its values.

    What is known of the column is in its units too, without an origin.
    """
    column, x = column_and_x
    x = exact.unscaled(x, column)
    if "values" in column or not column.get("origin"):
        return column, x
    shown = {
        name: exact.with_origin(np.asarray(numbers), column).tolist()
        for name, numbers in column["shown"].items()
        if name in ("quantiles", "first")
    }
    mean = float(exact.with_origin(np.asarray(column["mean"]), column))
    return {**column, "mean": mean, "shown": {**column["shown"], **shown}}, exact.with_origin(
        x, column
    )


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if names[10:] else ""
    return f"{', '.join(names[:10])}{more}"


def _has_few_values(column: Any, limit: int) -> bool:
    """Whether a column has at most `limit` different values."""
    try:
        return bool(column.nunique() <= limit)
    except TypeError:  # of lists, or dicts
        return False


def _entries(columns: Sequence[of.Column]) -> dict[str, list[of.Column]]:
    """The columns of each entry of x: by kind, and one for each category.

    A category's entry has its name, with underscores if another entry has that name.
    """
    groups = {kind: [c for c in columns if c["kind"] == kind] for kind in _GROUPED}
    found = {kind: own for kind, own in groups.items() if own}
    categories = [c for c in columns if c["kind"] == "category"]
    reserved = {*_GROUPED, "x"}
    used = reserved | {c["name"] for c in categories}
    for column in categories:
        name = column["name"]
        while name in reserved or (name != column["name"] and name in used):
            name = f"{name}_"
        used.add(name)
        found[name] = [column]
    return found
