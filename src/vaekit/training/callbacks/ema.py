"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    WeightAveraging,
)
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Validates and keeps an exponential moving average of the weights.

    In the first steps, where the average would still be the weights of the start, it forgets
    faster: after n steps the decay is (1 + n) / (10 + n), at most `decay`. Counts, and whatever
    else is not a real or complex number, are not averaged: they are those of the last step.

    Arguments:
        decay: What share of the average stays at each step.

    Raises:
        ValueError: If the decay is not from 0 to below 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"Expected a decay from 0 to below 1 but got {decay}.")

        def average(means: Any, weights: Any, n: Any) -> None:
            now = min(decay, (1 + int(n)) / (10 + int(n)))
            if means[0].is_floating_point() or means[0].is_complex():
                get_ema_multi_avg_fn(now)(means, weights, n)
            else:  # a count, of which an average means nothing
                for mean, weight in zip(means, weights, strict=True):
                    mean.copy_(weight)

        super().__init__(multi_avg_fn=average)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: the last checkpoint holds the weights of training beside their average."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
