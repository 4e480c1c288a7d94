"""Where the command line's settings come from, and what it answers without training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from vaekit import load, loggers
from vaekit.cli.app import CLI
from vaekit.cli.commands import ASIDE, COMMANDS
from vaekit.cli.main import main
from vaekit.cli.options import LOOKS

Cli = Callable[..., Path]
FAST = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")


# Where settings come from


def resolved(monkeypatch: pytest.MonkeyPatch, *args: object) -> dict[str, Any]:
    """The configuration that a command line resolves to; nothing is trained."""
    found: dict[str, Any] = {}

    def keep(self: CLI) -> None:
        plain = yaml.safe_load(self.parser.dump(self.config, skip_unset=True))
        found.update(plain[self.subcommand])
        raise SystemExit(0)

    monkeypatch.setattr(CLI, "instantiate_classes", keep)
    with pytest.raises(SystemExit):
        main([str(arg) for arg in args])
    return found


def test_later_files_and_arguments_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {latent_shape: 3, encoder: ConvEncoder}\n")
    (tmp_path / "b.yaml").write_text("model: {latent_shape: 4}\ntrainer: {max_epochs: 7}\n")
    files = ("-c", tmp_path / "a.yaml", f"--config={tmp_path / 'b.yaml'}")
    config = resolved(monkeypatch, "fit", *files, "--trainer.max_epochs", 9)
    assert config["model"]["latent_shape"] == 4
    assert config["model"]["encoder"]["class_path"] == "ConvEncoder"
    assert config["trainer"]["max_epochs"] == 9
    assert config["data"]["class_path"] == "Digits"  # from digits.yaml below


def test_environment_variables_win_over_defaults_and_lose_to_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAEKIT_FIT__MODEL__LATENT_SHAPE", "5")
    monkeypatch.setenv("VAEKIT_FIT__TRAINER__MAX_EPOCHS", "6")
    config = resolved(monkeypatch, "fit", "--trainer.max_epochs", 8)
    assert config["model"]["latent_shape"] == 5
    assert config["trainer"]["max_epochs"] == 8
    assert "VAEKIT_FIT__CONFIG" not in os.environ


def test_a_file_named_by_the_environment_lies_above_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("model: {latent_shape: 3}\n")
    monkeypatch.setenv("VAEKIT_FIT__CONFIG", str(tmp_path / "mine.yaml"))
    config = resolved(monkeypatch, "fit", "--trainer.max_epochs", 8)
    assert config["model"]["latent_shape"] == 3
    assert config["data"]["class_path"] == "Digits"
    assert os.environ["VAEKIT_FIT__CONFIG"] == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "more",
    [
        ("--trainer.fast_dev_run", "true"),
        ("--trainer.enable_checkpointing", "false"),
        ("--trainer.logger", "false"),
        ("--trainer.accumulate_grad_batches", 2),
        ("--trainer.gradient_clip_val", 1),
        ("--model.lr_scheduler", "CosineAnnealingLR", "--model.lr_scheduler.T_max", 5),
        ("--model.lr_scheduler", "ReduceLROnPlateau", "--model.lr_scheduler.patience", 5),
    ],
    ids=str,
)
def test_lightnings_own_flags_work(more: tuple[object, ...], cli: Cli) -> None:
    folder = cli("fit", *FAST, *more)
    assert (folder / "runs").is_dir() == (more[0] != "--trainer.fast_dev_run")


def test_adams_weight_decay_does_not_leak_into_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(monkeypatch, "fit", "-c", "mnist_dense", "--model.optimizer", "AdamW")
    assert config["model"]["optimizer"]["init_args"]["weight_decay"] == 0.01


def test_what_a_bare_fit_names_leaks_into_no_other_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # Digits' batch size of 64 and its binarisation would reach MNIST, and MLPEncoder's hidden
    # sizes any encoder with an argument of that name.
    given = resolved(monkeypatch, "fit", "--data", "MNIST")["data"]["init_args"]
    assert (given["batch_size"], given["binarize"]) == (128, "none")
    named = resolved(monkeypatch, "fit", "--data.batch_size", 32, "--model.encoder.hidden", "[3]")
    assert named["data"]["class_path"] == "Digits"
    assert named["data"]["init_args"]["batch_size"] == 32
    assert named["model"]["encoder"]["init_args"]["hidden"] == [3]
    monkeypatch.setenv("VAEKIT_FIT__DATA", "MNIST")
    config = resolved(monkeypatch, "fit")
    assert config["data"]["init_args"]["binarize"] == "none"


def test_a_file_named_by_the_environment_may_be_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAEKIT_FIT__CONFIG", "mnist_dense")
    config = resolved(monkeypatch, "fit")
    assert config["data"]["class_path"] == "MNIST"


def test_settings_of_a_fit_are_no_settings_of_a_test(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model: {latent_shape: 3}\ndata: {class_path: Digits, init_args: {seed: 5}}\n"
    )
    folder = cli("fit", *FAST) / "runs/version_0"
    said = []
    for _ in range(2):
        capsys.readouterr()
        cli("test", "--ckpt_path", folder / "best.ckpt")
        out = capsys.readouterr().out
        said.append(next(line for line in out.splitlines() if "test/elbo" in line))
        monkeypatch.setenv("VAEKIT_FIT__CONFIG", str(tmp_path / "mine.yaml"))
    assert said[0] == said[1]


def test_the_optimizer_s_and_the_networks_own_defaults_can_be_changed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = resolved(monkeypatch, "fit", "--model.optimizer.lr", 0.01)["model"]
    assert config["optimizer"]["class_path"] == "torch.optim.Adam"
    assert config["optimizer"]["init_args"]["lr"] == 0.01
    for text, widths in (("3", 3), ("[4,5]", [4, 5]), ("4,5", [4, 5])):
        for words in (("--model.encoder.hidden", text), (f"--model.encoder.hidden={text}",)):
            config = resolved(monkeypatch, "fit", *words)["model"]
            assert config["encoder"]["init_args"]["hidden"] == widths


@pytest.mark.parametrize("more", [(), ("--trainer.logger.save_dir", "board")])
def test_a_tensorboard_logger_writes_beside_the_runs(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    found: list[object] = []
    monkeypatch.setattr(
        loggers.LightningTensorBoardLogger, "__init__", lambda self, *args: found.append(args[0])
    )
    logger = ("--trainer.logger", "TensorBoardLogger", *more)
    cli("fit", "--runs", "elsewhere", "--trainer.fast_dev_run", "true", *logger)
    assert found == ["board" if more else "elsewhere"]


def test_latents_may_have_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(monkeypatch, "fit", "--model.latent_shape", "[2,3]")
    assert config["model"]["latent_shape"] == [2, 3]


def test_parts_inside_parts_from_the_command_line(cli: Cli) -> None:
    beta = ("--model.objective.beta", "Linear", "--model.objective.beta.steps", 50)
    folder = cli("fit", *FAST, *beta) / "runs" / "version_0"
    model = load(folder / "best.ckpt")
    assert model.objective.beta(25) == 0.5


# What is answered without training


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.startswith("vaekit 0.")
    main(["--help"])
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    main(["plugins"])
    assert "ConvEncoder" in capsys.readouterr().out


def test_every_command_is_in_the_help() -> None:
    assert set(COMMANDS) == {*LightningCLI.subcommands(), *LOOKS, *ASIDE}


def test_help_of_a_part_shows_its_own_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.encoder.help", "ConvEncoder"])
    said = capsys.readouterr().out
    assert "--model.encoder.channels" in said
    assert "event_shape" not in said


def test_print_config_can_be_used_as_a_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "-c", "mnist", "--print_config"])
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["model"]["latent_shape"] == 32
    (tmp_path / "printed.yaml").write_text(text)
    config = resolved(monkeypatch, "fit", "-c", tmp_path / "printed.yaml")
    assert config["model"]["encoder"]["class_path"] == "ConvEncoder"
