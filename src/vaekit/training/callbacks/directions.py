"""The mode of Lightning's callbacks that watch a number whose direction vaekit knows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from vaekit.model.model import Model
from vaekit.training.callbacks.checkpoint import BestCheckpoint


def set_modes(callbacks: Iterable[Callback], model: Model) -> None:
    """Sets the mode of EarlyStopping and ModelCheckpoint, where they watch a known number.

    Lightning's default is min. So min counts as not set where the number is best at its largest,
    and the change is told.

    Raises:
        ValueError: If a mode is max, which nobody has by default, and the number is best at its
            least.
    """
    for callback in callbacks:
        if not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor is None:
            continue
        if isinstance(callback, BestCheckpoint):  # which knows whether its mode was set
            continue
        direction = model.direction(callback.monitor)
        if direction in (None, callback.mode):
            continue
        name = type(callback).__name__
        if direction == "min":
            raise ValueError(
                f"{name} watches {callback.monitor} with mode max, but the less of it, the "
                "better: set its mode to min."
            )
        callback.mode = direction
        if isinstance(callback, EarlyStopping):
            callback.min_delta = abs(callback.min_delta)
            callback.best_score = torch.tensor(-torch.inf)
        else:
            callback.kth_value = torch.tensor(-torch.inf)
        rank_zero_info(
            f"{name} watches {callback.monitor} with mode max: the more of it, the better."
        )
