"""Trains and predicts on one rank and on two, and saves what came out: `python ranks.py FILE`.

A process of its own: forking is safe only where no thread was started before.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from conftest import fit
from vaekit import Model, VAEModule, data, register
from vaekit.contracts.batch import Batch
from vaekit.cores.vae import VAE
from vaekit.training.callbacks.predictions import PredictionWriter

NOISE = torch.randn(64, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
SCALES = (0.5, "learned", "elementwise", "optimal")
# Rows and Gaussian scale of a case. Three fifths train, 8 a step: of 40 rows 24, which divide; of
# 42 and 45 rows 26 and 27, whose last batch has 2 and 3; of 41 and 55 rows 25 and 33, whose last
# batch has one, so that the second rank gets a stand-in.
CASES = [*((n, scale) for n in (40, 42, 45) for scale in SCALES), (41, "learned"), (55, 0.5)]


@register
class RowNoise(VAE):
    """Draws each row's latents with that row's own noise, whichever rank has the row."""

    def draw(self, batch: Batch, samples: int = 1, stop: bool = False, noise: Any = None) -> Any:
        assert batch.label is not None
        return super().draw(batch, samples, stop, NOISE[batch.label].expand(samples, -1, -1))


def rows(n: int, batch_size: int) -> data.Arrays:
    x = torch.rand(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return data.Arrays(x, label=torch.arange(n), val=0.2, test=0.2, batch_size=batch_size)


def settings(ranks: int) -> dict[str, Any]:
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # a free port for each run
        os.environ.pop(name, None)
    strategy = "ddp_fork" if ranks > 1 else "auto"
    return {"devices": ranks, "strategy": strategy, "precision": "64-true"}


def trained(ranks: int, n: int, scale: object, batch: int = 8) -> dict[str, Any]:
    """Weights and logged numbers after three epochs at a global batch size."""
    torch.manual_seed(0)
    module = rows(n, batch_size=batch // ranks)
    model = Model(
        module,
        latent_shape=3,
        likelihood={"class_path": "Gaussian", "init_args": {"scale": scale}},
        objective={"class_path": "ELBO", "init_args": {"samples": 2}},
        core="RowNoise",
    ).double()  # forked ranks give their weights back to this copy
    trainer = fit(model, module, max_epochs=3, **settings(ranks))
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if "step" not in k}
    state = {k: v.double().flatten() for k, v in model.state_dict().items()}
    return {"weights": torch.cat(list(state.values())), "metrics": metrics}


def predicted(ranks: int, folder: Path) -> dict[str, torch.Tensor]:
    module = rows(43, batch_size=4)
    torch.manual_seed(0)
    model = Model(module, latent_shape=3, likelihood="Gaussian", core="RowNoise")
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[PredictionWriter(folder)],
        **settings(ranks),
    )
    trainer.predict(VAEModule(model), module, return_predictions=ranks == 1)
    with np.load(folder / "predictions.npz") as arrays:
        return {k: torch.from_numpy(v) for k, v in arrays.items()}


class KeepNoise(pl.Callback):
    """Keeps what a rank draws in training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        torch.save(torch.randn(4), self.folder / f"{trainer.global_rank}.pt")


def drawn(folder: Path) -> list[torch.Tensor]:
    """Random numbers of both ranks, after seed_everything."""
    pl.seed_everything(0, verbose=False)
    module = data.Digits()
    model = Model(module, latent_shape=3)
    callback = KeepNoise(folder)
    fit(model, module, max_steps=1, callbacks=[callback], **settings(2))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "trained": {case: [trained(ranks, *case) for ranks in (1, 2)] for case in CASES},
            # Of 26 rows, 6 a step, the last step has 2: the third rank gets a stand-in.
            "three": [trained(ranks, 42, "optimal", batch=6) for ranks in (1, 3)],
            "predicted": [predicted(ranks, folder) for ranks in (1, 2)],
            "drawn": drawn(folder),
        }
    torch.save(results, sys.argv[1])


if __name__ == "__main__":
    main()
