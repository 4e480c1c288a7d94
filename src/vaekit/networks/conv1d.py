"""Convolutions over sequences, (T,) or (C, T)."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.trees import Shapes
from vaekit.networks.blocks import activation_class, conv_sizes, mlp, widths, with_context
from vaekit.networks.sequences import OfSequences, StepEmbedding, ToSequences, sequence_of


class Conv1dEncoder(OfSequences):
    """Strided convolutions over a sequence, each halving it, and a linear layer.

    Steps that a mask hides are read as 0, or as a token of their own.

    Arguments:
        channels: Channels after each convolution, a number for one.
        kernel: Width of the convolutions, an odd number of steps.
        hidden: Width of the linear layer, which also sees the context.
        tokens: Whether values are tokens, each with a vector of its own, not numbers.
        activation: Name of an activation in torch.nn.

    Raises:
        ValueError: If the rows are no sequences, or too short for so many halvings, or tokens have
            no known number, or the kernel is even.

    Example:
        >>> import torch
        >>> Conv1dEncoder(event_shape=(2, 30), hidden=32)(torch.randn(5, 2, 30)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        context_features: int = 0,
        channels: int | list[int] = [32, 64],  # noqa: B006 - read only
        kernel: int = 5,
        hidden: int = 128,
        tokens: bool = False,
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        channels = widths(channels)
        ends = halved(event_shape, channels, kernel)
        self.steps = StepEmbedding(event_shape, data, channels[0], tokens)
        act = activation_class(activation)
        layers: list[nn.Module] = []
        for before, after in zip([channels[0], *channels], channels, strict=False):
            layers += [nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2), act()]
        self.conv = nn.Sequential(*layers, nn.Flatten())
        sizes = [channels[-1] * ends[-1] + context_features, hidden]
        self.linear = mlp(sizes, activation, last=True)
        self.features = hidden

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and event_shape[-1] > 2

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        vectors, seen = self.steps(x, mask)
        vectors = torch.where(seen.unsqueeze(2), vectors, 0.0)
        return self.linear(with_context(self.conv(vectors.transpose(1, 2)), context))


def halved(shape: tuple[int, ...], channels: list[int], kernel: int) -> list[int]:
    """Steps of a sequence before and after each halving, rounded up.

    Raises:
        ValueError: If there are none left to halve, or the kernel is even.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"Expected a kernel of an odd number of steps but got {kernel}.")
    _, length = sequence_of(shape)
    return [steps for _, steps in conv_sizes((1, 1, length), channels)]


class Conv1dDecoder(ToSequences):
    """The mirror of `Conv1dEncoder`: linear layers, then transposed convolutions.

    Arguments:
        channels: Channels before each transposed convolution, in the encoder's order.
        kernel: Width of the convolutions, an odd number of steps.
        hidden: Width of the linear layer.
        activation: Name of an activation in torch.nn.

    Raises:
        ValueError: If the output is too short for so many doublings, or the kernel is even.

    Example:
        >>> import torch
        >>> decoder = Conv1dDecoder(latent_shape=(4,), output_shape=(10, 30))
        >>> decoder(torch.randn(5, 4)).shape
        torch.Size([5, 10, 30])
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        context_features: int = 0,
        channels: int | list[int] = [32, 64],  # noqa: B006
        kernel: int = 5,
        hidden: int = 128,
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        numbers, _ = sequence_of(output_shape)
        channels = widths(channels)
        ends = halved(output_shape, channels, kernel)[::-1]
        start = (channels[-1], ends[0])
        sizes = [prod(latent_shape) + context_features, hidden, prod(start)]
        self.linear = nn.Sequential(mlp(sizes, activation, last=True), nn.Unflatten(1, start))
        act = activation_class(activation)
        layers: list[Any] = []
        stages = [*channels[::-1], numbers]
        for before, after, now, then in zip(stages, stages[1:], ends, ends[1:], strict=False):
            # A doubling gives 2n - 1 or 2n steps, as the output padding says.
            extra = then - 2 * now + 1
            conv = nn.ConvTranspose1d(before, after, kernel, 2, kernel // 2, output_padding=extra)
            layers += [conv, act()]
        self.conv = nn.Sequential(*layers[:-1])

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and event_shape[-1] > 2

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        y = self.conv(self.linear(with_context(z.flatten(1), context)))
        return y.reshape(-1, *self.output_shape)
