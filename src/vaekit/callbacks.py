"""Callbacks: checkpoints, pictures and the run's configuration."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import loggers as theirs
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
    RichProgressBar,
    WeightAveraging,
)
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vaekit import pictures
from vaekit.checkpoints import load, read_checkpoint
from vaekit.data.base import DataModule
from vaekit.data.rows import fitting
from vaekit.finite import NonFiniteError
from vaekit.guard import Interrupted, guard_of
from vaekit.model import Model
from vaekit.module import VAEModule
from vaekit.noise import fixed_noise
from vaekit.storage import CheckpointError, local, write

__all__ = [
    "EMA",
    "BestCheckpoint",
    "ConfigWriter",
    "Pictures",
    "Progress",
]


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` and `last.ckpt`, the newest, in the run's folder.

    Arguments:
        monitor: What is compared; by default what the objective names, such as the validation
            ELBO. Without validation rows the newest model counts as the best.
        mode: Whether "max" or "min" is best, of a `monitor` that is named here.
        every_n_epochs: How often to look, and to write `last.ckpt`; the last epoch always counts.
        every_n_train_steps: How often to write `last.ckpt` within an epoch too; 0 for never.

    Raises:
        CheckpointError: In a fit, if a file cannot be written.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        every_n_epochs: int = 1,
        every_n_train_steps: int = 0,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"Expected every_n_epochs of at least 1 but got {every_n_epochs}.")
        if every_n_train_steps < 0:
            raise ValueError(
                f"Expected every_n_train_steps of at least 0 but got {every_n_train_steps}."
            )
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.every_n_train_steps = every_n_train_steps
        self._resumed: dict[str, Any] | None = None
        self._saved_at: int | None = None  # the step of last.ckpt

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.log_dir or trainer.default_root_dir
        super().setup(trainer, pl_module, stage)

    @property
    def state_key(self) -> str:
        # Not Lightning's, which names the monitor: that is known only once the model is built.
        return "BestCheckpoint"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Not Lightning's, which starts the best score again in another folder. Its file can be
        # looked for only once this run's own folder is known.
        self._resumed = {
            name: state_dict[name] for name in ("monitor", "current_score", "best_model_score")
        }

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, VAEModule):
            if self.monitor is None:
                name, self.mode = pl_module.model.best
                self.monitor = f"val/{name}"
                self.kth_value = torch.tensor(-torch.inf if self.mode == "max" else torch.inf)
            if not pl_module.validates:
                self.monitor = None
        state, self._resumed = self._resumed, None
        if state and self.monitor and state["monitor"] == self.monitor:
            self.current_score = state["current_score"]
            self._go_on(trainer, state["best_model_score"])

    def _go_on(self, trainer: Trainer, score: Tensor | None) -> None:
        """Takes over the best model of the run that this one goes on from, with its score.

        It lies beside the checkpoint that was resumed, and says that it has that score; else, as
        where a run goes on from before its best, there is no better model yet than those to come.
        """
        old = Path(str(trainer.ckpt_path)).with_name("best.ckpt")
        if score is None or not old.is_file():
            return
        with suppress(ValueError, KeyError):  # of a damaged file, or another's
            if read_checkpoint(old)["callbacks"][self.state_key]["best_model_score"] != score:
                return
            new = Path(str(self.dirpath), "best.ckpt")
            if trainer.is_global_zero and old.resolve() != new.resolve():
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(old, new)
            self.best_k_models = {str(new): score}
            self.best_model_path = self.kth_best_model_path = str(new)
            self.best_model_score = self.kth_value = score

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        if current is not None and not bool(current.isfinite()):
            return False  # Lightning takes NaN for infinitely bad, and the first for the best
        return super().check_monitor_top_k(trainer, current)

    # last.ckpt: not by `save_last`, which only copies what was saved as the best.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = trainer.global_step
        last = Path(str(self.dirpath), "last.ckpt")
        self.last_model_path = str(last) if last.is_file() else ""  # of a run that goes on
        if trainer.is_global_zero and self.dirpath and (folder := local(self.dirpath)):
            for part in folder.glob("*.ckpt.part"):  # of a run that was killed
                part.unlink(missing_ok=True)

    def on_train_batch_end(self, *args: Any) -> None:
        """Nothing: `best.ckpt` is kept at the end of an epoch."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_train_steps and trainer.global_step % self.every_n_train_steps == 0:
            self._save_last(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and not trainer.sanity_checking and guard_of(trainer).cut:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cut = guard_of(trainer).cut
        if cut:
            self._save_last(trainer)  # to go on within the epoch
        if not cut or self.monitor is None:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Once all that is done at the end of an epoch is done, such as a scheduler's step.
        if trainer.current_epoch % self.every_n_epochs == 0:  # type: ignore[operator]
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if guard_of(trainer).exact:
            self._save_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keeps where the fit stood, if all ranks end here."""
        together = isinstance(exception, Interrupted | NonFiniteError) or trainer.world_size == 1
        at_once = isinstance(exception, KeyboardInterrupt | CheckpointError)
        if together and not at_once and self._saved_at is not None and guard_of(trainer).exact:
            with suppress(NonFiniteError, CheckpointError):  # what is told is why the fit ended
                self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        settled = guard_of(trainer).settled
        dry = trainer.fast_dev_run  # type: ignore[attr-defined]
        if dry or settled is None or settled.step in (self._saved_at, 0):
            return
        if settled.step == trainer.global_step:
            self.last_model_path = str(Path(str(self.dirpath), "last.ckpt"))
            trainer.save_checkpoint(self.last_model_path, weights_only=False)
            self._saved_at = settled.step


class ConfigWriter(Callback):
    """Writes the resolved configuration into the run's folder, and gives it to the loggers.

    Arguments:
        config: The configuration.
        packages: The package of each part, as in a checkpoint; others than vaekit are noted.
    """

    def __init__(self, config: Mapping[str, Any], packages: Mapping[str, str] = {}) -> None:
        self.config = dict(config)
        self.packages = {k: v for k, v in packages.items() if not v.startswith("vaekit ")}
        self.path: Path | None = None
        self.first_step: int | None = None  # of a fit that begins

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if stage != "fit" or not trainer.is_global_zero:
            return
        if folder is not None:
            self.path = Path(folder, "config.yaml")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            notes = "".join(f"# {part} is of {who}\n" for part, who in self.packages.items())
            write(notes + yaml.safe_dump(self.config, sort_keys=False), self.path)
        for logger in trainer.loggers:
            if not isinstance(logger, theirs.CSVLogger):  # which would write the same file again
                logger.log_hyperparams(self.config)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_step = trainer.global_step  # of a run that goes on, not 0

    def state_dict(self) -> dict[str, Any]:
        return {"config": self.config}  # what a run goes on with

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves no folder behind of a run that took no step."""
        new = self.path is not None and not self.path.with_name("last.ckpt").exists()
        if self.path is not None and new and self.first_step in (None, trainer.global_step):
            for name in ("config.yaml", "metrics.csv"):
                self.path.with_name(name).unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else
                self.path.parent.rmdir()


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
    assert isinstance(pl_module, VAEModule)
    return pl_module.model


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
