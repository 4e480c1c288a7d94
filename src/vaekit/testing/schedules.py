"""The laws of schedules."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.schedule import Schedule, weight_at
from vaekit.testing.subject import Law, Made, require

_STEPS = (0, 1, 2, 10, 1000, 10**6)


def weights_are_finite_numbers(s: Made) -> None:
    """A schedule gives a finite number for every step from 0 on."""
    schedule: Schedule = s.make()
    for step in _STEPS:
        weight = schedule(step)
        told = f"at step {step} it gives {weight!r}"
        require(isinstance(weight, int | float) and isfinite(weight), told)


def a_weight_depends_on_the_step_alone(s: Made) -> None:
    """Steps in any order give the same weights, which a resumed fit needs."""
    one, other = s.make(), s.make()
    forwards = [one(step) for step in _STEPS]
    backwards = [other(step) for step in reversed(_STEPS)][::-1]
    require(forwards == backwards, f"in order {forwards} but backwards {backwards}")


def a_compiled_weight_is_the_same(s: Made) -> None:
    """A compiled model receives its weight as a tensor, and is compiled once for all steps."""
    schedule: Schedule = s.make()
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    def weighed(x: Tensor) -> Tensor:
        return x * weight_at(schedule, 0)

    region: Any = torch.compile(weighed, backend=backend, fullgraph=True)
    for step in _STEPS:
        schedule.place(step, torch.device("cpu"))
        found = float(region(torch.ones(1, dtype=torch.float64)))
        require(found == schedule(step), f"at step {step} {found} for {schedule(step)}")
    require(len(compiled) == 1, f"it was compiled {len(compiled)} times")


OF_SCHEDULES: tuple[Law, ...] = (
    weights_are_finite_numbers,
    a_weight_depends_on_the_step_alone,
    a_compiled_weight_is_the_same,
)
