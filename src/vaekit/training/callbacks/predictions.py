"""Writes predictions.npz and a file in the user's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from vaekit.data.base import DataModule
from vaekit.evaluation.output import write_rows


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.npz`, what the model says of each row, in the rows' order.

    It holds row, the row's number in the data; what the objective reports of a row, such as elbo,
    distortion and rate in nats; z and reconstruction, which stand for q(z|x) and p(x|z), by
    default their means; and, where there are labels, label. Where x is a dict there is a
    reconstruction of each entry.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(write_interval="epoch")
        self.folder = folder

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        # Of several splits there is a list for each.
        splits = [predictions] if isinstance(predictions[0], Mapping) else predictions
        own = [[{n: x.cpu() for n, x in batch.items()} for batch in split] for split in splits]
        ranks = [own]
        if trainer.world_size > 1:
            ranks = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(ranks, own)
        if not trainer.is_global_zero:
            return
        # A step's rows lie on the ranks one after the other.
        found = [
            [batch for step in zip(*split, strict=True) for batch in step]
            for split in zip(*ranks, strict=True)
        ]
        batches = [batch for split in found for batch in split]
        columns = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
        data, rows = getattr(trainer, "datamodule", None), None
        if isinstance(data, DataModule):
            sizes = [sum(len(batch["z"]) for batch in split) for split in found]
            named = zip(data.predicted, sizes, strict=True)
            rows = torch.cat([data.numbers(split)[:size] for split, size in named])
            order = rows.argsort()
            rows, columns = rows[order], {name: x[order] for name, x in columns.items()}
        else:
            data = None
        x, rest = _apart(columns)
        write_rows(data, self.folder, "predictions", x, rest, rows, "reconstruction")


def _apart(columns: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The reconstruction, by entry where there are several, and what else there is."""
    name = "reconstruction"
    rest = {k: x for k, x in columns.items() if k.partition(".")[0] != name}
    if name in columns:
        return columns[name], rest
    return {k.partition(".")[2]: x for k, x in columns.items() if k not in rest}, rest
