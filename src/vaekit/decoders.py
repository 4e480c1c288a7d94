"""Decoders: networks from z to what the likelihood needs."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from vaekit.batch import Shapes, Tree, each
from vaekit.contracts import Decoder
from vaekit.nn import (
    activation_class,
    apart,
    conv_sizes,
    count,
    mlp,
    residual,
    widths,
    with_context,
)

__all__ = ["ConvDecoder", "MLPDecoder", "ResNetDecoder"]


class MLPDecoder(Decoder):
    """A multilayer perceptron over the flattened latent; its output is linear.

    For a likelihood of several entries it gives a dict, each entry from the same last layer.

    Arguments:
        hidden: Widths of the hidden layers, a number for one; none gives a linear decoder.
        activation: Name of an activation in torch.nn; GLU gates the layers.

    Raises:
        ValueError: If a width is not positive or the activation has no such name.

    Example:
        >>> import torch
        >>> decoder = MLPDecoder(latent_shape=(2,), output_shape=(1, 8, 8), hidden=[32])
        >>> decoder(torch.randn(5, 2)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: Shapes,
        context_features: int = 0,
        hidden: int | list[int] = [256],  # noqa: B006
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        sizes = [prod(latent_shape) + context_features, *widths(hidden), count(output_shape)]
        self.net = mlp(sizes, activation)
        self.output_shape = each(tuple, output_shape)

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return True

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tree:
        return apart(self.net(with_context(z.flatten(1), context)), self.output_shape)


class ConvDecoder(Decoder):
    """The mirror of `ConvEncoder`: linear layers, then transposed 3x3 convolutions.

    Arguments:
        channels: Channels before each transposed convolution, in the encoder's order.
        hidden: Width of the linear layer.
        activation: Name of an activation in torch.nn.
        blocks: Residual blocks before each transposed convolution.

    Raises:
        ValueError: If the output is no image (C, H, W), or too small for so many doublings.

    Example:
        >>> import torch
        >>> decoder = ConvDecoder(latent_shape=(2,), output_shape=(1, 28, 20), channels=[8, 16])
        >>> decoder(torch.randn(5, 2)).shape
        torch.Size([5, 1, 28, 20])
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        context_features: int = 0,
        channels: int | list[int] = [32, 64],  # noqa: B006
        hidden: int = 256,
        activation: str = "ReLU",
        blocks: int = 0,
        event_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if event_shape is not None and len(event_shape) < 2:  # two numbers for each of a row
            conv_sizes(event_shape, [1])  # refuses it
        # Leading axes (a mean and a scale for each element, say) are more channels of the same
        # image.
        image = tuple(output_shape)
        if len(image) not in (1, 3):
            image = (prod(image[:-2]), *image[-2:])
        channels = widths(channels)
        sizes = conv_sizes(image, channels)[::-1]
        stages = [*channels[::-1], image[0]]
        start = (stages[0], *sizes[0])
        act = activation_class(activation)
        self.linear = nn.Sequential(
            mlp(
                [prod(latent_shape) + context_features, hidden, prod(start)], activation, last=True
            ),
            nn.Unflatten(1, start),
        )
        layers: list[nn.Module] = []
        for before, after, (h, w), (up_h, up_w) in zip(
            stages, stages[1:], sizes, sizes[1:], strict=False
        ):
            # A doubling gives 2n - 1 or 2n pixels, as the output padding says.
            pad = (up_h - 2 * h + 1, up_w - 2 * w + 1)
            conv = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=pad)
            layers += [*residual(before, blocks, act), conv, act()]
        self.conv = nn.Sequential(*layers[:-1])
        self.output_shape = tuple(output_shape)

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) >= 2

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        y = self.conv(self.linear(with_context(z.flatten(1), context)))
        return y.reshape(-1, *self.output_shape)


class ResNetDecoder(ConvDecoder):
    """The mirror of `ResNetEncoder`: residual blocks before each transposed convolution.

    Arguments:
        channels: Channels before each transposed convolution, in the encoder's order.
        hidden: Width of the linear layer.
        activation: Name of an activation in torch.nn.
        blocks: Residual blocks before each transposed convolution.

    Raises:
        ValueError: If the output is no image (C, H, W), or too small for so many doublings.

    Example:
        >>> import torch
        >>> decoder = ResNetDecoder(latent_shape=(2,), output_shape=(3, 28, 20))
        >>> decoder(torch.randn(5, 2)).shape
        torch.Size([5, 3, 28, 20])
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        context_features: int = 0,
        channels: int | list[int] = [32, 64],  # noqa: B006
        hidden: int = 256,
        activation: str = "SiLU",
        blocks: int = 1,
        event_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(
            latent_shape,
            output_shape,
            context_features,
            channels,
            hidden,
            activation,
            blocks,
            event_shape,
        )
