"""The laws of schedules and of data modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vaekit import specs
from vaekit.batch import Batch, Tree, each, flat, within
from vaekit.data.base import DataModule
from vaekit.noise import fixed_noise
from vaekit.schedules import Schedule, weight_at
from vaekit.testing.subject import Excused, require

__all__ = ["DATA", "SCHEDULE", "Made"]

_STEPS = (0, 1, 2, 10, 1000, 10**6)


@dataclass
class Made:
    """A schedule or a data module whose laws are looked at, made anew each time.

    Arguments:
        kind: "schedule" or "data".
        part: Its name, its class or an instance.
        init_args: Its arguments.
    """

    kind: str
    part: Any
    init_args: dict[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        if isinstance(self.part, str):
            return specs.build(self.kind, {"class_path": self.part, "init_args": self.init_args})
        return self.part(**self.init_args) if isinstance(self.part, type) else deepcopy(self.part)


# Schedules


def weights_are_finite_numbers(s: Made) -> None:
    """A schedule gives a finite number for every step from 0 on."""
    schedule: Schedule = s.make()
    for step in _STEPS:
        weight = schedule(step)
        told = f"at step {step} it gives {weight!r}"
        require(isinstance(weight, int | float) and isfinite(weight), told)


def a_weight_depends_on_the_step_alone(s: Made) -> None:
    """Steps in any order give the same weights, as a fit that goes on needs it."""
    one, other = s.make(), s.make()
    forwards = [one(step) for step in _STEPS]
    backwards = [other(step) for step in reversed(_STEPS)][::-1]
    require(forwards == backwards, f"in order {forwards} but backwards {backwards}")


def a_compiled_weight_is_the_same(s: Made) -> None:
    """In a compiled model its weight is a tensor of the same value, and no step is compiled
    again."""
    schedule: Schedule = s.make()

    def weighed(x: Tensor) -> Tensor:
        return x * weight_at(schedule, 0)

    region: Any = torch.compile(weighed, backend="eager", fullgraph=True)
    for step in _STEPS:
        schedule.place(step, torch.device("cpu"))
        found = float(region(torch.ones(1, dtype=torch.float64)))
        require(found == schedule(step), f"at step {step} {found} for {schedule(step)}")


# Data


def rows_are_as_declared(s: Made) -> None:
    """Shape, range, levels, labels and contexts of every row are those of `info`."""
    data: DataModule = s.make()
    info = data.info
    for split in data.splits:
        for batch in data.rows(split, 2000):
            shapes = each(lambda x: tuple(x.shape[1:]), batch.x)
            told = f"rows of the {split} split have shape {shapes}"
            require(shapes == info.event_shape, f"{told} but {info.event_shape} is declared")
            for name, entry in info.entries().items():
                _look_at_values(batch, name, entry)
            features = 0 if batch.context is None else batch.context.shape[1]
            require(features == info.context_features, f"contexts have {features} columns")
            if info.classes is not None and batch.label is not None:
                least, most = int(batch.label.min()), int(batch.label.max())
                require(least >= -1 and most < info.classes, f"labels span {least} to {most}")
    rows = sum(len(batch) for batch in data.rows("train"))
    require(rows == info.data_size, f"it declares {info.data_size} training rows but has {rows}")


def _look_at_values(batch: Batch, name: str, entry: Any) -> None:
    x: Tensor = batch.x[name] if isinstance(batch.x, dict) else batch.x
    mask = batch.mask[name] if isinstance(batch.mask, dict) else batch.mask
    if mask is not None:
        require(mask.shape == x.shape and mask.dtype == torch.bool, "a mask is unlike x")
        x = x[mask]
    require(x.isfinite().all(), f"{name} has values that are not finite")
    low, high = float(x.min()), float(x.max())
    told = f"{name} spans [{low:g}, {high:g}] but {entry.data_range} is declared"
    require(within(low, high, entry.data_range, x.dtype), told)
    if isinstance(entry.levels, int):
        number = len(x.unique())
        told = f"{name} has {number} values but {entry.levels} are declared"
        require(number <= entry.levels, told)


def splits_share_no_row(s: Made) -> None:
    """No row is in two splits."""
    data: DataModule = s.make()
    numbers = torch.cat([data.numbers(split) for split in data.splits])
    require(len(numbers) == len(numbers.unique()), "a row is in two splits")


def the_same_arguments_give_the_same_rows(s: Made) -> None:
    """Two modules of the same arguments have the same splits, in the same order."""
    one, other = s.make(), s.make()
    for split in one.splits:
        same = _equal(_rows(one, split), _rows(other, split))
        require(same, f"the {split} rows of a second module are others")


def held_out_rows_stay(s: Made) -> None:
    """Held-out rows are the same each time, in batches of any size, whatever was drawn before."""
    data: DataModule = s.make()
    sizes = (1000, 1000) if data.dequantize else (1000, 7)
    for split in set(data.splits) - {"train"}:
        found = []
        for seed, size in enumerate(sizes):
            with fixed_noise(seed):
                found.append(_rows(data, split, size))
        require(_equal(*found), f"the {split} rows are others the second time")


def every_training_row_is_in_one_batch(s: Made) -> None:
    """An epoch gives each training row once, in batches of at most `batch_size`."""
    data: DataModule = s.make()
    size = data.info.data_size
    lengths = [len(batch) for batch in data.train_dataloader()]
    require(sum(lengths) == size, f"an epoch has {sum(lengths)} rows of {size}")
    told = f"a batch has {max(lengths)} rows where {data.batch_size} are wanted"
    require(max(lengths) <= data.batch_size, told)


def its_description_makes_it_again(s: Made) -> None:
    """What a checkpoint notes of the data makes the same data."""
    data: DataModule = s.make()
    if data.spec is None:
        raise Excused("it was made from what no checkpoint can note")
    again = specs.build("data", data.spec)
    require(again.info == data.info, "it declares something else")
    require(_equal(_rows(again, "train"), _rows(data, "train")), "its training rows are others")


def _rows(data: DataModule, split: str, batch_size: int = 1000) -> dict[str, Tensor]:
    """The first rows of a split, by name."""
    limit = min(200, len(data.numbers(split)))
    with fixed_noise(0) if split == "train" else nullcontext():
        batches = list(data.rows(split, limit, batch_size))
    columns = [{n: x for n, x in _columns(batch)} for batch in batches]
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


SCHEDULE: tuple[Callable[[Made], None], ...] = (
    weights_are_finite_numbers,
    a_weight_depends_on_the_step_alone,
    a_compiled_weight_is_the_same,
)
DATA: tuple[Callable[[Made], None], ...] = (
    rows_are_as_declared,
    splits_share_no_row,
    the_same_arguments_give_the_same_rows,
    held_out_rows_stay,
    every_training_row_is_in_one_batch,
    its_description_makes_it_again,
)
