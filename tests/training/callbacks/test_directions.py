"""What is best of a number: early stopping and checkpoints follow it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from conftest import fit
from vaekit import Model, callbacks, data, load
from vaekit.evaluation.summary import bound

Cli = Callable[..., Path]


class Scores(pl.Callback):
    """The validation ELBO after each epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["val/elbo"]))


def test_early_stopping_on_the_elbo_does_not_stop_while_it_rises() -> None:
    torch.manual_seed(0)
    scores = Scores()
    stopping = EarlyStopping("val/elbo", min_delta=0.001)
    fit(Model(data.Digits(), 2), data.Digits(), max_epochs=8, callbacks=[scores, stopping])
    assert len(scores.seen) == 8
    assert (stopping.mode, stopping.min_delta) == ("max", 0.001)
    assert float(stopping.best_score) == pytest.approx(max(scores.seen))


def test_a_checkpoint_by_the_elbo_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scores, keep = Scores(), ModelCheckpoint(tmp_path, monitor="val/elbo")
    rows = data.Digits()
    fit(Model(rows, 2), rows, max_epochs=4, callbacks=[scores, keep], enable_checkpointing=True)
    assert float(keep.best_model_score) == pytest.approx(max(scores.seen))  # type: ignore[arg-type]
    kept = bound(load(keep.best_model_path), rows).mean()
    assert float(kept) == pytest.approx(max(scores.seen), abs=1e-3)


@pytest.mark.parametrize("monitor", ["val/loss", "val/distortion", "val/bpd"])
def test_a_mode_that_contradicts_the_direction_is_refused(monitor: str) -> None:
    stopping = EarlyStopping(monitor, mode="max")
    with pytest.raises(ValueError, match=f"EarlyStopping watches {monitor} with mode max, but"):
        fit(Model(data.Digits(), 2), data.Digits(), max_epochs=1, callbacks=[stopping])


def test_a_number_that_has_no_best_keeps_its_mode() -> None:
    for mode in ("min", "max"):
        stopping = EarlyStopping("val/rate", mode=mode, patience=9)
        fit(Model(data.Digits(), 2), data.Digits(), max_epochs=1, callbacks=[stopping])
        assert stopping.mode == mode


@pytest.mark.parametrize(
    ("objective", "monitor", "mode"),
    [("ELBO", "val/distortion", "min"), ("ELBO", "val/elbo", "max"), ("AE", "val/loss", "min")],
)
def test_the_best_checkpoint_fills_in_its_mode(
    tmp_path: Path, objective: str, monitor: str, mode: str
) -> None:
    posterior = "Delta" if objective == "AE" else "DiagonalNormal"
    model = Model(data.Digits(), 2, objective=objective, posterior=posterior)
    keep = callbacks.BestCheckpoint(monitor)
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    fit(model, data.Digits(), max_epochs=1, callbacks=[keep], **settings)
    assert keep.mode == mode
    other = callbacks.BestCheckpoint(monitor, mode="min" if mode == "max" else "max")
    with pytest.raises(ValueError, match="is best of it: leave the mode out"):
        fit(model, data.Digits(), max_epochs=1, callbacks=[other], **settings)


def test_the_command_line_knows_the_direction_too(cli: Cli) -> None:
    stopping = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor"]
    folder = cli("fit", "--trainer.max_epochs", 6, *stopping, "val/elbo")
    with open(folder / "runs/version_0/metrics.csv") as lines:
        epochs = [line for line in lines if line.strip()]
    assert len(epochs) > 6
    with pytest.raises(SystemExit):
        cli("fit", *stopping, "val/loss", "--trainer.callbacks.mode", "max")
