"""Encoders: networks from x to features."""

from __future__ import annotations

from torch import Tensor, nn

from vaekit.batch import DataInfo, Shapes, Tree
from vaekit.contracts import Encoder
from vaekit.nn import (
    activation_class,
    beside,
    conv_sizes,
    count,
    fill,
    logged,
    mlp,
    residual,
    unbounded,
    widths,
    with_context,
)

__all__ = ["ConvEncoder", "MLPEncoder", "ResNetEncoder"]


class MLPEncoder(Encoder):
    """A multilayer perceptron over the flattened event; of a dict, over its entries side by side.

    Of data from 0 to infinity, counts for example, it reads log(1 + x).

    Arguments:
        hidden: Widths of the hidden layers, a number for one; none gives the event itself, so that
            posterior heads are linear.
        activation: Name of an activation in torch.nn; GLU gates the layers.

    Raises:
        ValueError: If a width is not positive or the activation has no such name.

    Example:
        >>> import torch
        >>> MLPEncoder(event_shape=(1, 8, 8), hidden=[32])(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        event_shape: Shapes,
        context_features: int = 0,
        hidden: int | list[int] = [256],  # noqa: B006 - read only, and shown as it is by --help
        activation: str = "ReLU",
        data: DataInfo | None = None,
    ) -> None:
        super().__init__()
        self.unbounded = unbounded(data)
        sizes = [count(event_shape) + context_features, *widths(hidden)]
        self.features = sizes[-1]
        self.net = mlp(sizes, activation, last=True)

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return True

    def forward(self, x: Tree, context: Tensor | None = None, mask: Tree | None = None) -> Tensor:
        return self.net(with_context(beside(logged(fill(x, mask), self.unbounded)), context))


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
