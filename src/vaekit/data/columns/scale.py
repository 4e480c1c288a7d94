"""Columns brought to one scale, and back; and a word on those that need it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vaekit.data.rows.batches import slices
from vaekit.data.rows.limits import refuse_large_in

_FAR, _CLOSE = 1e4, 1e-4
"""Standard deviations and values of a column above the one, or below the other, drown the loss or
are drowned in it."""

_TINY = 1e-100
_EXACT, _ULPS = 2.0**53, 4 * np.finfo(np.float64).eps
"""Up to the first, whole numbers are exact. Other numbers whose standard deviation is at most the
second, relative to the largest of them, differ by rounding only."""


def deviation(x: np.ndarray) -> float:
    """Returns the standard deviation of numbers (N,), or 1 if they differ by rounding only."""
    if not len(x):
        return 1.0
    largest = float(np.abs(x).max())
    if 0 < largest < _TINY:  # squares of such numbers are 0
        return deviation(x / largest) * largest
    return float(moments(torch.tensor(x, dtype=torch.float64).unsqueeze(1))[1])


def beyond(x: np.ndarray, low: float, high: float) -> str:
    """Describes numbers (N,) that are not from low to high; "" if there are none."""
    below, above = x[x < low], x[x > high]
    parts = [f"down to {below.min():g}"] if len(below) else []
    return " and ".join([*parts, *([f"up to {above.max():g}"] if len(above) else [])])


def moments(
    x: Tensor, mask: Tensor | None = None, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the mean and standard deviation of the observed values, in float64.

    Columns (N, D) have a mean each; with further axes each channel has one, (C, 1, ...). The
    standard deviation is 1 if it would be 0, if the values differ by rounding only, or if no value
    is observed.

    Arguments:
        index: Which rows to use; None for all.
    """
    count = total = squares = largest = torch.zeros(x.shape[1], dtype=torch.float64)
    first, is_whole = torch.full_like(count, torch.nan), torch.ones_like(count, dtype=torch.bool)
    for at in slices(len(x) if index is None else len(index), x[:1].numel()):
        here = at if index is None else index[at]
        part = x[here].double()
        observed = torch.ones_like(part, dtype=torch.bool) if mask is None else mask[here].bool()
        part, observed = (t.movedim(1, 0).flatten(1) for t in (part, observed))  # (C, n)
        start = part.gather(1, observed.int().argmax(1, keepdim=True)).squeeze(1)
        first = torch.where(first.isnan() & observed.any(1), start, first)
        # Sums of large numbers would lose what differs: sum the differences from the first.
        centred = torch.where(observed, part - first.unsqueeze(1), 0.0)
        part = torch.where(observed, part, 0.0)
        count, total = count + observed.sum(1), total + centred.sum(1)
        squares, largest = squares + (centred**2).sum(1), largest.maximum(part.abs().amax(1))
        is_whole = is_whole & (part == part.round()).all(1)
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean**2).clamp(min=0).sqrt()
    rounding = torch.where(is_whole & (largest <= _EXACT), 0.0, _ULPS * largest)
    std = torch.where(std > rounding, std, 1.0)
    shape = (-1, *[1] * (x.dim() - 2))
    return (mean + first.nan_to_num(0.0, torch.inf, -torch.inf)).reshape(shape), std.reshape(shape)


def standardized(
    x: Tensor, mean: Tensor, std: Tensor, mask: Tensor | None = None, name: str = "x"
) -> Tensor:
    """(x - mean) / std in float32, computed in float64.

    Raises:
        ValueError: If an observed number is too far from the mean.
    """
    found = torch.empty(x.shape, dtype=torch.float32)
    for at in slices(len(x), x[:1].numel()):
        part = (x[at].double() - mean) / std
        seen = part.isfinite() if mask is None else mask[at].bool() & part.isfinite()
        refuse_large_in(part, seen, name, at.start, scaled=True)
        found[at] = part.float()
    return found


def refuse_overflow(x: Tensor, mask: Tensor | None, name: str) -> None:
    """Refuses observed numbers whose squares float64 cannot hold.

    Raises:
        ValueError: If there is one.
    """
    for at in slices(len(x), x[:1].numel()):
        part = x[at].double()
        seen = part.isfinite() if mask is None else mask[at].bool() & part.isfinite()
        refuse_large_in(part, seen, name, at.start, scaled=False)


def warn_of_scales(name: str, x: Tensor, mask: Tensor | None, names: Sequence[str] | None) -> None:
    """Warns of columns (N, D) whose numbers are so large, or so close, that nothing is learned."""
    mean, std = (m.numpy() for m in moments(x, mask))
    largest = np.abs(mean) + std
    single = np.finfo(np.float32).eps * np.abs(mean) > 1e-3 * std
    varies = std != 1
    bad = varies & ((largest > _FAR) | (std < _CLOSE) | single)
    if not bad.any():
        return
    worst = int(np.where(bad, np.maximum(largest, 1 / std), 0).argmax())
    column = names[worst] if names else f"column {worst}"
    others = f" (and {bad.sum() - 1} more)" if bad.sum() > 1 else ""
    warnings.warn(
        f"{column} of {name}{others} has mean {mean[worst]:.3g} and standard deviation "
        f"{std[worst]:.3g}, from which a network learns badly or nothing: --data.standardize true "
        "brings each column to mean 0 and standard deviation 1, and what is written back to its "
        "units.",
        stacklevel=2,
    )
