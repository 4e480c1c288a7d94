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

_ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""The relative standard deviation of numbers that differ only by rounding."""


def deviation(x: np.ndarray) -> float:
    """Returns the standard deviation of numbers (N,), or 1 if they differ only by rounding."""
    if not len(x):
        return 1.0
    std = float((x - x[0]).std())
    return std if std > _ROUNDING * float(np.abs(x).max()) else 1.0


def beyond(x: np.ndarray, low: float, high: float) -> str:
    """Describes numbers (N,) that are not from low to high; "" if there are none."""
    below, above = x[x < low], x[x > high]
    parts = [f"down to {below.min():g}"] if len(below) else []
    return " and ".join([*parts, *([f"up to {above.max():g}"] if len(above) else [])])


def moments(
    x: Tensor, mask: Tensor | None = None, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the observed values, in float64.

    Of each element of a row (D,); where a row has several axes, of each channel, (C, 1, ...). The
    standard deviation is 1 where it would be 0, or nothing is observed.

    Arguments:
        index: Which rows; None for all.
    """
    axes = [0, *range(2, x.dim())]
    count = total = squares = torch.zeros(x.shape[1], dtype=torch.float64)
    shift = None  # about the first row: sums of large numbers would lose what differs
    for at in slices(len(x) if index is None else len(index), x[:1].numel()):
        here = at if index is None else index[at]
        part = x[here].double()
        seen = torch.ones_like(part) if mask is None else mask[here].double()
        part = torch.where(seen > 0, part, 0.0)
        if shift is None:
            shift = (part * seen).sum(axes) / seen.sum(axes).clamp(min=1)
        centred = (part - shift.reshape(-1, *[1] * (x.dim() - 2))) * seen
        count = count + seen.sum(axes)
        total, squares = total + centred.sum(axes), squares + (centred**2).sum(axes)
    assert shift is not None
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean**2).clamp(min=0)
    std = variance.sqrt()
    std = torch.where(std > _ROUNDING * (mean + shift).abs(), std, 1.0)
    shape = (-1, *[1] * (x.dim() - 2))
    return (mean + shift).reshape(shape), std.reshape(shape)


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
