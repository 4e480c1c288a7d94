"""Fits that fail or go on, from the command line: exit codes, one line, and what is in force."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vaekit import Model, VAEModule, data
from vaekit.model.checkpoints import read_checkpoint
from vaekit.training import optimizers
from vaekit.training.callbacks.checkpoint import BestCheckpoint
from vaekit.training.callbacks.guard import Guard
from vaekit.training.non_finite import NonFiniteError

Cli = Callable[..., Path]
FAST = ("--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false")
LAST = Path("runs/version_0/last.ckpt")


def failed(cli: Cli, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[Any, list[str]]:
    """The exit code of a command, and the errors that it printed."""
    with pytest.raises(SystemExit) as ended:
        cli(*args)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return ended.value.code, [line for line in said.splitlines() if "error" in line]


def test_numbers_that_are_not_finite_end_with_one_error(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--model.optimizer", "SGD", "--model.optimizer.lr", "1e20")
    code, errors = failed(cli, capsys, "fit", *FAST, *rate)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("vaekit: error: Step 2 (epoch 0, batch 1): the term ")
    assert "The newest good state is in runs/version_0/last.ckpt." in errors[0]
    assert read_checkpoint(LAST)["global_step"] == 1


ONE_STEP = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1)


@pytest.mark.parametrize(
    "end", [("--trainer.max_steps", 1), ONE_STEP, (*ONE_STEP, "--trainer.limit_val_batches", 0)]
)
def test_a_fit_whose_only_step_diverges_does_not_exit_with_0(
    cli: Cli, capsys: pytest.CaptureFixture[str], end: tuple[Any, ...]
) -> None:
    rate = ("--model.optimizer", "SGD", "--model.optimizer.lr", "1e38")
    code, errors = failed(cli, capsys, "fit", *rate, *end)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("vaekit: error: Expected a finite result of the fit, but val/elbo")
    assert "--model.optimizer.lr" in errors[0]


def test_a_full_disk_ends_with_one_error(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("fit", *FAST, "--model.encoder.hidden", 8)
    old = LAST.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, limits[1]))
    try:
        more = ("--ckpt_path", "last", "--trainer.max_epochs", 3)
        code, errors = failed(cli, capsys, "fit", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert code == 1
    assert len(errors) == 1
    assert "ckpt could not be written: File too large." in errors[0]
    assert "The newest good state is in runs/version_0/last.ckpt." in errors[0]
    assert LAST.read_bytes() == old


def test_a_folder_that_cannot_be_made_ends_with_one_error(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "runs").write_text("")
    code, errors = failed(cli, capsys, "fit", *FAST)
    assert code == 1
    assert errors == ["vaekit: error: runs could not be written: Not a directory."]


@pytest.mark.parametrize("schedule", [(), ("--model.lr_scheduler", "StepLR")])
def test_another_learning_rate_is_in_force_and_recorded(cli: Cli, schedule: tuple[str]) -> None:
    size = ("--model.lr_scheduler.step_size", 1) if schedule else ()
    cli("fit", *FAST, *schedule, *size, "--model.optimizer.lr", 0.001)
    before = read_checkpoint(LAST)["optimizer_states"][0]["param_groups"][0]["lr"]
    cli("fit", "--ckpt_path", "last", "--model.optimizer.lr", 0.003, "--trainer.max_epochs", 3)
    found = read_checkpoint(LAST)
    after = found["optimizer_states"][0]["param_groups"][0]["lr"]
    factor = 0.1 if schedule else 1  # of the third epoch
    assert after == pytest.approx(3 * before * factor)
    assert found["vaekit"]["training"]["optimizer"]["init_args"]["lr"] == 0.003
    config = yaml.safe_load(LAST.with_name("config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.003


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--data.batch_size", 500), "data.batch_size 64 but got 500"),
        (("--data.seed", 3), "data.seed 0 but got 3"),
        (("--seed_everything", 4), "seed_everything 0 but got 4"),
        (("--model.objective.beta", 4), "model.objective.beta"),
        (("--model.likelihood", "Gaussian"), "model.likelihood Bernoulli"),
        (("--model.optimizer", "SGD"), "optimizer is Adam but got SGD"),
        (("--model.optimizer.eps", 0.1), "Adam has eps 1e-08 but got 0.1"),
        (("--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", 1), "lr_scheduler"),
    ],
    ids=str,
)
def test_what_contradicts_the_checkpoint_is_refused(
    cli: Cli, capsys: pytest.CaptureFixture[str], more: tuple[object, ...], words: str
) -> None:
    cli("fit", "--trainer.max_epochs", 1)
    code, errors = failed(cli, capsys, "fit", "--ckpt_path", "last", *more)
    assert code == 2
    assert len(errors) == 1
    assert words in errors[0]


def test_a_run_without_a_checkpoint_is_not_passed_over(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--trainer.max_epochs", 1)
    Path("runs/version_1").mkdir()
    Path("runs/version_1/config.yaml").write_text("")
    code, errors = failed(cli, capsys, "fit", "--ckpt_path", "last")
    assert code == 2
    assert "The newest run, runs/version_1, ended before its first last.ckpt" in errors[0]
    cli("sample", "--ckpt_path", "last")


def test_a_stranger_in_a_checkpoint_s_settings_is_not_imported(
    cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli("fit", "--trainer.max_epochs", 1)
    (tmp_path / "evil.py").write_text("from pathlib import Path; Path('marker').touch()")
    found = torch.load(LAST, weights_only=True)
    config = found["callbacks"]["ConfigWriter"]["config"]
    config["trainer"]["callbacks"] = [{"class_path": "evil.Evil"}]
    torch.save(found, LAST)
    code, errors = failed(cli, capsys, "fit", "--ckpt_path", "last")
    assert code == 2
    assert "evil.Evil is no registered part, nor Lightning's or torch.optim's" in errors[0]
    assert not Path("marker").exists()


@pytest.mark.slow
def test_a_model_below_the_baseline_is_called_so(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate, worse in ((1e-9, True), (0.003, False)):
        cli("fit", "--trainer.max_epochs", 15, "--model.optimizer.lr", rate)
        assert ("worse than the baseline" in capsys.readouterr().out) == worse


def test_an_address_of_a_local_file_is_a_path(cli: Cli) -> None:
    folder = cli("fit", "--trainer.max_epochs", 1)
    cli("sample", "--ckpt_path", f"file://{folder / LAST}")
    assert (folder / "runs/version_0/sample/samples.png").is_file()
    assert not (folder / "file:").exists()


def test_another_rate_reaches_no_adversary() -> None:
    p, q = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=0.001)
    specs = [{"class_path": "torch.optim.Adam", "init_args": {"lr": lr}} for lr in (0.001, 0.007)]
    optimizers.change_rate(optimizer, [], *specs)
    assert [group["lr"] for group in optimizer.param_groups] == [0.007, 0.5]


def test_a_fit_that_failed_does_not_end_the_next_of_its_trainer(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    guard = Guard()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[guard, BestCheckpoint()],
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
    )
    rate = {"class_path": "SGD", "init_args": {"lr": 1e20}}
    with pytest.raises(NonFiniteError):
        trainer.fit(VAEModule(Model(data.Digits(), latent_shape=2), rate), data.Digits())
    trainer.fit_loop.epoch_progress.reset()
    guard.signal = signal.SIGTERM  # as a signal before would have left it
    trainer.fit(VAEModule(Model(data.Digits(), latent_shape=2)), data.Digits())
    assert guard.signal == 0
