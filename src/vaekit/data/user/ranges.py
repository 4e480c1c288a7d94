"""What is found out about the values of arrays: their range, their levels, the scale of bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.trees import within
from vaekit.data.readers.arrays import WHOLE
from vaekit.data.rows.batches import natural, slices, span

BYTES = 2**28
"""Size in bytes up to which all values of uint8 are looked at before the first step, since all
that is asked of them is whether they are 0 and 1 alone; of others it is `WHOLE`."""

_LARGEST = 1e18
"""Of values: sums of squares of larger ones overflow in float32."""


_FEWEST_COLUMNS, _BRIGHT = 64, 128
"""The number of columns from which rows (N, D) may be images without their two axes, and the
largest value from which whole numbers of images may be grey values."""


@dataclass(frozen=True)
class ImageFormat:
    """Describes how the model of the rows reads images.

    Arguments:
        top: The stored value of x = 1 if the values are not bytes; None if they are not scaled.
        levels: The number of values; None if the model knows none, as of an earlier version.
    """

    top: float | None = None
    levels: int | None = None


def top_of(
    name: str,
    x: Tensor,
    declared: tuple[float, float] | None,
    mask: Tensor | None = None,
    model: ImageFormat | None = None,
) -> float | None:
    """Returns the stored value of x = 1.

    It is 255 for uint8 images, or 1 if they hold only 0 and 1, and 255 for grey values of other
    types. It is None if values are taken as they are, as when the user declares another range.

    Arguments:
        model: How the model reads images, if the rows follow one.
    """
    if x.dtype == torch.bool:
        return 1
    if declared not in (None, (0.0, 1.0)):
        return None
    colours = x.dim() == 4 and x.shape[1] in (1, 3, 4)
    grey = x.dim() == 3 and min(x.shape[1:]) >= 8
    deep = x.dtype == torch.uint16 and (colours or grey)
    if x.dtype != torch.uint8 and not deep:
        return None if declared else _top_of_grey(name, x, mask, model)
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
    is_grey = model is not None and model.levels not in (None, 2)
    return 1 if most <= 1 and not deep and not is_grey else full


def _top_of_grey(
    name: str, x: Tensor, mask: Tensor | None, model: ImageFormat | None
) -> float | None:
    """Returns 255 for grey values from 0 to 255 that are not stored as bytes."""
    if model is not None and model.top is not None:
        return model.top
    is_image = x.dim() == 3 and min(x.shape[1:]) >= 8
    is_image |= x.dim() == 4 and x.shape[1] in (1, 3, 4) and min(x.shape[2:]) >= 4
    is_flat = x.dim() == 2 and x.shape[1] >= _FEWEST_COLUMNS
    is_unscaled = model is not None and model.levels is None
    if is_unscaled or not (is_image or is_flat) or spread(x) is not None:
        return None
    low, high, _ = span(x, mask) or (0.0, 0.0, True)
    if not (low >= 0 and (high == 255 or (is_image and _BRIGHT <= high <= 255))):
        return None
    if not all_observed(x, mask, lambda part: part == part.round()):
        if is_image and high > 100 and model is None:
            warnings.warn(
                f"{name} has the shape of images and values from {low:g} to {high:g}, for which "
                "the first loss is large: --data.standardize true scales them, or divide them by "
                "255.",
                stacklevel=2,
            )
        return None
    # Whole numbers in a type for them are more often counts.
    return 255 if x.is_floating_point() or high == 255 else None


def levels_of(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    top: float,
    model: int | None = None,
    keeps_grey: bool = False,
) -> int | None:
    """Returns the number of values that an element of images has: 2 if it is 0 or `top`.

    Arguments:
        model: The same number of the model, if the rows follow one.
        keeps_grey: Whether the number is `top` + 1 even if only 0 and `top` occur.

    Raises:
        ValueError: If the model's images are black and white but these are not.
    """
    if x.is_floating_point() or x.dtype not in (torch.uint8, torch.uint16, torch.bool):
        low, high, _ = span(x, mask) or (0.0, 0.0, True)
        if not 0 <= low <= high <= top:
            raise ValueError(
                f"Expected finite values from 0 to {top:g}, as in the model's data, but {name} "
                f"spans [{low:g}, {high:g}]."
            )
        if not all_observed(x, mask, lambda part: part == part.round()):
            return None
    if top == 1:
        return 2
    at = spread(x)
    if keeps_grey or model not in (None, 2) or (at is not None and model is None):
        return int(top) + 1
    if all_observed(x, mask, lambda part: (part == 0) | (part == top), at):
        return 2
    if model == 2:
        raise ValueError(
            f"Expected only the values 0 and {top:g}, as in the model's data, but {name} has "
            "values between them: --data.binarize static draws 0 or 1 for each."
        )
    return int(top) + 1


def all_observed(
    x: Tensor,
    mask: Tensor | None,
    test: Callable[[Tensor], Tensor],
    index: Tensor | None = None,
) -> bool:
    """Returns whether all observed values pass a test, and stops at the first slice that fails.

    Arguments:
        index: The rows that are tested; None for all.
    """
    for at in slices(len(x) if index is None else len(index), x[:1].numel()):
        rows = at if index is None else index[at]
        part = x[rows] if mask is None else x[rows][mask[rows].bool()]
        if part.dtype in (torch.uint16, torch.uint32, torch.uint64):
            part = part.double()  # torch compares no others of these
        if not bool(test(part).all()):
            return False
    return True


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
    levels: int | None = None,
) -> tuple[tuple[float, float], int | None]:
    """The range and the number of levels of an array's observed values.

    Arguments:
        levels: The number of levels of images, which have a `top`.
    """
    if top is not None:
        return (0.0, 1.0), levels
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
