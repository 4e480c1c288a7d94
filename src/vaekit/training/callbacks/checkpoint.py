"""Writes best.ckpt and last.ckpt."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
)
from torch import Tensor

from vaekit.model.checkpoints import read_checkpoint
from vaekit.model.model import Model
from vaekit.storage.files import CheckpointError, local
from vaekit.training.callbacks.guard import Interrupted, guard_of
from vaekit.training.non_finite import NonFiniteError


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt` and `last.ckpt`, the newest, in the run's folder.

    Arguments:
        monitor: What is compared; by default what the objective names, such as the validation
            ELBO. Without validation rows, or with an objective whose target moves until the fit
            ends (`Objective.keeps_newest`), the newest model counts as the best.
        mode: Whether "max" or "min" is best, of a `monitor` that is named here; None for what is
            known of that number, and "max" if nothing is.
        every_n_epochs: How often to look, and to write `last.ckpt`; the last epoch always counts.
        every_n_train_steps: How often to write `last.ckpt` within an epoch too; 0 for never.

    Raises:
        CheckpointError: In a fit, if a file cannot be written.
        ValueError: In a fit, if the mode is not that of the number.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
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
            mode=mode or "max",
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.every_n_train_steps, self.given_mode = every_n_train_steps, mode
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
        module: Any = pl_module
        if isinstance(getattr(module, "model", None), Model):
            if self.monitor is None and not module.model.objective.keeps_newest:
                name, self.mode = module.model.best
                self.monitor = f"val/{name}"
            elif self.monitor is not None:
                known = module.model.direction(self.monitor)
                if known and self.given_mode not in (None, known):
                    raise ValueError(
                        f"BestCheckpoint watches {self.monitor} with mode {self.given_mode}, but "
                        f"{known} is best of it: leave the mode out."
                    )
                self.mode = known or self.mode
            self.kth_value = torch.tensor(-torch.inf if self.mode == "max" else torch.inf)
            if not module.validates:
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
