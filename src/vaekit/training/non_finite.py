"""Where a number that is not finite comes from: one step again, with hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import Batch
from vaekit.contracts.trees import Tree, entries_of
from vaekit.model.model import Model


class NonFiniteError(ArithmeticError):
    """A number of training is NaN or infinite; the message says which, and what usually helps."""


@dataclass
class Cause:
    """What was not finite in a step.

    Arguments:
        what: In words, such as "the term distortion".
        rows: Which of the batch's rows; empty where it is of no row alone.
        module: The first module whose output is not finite, if there is one.
    """

    what: str
    rows: list[int]
    module: str | None = None


def gradients_are_finite(gradients: list[Tensor]) -> bool:
    """Whether all gradients, and their squares, are finite; read once from the device."""
    if not gradients:
        return True
    if gradients[0].device.type == "cpu" and gradients[0].dtype in (torch.float32, torch.float64):
        # Twice as fast as a norm of all; most of what it costs is to read the gradients.
        flat = [g.reshape(-1) for g in gradients]
        return isfinite(sum(torch.dot(g, g).item() for g in flat))
    if bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        return True
    # A norm of half types overflows where its values do not.
    return all(bool(torch.linalg.vector_norm(g.float()).isfinite()) for g in gradients)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors that a module returned: alone, in containers, or as a distribution's."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)
    elif isinstance(value, torch.distributions.Distribution):
        yield from tensors(list(vars(value).values()))


def _is_bad(x: Tensor) -> bool:
    return x.is_floating_point() and not bool(x.detach().isfinite().all())


def bad_rows(x: Tensor, mask: Tensor | None = None) -> list[int]:
    """Rows of x (B, *) with a value that is not finite, where the mask shows it."""
    bad = ~x.detach().isfinite()
    if mask is not None:
        bad = bad & mask
    if bad.dim() == 0:
        return []  # of all rows together
    found: list[int] = bad.reshape(len(bad), -1).any(1).nonzero().flatten().tolist()
    return found


def bad_data(x: Tree, mask: Tree | None) -> Cause | None:
    """What is not finite in rows x (B, *event), where the mask shows it."""
    masks = entries_of(mask) if mask is not None else {}
    for name, leaf in entries_of(x).items():
        if rows := bad_rows(leaf, masks.get(name)):
            return Cause(f"{name}, the data", rows)
    return None


def cause(model: Model, batch: Batch, step: int) -> Cause | None:
    """What is not finite in a step that is taken again; None where all is finite now.

    Arguments:
        model: With the weights, and the random numbers to come, of the step.
        batch: The step's batch, as the model sees it.
        step: How many optimizer steps were taken before.
    """
    if (found := bad_data(batch.x, batch.mask)) is not None:
        return found
    seen: list[str] = []
    handles = [
        module.register_forward_hook(_noting(f"core.{name}", seen))
        for name, module in model.core.named_modules()
        if name
    ]
    try:
        with torch.enable_grad():
            terms = model.objective(model.core, batch, step)
    finally:
        for handle in handles:
            handle.remove()
        model.core.last_draw = None
    module = seen[0] if seen else None
    sums = (model.best[0], "loss")  # made of the others, which are looked at first
    for name in sorted(terms, key=lambda name: name in sums):
        if _is_bad(terms[name]):
            return Cause(f"the term {name}", bad_rows(terms[name]), module)
    return _bad_gradient(model, terms["loss"])


def _noting(name: str, seen: list[str]) -> Any:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        if not seen and any(_is_bad(x) for x in tensors(output)):
            seen.append(f"{name} ({type(module).__name__})")

    return note


def _bad_gradient(model: Model, loss: Tensor) -> Cause | None:
    """The gradient nearest to the loss that is not finite."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # Not by backward, which other ranks would wait for.
    found = torch.autograd.grad(loss.mean(), [p for _, p in named], allow_unused=True)
    bad = [name for (name, _), g in zip(named, found, strict=True) if g is not None and _is_bad(g)]
    if not bad:
        return None
    owner, _, _ = bad[-1].rpartition(".")
    module = f"{owner} ({type(model.get_submodule(owner)).__name__})"
    return Cause(f"the gradient of {bad[-1]}", [], module)
