"""Any torch module as an encoder or a decoder."""

from __future__ import annotations

import inspect
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.contracts.decoder import Decoder
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.part import Part
from vaekit.contracts.trees import Shapes, Sizes, Tree, each, leaves, shapes_of
from vaekit.networks.blocks import fill


def is_wrapped(kind: str, module: object) -> bool:
    """Whether a torch module that is no part may stand for one of a kind."""
    plain = isinstance(module, nn.Module) and not isinstance(module, Part)
    return kind in ("encoder", "decoder") and plain


def wrapped(kind: str, module: nn.Module, given: dict[str, Any]) -> Any:
    """A torch module as a part of a kind; itself where it is one.

    Arguments:
        given: What vaekit gives to parts.
    """
    if not is_wrapped(kind, module):
        return module
    context = given.get("context_features", 0)
    if kind == "encoder":
        return ModuleEncoder(module, given["event_shape"], context)
    return ModuleDecoder(module, given["latent_shape"], given["output_shape"], context)


class ModuleEncoder(Encoder):
    """A module from x (B, *event) to features, or to a dict of them; flattened.

    What a mask hides is 0. Where there is a context, the module is called with (x, context).

    Raises:
        ValueError: If it cannot be called so.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
        >>> ModuleEncoder(net, event_shape=(1, 8, 8)).features
        288
    """

    def __init__(self, module: nn.Module, event_shape: Shapes, context_features: int = 0) -> None:
        super().__init__()
        self.module = module
        x = each(lambda shape: torch.zeros(2, *shape), event_shape)
        self.features: Sizes = each(_numbers, _tried(module, x, context_features))

    def forward(self, x: Tree, context: Tensor | None = None, mask: Tree | None = None) -> Tree:
        x = fill(x, mask)
        h = self.module(x) if context is None else self.module(x, context)
        return each(lambda leaf: leaf.flatten(1), h)


class ModuleDecoder(Decoder):
    """A module from z (N, *Z) to what the likelihood needs, of any shape with as many numbers.

    Where there is a context, the module is called with (z, context).

    Raises:
        ValueError: If it cannot be called so, or gives another number of numbers.

    Example:
        >>> import torch
        >>> ModuleDecoder(torch.nn.Linear(2, 64), (2,), (1, 8, 8))(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        module: nn.Module,
        latent_shape: tuple[int, ...],
        output_shape: Shapes,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.module = module
        self.output_shape = shapes_of(output_shape)
        y = _tried(module, torch.zeros(2, *latent_shape), context_features)
        sizes = each(_numbers, y)
        wanted = each(prod, self.output_shape)
        if sizes != wanted:
            raise ValueError(
                f"Expected a decoder of {wanted} numbers for each z, of shape "
                f"{self.output_shape}, but {type(module).__name__} gives {sizes}."
            )

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tree:
        y = self.module(z) if context is None else self.module(z, context)
        return each(lambda leaf, shape: leaf.reshape(-1, *shape), y, self.output_shape)


def _numbers(x: Tensor) -> int:
    """How many numbers a row has."""
    return x[0].numel()


@torch.no_grad()
def _tried(module: nn.Module, x: Tree, context_features: int) -> Tree:
    """What a module makes of two rows, called as it will be.

    Raises:
        ValueError: If its forward does not take them.
    """
    like = next(module.parameters(), torch.empty(0))
    args: list[Any] = [each(lambda leaf: leaf.to(like), x)]
    if context_features:
        args.append(torch.zeros(2, context_features).to(like))
    try:
        inspect.signature(module.forward).bind(*args)
    except TypeError as error:
        raise ValueError(
            f"Expected {type(module).__name__} to take {len(args)} arguments"
            f"{', the second of which is the context' if context_features else ''}: {error}."
        ) from error
    modes = [(m, m.training) for m in module.modules()]
    try:
        found: Tree = module.eval()(*args)
    except Exception as error:
        shapes = each(lambda leaf: tuple(leaf.shape), args[0])
        raise ValueError(
            f"Expected {type(module).__name__} to take a batch of shape {shapes} but: {error}"
        ) from error
    finally:
        for m, mode in modes:
            m.training = mode
    if not all(isinstance(leaf, Tensor) and leaf.dim() > 1 for leaf in leaves(found)):
        raise ValueError(
            f"Expected {type(module).__name__} to give a tensor (B, *), or a dict of such, but "
            f"got {each(lambda leaf: getattr(leaf, 'shape', type(leaf).__name__), found)}."
        )
    return found
