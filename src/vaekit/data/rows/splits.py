"""Which rows are for training, for validation and for testing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.rows.batches import SPLITS, Rows
from vaekit.numerics.random import generator

_NAMES = {
    **dict.fromkeys(("train", "training", "fit"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate"), "val"),
    **dict.fromkeys(("dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "heldout", "holdout"), "test"),
}
"""Names of the splits in the data of users, in lower case and without separators."""


def split_called(name: Any) -> str | None:
    """Returns the split that a name means, in any case; None if it means no split.

    Example:
        >>> split_called("Training"), split_called("test_set"), split_called("cat")
        ('train', 'test', None)
    """
    plain = re.sub(r"[-_ ]+", "", str(name).strip().lower())
    return _NAMES.get(plain) or _NAMES.get(plain.removesuffix("set").removesuffix("data"))


def split(
    rows: Rows,
    val: float,
    test: float,
    seed: int,
    groups: Sequence[Any] | np.ndarray | None = None,
    classes: np.ndarray | None = None,
) -> dict[str, Rows]:
    """Disjoint train, val and test rows, drawn with a seed; a split without rows is left out.

    Arguments:
        val: Share of the rows, from 0 to 1; the same for `test`. Where both are 0, all rows
            are for training; of any other share there is at least one row.
        groups: What rows that stay together have in common, such as a patient, one for each row:
            all rows of a group are in one split, and the shares are met as nearly as that allows.
        classes: The class of each row, whole numbers (N,): each split has the share of each class
            that it has of all rows, and a row of each class that has a row for every split.
            Without effect if there are groups.

    Raises:
        ValueError: If the shares leave no row for training.
    """
    n = len(rows)
    wanted = [max(1, round(n * share)) if share > 0 else 0 for share in (val, test)]
    if n < 3 and sum(wanted) >= n and 0 <= val + test < 1:
        wanted = [0, 0]  # too few to hold any of them out
    if val < 0 or test < 0 or sum(wanted) >= n:
        raise ValueError(
            f"Expected shares of held-out rows from 0 that leave rows for training, but got "
            f"val={val} and test={test} of {n} rows: --data.val 0 --data.test 0 hold out none."
        )
    if wanted == [0, 0]:
        return {"train": rows}
    if groups is not None:
        return _split_groups(rows, wanted, seed, groups)
    if n < 10:
        warnings.warn(
            f"There are {n} rows: {wanted[0]} of them are for validation and {wanted[1]} for "
            "testing. --data.val and --data.test say how many, as shares.",
            stacklevel=2,
        )
    order = torch.randperm(n, generator=generator("split", seed))
    if classes is not None:
        order = _by_class(order.numpy(), wanted, np.unique(classes, return_inverse=True)[1])
    parts = order.split([n - sum(wanted), *wanted])
    named = zip(SPLITS, parts, strict=True)
    return {name: rows.subset(part.sort()[0]) for name, part in named if len(part)}


def divided(
    rows: Rows,
    names: Sequence[Any] | np.ndarray | None,
    groups: Sequence[Any] | np.ndarray | None,
    shares: tuple[float, float],
    seed: int,
    classes: np.ndarray | None = None,
) -> dict[str, Rows]:
    """The rows of each split, by names as `split_by_name`, or by shares, groups and classes as
    `split`.

    Raises:
        ValueError: If both names and groups are given; as these.
    """
    if names is not None and groups is not None:
        raise ValueError(
            "Expected split or group but got both: a column of splits says already which rows "
            "stay together."
        )
    if names is not None:
        return split_by_name(rows, names)
    return split(rows, *shares, seed=seed, groups=groups, classes=classes)


def is_in(splits: Iterable[Rows], n: int) -> np.ndarray:
    """Whether each of n rows is in one of the splits, (n,)."""
    found = np.zeros(n, dtype=bool)
    for rows in splits:
        found[slice(None) if rows.index is None else rows.index.numpy()] = True
    return found


def _by_class(order: np.ndarray, wanted: Sequence[int], classes: np.ndarray) -> Tensor:
    """Returns an order of the rows whose last ones, the held-out splits, have all classes.

    The seats of a split go to the classes by the method of Webster: row k of a class of n rows has
    the priority n / (k + 0.5). With one class the splits are the ones of the order as it is.
    """
    train = len(order) - sum(wanted)
    left, parts = np.concatenate([order[train:], order[:train]]), []
    for at, count in enumerate(wanted):
        own = classes[left]
        sizes, by_class = np.bincount(own), own.argsort(kind="stable")
        place = np.empty_like(own)
        place[by_class] = np.arange(len(own)) - (sizes.cumsum() - sizes)[own[by_class]]
        size, later = sizes[own], 1 + sum(other > 0 for other in wanted[at + 1 :])
        priority = (place + 0.5) / size
        priority -= (place == 0) & (size > later)  # a row of each class comes first
        priority += place >= size - later  # one for each later split comes last
        chosen = priority.argsort(kind="stable")
        parts.append(left[chosen[:count]])
        left = left[np.sort(chosen[count:])]
    return torch.from_numpy(np.concatenate([left, *parts]))


def _split_groups(
    rows: Rows, wanted: list[int], seed: int, groups: Sequence[Any] | np.ndarray
) -> dict[str, Rows]:
    if len(groups) != len(rows):
        raise ValueError(f"Expected a group for each of {len(rows)} rows but got {len(groups)}.")
    # A row of no group is one by itself.
    called = [
        f"{at} alone" if group != group or group is None else f"{group}"
        for at, group in enumerate(groups)
    ]
    names, group = np.unique(called, return_inverse=True)
    needed = 1 + sum(count > 0 for count in wanted)
    if len(names) < needed:
        raise ValueError(
            f"Expected at least {needed} groups, for as many splits, but there are {len(names)}: "
            "hold out less, with --data.val 0 or --data.test 0, or group by something else."
        )
    sizes = np.bincount(group)
    order = torch.randperm(len(names), generator=generator("split", seed)).tolist()
    split_of = np.zeros(len(names), dtype=int)
    for split, count in enumerate(wanted, start=1):
        left = [at for at in order if split_of[at] == 0]
        most = len(left) - 1 - sum(later > 0 for later in wanted[split:])  # one for each other
        chosen: list[int] = []
        for at in left:
            if len(chosen) < most and sizes[at] <= count:
                chosen.append(at)
                count -= sizes[at]
        if wanted[split - 1]:
            split_of[chosen or min(left, key=lambda at: sizes[at])] = split
    of_row = torch.from_numpy(split_of[group])
    found = {name: (of_row == at).nonzero().flatten() for at, name in enumerate(SPLITS)}
    return {name: rows.subset(index) for name, index in found.items() if len(index)}


def hold_out(rows: Rows, val: int, seed: int | None = None) -> dict[str, Rows]:
    """The rows as train, but for so many of them, which are val; 0 leaves val out.

    Arguments:
        seed: Draws those that are val; None takes the last ones.

    Raises:
        ValueError: If no row is left for training.
    """
    if not 0 <= val < len(rows):
        raise ValueError(
            f"Expected val, the number of held-out rows, from 0 to {len(rows) - 1:,} but got "
            f"{val:,}."
        )
    if seed is not None:
        return split(rows, val / len(rows), 0.0, seed)
    cut = len(rows) - val
    splits = {"train": rows.subset(slice(0, cut))}
    return {**splits, "val": rows.subset(slice(cut, None))} if val else splits


def split_by_name(rows: Rows, names: Sequence[Any] | np.ndarray) -> dict[str, Rows]:
    """Returns the rows by the names of their splits, which `split_called` knows.

    Raises:
        ValueError: If a name is another, or no row is for training.
    """
    called = {name: split_called(name) for name in set(names)}
    if unknown := {str(name) for name, split in called.items() if split is None}:
        raise ValueError(
            f"Expected splits called train, val and test but got {', '.join(sorted(unknown)[:5])}."
        )
    split_of = np.asarray([called[name] for name in names])
    found = {name: torch.from_numpy((split_of == name).nonzero()[0]) for name in SPLITS}
    if not len(found["train"]):
        raise ValueError("Expected rows of the split train but there are none.")
    return {name: rows.subset(index) for name, index in found.items() if len(index)}
