"""What objectives with an adversary share: its optimizer's group, and draws from the prior."""

from __future__ import annotations

from math import inf
from typing import Any

from torch import Tensor, nn

from vaekit.contracts.draw import Draw
from vaekit.contracts.objective import Objective
from vaekit.contracts.part import FullPrecisionPart


class WithCritic(FullPrecisionPart, Objective):
    """Base of objectives with a network that is trained against the model, in one loss.

    Terms of the model see the critic through `frozen`, and terms of the critic see the model's
    draws detached: so each group gets the gradient of its own terms alone.

    Arguments:
        lr: The critic's learning rate; None for the model's.
        clip: The largest norm of the critic's gradient; None for the trainer's.
        betas: The critic's decay rates, for an optimizer that has betas, such as Adam; None for
            the model's.

    Attributes:
        critic: The network.

    Raises:
        ValueError: If the learning rate or the norm is not positive, or betas are not two numbers
            from 0 to below 1.
    """

    critic: nn.Module

    def __init__(
        self, lr: float | None, clip: float | None, betas: list[float] | None = None
    ) -> None:
        super().__init__()
        for name, value in (("lr", lr), ("clip", clip)):
            if value is not None and not 0 < value < inf:
                raise ValueError(f"Expected {name} to be positive or None but got {value!r}.")
        if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(
                f"Expected betas to be two numbers from 0 to below 1, or None, but got {betas!r}."
            )
        self.own: dict[str, Any] = {"lr": lr, "clip": clip, "betas": betas and tuple(betas)}

    def adversary(self) -> dict[str, Any]:
        own = {name: value for name, value in self.own.items() if value is not None}
        return {"params": self.critic.parameters(), **own}


def from_prior(draw: Draw) -> Tensor:
    """A draw (B, *Z) of a flat model's prior for each row, without gradient.

    Raises:
        ValueError: If there are several levels, whose last has a prior that depends on the rows.
    """
    p = draw.only_level.p
    return p.sample(() if p.batch_shape else (len(draw.batch),))
