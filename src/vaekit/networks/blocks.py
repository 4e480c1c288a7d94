"""Blocks that parts share."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from math import inf, prod

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.trees import Shapes, Tree, each, entries_of, leaves


def activation_class(name: str) -> type[nn.Module]:
    """The class of `torch.nn.modules.activation` of that name.

    Raises:
        ValueError: If there is none.
    """
    found = None if name == "GLU" else getattr(nn.modules.activation, name, None)
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

    With the activation GLU the layers are gated: each unit is the product of a linear one and the
    sigmoid of another.

    Raises:
        ValueError: If a size is not positive or the activation has no such name.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"Expected layers of at least one unit but got widths {sizes}.")
    gated = activation == "GLU"
    act = nn.GLU if gated else activation_class(activation)
    layers: list[nn.Module] = []
    for place, (size_in, size_out) in enumerate(pairwise(sizes), start=2):
        active = last or place < len(sizes)
        layers.append(nn.Linear(size_in, 2 * size_out if gated and active else size_out))
        layers += [act()] if active else []
    return nn.Sequential(*layers)


class Learned(nn.Module):
    """Learned numbers, to which a context adds a linear function of it, at first zero.

    Arguments:
        start: What they are at first.
        context_features: How many elements a context has; 0 for none.

    Example:
        >>> Learned(torch.zeros(3, 2), context_features=4)(torch.randn(5, 4)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(self, start: Tensor, context_features: int = 0) -> None:
        super().__init__()
        self.bias = nn.Parameter(start)
        slope = torch.zeros(*start.shape, context_features)
        self.slope = nn.Parameter(slope) if context_features else None

    def forward(self, context: Tensor | None = None) -> Tensor:
        """The numbers, with the shape of `start`; given a context (B, C), B times that."""
        if self.slope is None or context is None:
            return self.bias
        return self.bias + torch.tensordot(context.to(self.slope.dtype), self.slope, ([1], [-1]))


class Residual(nn.Module):
    """x plus two convolutions of it, which add nothing at first.

    Arguments:
        channels: Of x and of what is added.
        act: An activation, before each convolution.
    """

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        for parameter in second.parameters():
            nn.init.zeros_(parameter)
        self.branch = nn.Sequential(act(), first, act(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def residual(channels: int, blocks: int, act: type[nn.Module]) -> list[nn.Module]:
    """So many residual blocks.

    Raises:
        ValueError: If their number is negative.
    """
    if blocks < 0:
        raise ValueError(f"Expected blocks to be at least 0 but got {blocks}.")
    return [Residual(channels, act) for _ in range(blocks)]


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


def count(shapes: Shapes) -> int:
    """How many elements a row has, of all its entries."""
    return sum(prod(shape) for shape in leaves(shapes))


def beside(x: Tree) -> Tensor:
    """Rows (N, *event) flattened, entries side by side, (N, F)."""
    return torch.cat([leaf.flatten(1) for leaf in leaves(x)], 1)


def apart(y: Tensor, shapes: Shapes) -> Tree:
    """Rows (N, F) as tensors of these shapes, the reverse of `beside`."""
    parts = y.split([prod(shape) for shape in leaves(shapes)], 1)
    rows = [part.unflatten(1, s) for part, s in zip(parts, leaves(shapes), strict=True)]
    return dict(zip(shapes, rows, strict=True)) if isinstance(shapes, dict) else rows[0]


def fill(x: Tree, mask: Tree | None) -> Tree:
    """x with zeros in the place of what is not observed."""
    if mask is None:
        return x
    return each(lambda leaf, seen: torch.where(seen, leaf, 0.0), x, mask)


def unbounded(data: DataInfo | None) -> frozenset[str]:
    """The entries whose values have no upper end but 0 as their lower one, such as counts."""
    if data is None:
        return frozenset()
    entries = data.entries().items()
    return frozenset(name for name, info in entries if info.data_range == (0.0, inf))


def logged(x: Tree, names: Collection[str]) -> Tree:
    """x with log(1 + value) in the place of the values of some entries; a single tensor is "x".

    Networks read counts from 0 to thousands so: as they are, the largest would drown the others.
    """
    if not names:
        return x
    found = {
        name: leaf.clamp(min=0).log1p() if name in names else leaf
        for name, leaf in entries_of(x).items()
    }
    return found if isinstance(x, dict) else found["x"]


def with_context(h: Tensor, context: Tensor | None) -> Tensor:
    """h (N, F) and context (N, C) side by side, with shape (N, F + C)."""
    return h if context is None else torch.cat([h, context.to(h.dtype)], dim=1)


def vector_size(latent_shape: tuple[int, ...], least: int = 1) -> int:
    """The number of latents that are a vector.

    Raises:
        ValueError: If they are none, or fewer than `least`.
    """
    if len(latent_shape) != 1 or latent_shape[0] < least:
        raise ValueError(
            f"Expected latents that are a vector of {least} or more but got latent_shape "
            f"{tuple(latent_shape)}."
        )
    return latent_shape[0]


def class_count(latent_shape: tuple[int, ...]) -> int:
    """The number of classes of one-hot latents, the last size of their shape.

    Raises:
        ValueError: If there are fewer than two.
    """
    if latent_shape[-1] < 2:
        raise ValueError(
            "Expected one-hot latents of two classes or more, the last size of latent_shape, but "
            f"got {tuple(latent_shape)}."
        )
    return latent_shape[-1]
