"""Temperature of relaxed latents: a buffer that a schedule may change with the optimizer step."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from vaekit.contracts.draw import Draw
from vaekit.contracts.part import Part
from vaekit.contracts.schedule import Schedule


class Tempered(Part):
    """Base of parts whose latents are relaxed in training, at a temperature of their own.

    The temperature is part of the state, as is the number of steps that it was scheduled by.
    """

    temperature: Tensor
    steps: Tensor

    def temper(self, temperature: float | Schedule) -> None:
        """Sets the temperature, without dimension, or its schedule.

        Raises:
            ValueError: If it is not positive; of a schedule, at its start or its end.
        """
        self.schedule = temperature
        if isinstance(temperature, Schedule):
            _positive(temperature.final(), " at its schedule's end")
            first = _positive(temperature(0), " at step 0")
        else:
            first = _positive(temperature)
        self.register_buffer("temperature", torch.tensor(float(first)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def relaxed_at(self) -> Tensor | None:
        """The temperature in training; None in evaluation, where latents are discrete."""
        return self.temperature if self.training else None

    def after_step(self, draw: Draw) -> None:
        """Counts the step, and follows the schedule."""
        self.steps += 1
        if isinstance(self.schedule, Schedule):
            step = int(self.steps)
            self.temperature.fill_(_positive(self.schedule(step), f" at step {step}"))


def _positive(temperature: float, when: str = "") -> float:
    if not 0 < temperature < inf:
        raise ValueError(f"Expected a positive temperature but got {temperature!r}{when}.")
    return temperature
