"""Writes config.yaml into the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import loggers as theirs

from vaekit.storage.files import write


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
