"""The laws of data modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.trees import Tree, each, first, flat, leaves, within
from vaekit.data.base import DataModule
from vaekit.data.rows.batches import Stored
from vaekit.numerics.random import fixed_noise
from vaekit.registry import specs
from vaekit.testing.subject import Excused, Law, Made, require

_SEEN = 2000  # rows of a split, at most, whose values are checked


def rows_are_as_declared(s: Made) -> None:
    """The first rows of each split have the shape, range, levels and classes that `info` says."""
    data: DataModule = s.make()
    info = data.info
    for split in data.splits:
        for batch in data.rows(split, _SEEN):
            shapes = each(lambda x: tuple(x.shape[1:]), batch.x)
            told = f"rows of the {split} split have shape {shapes}"
            require(shapes == info.event_shape, f"{told} but {info.event_shape} is declared")
            for name, entry in info.entries().items():
                _check_values(batch, name, entry)
            features = 0 if batch.context is None else batch.context.shape[1]
            require(features == info.context_features, f"contexts have {features} columns")
            if info.classes is not None and batch.label is not None:
                least, most = int(batch.label.min()), int(batch.label.max())
                require(least >= -1 and most < info.classes, f"labels span {least} to {most}")
    rows = len(data.numbers("train"))
    require(rows == info.data_size, f"it declares {info.data_size} training rows but has {rows}")


def _check_values(batch: Batch, name: str, entry: DataInfo) -> None:
    x: Tensor = batch.x[name] if isinstance(batch.x, dict) else batch.x
    mask = batch.mask[name] if isinstance(batch.mask, dict) else batch.mask
    if mask is not None:
        require(mask.shape == x.shape and mask.dtype == torch.bool, "a mask is unlike x")
        x = x[mask]
    if not x.numel():
        return
    require(x.isfinite().all(), f"{name} has values that are not finite")
    low, high = float(x.min()), float(x.max())
    told = f"{name} spans [{low:g}, {high:g}] but {entry.data_range} is declared"
    require(within(low, high, entry.data_range, x.dtype), told)
    if isinstance(entry.levels, int):
        number = len(x.unique())
        told = f"{name} has {number} values but {entry.levels} are declared"
        require(number <= entry.levels, told)


def splits_share_no_row(s: Made) -> None:
    """No row in memory is in two splits, whether by number or as a view."""
    data: DataModule = s.make()
    data.prepare_data()
    places: list[tuple[int, int]] = []
    for rows in data.load().values():
        x: Any = first(rows.x)
        at = torch.arange(len(x)) if rows.index is None else rows.index
        if isinstance(x, Stored):
            places += [(id(x), place) for place in at.tolist()]
            continue
        step = x.stride(0) * x.element_size() if x.dim() else 0
        places += [(0, place) for place in (x.data_ptr() + step * at).tolist()]
    require(len(places) == len(set(places)), "a row is in two splits, or twice in one")


def the_same_arguments_give_the_same_rows(s: Made) -> None:
    """Two modules of the same arguments have the same splits, in the same order."""
    one, other = s.make(), s.make()
    for split in one.splits:
        same = _equal(_rows(one, split), _rows(other, split))
        require(same, f"the {split} rows of a second module differ")


def held_out_rows_stay(s: Made) -> None:
    """Held-out rows are the same each time, in batches of any size, whatever was drawn before."""
    data: DataModule = s.make()
    sizes = (1000, 1000) if data.dequantize else (1000, 7)
    for split in set(data.splits) - {"train"}:
        found = []
        for seed, size in enumerate(sizes):
            with fixed_noise(seed):
                found.append(_rows(data, split, size))
        require(_equal(*found), f"the {split} rows differ the second time")


def every_training_row_is_in_one_batch(s: Made) -> None:
    """An epoch gives each training row once, in batches of at most `batch_size`."""
    data: DataModule = s.make()
    size = data.info.data_size
    batches = list(data.train_dataloader())
    lengths = [len(batch) for batch in batches]
    require(sum(lengths) == size, f"an epoch has {sum(lengths)} rows of {size}")
    told = f"a batch has {max(lengths)} rows where {data.batch_size} are wanted"
    require(max(lengths) <= data.batch_size, told)
    if data.binarize != "dynamic" and not data.dequantize:
        # What becomes of a value is one-to-one, so that as many rows differ before as after.
        given, whole = _different(batches), _different(data.rows("train"))
        require(given == whole, f"{given} different rows are given of {whole}")


def _different(batches: Iterator[Batch] | list[Batch]) -> int:
    return len(
        {
            b"".join(leaf[row].contiguous().numpy().tobytes() for leaf in leaves(batch.x))
            for batch in batches
            for row in range(len(batch))
        }
    )


def its_description_makes_it_again(s: Made) -> None:
    """What a checkpoint notes of the data makes the same data."""
    data: DataModule = s.make()
    if data.spec is None:
        raise Excused("it was made from what no checkpoint can note")
    again = specs.build("data", data.spec)
    require(again.info == data.info, "it declares something else")
    require(_equal(_rows(again, "train"), _rows(data, "train")), "its training rows differ")


def _rows(data: DataModule, split: str, batch_size: int | None = None) -> dict[str, Tensor]:
    """The first rows of a split, by column."""
    limit = min(200, len(data.numbers(split)))
    with fixed_noise(0) if split == "train" else nullcontext():
        columns = [dict(_columns(batch)) for batch in data.rows(split, limit, batch_size)]
    return {name: torch.cat([c[name] for c in columns]) for name in columns[0]}


def _columns(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    named: dict[str, Tree | None] = {
        "x": batch.x,
        "context": batch.context,
        "mask": batch.mask,
        "label": batch.label,
    }
    for name, column in named.items():
        if column is not None:
            yield from flat(name, column).items()


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(x.nan_to_num(), other[name].nan_to_num()) for name, x in one.items()
    )


OF_DATA: tuple[Law, ...] = (
    rows_are_as_declared,
    splits_share_no_row,
    the_same_arguments_give_the_same_rows,
    held_out_rows_stay,
    every_training_row_is_in_one_batch,
    its_description_makes_it_again,
)
