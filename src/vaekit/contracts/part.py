"""What every part has: what it is given, when it is called, and how it is held to its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch
from vaekit.contracts.draw import Draw
from vaekit.contracts.trees import Shape, Shapes, Sizes, Tree, each, leaves, shapes_of
from vaekit.distributions import base as distributions
from vaekit.numerics.precision import at_least_float32

LogJoint = Callable[[Tensor], Tensor]
"""z (K, B, *Z) -> log p(x, z) (K, B), in nats."""

Infer = Callable[..., Distribution]
"""(x, context=None, mask=None) -> q(z|x), for a prior that looks through the encoder. The rows are
the prior's own, as many as it likes; context and mask, where there are any, belong to them."""

Noise = Tensor | tuple[Tensor, ...]
"""Standard normal noise (K, B, *Z) to draw with; in a hierarchy one per level, the top first."""

Spec = str | dict[str, Any]
"""A part as data: its name, or {"class_path": name, "init_args": {...}}."""

Build = Callable[..., Any]
"""(kind, spec=None, **given) -> a part of that kind: the one that the user chose, or the one of a
spec. `given` takes the place of what vaekit would give it (another `latent_shape`, say)."""


class Part(nn.Module):
    """Base of all parts.

    `__init__` names what it wants from vaekit, then its own arguments. It may name `data`, the
    `DataInfo`; of it alone `event_shape`, `context_features` or `data_size`; `latent_shape`; a
    posterior `features`, a prior `context_columns`, a decoder `output_shape`; and `build`, with
    which it makes the parts inside it itself, and then receives their specs as plain data.
    """

    title = ""
    """Kind, name and package of the part, for errors; set by whoever builds it."""

    spec: Spec | None = None
    """The part as data, of one that was made from that; set by whoever builds it."""

    looks = True
    """Of a part with a `start`: whether there is anything for it to look at."""

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        """Whether the part is for rows of this shape, of a dict for those of several entries.

        An encoder, decoder or likelihood is not built for several entries that it does not accept;
        of other shapes only the laws ask.
        """
        return not isinstance(event_shape, dict)

    def start(self, data: Iterable[Batch]) -> None:
        """Looks at the training data once, before the first step (pseudo-inputs, an output bias).

        Every rank sees all rows, in the same order. A part that overrides this, or `after_step`,
        does so for the parts inside it too, and calls theirs (a core's parts are called anyway).
        """

    def after_step(self, draw: Draw) -> None:
        """Updates running state, once per optimizer step, in training only, without gradient.

        State changes here and never in forward. The draw is this rank's: sum what is taken from it
        with `vaekit.contracts.sum_over_ranks`, so that every rank ends with the same state.
        Under gradient accumulation it is the draw of the last of the accumulated batches.
        """

    def refuse(self, expected: str, got: object) -> ValueError:
        """The error that this part gave something else than its contract says."""
        who = f"The {self.title}" if self.title else type(self).__name__
        return ValueError(f"{who}: expected {expected} but got {got}.")

    def hold(self, tree: Tree, sizes: Sizes, rows: int, what: str) -> Tree:
        """The tree, whose shapes are those declared, with `rows` rows.

        Raises:
            ValueError: If they are others.
        """
        expected = each(lambda shape: (rows, *shape), shapes_of(sizes))
        got = each(lambda x: tuple(x.shape), tree)
        if got != expected:
            raise self.refuse(f"{what} of shape {expected}", got)
        return tree

    def widened(self, tree: Tree, what: str) -> Tree:
        """The tree in float32 at least.

        Raises:
            ValueError: If it is no tensor and no dict of tensors.
        """
        if not all(isinstance(leaf, Tensor) for leaf in leaves(tree)):
            raise self.refuse(f"{what} as a tensor or a dict of tensors", type(tree).__name__)
        return each(at_least_float32, tree)

    def hold_distribution(self, p: Distribution, batch: Shape, event: Shapes | None) -> Any:
        """The distribution, whose batch and event shapes are those wanted; event None is any.

        Raises:
            ValueError: If it is none, or the shapes are others.
        """
        if not isinstance(p, Distribution):
            raise self.refuse("a torch.distributions.Distribution", type(p).__name__)
        parts = p.parts if isinstance(p, distributions.Joint) else p
        got = each(lambda part: part.event_shape, parts)
        if tuple(p.batch_shape) != batch or (event is not None and got != event):
            expected = f"a distribution of batch shape {batch} and event shape {event}"
            hint = f"{tuple(p.batch_shape)} and {each(tuple, got)}; is Independent missing?"
            raise self.refuse(expected, hint)
        return p


class FullPrecisionPart(Part):
    """A part whose parameters stay in float32 at least when the module is cast to a half type."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep(x: Tensor) -> Tensor:
            out = fn(x)
            return x.to(out.device) if at_least_float32(out) is not out else out

        super()._apply(keep, recurse)
        return self


def frozen(module: nn.Module) -> Callable[..., Any]:
    """The module's call with detached parameters and copied buffers, as they are when called.

    Gradients flow to its arguments but not into it, and its state (batch norm's statistics) does
    not change: so an objective uses its adversary.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        state = {name: p.detach() for name, p in module.named_parameters()}
        state |= {name: b.clone() for name, b in module.named_buffers()}
        return torch.func.functional_call(module, state, args, kwargs)

    return call


def learns(module: nn.Module) -> bool:
    """Whether it has weights that training changes."""
    return any(p.requires_grad for p in module.parameters())


def still(module: nn.Module) -> Callable[..., Any]:
    """The module's call with copied buffers: its state does not change.

    torch.func.grad, with which a posterior looks at log p(x, z), allows no change.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        return torch.func.functional_call(module, buffers, args, kwargs)

    return call
