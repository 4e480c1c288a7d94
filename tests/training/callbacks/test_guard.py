"""What is watched in a fit: numbers that are not finite, and signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vaekit import Model, VAEModule, data, register
from vaekit.likelihoods import Bernoulli
from vaekit.model.checkpoints import read_checkpoint
from vaekit.networks.mlp import MLPEncoder
from vaekit.registry import plugins
from vaekit.storage.runs import RunLogger
from vaekit.training.callbacks.checkpoint import BestCheckpoint
from vaekit.training.callbacks.ema import EMA
from vaekit.training.callbacks.guard import Guard, Interrupted
from vaekit.training.non_finite import NonFiniteError, gradients_are_finite

MARK = 0.8125  # of the row at which a part breaks


@pytest.fixture(autouse=True)
def _own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Breaking(Bernoulli):
        """NaN for the marked row."""

        def log_prob(self, p: Any, x: Any, mask: Any = None) -> Tensor:
            lp = super().log_prob(p, x, mask)
            return torch.where(x.flatten(1)[:, 0] == MARK, torch.nan, lp)

    @register
    class Blind(MLPEncoder):
        """Finite, but its gradient is not: that of a root at 0."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.root = nn.Parameter(torch.ones(()))

        def forward(self, x: Any, context: Any = None, mask: Any = None) -> Tensor:
            here = (x.flatten(1)[:, :1] != MARK).float()
            return super().forward(x, context, mask) + 0.01 * (self.root * here).sqrt()

    @register
    class Counting(MLPEncoder):
        """Counts the steps that were taken."""

        steps: Tensor

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.register_buffer("steps", torch.zeros(()))

        def after_step(self, draw: Any) -> None:
            self.steps += 1


def rows(marked: slice = slice(30, 31), **settings: Any) -> data.Arrays:
    x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0)) * 0.8
    x[marked, 0] = MARK
    return data.Arrays(x, val=0.25, test=0, batch_size=8, seed=1, **settings)


def trained(
    folder: Path, guard: Guard | None = None, loader: Any = None, **settings: Any
) -> pl.Trainer:
    """Trains with everything that could take up a number that is not finite."""
    torch.manual_seed(0)
    source = loader or rows()
    parts = {k: settings.pop(k) for k in ("likelihood", "encoder") if k in settings}
    optimizer = settings.pop("optimizer", "Adam")
    resume = settings.pop("ckpt_path", None)
    known = source if isinstance(source, data.DataModule) else rows()
    module = VAEModule(Model(known, latent_shape=2, **parts), optimizer=optimizer)
    trainer = pl.Trainer(
        **{"max_epochs": 3, "accelerator": "cpu", "devices": 1, **settings},
        callbacks=[EMA(), BestCheckpoint(), *([guard] if guard else [])],
        logger=RunLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(module, source, ckpt_path=resume, weights_only=True)
    finally:
        for p in module.parameters():
            assert p.isfinite().all()
        for state in trainer.optimizers[0].state.values():
            assert all(x.isfinite().all() for x in state.values() if isinstance(x, Tensor))
        for path in folder.rglob("*.ckpt"):
            finite(read_checkpoint(path))
    return trainer


def finite(value: Any) -> None:
    """All tensors of a checkpoint are finite, but for the scores of no model yet."""
    if isinstance(value, Tensor) and value.dim():
        assert value.isfinite().all()
    elif isinstance(value, dict):
        for inner in value.values():
            finite(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            finite(inner)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_term_of_a_row_is_named_and_the_state_before_it_is_kept(
    tmp_path: Path, accumulate: int
) -> None:
    settings: dict[str, Any] = {"accumulate_grad_batches": accumulate, "likelihood": "Breaking"}
    with pytest.raises(NonFiniteError) as error:
        trained(tmp_path, **settings)
    said = str(error.value)
    assert "the term distortion is not finite in row 30 of the data" in said
    assert "learning rate" in said
    assert "clipping" in said
    last = read_checkpoint(tmp_path / "version_0/last.ckpt")
    assert f"Step {last['global_step'] + 1} (epoch 0, batch " in said
    # Where it stood is exact: it ends at the same step again.
    with pytest.raises(NonFiniteError) as again:
        trained(tmp_path, ckpt_path=tmp_path / "version_0/last.ckpt", **settings)
    assert str(again.value) == said


def test_the_first_module_is_named(tmp_path: Path) -> None:
    class Broken(MLPEncoder):
        def __init__(self) -> None:
            super().__init__((6,), hidden=[5])
            self.last = nn.Threshold(1.0, 1.0)

        def forward(self, x: Any, context: Any = None, mask: Any = None) -> Tensor:
            here = torch.where(x[:, :1] == MARK, torch.inf, 0.0)
            return self.last(super().forward(x, context, mask) + here)

    with pytest.raises(NonFiniteError, match=r"first in core\.encoder\.last \(Threshold\)\."):
        trained(tmp_path, encoder=Broken())


def test_a_gradient_alone_is_found(tmp_path: Path) -> None:
    words = r"the gradient of core\.encoder\.root is not finite; first in core\.encoder \(Blind\)"
    with pytest.raises(NonFiniteError, match=words):
        trained(tmp_path, encoder="Blind")


def test_a_learning_rate_far_too_large_ends_the_fit(tmp_path: Path) -> None:
    optimizer = {"class_path": "Adam", "init_args": {"lr": 1e25}}
    with pytest.raises(NonFiniteError, match=r"Step \d+ .*not finite.*smaller learning rate"):
        trained(tmp_path, optimizer=optimizer)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    class Ruin(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 3:
                trainer.optimizers[0].param_groups[0]["params"][0].data[0] = torch.inf

    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[Ruin(), BestCheckpoint(every_n_train_steps=1)],
        logger=RunLogger(tmp_path),
        enable_progress_bar=False,
    )
    with pytest.raises(NonFiniteError, match="is not finite: no checkpoint is written"):
        trainer.fit(VAEModule(Model(rows(), latent_shape=2)), rows())
    assert read_checkpoint(tmp_path / "version_0/last.ckpt")["global_step"] == 2


def test_float16_that_overflows_ends_the_fit(tmp_path: Path) -> None:
    optimizer = {"class_path": "SGD", "init_args": {"lr": 1000.0}}
    with pytest.raises(NonFiniteError, match=r"Step \d+ .*not finite"):
        trained(tmp_path, optimizer=optimizer, precision="16-true", max_epochs=40)


def scaled(scale: float) -> MixedPrecision:
    """float16 with a gradient scaler, which Lightning has on a GPU alone."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_a_gradient_scaler_may_do_its_work(tmp_path: Path) -> None:
    # Its first scale overflows: it leaves those steps out itself.
    plugin = scaled(2.0**20)
    trainer = trained(tmp_path, plugins=[plugin])
    assert 0 < trainer.global_step < 18
    assert plugin.scaler is not None
    left_out = 18 - trainer.global_step
    assert plugin.scaler.get_scale() == 2.0 ** (20 - left_out)


def test_a_scaler_does_not_hide_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="the term distortion"):
        trained(tmp_path, plugins=[scaled(2.0)], likelihood="Breaking")


def test_a_scaler_that_cannot_help_ends_the_fit(tmp_path: Path) -> None:
    everywhere = rows(slice(None))
    with pytest.raises(NonFiniteError, match="the gradient of"):
        trained(tmp_path, None, everywhere, plugins=[scaled(2.0)], encoder="Blind", max_epochs=9)


def test_rows_of_another_s_loader_end_the_fit(tmp_path: Path) -> None:
    x = torch.rand(40, 6)
    x[21, 3] = torch.nan
    with pytest.raises(
        NonFiniteError,
        match=r"Step 3 \(epoch 0, batch 2\): x, the data is not f.*"
        r" in row 5 of the batch",
    ):
        trained(tmp_path, loader=DataLoader(x, batch_size=8))  # type: ignore[arg-type]
    assert read_checkpoint(tmp_path / "version_0/last.ckpt")["global_step"] == 2


def test_steps_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    guard = Guard(skip=1)
    trainer = trained(tmp_path, guard, likelihood="Breaking", encoder="Counting")
    assert guard.skipped == 3  # one in each epoch
    state = read_checkpoint(tmp_path / "version_0/last.ckpt")["current_model_state"]
    assert state["model.core.encoder.steps"] == trainer.global_step == 15
    # As if the epoch had not had that batch.
    lines = (tmp_path / "version_0/metrics.csv").read_text()
    assert "nan" not in lines


def test_a_step_that_is_left_out_changes_nothing(tmp_path: Path) -> None:
    class Look(pl.Callback):
        def __init__(self) -> None:
            self.states: list[Tensor] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            weights = [p.detach().flatten() for p in trainer.lightning_module.parameters()]
            moments = [s["exp_avg"].flatten() for s in trainer.optimizers[0].state.values()]
            self.states.append(torch.cat([*weights, *moments]))

    look, guard = Look(), Guard(skip=1)
    module = VAEModule(Model(rows(), latent_shape=2, likelihood="Breaking"))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[guard, look],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, rows())
    still = [torch.equal(a, b) for a, b in zip(look.states, look.states[1:], strict=False)]
    assert still.count(True) == guard.skipped == 1


def test_more_in_a_row_than_may_be_left_out_end_the_fit(tmp_path: Path) -> None:
    everywhere = rows(slice(None))
    guard = Guard(skip=4)
    with pytest.raises(NonFiniteError, match=r"Step 1 \(epoch 0, batch 4\)"):
        trained(tmp_path, guard, loader=everywhere, likelihood="Breaking")
    assert guard.skipped == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_are_finite_where_their_squares_are(dtype: torch.dtype) -> None:
    large = torch.full((4, 5), 300.0, dtype=dtype)  # whose squares overflow float16
    assert gradients_are_finite([large, torch.zeros(3, dtype=dtype)])
    for bad in (torch.nan, torch.inf, -torch.inf):
        worse = large.clone()
        worse[2, 3] = bad
        assert not gradients_are_finite([torch.zeros(3, dtype=dtype), worse])
    assert gradients_are_finite([])
    assert not gradients_are_finite([torch.full((2,), 1e25)])  # Adam squares it


# Signals


class Send(pl.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, number: int, step: int, times: int = 1) -> None:
        self.number, self.step, self.times = number, step, times

    def on_before_backward(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            times, self.times = self.times, 0
            for _ in range(times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_ends_the_fit_after_a_whole_step(
    tmp_path: Path, number: int, code: int, accumulate: int
) -> None:
    before = signal.getsignal(number)
    module = VAEModule(Model(rows(), latent_shape=2))
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[BestCheckpoint(), Send(number, 4)],
        logger=RunLogger(tmp_path),
        enable_progress_bar=False,
        accumulate_grad_batches=accumulate,
    )
    with pytest.raises(Interrupted) as ended:
        trainer.fit(module, rows())
    assert ended.value.code == code
    assert read_checkpoint(tmp_path / "version_0/last.ckpt")["global_step"] == 5
    assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    module = VAEModule(Model(rows(), latent_shape=2))
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[BestCheckpoint(), Send(signal.SIGINT, 4, times=2)],
        logger=RunLogger(tmp_path),
        enable_progress_bar=False,
    )
    with pytest.raises(SystemExit):
        trainer.fit(module, rows())
    assert trainer.global_step == 4
    assert not (tmp_path / "version_0/last.ckpt").exists()


def test_slurm_s_signal_waits_for_the_step_and_is_lightning_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "scontrol"
    script.write_text(f"#!/bin/sh\necho $* > {tmp_path}/requeued\n")
    script.chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "fit",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NUM_NODES": "1",
    }.items():
        monkeypatch.setenv(name, value)
    module = VAEModule(Model(rows(), latent_shape=2))
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        callbacks=[Send(signal.SIGUSR1, 3)],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
    )
    trainer.fit(module, rows())
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    found = read_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")
    assert (found["global_step"], found["run"]["batches"]) == (4, 4)


@pytest.mark.parametrize("max_steps", [4, 6])
def test_the_end_of_max_steps_is_where_it_goes_on(tmp_path: Path, max_steps: int) -> None:
    for name, steps in (("cut", [max_steps, 12]), ("whole", [12])):
        resume = None
        for limit in steps:
            settings: dict[str, Any] = {"max_steps": limit, "max_epochs": -1}
            trained(tmp_path / name, ckpt_path=resume, **settings)
            resume = sorted((tmp_path / name).glob("*/last.ckpt"))[-1]
    ends = [
        read_checkpoint(sorted((tmp_path / name).glob("*/last.ckpt"))[-1])["current_model_state"]
        for name in ("cut", "whole")
    ]
    for name, x in ends[0].items():
        assert torch.equal(x, ends[1][name]), name


def test_max_time_writes_where_it_goes_on(tmp_path: Path) -> None:
    module = VAEModule(Model(rows(), latent_shape=2))
    trainer = pl.Trainer(
        max_epochs=1000,
        max_time={"seconds": 1},
        accelerator="cpu",
        callbacks=[BestCheckpoint()],
        logger=RunLogger(tmp_path),
        enable_progress_bar=False,
    )
    trainer.fit(module, rows())
    found = read_checkpoint(tmp_path / "version_0/last.ckpt")
    assert found["global_step"] == trainer.global_step
    assert found["run"]["batches"] == found["global_step"] % 6
