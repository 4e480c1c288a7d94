"""Fully connected encoders and decoders."""

from __future__ import annotations

from math import prod

from torch import Tensor

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.decoder import Decoder
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.trees import Shapes, Tree, each
from vaekit.networks.blocks import (
    apart,
    beside,
    count,
    fill,
    logged,
    mlp,
    unbounded,
    widths,
    with_context,
)


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
