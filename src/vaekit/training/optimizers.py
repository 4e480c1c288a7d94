"""Optimizers and schedulers of torch, by name, and the groups that an adversary forms."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from vaekit.contracts.objective import Objective
from vaekit.registry.plugins import RegistryError
from vaekit.registry.specs import as_spec

_TORCH: dict[str, tuple[ModuleType, type]] = {
    "torch.optim": (torch.optim, torch.optim.Optimizer),
    "torch.optim.lr_scheduler": (lr_scheduler, lr_scheduler.LRScheduler),
}

_WIDE = (torch.float32, torch.float64, torch.bfloat16)
_KERNELS = ("foreach", "capturable", "differentiable")


def torch_spec(value: str | Mapping[str, Any], module: str) -> dict[str, Any]:
    """The spec of an optimizer or a scheduler, by its full path.

    Raises:
        RegistryError: If the module of torch has no such class.
    """
    spec = as_spec(value)
    prefix, _, name = spec["class_path"].rpartition(".")
    home, base = _TORCH[module]
    found = getattr(home, name, None)
    if prefix not in ("", module) or not (isinstance(found, type) and issubclass(found, base)):
        raise RegistryError(f"Expected a class of {module} but got {spec['class_path']!r}.")
    return {"class_path": f"{module}.{name}", "init_args": spec["init_args"]}


def make(spec: Mapping[str, Any], first: Any, fused: bool = False) -> Any:
    """The optimizer of parameters, or the scheduler of an optimizer.

    Arguments:
        fused: Whether Adam and AdamW take torch's fused kernel, the same update in one pass over
            each parameter, where the spec does not say which.

    Raises:
        RegistryError: If it refuses its arguments.
    """
    module, _, name = spec["class_path"].rpartition(".")
    given = dict(spec["init_args"])
    # A configuration holds torch's own defaults too.
    chosen = given.get("fused") is not None or any(given.get(kernel) for kernel in _KERNELS)
    if fused and name in ("Adam", "AdamW") and not chosen:
        given["fused"] = True
    try:
        return getattr(_TORCH[module][0], name)(first, **given)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise RegistryError(f"{spec['class_path']}: {error}") from error


def accepted(
    optimizer: str | Mapping[str, Any] | None,
    scheduler: str | Mapping[str, Any] | None,
    direction: str,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The specs of both, whose arguments torch accepts; without an optimizer it is Adam.

    Arguments:
        direction: Whether "max" or "min" is best of the number that ReduceLROnPlateau watches.

    Raises:
        RegistryError: If torch has no such class, or it refuses its arguments.
    """
    first = torch_spec(optimizer or "Adam", "torch.optim")
    second = torch_spec(scheduler, "torch.optim.lr_scheduler") if scheduler else None
    if second and watches(second):
        # Relative to a negative number, such as an ELBO, a threshold would call a loss a gain.
        second["init_args"] |= {"mode": direction, "threshold_mode": "abs"}
    _try(first, second)
    return first, second


def _try(optimizer: dict[str, Any], scheduler: dict[str, Any] | None) -> None:
    """Takes a step for nothing, so that bad arguments are refused before training begins."""
    p = nn.Parameter(torch.zeros(1, 1))
    p.grad = torch.zeros(1, 1)
    made = [make(optimizer, [p])]
    if scheduler is not None:
        made.append(make(scheduler, made[0]))
    _step(optimizer, made[0], lambda: torch.zeros(()))
    if scheduler is not None:
        _step(scheduler, made[1], *([0.0] if watches(scheduler) else []))


def _step(spec: dict[str, Any], of: Any, *given: Any) -> None:
    try:
        of.step(*given)
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise RegistryError(f"{spec['class_path']}: {error}") from error


def watches(scheduler: Mapping[str, Any] | None) -> bool:
    """Whether a scheduler steps by a number that is watched."""
    return scheduler is not None and scheduler["class_path"].endswith(".ReduceLROnPlateau")


_FLUSH_EVERY = 32


def flush(optimizer: Any, step: int) -> None:
    """Zeroes what is left of running averages that have decayed to next to nothing, on a CPU.

    The averages of a weight without gradient (of a pixel that is always 0, of a dead unit) decay
    until they are denormal, and stay there for ever, since nine tenths of the smallest number are
    rounded to the smallest number. A CPU takes some ten times as long for such numbers. What is
    zeroed is below a hundred times the smallest normal number: no weight changes by it.

    Arguments:
        step: How many steps were taken before. At every 32nd there is something to do: in so many
            an average does not decay from a hundred times the smallest normal number to below it.
    """
    if step % _FLUSH_EVERY:
        return
    for state in optimizer.state.values():
        for x in state.values():
            plain = type(x) is Tensor and x.device.type == "cpu" and x.dim() > 0
            if plain and x.dtype in _WIDE:
                torch.hardshrink(x, 100 * torch.finfo(x.dtype).tiny, out=x)


def groups(module: nn.Module, objective: Objective) -> list[dict[str, Any]]:
    """A module's parameters as groups of an optimizer: the model's own, and an adversary's."""
    adversary = objective.adversary()
    if adversary is None:
        return [{"params": list(module.parameters())}]
    theirs = list(adversary["params"])
    known = {id(p) for p in theirs}
    own = [p for p in module.parameters() if id(p) not in known]
    return [{"params": own}, {**adversary, "params": theirs}]


def check_rates(scheduler: Mapping[str, Any] | None, groups: list[dict[str, Any]]) -> None:
    """Refuses a scheduler that gives all groups one rate, where an adversary has its own.

    Raises:
        ValueError: If it is one.
    """
    name = "" if scheduler is None else scheduler["class_path"].rpartition(".")[2]
    if name in ("OneCycleLR", "CyclicLR") and any("lr" in group for group in groups):
        raise ValueError(
            f"Expected a scheduler that scales each group's own rate but got {name}, which gives "
            "the adversary the model's: choose another, or an adversary without a rate (lr null)."
        )


def clip_groups(
    optimizer: Any, value: float | None, algorithm: str | None, scaled: bool = False
) -> None:
    """Clips the gradients of each group apart: by a joint norm the adversary would shrink the
    model's step. A group's own `clip` is the largest norm of its gradient.

    Arguments:
        scaled: Whether the gradients are still scaled, by a scaler that the optimizer undoes.

    Raises:
        ValueError: If they are, and there is anything to clip.
    """
    if scaled and (value or any(group.get("clip") for group in optimizer.param_groups)):
        raise ValueError(
            "Expected an optimizer whose gradients can be clipped in 16-mixed but got a fused "
            "one, which undoes their scale by itself: leave out fused, or clip nothing."
        )
    by_value = algorithm == "value"
    clip: Any = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
    for group in optimizer.param_groups:
        if group.get("clip"):
            nn.utils.clip_grad_norm_(group["params"], group["clip"])
        elif value:
            clip(group["params"], value)


def change_rate(
    optimizer: Any, schedulers: Iterable[Any], before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Puts another learning rate in force, in an optimizer that goes on with what it had.

    Arguments:
        before: The optimizer of the checkpoint.
        now: The one that is wanted; its learning rate alone may be another.

    Raises:
        ValueError: As `refuse_other`.
    """
    refuse_other(before, now)
    old, new = _arguments(before), _arguments(now)
    if old["lr"] == new["lr"]:
        return
    ratio = new["lr"] / old["lr"]
    changed = []
    for group in optimizer.param_groups:
        own = group.get("initial_lr", group["lr"]) == old["lr"]  # no adversary's
        changed.append(ratio if own else 1.0)
        for key in {"lr", "initial_lr"} & group.keys():
            group[key] = new["lr"] if own and group[key] == old["lr"] else group[key] * changed[-1]
    for scheduler in schedulers:
        for name in {"base_lrs", "_last_lr"} & vars(scheduler).keys():
            rates = zip(getattr(scheduler, name), changed, strict=True)
            setattr(scheduler, name, [rate * by for rate, by in rates])


def refuse_other(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on with another optimizer than a checkpoint's.

    Raises:
        ValueError: If it is another, or an argument differs that is not the learning rate.
    """
    name, wanted = (spec["class_path"].rpartition(".")[2] for spec in (before, now))
    if name != wanted:
        raise ValueError(
            f"The checkpoint's optimizer is {name} but got {wanted}: its learning rate alone may "
            "change."
        )
    old, new = _arguments(before), _arguments(now)
    for key in old:
        if key != "lr" and old[key] != new.get(key):
            raise ValueError(
                f"The checkpoint's {name} has {key} {old[key]} but got {new.get(key)}: its "
                "learning rate alone may change."
            )


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an optimizer, with torch's defaults, as a configuration holds them."""
    name = spec["class_path"].rpartition(".")[2]
    known = inspect.signature(getattr(torch.optim, name)).parameters
    defaults = {k: p.default for k, p in known.items() if p.default is not p.empty}
    whole = {**defaults, **spec["init_args"]}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in whole.items()}
