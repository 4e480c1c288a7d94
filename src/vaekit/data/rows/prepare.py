"""What is done to rows that lie in memory, and said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.trees import Tree, each, first, leaves, like
from vaekit.data.rows.batches import SPLITS, Rows, Stored, slices
from vaekit.numerics.random import generator


def binarized(rows: Rows, noise: torch.Generator) -> Rows:
    """The rows with 0 or 1 in the place of each value, which is the probability of 1."""
    own = slice(None) if rows.index is None else rows.index

    def drawn(x: Tensor, top: float | None) -> Tensor:
        ones = torch.empty(len(rows), *x.shape[1:], dtype=torch.uint8)
        for at in slices(len(rows), x[:1].numel()):
            part = x[at if rows.index is None else rows.index[at]]
            u = torch.rand(part.shape, generator=noise)
            ones[at] = u * (1.0 if top is None else top) < part
        return ones

    ones = each(drawn, rows.x, rows.top)
    columns = (rows.context, rows.mask, rows.label)
    context, mask, label = (
        None if c is None else each(lambda leaf: leaf[own], c) for c in columns
    )
    return Rows(ones, context, mask, label, top=1.0)


def hidden_by(x: Tree, mask: Tree | None, share: float, seed: int, source: int) -> Tree:
    """Returns the mask of rows x (N, *event) after a share of their elements is hidden.

    Arguments:
        x: Only its shape counts.
        mask: Like x, True where an element is observed; None if all are.
        source: The place of the rows among those of several files.
    """
    noise = generator("missing", seed, source)

    def observed(x: Tensor | Stored, mask: Tensor | None) -> Tensor:
        shape = list(x.shape)
        if len(shape) == 4:
            shape[1] = 1  # all channels of a pixel
        drawn = torch.empty(shape, dtype=torch.bool)
        for at in slices(len(x), drawn[:1].numel()):
            drawn[at] = torch.rand(drawn[at].shape, generator=noise) >= share
        drawn = drawn.expand(x.shape)
        return drawn if mask is None else drawn & mask

    return each(observed, x, like(x, mask))


def hide(splits: dict[str, Rows], share: float, seed: int) -> None:
    """Hides a share of the elements, of each source by the seed and its place among them."""
    masks: dict[int, Tree] = {}
    for split in (name for name in SPLITS if name in splits):
        rows = splits[split]
        source = id(first(rows.x))
        if source not in masks:
            masks[source] = hidden_by(rows.x, rows.mask, share, seed, len(masks))
        splits[split] = replace(rows, mask=masks[source])


def described(
    info: DataInfo, kinds: Mapping[str, str], splits: Mapping[str, Rows]
) -> dict[str, str]:
    """What data were taken for, in words, by what it is of."""
    found = {}
    for name, entry in info.entries().items():
        low, high = entry.data_range
        shape = "x".join(map(str, entry.event_shape))
        levels = f", {entry.levels} levels" if entry.levels else ""
        kind = f"{kinds[name]} " if name in kinds else ""
        found[name] = f"{kind}{shape} from {low:g} to {high:g}{levels}"
    found["rows"] = ", ".join(f"{len(rows):,} {split}" for split, rows in splits.items())
    if splits["train"].mask is not None:
        found["missing"] = f"{_hidden_share(splits['train']):.1%} of the elements"
    if info.context_features:
        found["context"] = f"{info.context_features} columns"
    label = splits["train"].label
    if info.classes:
        found["labels"] = f"{info.classes} classes"
    elif label is not None and label.dim() == 1 and label.isfinite().any():
        low, high = label[label.isfinite()].aminmax()
        found["labels"] = f"numbers from {low:g} to {high:g}"
    return found


def _hidden_share(rows: Rows) -> float:
    """The share of the elements that a mask hides."""
    hidden, size = 0, 0
    for mask in leaves(rows.mask):
        for at in slices(len(rows), mask[:1].numel()):
            part = mask[at if rows.index is None else rows.index[at]]
            hidden, size = hidden + int((~part).sum()), size + part.numel()
    return hidden / max(1, size)


def apart(x: Tensor, stored: Tensor | Stored) -> Tensor:
    """x in memory of its own: the stored rows may be a file that no part can write to."""
    if isinstance(stored, Stored):
        return x
    same = x.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
    return x.clone() if same else x


def other_files(
    data: Any, splits: dict[str, Rows], held_out: tuple[Any, Any], name: str = "path"
) -> list[Any]:
    """Adds the rows of files that were named in the place of the shares val and test.

    Arguments:
        data: A data module, whose schema the rows follow; their names are added to its own.
        held_out: What was said of val and test.
        name: The argument that names a file.

    Returns:
        The data modules of the files.
    """
    alone = {"val": 0.0, "test": 0.0, "split": None, "group": None}
    found: list[Any] = []
    for split, source in zip(SPLITS[1:], held_out, strict=True):
        if not isinstance(source, str | Path):
            continue
        given = {k: v for k, v in {**data._init, **alone}.items() if v is not None}
        other = type(data)(**{**given, name: source}).follow(data.schema)
        other.is_held_out, other.source_number = True, 1 + len(found)
        rows = other.load()["train"]
        for column, values in other.only_held_out.items():
            known = data.only_held_out.get(column)
            both = values if known in (None, values) else f"{known}; {values}"
            data.only_held_out = {**data.only_held_out, column: both}
        if data.names is not None or other.names is not None:
            data.names = np.concatenate([_names(data, splits), _names(other, {split: rows})])
        label = splits["train"].label
        if rows.label is None and label is not None:
            missing = torch.nan if label.is_floating_point() else -1
            rows = replace(rows, label=torch.full((len(first(rows.x)),), missing))
        splits[split] = rows
        found.append(other)
    return found


def _names(data: Any, splits: Mapping[str, Rows]) -> np.ndarray:
    """What the user calls the rows; their numbers where there are no names."""
    if data.names is not None:
        return np.asarray(data.names)
    sources = {id(first(rows.x)): len(first(rows.x)) for rows in splits.values()}
    return np.arange(sum(sources.values())).astype(str)


def share(said: Any) -> float:
    """A share that was said of val or test, 0 where a file was named."""
    return 0.0 if isinstance(said, str | Path) else float(said)
