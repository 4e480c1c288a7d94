"""What is found out about the values of arrays: their range, their levels, the scale of bytes."""

from __future__ import annotations

import warnings
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.trees import within
from vaekit.data.readers.arrays import WHOLE
from vaekit.data.rows.batches import natural, span

BYTES = 2**28
"""Size in bytes up to which all values of uint8 are looked at before the first step, since all
that is asked of them is whether they are 0 and 1 alone; of others it is `WHOLE`."""

_LARGEST = 1e18
"""Of values: sums of squares of larger ones overflow in float32."""


def top_of(name: str, x: Tensor, declared: tuple[float, float] | None) -> float | None:
    """The stored value of x = 1: of uint8 images 255, or 1 where they hold 0 and 1 alone.

    None where values are taken as they are, as where the user declares another range.
    """
    if x.dtype == torch.bool:
        return 1
    if declared not in (None, (0.0, 1.0)):
        return None
    colours = x.dim() == 4 and x.shape[1] in (1, 3, 4)
    grey = x.dim() == 3 and min(x.shape[1:]) >= 8
    deep = x.dtype == torch.uint16 and (colours or grey)
    if x.dtype != torch.uint8 and not deep:
        return None
    at = spread(x)
    most = int((x if at is None else x[at]).cpu().numpy().max())  # torch has none of 16 bits
    full = 65535 if deep else 255
    if 1 < most < full // 8:
        warnings.warn(
            f"{name} holds {str(x.dtype).removeprefix('torch.')} values up to {most}, which are "
            f"divided by {full}, as grey values are. Counts are taken as they are with "
            f"--data.data_range 0,inf, tokens and levels with --data.data_range 0,{most}.",
            stacklevel=2,
        )
    return 1 if most <= 1 and not deep else full


def spread(x: Tensor) -> Tensor | None:
    """A thousand rows spread over what is too large to be read whole; None for all."""
    size = x.numel() * x.element_size()
    if size <= (BYTES if x.dtype == torch.uint8 else WHOLE) or len(x) <= 1000:
        return None
    return torch.linspace(0, len(x) - 1, 1000, dtype=torch.float64).long()


def checked(name: str, declared: Any) -> tuple[float, float] | None:
    """A range that a user declares, as numbers.

    Raises:
        ValueError: If it is no smallest and largest value.
    """
    if declared is None:
        return None
    if len(declared) != 2 or not declared[0] < declared[1]:
        raise ValueError(
            f"Expected the data_range of {name} as its smallest and largest value but got "
            f"{declared!r}."
        )
    return float(declared[0]), float(declared[1])


def measured(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    top: float | None,
    declared: tuple[float, float] | None,
) -> tuple[tuple[float, float], int | None]:
    """The range and the number of levels of an array's observed values."""
    if top is not None:
        return (0.0, 1.0), int(top) + 1
    found = span(x, mask, spread(x))
    if found is None:  # the narrowest there is
        return declared or (0.0, 1.0), None
    low, high, binary = found
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(
            f"Expected finite values but {name} holds NaN or infinity. Leave rows out, give a "
            "mask that is False there, or say --data.missing nan, where NaN is what is missing."
        )
    if declared is not None and not within(low, high, declared, x.dtype):
        raise ValueError(
            f"Expected values in the declared data_range {list(declared)} but {name} spans "
            f"[{low:g}, {high:g}]."
        )
    if max(-low, high) > _LARGEST:
        raise ValueError(
            f"Expected values whose squares float32 can hold but {name} spans "
            f"[{low:g}, {high:g}]: --data.standardize true rescales them."
        )
    taken = declared or natural(low, high)
    if not x.is_floating_point() and isfinite(taken[1] - taken[0]):
        return taken, round(taken[1] - taken[0]) + 1
    return taken, 2 if binary and taken == (0.0, 1.0) else None
