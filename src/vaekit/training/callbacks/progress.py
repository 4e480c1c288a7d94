"""A progress bar that stays readable in a log file."""

from __future__ import annotations

from time import monotonic
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    RichProgressBar,
)


class Progress(RichProgressBar):
    """Lightning's progress bar, drawn ten times a second at most and not twice at every step."""

    _drawn = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = monotonic()
        if now - self._drawn >= 0.1 or batch_idx + 1 == self.total_train_batches:
            self._drawn = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
