"""Draws pictures of the best model at the end of a fit."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import loggers as theirs

from vaekit.data.base import DataModule
from vaekit.data.rows.batches import fitting
from vaekit.evaluation import pictures
from vaekit.model.checkpoints import load
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise


class Pictures(Callback):
    """Draws `samples.png`, `reconstructions.png` and `latent.png` into the run's folder.

    At the end they show the best checkpoint where there is one, else the model as it is.

    Arguments:
        every_n_epochs: Also draw them during training, so often; 0 draws at the end alone.
        rows: Held-out rows in `latent.png`.
    """

    def __init__(self, every_n_epochs: int = 0, rows: int = 2000) -> None:
        if every_n_epochs < 0 or rows < 1:
            raise ValueError(
                "Expected every_n_epochs of at least 0 and rows of at least 1 but got "
                f"{every_n_epochs} and {rows}."
            )
        self.every_n_epochs, self.rows = every_n_epochs, rows
        self.paths: list[Path] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, _model_of(pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = _model_of(pl_module)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if trainer.is_global_zero and best:
            model = load(best, **deepcopy(model.instances))
        self._draw(trainer, model)

    def _draw(self, trainer: Trainer, model: Model) -> None:
        folder = trainer.log_dir
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or folder is None or not isinstance(data, DataModule):
            return
        split = next(split for split in ("val", "test", "train") if split in data.splits)
        rows = fitting(self.rows, model.info.event_shape)
        batch = next(data.rows(split, rows, batch_size=rows))
        # The same latents in every picture, and training undisturbed.
        with fixed_noise(0, model.device):
            figures = pictures.draw_all(model, batch, data)
        self.paths = [Path(folder, f"{name}.png") for name in figures]
        for path, figure in zip(self.paths, figures.values(), strict=True):
            pictures.save(figure, path)
        for logger in trainer.loggers:
            if isinstance(logger, theirs.WandbLogger):
                for path in self.paths:
                    logger.log_image(f"pictures/{path.stem}", [str(path)])


def _model_of(pl_module: LightningModule) -> Model:
    model = pl_module.model
    assert isinstance(model, Model)
    return model
