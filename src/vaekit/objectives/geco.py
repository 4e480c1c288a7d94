"""The rate at a given distortion: a constraint, and the multiplier that enforces it."""

from __future__ import annotations

from math import isfinite, log

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.objective import Objective
from vaekit.contracts.part import FullPrecisionPart
from vaekit.numerics.distributed import mean_over_ranks


class GECO(FullPrecisionPart, Objective):
    r"""The rate, minimised where the distortion is at most a target (generalised ELBO with
    constrained optimisation).

    .. math:: \mathcal{L} = KL(q(z|x)\,||\,p(z)) + \lambda\,(D - D^*), \qquad
        D = -E_{q(z|x)}[\log p(x|z)]

    The multiplier \lambda is no parameter. After each optimizer step it grows where the constraint
    is violated, in the moving average over steps, and falls where it holds:

    .. math:: \log\lambda \leftarrow \log\lambda + \nu\, \mathrm{clip}\left(
        \frac{\overline{D - D^*}}{\max(|D^*|, 1)}, -1, 1\right)

    At \lambda = 1 the gradient is the ELBO's, else that of a beta of 1 / \lambda, times \lambda.
    Different from the paper, the violation is relative to the target and clipped, so that hundreds
    of nats do not explode \lambda; and the moving average moves \lambda alone. The paper puts it
    into the loss too, with the gradient of the batch's own violation: that is the same gradient.
    The average is corrected for its beginning, as Adam's are.

    Validation reports the ELBO: compare `val/distortion` with the target. The multiplier moves
    until the fit ends, and the ELBO does not know the constraint. Therefore no validation number
    chooses a checkpoint: the newest model counts as the best.

    Arguments:
        target: D*, in nats per row: the largest distortion that is wanted.
        samples: Number of draws per row.
        speed: \nu, by how much the logarithm of \lambda changes in a step at most.
        decay: Share of the moving average that stays in a step.
        limit: \lambda stays from 1 / limit to limit.

    Raises:
        ValueError: If the target is not finite, samples is below one, speed is not positive, decay
            is not in [0, 1) or limit is not above 1.

    References:
        Taming VAEs (Rezende and Viola, 2018), https://arxiv.org/abs/1810.00597
    """

    keeps_newest = True

    log_multiplier: Tensor
    violation: Tensor
    seen: Tensor

    def __init__(
        self,
        target: float,
        samples: int = 1,
        speed: float = 0.02,
        decay: float = 0.99,
        limit: float = 1e4,
    ) -> None:
        super().__init__()
        if not isfinite(target):
            raise ValueError(f"Expected target to be a finite number of nats but got {target!r}.")
        if samples < 1:
            raise ValueError(f"Expected samples to be at least 1 but got {samples}.")
        if not 0 < speed < float("inf"):
            raise ValueError(f"Expected speed to be positive but got {speed!r}.")
        if not 0 <= decay < 1:
            raise ValueError(f"Expected decay to be in [0, 1) but got {decay!r}.")
        if not 1 < limit < float("inf"):
            raise ValueError(f"Expected limit to be above 1 but got {limit!r}.")
        self.target, self.samples, self.speed = target, samples, speed
        self.decay, self.limit = decay, limit
        for name in ("log_multiplier", "violation", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch, self.samples)
        terms, multiplier = draw.bound(), self.log_multiplier.exp()
        loss = terms["rate"] + multiplier * (terms["distortion"] - self.target)
        return {
            **terms,
            "multiplier": multiplier,
            "loss": sum(draw.losses.values(), loss),
        }

    def after_step(self, draw: Draw) -> None:
        """Follows the violation of all ranks' rows, and moves the multiplier by it."""
        away = (draw.distortion - self.target).to(self.violation)  # (B,)
        mean = mean_over_ranks(away, draw.batch.counted)
        share = 1 - self.decay
        self.seen.lerp_(torch.ones_like(self.seen), share)
        self.violation.lerp_(mean, share / self.seen)
        relative = (self.violation / max(abs(self.target), 1.0)).clamp(-1, 1)
        most = log(self.limit)
        self.log_multiplier.add_(self.speed * relative).clamp_(-most, most)
