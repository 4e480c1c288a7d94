"""Convolutional encoders and decoders of images."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from vaekit.contracts.decoder import Decoder
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.trees import Shapes
from vaekit.networks.blocks import (
    activation_class,
    conv_sizes,
    fill,
    mlp,
    residual,
    widths,
    with_context,
)


class ConvEncoder(Encoder):
    """Strided 3x3 convolutions, each halving the image, and a linear layer.

    Images (C, H, W), or grey ones (H, W), may be of any size: an odd side is halved upwards.

    Arguments:
        channels: Channels after each convolution, a number for one.
        hidden: Width of the linear layer, which also sees the context.
        activation: Name of an activation in torch.nn.
        blocks: Residual blocks after each convolution.

    Raises:
        ValueError: If the event is no image (C, H, W), or too small for so many halvings.

    Example:
        >>> import torch
        >>> ConvEncoder(event_shape=(1, 28, 20), channels=[8, 16])(torch.rand(5, 1, 28, 20)).shape
        torch.Size([5, 256])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_features: int = 0,
        channels: int | list[int] = [32, 64],  # noqa: B006
        hidden: int = 256,
        activation: str = "ReLU",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        channels = widths(channels)
        self.image = (1, *event_shape) if len(event_shape) == 2 else tuple(event_shape)
        h, w = conv_sizes(self.image, channels)[-1]
        stages = [self.image[0], *channels]
        act = activation_class(activation)
        layers: list[nn.Module] = []
        for before, after in zip(stages, channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1)]
            layers += [*residual(after, blocks, act), act()]
        self.conv = nn.Sequential(*layers, nn.Flatten())
        self.linear = mlp([stages[-1] * h * w + context_features, hidden], activation, last=True)
        self.features = hidden

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) in (2, 3)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        image = fill(x, mask).reshape(-1, *self.image)
        return self.linear(with_context(self.conv(image), context))


class ResNetEncoder(ConvEncoder):
    """A `ConvEncoder` with residual blocks: strided convolutions, each followed by some.

    Arguments:
        channels: Channels after each strided convolution, a number for one.
        hidden: Width of the linear layer, which also sees the context.
        activation: Name of an activation in torch.nn.
        blocks: Residual blocks after each strided convolution.

    Raises:
        ValueError: If the event is no image (C, H, W), or too small for so many halvings.

    References:
        Identity Mappings in Deep Residual Networks (He et al., 2016),
        https://arxiv.org/abs/1603.05027, without its batch norm, which couples rows.

    Example:
        >>> import torch
        >>> ResNetEncoder(event_shape=(3, 28, 20), blocks=2)(torch.rand(5, 3, 28, 20)).shape
        torch.Size([5, 256])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_features: int = 0,
        channels: int | list[int] = [32, 64],  # noqa: B006
        hidden: int = 256,
        activation: str = "SiLU",
        blocks: int = 1,
    ) -> None:
        super().__init__(event_shape, context_features, channels, hidden, activation, blocks)


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
