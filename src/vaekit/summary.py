"""What a user reads when training ends."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vaekit.batch import Tree, each
from vaekit.contracts import Objective
from vaekit.data.base import DataModule
from vaekit.metrics.means import RowMeans
from vaekit.model import Model
from vaekit.noise import fixed_noise

__all__ = ["baseline", "bound", "moments", "show"]


_CAPTION = "The baseline is the likelihood alone, without latents, fitted to the training rows."


def moments(data: DataModule) -> tuple[Tree, Tree]:
    """Mean and variance (*event) of each element, over the training rows that show it."""

    def powers(so_far: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        x = torch.where(seen, x.double(), 0.0)
        return so_far + torch.stack([seen.double().sum(0), x.sum(0), x.square().sum(0)])

    total = each(lambda shape: torch.zeros(3, *shape, dtype=torch.float64), data.info.event_shape)
    for batch in data.rows("train"):
        seen = each(lambda x: torch.ones_like(x, dtype=torch.bool), batch.x)
        total = each(powers, total, batch.x, seen if batch.mask is None else batch.mask)
    # Of an element that no row shows the mean is 0.
    mean, square = (each(lambda t, of=of: t[of] / t[0].clamp(min=1), total) for of in (1, 2))
    return mean, each(lambda s, m: (s - m.square()).clamp(min=0), square, mean)


def baseline(model: Model, data: DataModule, split: str = "val") -> float | None:
    """Mean log p(x) of a split's rows, in nats, for independent elements fitted to training rows.

    None where the likelihood knows no such model.
    """
    likelihood = model.core.likelihood
    with model.using(), fixed_noise(0, model.device):
        p = likelihood.independent(*moments(data))
        if p is None:
            return None
        terms = [
            likelihood.log_prob(p, each(Tensor.double, batch.x), batch.mask)
            for batch in data.rows(split)
        ]
    return float(torch.cat(terms).mean())


def bound(model: Model, data: DataModule, split: str = "val") -> float:
    """Mean over a split's rows of what chooses the best checkpoint, as `validate` reports it."""
    means = RowMeans(alone=True)
    for batch in data.rows(split, batch_size=data.batch_size):
        with fixed_noise(batch.start or 0, model.device):
            means.update(model.evaluate(batch.to(model.device)), len(batch))
    return means.compute()[model.objective.best[0]]


def _label(objective: Objective, checkpoint: str) -> str:
    name, _ = objective.best
    return f"{name.upper()} of {checkpoint}" if objective.bound else f"{name}, which is no bound"


def show(model: Model, data: DataModule, best: float | None, files: list[Path]) -> None:
    """Prints what the checkpoint was chosen by beside the baseline, the files, and what is next.

    Arguments:
        best: The number that chose the checkpoint, the validation ELBO by default, in nats; None
            where there are no validation rows.
        files: What was written, the checkpoint first.
    """
    checkpoint = files[0]
    console = Console(soft_wrap=True)
    console.print("")
    if best is None:
        console.print(f"There are no validation rows: {checkpoint.name} is the newest model.")
    else:
        # Bits per dimension would have to count the observed elements of each row.
        counted = model.has_bits and next(data.rows("val", 1)).mask is None
        base = baseline(model, data)
        caption = None if base is None else _CAPTION
        table = Table("validation", "nats", "bits per dimension", caption=caption)
        rows = {
            _label(model.objective, checkpoint.name): best,
            "baseline: independent elements": base,
        }
        for name, nats in rows.items():
            if nats is not None:
                bits = f"{model.info.bits_per_dimension(nats):.4f}" if counted else "-"
                table.add_row(name, f"{nats:.2f}", bits)
        console.print(table)
        sign = 1 if model.objective.best[1] == "max" else -1
        if base is not None and model.objective.bound and sign * best < sign * base:
            console.print(
                "The model is worse than the baseline: it has learned nothing from its latents. "
                "Train for longer, or try another learning rate."
            )
    for file in files:
        console.print(f"  {file}")
    console.print(f"Next: vaekit sample --ckpt_path {checkpoint}")
