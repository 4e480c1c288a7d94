"""In which type numbers are computed: float32 at least for densities, sums and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """The context in which densities and sums run: no autocast on this tensor's device."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def as_now(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context of autocast that stands now on a device, to come back to inside another."""
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind))


def at_least_float32(x: Tensor) -> Tensor:
    """Half types raised to float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def exact(device: torch.device) -> torch.dtype:
    """The widest floating type that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def widest(x: Tensor) -> Tensor:
    """x in float64, where its device has that."""
    return x.to(exact(x.device))


def cast(x: Tensor, module: nn.Module) -> Tensor:
    """x in the floating type of the module's parameters; as it is where there are none."""
    p = first_parameter(module)
    return x if p is None else x.to(p.dtype)


def first_parameter(module: nn.Module) -> Tensor | None:
    """The module's first floating parameter; None where it has none.

    Found without `parameters()`, which first makes a list of the modules: parts ask at every step.
    """
    for p in module._parameters.values():
        if p is not None and p.is_floating_point():
            return p
    for child in module._modules.values():
        if child is not None and (found := first_parameter(child)) is not None:
            return found
    return None


def smallest(x: Tensor) -> float:
    """The least that a positive draw of x's type may be: a density's gradient there is finite.

    Example:
        >>> f"{smallest(torch.ones(())):.1e}"
        '4.5e-31'
    """
    return float(torch.finfo(x.dtype).tiny ** 0.8)


@contextmanager
def parameters_in_full_precision() -> Iterator[None]:
    """Parameters are made in float32 at least, also where Lightning's `init_module` says less."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.promote_types(default, torch.float32))
    try:
        yield
    finally:
        torch.set_default_dtype(default)
