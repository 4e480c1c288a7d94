"""Schedule: the contract of weights that change with the optimizer step."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor


class Schedule:
    """A function of the optimizer step; may stand wherever an objective takes a weight."""

    placed: Tensor | None = None
    """The weight of the step under way as a tensor, where a model is compiled: a number that
    changes would be compiled into it, and the model again with each."""

    def place(self, step: int, device: torch.device) -> None:
        """Sets `placed`."""
        if self.placed is None or self.placed.device != device:
            exact = torch.float32 if device.type == "mps" else torch.float64
            self.placed = torch.zeros((), dtype=exact, device=device)
        self.placed.fill_(self(step))

    def __call__(self, step: int) -> float:
        """The weight, without unit, after so many optimizer steps."""
        raise NotImplementedError

    def final(self) -> float:
        """The weight that counts where no step is known; by default that of the far future."""
        return self(10**9)


def weight_at(weight: float | Schedule, step: int) -> float | Tensor:
    """The weight at an optimizer step; a tensor of no dimension where the model is compiled."""
    if not isinstance(weight, Schedule):
        return weight
    if torch.compiler.is_compiling() and weight.placed is not None:
        return weight.placed
    return weight(step)


def final_weight(weight: float | Schedule) -> float:
    """The weight where no step is known, in evaluation: of a schedule its `final`."""
    return weight.final() if isinstance(weight, Schedule) else weight


def check_weights(**weights: float | Schedule) -> None:
    """Refuses weights that are negative or not finite, by their names.

    What a schedule gives is its own affair.

    Raises:
        ValueError: If there is one.

    Example:
        >>> check_weights(alpha=1.0, beta=0.5)
    """
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and 0 <= weight < inf
        if not (number or isinstance(weight, Schedule)):
            raise ValueError(
                f"Expected {name} to be a schedule or a finite number of at least 0 but got "
                f"{weight!r}."
            )
