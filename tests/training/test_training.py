"""What goes on around the steps of training: rates that watch, checkpoints that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from conftest import fit
from vaekit import Model, VAEModule, callbacks, data
from vaekit.contracts.batch import DataInfo
from vaekit.model.checkpoints import read_checkpoint


def digits(**kwargs: Any) -> data.Digits:
    return data.Digits(binarize="static", **kwargs)


# A rate that follows the validation bound


def plateau(lr: float, **init_args: Any) -> VAEModule:
    return VAEModule(
        Model(digits(), latent_shape=2),
        optimizer={"class_path": "SGD", "init_args": {"lr": lr}},
        lr_scheduler={"class_path": "ReduceLROnPlateau", "init_args": init_args},
    )


def rate(trainer: pl.Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("mode", [{}, {"mode": "min"}], ids=str)  # jsonargparse fills in torch's
def test_the_rate_stays_while_the_bound_rises(mode: dict[str, str]) -> None:
    trainer = fit(plateau(1e-3, patience=0, **mode), digits(), max_epochs=4)
    assert trainer.lr_scheduler_configs[0].monitor == "val/elbo"
    assert rate(trainer) == 1e-3


def test_the_rate_falls_while_the_bound_stands_still() -> None:
    # A threshold relative to a negative number calls standing still a gain, for ever.
    trainer = fit(plateau(1e-30, patience=0, eps=0), digits(), max_epochs=4)
    assert rate(trainer) == pytest.approx(1e-33, rel=1e-6, abs=0)


def test_the_rate_is_changed_only_where_there_was_a_validation() -> None:
    settings = {"max_epochs": 6, "check_val_every_n_epoch": 2}
    trainer = fit(plateau(1e-30, patience=0, eps=0), digits(), **settings)
    assert rate(trainer) == pytest.approx(1e-32, rel=1e-6, abs=0)


@pytest.mark.parametrize("settings", [{}, {"limit_val_batches": 0}], ids=str)
def test_a_rate_without_a_number_to_watch_is_refused_at_the_start(
    settings: dict[str, int],
) -> None:
    module = digits(val=0.0) if not settings else digits()
    model = plateau(1e-3)
    with pytest.raises(ValueError, match="Expected validation rows, whose number ReduceLROn"):
        fit(model, module, max_epochs=1, **settings)
    assert model.global_step == 0
    with pytest.raises(ValueError, match="Expected lr_interval epoch, since ReduceLROnPlateau"):
        VAEModule(model.model, lr_scheduler="ReduceLROnPlateau", lr_interval="step")


def test_an_average_of_the_weights_is_no_worse_after_few_epochs() -> None:
    # With a decay of .999 from the first step it was still the start: -43 against -29.
    bounds = []
    for more in ([], [callbacks.EMA()]):
        pl.seed_everything(0, verbose=False)
        trainer = fit(Model(digits(), latent_shape=2), digits(), max_epochs=2, callbacks=more)
        bounds.append(trainer.callback_metrics["val/elbo"].item())
    assert bounds[1] > bounds[0] - 1


def test_the_average_forgets_at_its_decay_once_it_has_warmed_up() -> None:
    average = callbacks.EMA(0.9)._kwargs["multi_avg_fn"]
    for n, decay in ((0, 0.1), (8, 0.5), (80, 0.9), (1000, 0.9)):
        mean = [torch.tensor([1.0, 1.0])]
        average(mean, [torch.zeros(2)], torch.tensor(n))
        assert mean[0].tolist() == pytest.approx([decay, decay])


def test_an_average_of_the_weights_keeps_the_count_of_steps() -> None:
    cooling = {"class_path": "Linear", "init_args": {"steps": 50, "start": 1.0, "end": 0.5}}
    posterior = {"class_path": "RelaxedBernoulli", "init_args": {"temperature": cooling}}
    model = Model(digits(), latent_shape=2, posterior=posterior, prior="UniformBernoulli")
    before = model.core.posterior.steps.item()
    fit(model, digits(), max_steps=9, limit_val_batches=0, callbacks=[callbacks.EMA(0.9)])
    assert (before, model.core.posterior.steps.item()) == (0, 9)


# Checkpoints


class Worse(pl.Callback):
    """Makes the model worse, at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            with torch.no_grad():
                for p in pl_module.parameters():
                    p.zero_()


def kept(folder: Path, epochs: int, resume: Path | None = None, **settings: Any) -> Path:
    """Trains with checkpoints and returns the run's folder."""
    own = settings.pop("keep", callbacks.BestCheckpoint())
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[own, *settings.pop("callbacks", [])],
        logger=CSVLogger(folder, name=None),
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    module = VAEModule(Model(digits(), latent_shape=2), optimizer="SGD")
    trainer.fit(module, digits(), ckpt_path=resume, weights_only=True)
    return Path(str(trainer.log_dir))


def test_a_run_that_goes_on_elsewhere_keeps_the_best_model(tmp_path: Path) -> None:
    first = kept(tmp_path / "a", 3)
    old = read_checkpoint(first / "best.ckpt")
    assert old["epoch"] == 2
    second = kept(tmp_path / "b", 5, first / "last.ckpt", callbacks=[Worse(3)])
    best, last = (read_checkpoint(second / f"{name}.ckpt") for name in ("best", "last"))
    assert last["epoch"] == 4
    assert best["epoch"] == 2
    scores = [c["callbacks"]["BestCheckpoint"]["best_model_score"] for c in (old, last)]
    assert scores[0] == scores[1]
    # And one that does better takes its place, while the first run's stays.
    third = kept(tmp_path / "c", 5, first / "last.ckpt")
    assert read_checkpoint(third / "best.ckpt")["epoch"] == 4
    assert read_checkpoint(first / "best.ckpt")["epoch"] == 2


def test_a_run_that_goes_on_from_before_its_best_starts_the_score_again(tmp_path: Path) -> None:
    first = kept(tmp_path / "a", 2)
    (first / "last.ckpt").rename(tmp_path / "early.ckpt")
    later = kept(tmp_path / "b", 4, tmp_path / "early.ckpt")
    (tmp_path / "early.ckpt").rename(later / "early.ckpt")
    again = kept(tmp_path / "c", 3, later / "early.ckpt", callbacks=[Worse(2)])
    assert read_checkpoint(again / "best.ckpt")["epoch"] == 2


def test_a_run_goes_on_from_a_folder_that_was_moved_and_has_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The relative path of its best checkpoint was looked up from here.
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "there")
    kept(Path("runs"), 2)
    monkeypatch.chdir(tmp_path / "here")
    folder = kept(Path("runs"), 3, Path("../there/runs/version_0/last.ckpt"), callbacks=[Worse(2)])
    assert read_checkpoint(folder / "best.ckpt")["epoch"] == 1


def test_the_newest_model_is_kept_whatever_epochs_are_looked_at(tmp_path: Path) -> None:
    folder = kept(tmp_path, 4, keep=callbacks.BestCheckpoint(every_n_epochs=3))
    assert read_checkpoint(folder / "best.ckpt")["epoch"] == 2
    assert read_checkpoint(folder / "last.ckpt")["epoch"] == 3
    again = kept(tmp_path, 5, folder / "last.ckpt")
    found = read_checkpoint(again / "last.ckpt")
    assert (found["epoch"], found["global_step"]) == (4, 5 * 23)


def test_without_validation_loaders_the_newest_model_is_the_best(tmp_path: Path) -> None:
    x = (torch.rand(50, 1, 8, 8) > 0.5).float()
    model = Model(DataInfo((1, 8, 8), (0.0, 1.0), levels=2), latent_shape=2)
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[callbacks.BestCheckpoint()],
        logger=CSVLogger(tmp_path, name=None),
        enable_progress_bar=False,
    )
    trainer.fit(VAEModule(model), DataLoader(x, batch_size=16))
    folder = Path(str(trainer.log_dir))
    assert read_checkpoint(folder / "best.ckpt")["epoch"] == 1
