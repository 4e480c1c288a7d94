"""Sequences of different lengths: tokens, or signals of several channels."""

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

from vaekit.data.base import DataModule
from vaekit.data.columns.covariates import (
    class_numbers,
    column_of,
    label_classes,
    label_names,
    label_values,
    listed,
    values_only_held_out,
)
from vaekit.data.columns.exact import digits_of
from vaekit.data.columns.scale import beyond, moments
from vaekit.data.columns.tokens import (
    as_tokens,
    read_numbers,
    vocabulary_of,
    whole_with_gaps,
)
from vaekit.data.readers.frames import write_frame
from vaekit.data.readers.sequences import SequenceFrame, read_steps
from vaekit.data.readers.text import TextFormat
from vaekit.data.rows.batches import Rows, natural, span
from vaekit.data.rows.prepare import other_files
from vaekit.data.rows.splits import is_in
from vaekit.numerics.precision import at_least_float32

if TYPE_CHECKING:
    from pandas import DataFrame


_MOMENTS = ("mean", "std")


class Sequences(DataModule):
    """Sequences of different lengths, padded at their end, where a mask hides the padding.

    They come from `.csv`, `.tsv` or `.parquet` in long form, a row for each step; from `.npz` with
    the arrays `lengths` (N,) and either `x` (N, T) or (N, C, T) or `values`, the steps of all
    sequences one after the other, (S,) or (S, C), and perhaps `label` (N,) and `names` (N,); in
    Python, from a DataFrame in long form or a list of arrays (T,) or (T, C).

    Texts in one channel are tokens, x (N, T), as are whole numbers if they predict held-out
    sequences better without an order than as values of a signal; other numbers are signals, x
    (N, C, T). Missing values within a sequence are hidden by the mask too, as are tokens that only
    held-out sequences have.

    Arguments:
        path: The data.
        id: Of a long form, the column that says of which sequence a step is; None for the first.
        time: Of a long form, the column by which time steps are sorted: numbers, dates, clock
            times, or text such as visit 12. None finds it by its name (time, date, step, ...) or
            because it counts within each sequence; "none" keeps the order of the file.
        channels: Of a long form, the columns of values, in a list or with commas between them;
            None for all others.
        label: A column, or an array, of classes, one for each sequence. Each split has its share
            of each class, unless `split` or `group` says which sequences stay together.
        tokens: Whether time steps are tokens; None infers it.
        standardize: Whether each channel of a signal has the mean and the standard deviation of
            the training rows taken off; what is written has them again.
        max_length: Of longer sequences the steps behind it are left out, with a warning.
        split: A column that says train, val or test of each sequence; `val` and `test` say nothing
            then.
        group: A column of what sequences that stay in one split have in common.
        val: Share of the sequences held out for validation, or a file that holds these.
        test: The same for testing.
        na: Words or numbers that mean a missing value in a text file, as in `Table`.
        header: Whether the first line of a text file holds the names of the columns.
        sep: The separator of a text file; None for that of its suffix.

    Raises:
        ValueError: If values are of another kind, a file is damaged, lengths do not fit, there is
            no column of a name, or new data have tokens that the model does not know.
        FileNotFoundError: If there is no such file.

    Example:
        >>> words = [np.asarray(list(word)) for word in ("ab", "abba", "bab", "a") * 5]
        >>> data = Sequences(words)
        >>> data.info.event_shape, data.info.levels, data.schema["vocabulary"]
        ((4,), 2, ['a', 'b'])
        >>> Sequences([np.random.randn(5 + i, 3) for i in range(20)]).info.event_shape
        (3, 24)
    """

    kinds: Mapping[str, str] = {"x": "sequence"}

    def __init__(
        self,
        path: str | Path | Any,
        id: str | None = None,
        time: str | None = None,
        channels: list[str] | str | None = None,
        label: str | None = None,
        tokens: bool | None = None,
        standardize: bool = True,
        max_length: int | None = None,
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
        if max_length is not None and max_length < 1:
            raise ValueError(f"Expected a max_length of at least 1 but got {max_length}.")
        self.source, self.id, self.time = path, id, time
        self.channels = None if channels is None else listed(channels)
        self.label, self.tokens, self.standardize = label, tokens, standardize
        self.max_length, self.shares = max_length, (val, test)
        self.split, self.group = split, group
        self._steps: SequenceFrame | None = None
        self._reason = ""  # why time steps are tokens, or a signal

    @property
    def draws_rows(self) -> bool:  # type: ignore[override]
        """Whether samples are draws of p(x|z): of tokens."""
        return bool(self.schema and self.schema.get("vocabulary"))

    @property
    def is_exact(self) -> bool:  # type: ignore[override]
        """Whether `rows` gives x in float64: of signals."""
        return bool(self.schema) and (self.schema or {}).get("vocabulary") is None

    def natural_range(self) -> tuple[float, float]:
        if self.schema is None:
            return (-inf, inf)
        if self.schema["vocabulary"] is not None:
            return (0.0, len(self.schema["vocabulary"]) - 1.0)
        low, high = self.schema["range"]
        return (-inf if low is None else low, inf if high is None else high)

    def load(self) -> dict[str, Rows]:
        model = self._of_model()
        named = [name for name in (self.label, self.split, self.group) if name is not None]
        channels = model["channels"] if model else self.channels
        time = (self.time or model.get("time")) if self.time != "none" else None
        id = self.id or (model.get("id") if model.get("form") != ".npz" else None)
        finds_time = self.time is None and not model
        text = self.text.following(model)
        steps = read_steps(self.source, id, time, channels, named, finds_time, text)
        label = self.label or ("label" if steps.form == ".npz" else None)
        if steps.about is None or label not in steps.about:
            label = self.label
        steps = self._cut(steps, model["length"] if model else self.max_length)
        splits = self._splits_of(steps, label or model.get("label"))
        train = is_in([splits["train"]], len(steps.lengths))
        of_train = np.repeat(train, steps.lengths)
        schema = model or self._schema_of(steps, label, of_train)
        schema.setdefault("length", int(steps.lengths.max()))
        values = read_numbers(steps.values, schema, of_train & (not self.is_held_out))
        x, mask = _padded(values, steps.lengths, schema["length"])
        splits = {name: replace(rows, x=x, mask=mask) for name, rows in splits.items()}
        if not model and schema["vocabulary"] is None:
            self._measure(schema, splits["train"])
        if schema["vocabulary"] is None:
            x = _standardized(x, mask, schema)
            splits = {name: replace(rows, x=x) for name, rows in splits.items()}
        else:
            self.levels = len(schema["vocabulary"])
        self.schema = self._noting_split(schema)
        self.names, self._steps = steps.names, steps
        self.only_held_out = self._only_held_out(splits["train"], of_train)
        y = None
        if label is not None and schema["label"] is not None:
            y = label_values(column_of(steps.about, label, "label"), label, schema["classes"])
        splits = {name: replace(rows, label=y) for name, rows in splits.items()}
        for other in other_files(self, splits, self.shares):
            self._steps = _both(self._steps, other._steps)
        return splits

    def _of_model(self) -> dict[str, Any]:
        """The schema of a model of sequences; empty where there is no model."""
        if self.schema and "vocabulary" not in self.schema:
            raise ValueError(
                "Expected a model of Sequences but its data were of another kind: name data of "
                "that kind, with --data."
            )
        return self.schema or {}

    def _schema_of(
        self, steps: SequenceFrame, label: str | None, of_train: np.ndarray
    ) -> dict[str, Any]:
        """What is known but for moments.

        Arguments:
            of_train: Whether each step is one of a training row, (S,).
        """
        known = None
        if label is not None:
            known = label_classes(column_of(steps.about, label, "label"))
        is_text = steps.form in (".csv", ".tsv")  # which tells 1 from 1.0 despite gaps
        values = (steps.values if is_text else whole_with_gaps(steps.values))[of_train]
        trained = of_train[steps.lengths.cumsum() - 1]  # whether each sequence is for training
        vocabulary, self._reason = vocabulary_of(values, self.tokens, steps.lengths[trained])
        return {
            "vocabulary": vocabulary,
            "channels": list(steps.values.columns),
            "label": label,
            "classes": known,
            "id": self.id or steps.id,
            "time": steps.time,
            **({"text": self.text.plain} if self.text.plain else {}),
            "form": steps.form,
            **({"numbers": _resolutions(values)} if vocabulary is None else {}),
        }

    def _cut(self, steps: SequenceFrame, length: int | None) -> SequenceFrame:
        """The sequences without the steps behind a length."""
        if length is None or int(steps.lengths.max()) <= length:
            return steps
        warnings.warn(
            f"{int((steps.lengths > length).sum()):,} of {len(steps.lengths):,} sequences are "
            f"longer than {length} steps: what is behind is left out.",
            stacklevel=2,
        )
        kept = _places(steps.lengths) < length
        times = None if steps.times is None else steps.times[kept]
        values = steps.values[kept].reset_index(drop=True)
        return replace(
            steps, values=values, lengths=np.minimum(steps.lengths, length), times=times
        )

    def _splits_of(self, steps: SequenceFrame, label: str | None) -> dict[str, Rows]:
        """Which rows are in which split; x is there only to be counted."""
        names, groups = (
            None if name is None else column_of(steps.about, name, what).tolist()
            for name, what in ((self.split, "split"), (self.group, "group"))
        )
        classes = None
        if steps.about is not None and label in steps.about:
            has_classes = self.schema["classes"] is not None if self.schema else None
            classes = class_numbers(column_of(steps.about, str(label), "label"), has_classes)
        rows = Rows(torch.empty(len(steps.lengths), 0))
        return self._divided(rows, (names, groups), self.shares, classes)

    def _only_held_out(self, train: Rows, of_train: np.ndarray) -> dict[str, str]:
        """Describes the tokens, or the numbers in units, that only held-out rows have."""
        assert self.schema is not None
        assert self._steps is not None
        words, steps = self.schema["vocabulary"], self._steps.values
        trained = None if self.is_held_out else of_train
        found = {}
        for name in self.schema["channels"]:
            if words is not None:
                column = as_tokens(steps[name])
                found[name] = values_only_held_out(column, words, trained, "taken as missing")
            elif trained is not None:
                x = steps[name].to_numpy(np.float64, na_value=np.nan)
                seen = x[trained & ~np.isnan(x)]
                ends = (seen.min(), seen.max()) if len(seen) else (inf, -inf)
                found[name] = beyond(x[~trained], *ends)
        if trained is not None:
            lengths = self._steps.lengths
            own = lengths if train.index is None else lengths[train.index.numpy()]
            found["length"] = beyond(lengths, 0, own.max())
        return {name: values for name, values in found.items() if values}

    def _measure(self, schema: dict[str, Any], train: Rows) -> None:
        """Finds the moments of each channel, over the observed steps of the training rows."""
        channels = len(schema["channels"])
        schema |= {"mean": [0.0] * channels, "std": [1.0] * channels, "range": [None, None]}
        if self.standardize:
            assert isinstance(train.x, Tensor)
            assert isinstance(train.mask, Tensor)
            mask = self.observed(train.x, train.mask)
            assert isinstance(mask, Tensor)
            mean, std = (m.flatten().tolist() for m in moments(train.x, mask, train.index))
            schema |= {"mean": mean, "std": std}
            return
        found = span(train.x, train.mask)  # of all rows, held-out ones included
        if found is not None:
            low, high = natural(*found[:2])
            schema["range"] = [None if abs(end) == inf else end for end in (low, high)]

    def told(self) -> dict[str, str]:
        found = super().told()
        assert self.schema is not None
        if self.schema.get("time"):
            found["time"] = (
                f"the column {self.schema['time']} (--data.time NAME chooses another column, "
                "--data.time none keeps the order of the file)"
            )
        if self._reason:
            found["time steps"] = self._reason
        return found

    # The way back

    def scale(self) -> Any:
        signal = self.schema is not None and self.schema["vocabulary"] is None
        return self.schema["std"] if signal and self.schema is not None else None

    def restored(self, x: Any) -> Any:
        if self.schema is None:
            return x
        words = self.schema["vocabulary"]
        if words is None:
            mean, std = (torch.tensor(self.schema[n], dtype=torch.float64) for n in _MOMENTS)
            return x.double() * std[:, None] + mean[:, None]
        if not all(isinstance(word, int) and abs(word) < 2**63 for word in words):
            return x
        return torch.tensor(words)[_index(x, len(words))]

    def write(
        self,
        folder: Path,
        name: str,
        x: Any,
        columns: Mapping[str, Any],
        rows: Tensor | None = None,
    ) -> list[Path]:
        """Writes sequences in long form, and what is known of each in a table of its own.

        The latter has `_rows` behind its name where there are sequences too. Those of the data end
        where theirs end; sampled ones have the full length.
        """
        if self.schema is None:
            return []
        suffix = self.schema["form"].replace(".npz", ".parquet")
        x = None if x is None else at_least_float32(x).cpu()
        arrays = {k: at_least_float32(column).cpu() for k, column in columns.items()}
        n = len(x) if x is not None else len(next(iter(arrays.values())))
        ids = self._called(n, rows)
        files = []
        if x is not None:
            files.append(write_frame(self._long(x, ids, rows), folder / f"{name}{suffix}"))
            name = f"{name}_rows"
        if arrays:
            about = self._about(arrays, ids)
            files.append(write_frame(about, folder / f"{name}{suffix}"))
        return files

    def _called(self, n: int, rows: Tensor | None) -> np.ndarray:
        if rows is None:
            return np.asarray([f"sample{row}" for row in range(n)])
        return rows.numpy() if self.names is None else self.names[rows.numpy()]

    def _long(self, x: Tensor, ids: np.ndarray, rows: Tensor | None) -> DataFrame:
        """Rows of the model as a frame with a row for each step."""
        import pandas as pd

        assert self.schema is not None
        words = self.schema["vocabulary"]
        lengths, times = np.full(len(x), x.shape[-1]), None
        if rows is not None and self._steps is not None:
            lengths = self._steps.lengths[rows.numpy()]
            times = _of_rows(self._steps, rows.numpy())
        seen = np.arange(x.shape[-1]) < lengths[:, None]
        frame = pd.DataFrame({self.schema["id"]: np.repeat(ids, lengths)})
        frame[self.schema["time"] or "time"] = _places(lengths) if times is None else times
        if words is None:
            values = self.restored(x).numpy().transpose(0, 2, 1)[seen]
            resolutions = self.schema.get("numbers", [{}] * values.shape[1])
            channels = zip(self.schema["channels"], values.T, resolutions, strict=True)
            return frame.assign(**{name: _rounded(x, how) for name, x, how in channels})
        named = np.asarray(words, dtype=object)[_index(x, len(words)).numpy()[seen]]
        return frame.assign(**{self.schema["channels"][0]: pd.Series(named).infer_objects()})

    def _about(self, arrays: Mapping[str, Tensor], ids: np.ndarray) -> DataFrame:
        """What is known of each sequence: its class, and further numbers."""
        import pandas as pd

        assert self.schema is not None
        frame = pd.DataFrame({self.schema["id"]: ids})
        for name, values in arrays.items():
            if name == "label" and self.schema["label"] is not None:
                frame[self.schema["label"]] = label_names(values, self.schema["classes"])
                if self.schema["classes"] is not None:
                    frame = whole_with_gaps(frame)
            elif values.dim() == 1:
                frame[name] = values.numpy()
            else:
                wide = values.flatten(1).numpy()
                frame = frame.assign(
                    **{f"{name}_{at}": column for at, column in enumerate(wide.T)}
                )
        return frame


def _resolutions(values: DataFrame) -> list[dict[str, Any]]:
    """Whether the numbers of each channel are whole, and to how many decimals they are rounded."""
    found = []
    for name, kind in values.dtypes.items():
        x = values[name].to_numpy(np.float64, na_value=np.nan)
        decimals = digits_of(x[~np.isnan(x)])["decimals"]
        found.append(
            {"whole": str(kind).lower().startswith(("int", "uint")), "decimals": decimals}
        )
    return found


def _rounded(x: np.ndarray, resolution: Mapping[str, Any]) -> np.ndarray:
    """Numbers of a channel in its resolution."""
    if resolution.get("decimals") is None:
        return x
    x = np.round(x, resolution["decimals"]) + 0.0  # not -0.0
    return x.astype(np.int64) if resolution["whole"] else x


def _places(lengths: np.ndarray) -> np.ndarray:
    """The place of each step in its sequence, counted from 0."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


def _of_rows(steps: SequenceFrame, rows: np.ndarray) -> np.ndarray | None:
    """The times of the steps of some sequences."""
    if steps.times is None:
        return None
    starts = steps.lengths.cumsum() - steps.lengths
    lengths = steps.lengths[rows]
    return steps.times[np.repeat(starts[rows], lengths) + _places(lengths)]


def _both(one: SequenceFrame | None, other: SequenceFrame | None) -> SequenceFrame | None:
    """The lengths and times of the sequences of two files."""
    if one is None or other is None:
        return one
    times = None
    if one.times is not None and other.times is not None:
        times = np.concatenate([one.times, other.times])
    return replace(one, lengths=np.concatenate([one.lengths, other.lengths]), times=times)


def _index(x: Tensor, words: int) -> Tensor:
    return x.round().long().clamp(0, words - 1)


def _padded(values: np.ndarray, lengths: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
    """Steps as rows (N, T) of tokens or (N, C, T), and which of their elements are observed."""
    places = np.repeat(np.arange(len(lengths)), lengths), _places(lengths)
    if values.ndim == 1:
        tokens = np.full((len(lengths), length), -1, np.int32)
        tokens[places] = values
        mask = torch.from_numpy(tokens >= 0)
        return torch.from_numpy(np.maximum(tokens, 0)), mask
    steps = np.full((len(lengths), length, values.shape[1]), np.nan)
    steps[places] = values
    x = torch.from_numpy(np.ascontiguousarray(steps.transpose(0, 2, 1)))
    return x, x.isfinite()


def _standardized(x: Tensor, mask: Tensor, schema: Mapping[str, Any]) -> Tensor:
    mean, std = (torch.tensor(schema[n], dtype=x.dtype)[:, None] for n in ("mean", "std"))
    return torch.where(mask, (x - mean) / std, 0.0)
