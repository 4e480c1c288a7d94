"""Blocks that parts share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["activation_class", "conv_sizes", "fill", "mlp", "widths", "with_context"]


def activation_class(name: str) -> type[nn.Module]:
    """The class of `torch.nn.modules.activation` of that name.

    Raises:
        ValueError: If there is none.
    """
    found = getattr(nn.modules.activation, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            "Expected the name of an activation in torch.nn, such as ReLU, Tanh, GELU or SiLU, "
            f"but got {name!r}."
        )
    return found


def widths(sizes: int | list[int]) -> list[int]:
    """Widths of layers, where a number stands for one layer."""
    return [sizes] if isinstance(sizes, int) else list(sizes)


def mlp(sizes: list[int], activation: str, last: bool = False) -> nn.Sequential:
    """Linear layers through `sizes`, an activation between them and, with `last`, after the last.

    Raises:
        ValueError: If a size is not positive or the activation has no such name.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"Expected layers of at least one unit but got widths {sizes}.")
    act = activation_class(activation)
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), act()]
    return nn.Sequential(*(layers if last else layers[:-1]))


def conv_sizes(event_shape: tuple[int, ...], channels: list[int]) -> list[tuple[int, int]]:
    """Heights and widths of an image before and after each halving, rounded up, one per channel.

    Raises:
        ValueError: If the event is no image (C, H, W), or is down to one pixel before the last
            halving, or there are no channels.
    """
    stages = len(channels)
    if not channels or any(channel < 1 for channel in channels):
        raise ValueError(
            f"Expected at least one entry in channels, all positive, but got {channels}."
        )
    if len(event_shape) != 3:
        raise ValueError(f"Expected images of shape (C, H, W) but got {tuple(event_shape)}.")
    sizes = [(event_shape[1], event_shape[2])]
    for stage in range(stages):
        h, w = sizes[-1]
        if h == w == 1:
            raise ValueError(
                f"Expected at most {stage} channels entries for {event_shape[1]}x{event_shape[2]} "
                f"images, since each halves the image, but got {stages}."
            )
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def fill(x: Tensor, mask: Tensor | None) -> Tensor:
    """x with zeros in the place of what is not observed."""
    return x if mask is None else torch.where(mask, x, 0.0)


def with_context(h: Tensor, context: Tensor | None) -> Tensor:
    """h (N, F) and context (N, C) side by side, with shape (N, F + C)."""
    return h if context is None else torch.cat([h, context.to(h.dtype)], dim=1)
