"""The command line as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread

from conftest import fit
from parts.maf import MAF
from parts.poe import DecoderPerEntry, EncoderPerEntry, LikelihoodPerEntry, ProductOfExperts
from test_idx import write_mnist
from vaekit import Model, VAEModule, data, load, plugins, register
from vaekit.__main__ import main
from vaekit.cli import CLI
from vaekit.commands import COMMANDS

Cli = Callable[..., Path]
FAST = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")


@pytest.fixture
def trained(cli: Cli) -> Path:
    """The folder of a short run."""
    return cli("fit", *FAST, "--model.latent_shape", 2) / "runs" / "version_0"


# The main job


def test_a_bare_fit_shows_the_bound_the_baseline_and_its_files(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cli("fit", "--trainer.max_epochs", 20) / "runs" / "version_0"
    said = capsys.readouterr().out
    wanted = ("samples.png", "reconstructions.png", "latent.png", "best.ckpt", "config.yaml")
    for name in wanted:
        assert (folder / name).is_file(), name
        assert f"runs/version_0/{name}" in said
    assert "vaekit sample --ckpt_path runs/version_0/best.ckpt" in said
    lines = {
        line.split("│")[1].strip(): line.split("│") for line in said.splitlines() if "│" in line
    }
    elbo = float(lines["ELBO of best.ckpt"][2])
    baseline = float(lines["baseline: independent elements"][2])
    assert elbo > baseline
    bits = float(lines["ELBO of best.ckpt"][3])
    assert bits == pytest.approx(-elbo / 64 / np.log(2), abs=1e-3)
    # The baseline, computed another way: each pixel's frequency in the training rows.
    grey = (
        torch.cat([b.x for b in data.Digits(binarize="none").rows("train")])
        .mean(0)
        .clamp(1e-3, 1 - 1e-3)
    )
    x = torch.cat([b.x for b in data.Digits().rows("val")])
    exact = (x * grey.log() + (1 - x) * (1 - grey).log()).flatten(1).sum(1).mean()
    assert baseline == pytest.approx(exact.item(), abs=0.05)


def test_the_best_checkpoint_has_the_bound_that_was_said(
    capsys: pytest.CaptureFixture[str], trained: Path, cli: Cli
) -> None:
    said = capsys.readouterr().out
    elbo = next(line for line in said.splitlines() if "ELBO of best.ckpt" in line).split("│")[2]
    cli("validate", "--ckpt_path", trained / "best.ckpt")
    again = capsys.readouterr().out
    line = next(line for line in again.splitlines() if "val/elbo" in line)
    assert float(line.split("│")[2]) == pytest.approx(float(elbo), abs=0.006)


def test_the_subcommands_look_at_a_checkpoint(
    trained: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained / "best.ckpt"
    out = trained / "out"
    cli("test", "--ckpt_path", checkpoint)
    assert "test/elbo" in capsys.readouterr().out
    cli("predict", "--ckpt_path", checkpoint)
    cli("sample", "--ckpt_path", checkpoint, "--n", 9, "--out", out)
    cli("reconstruct", "--ckpt_path", checkpoint, "--split", "val", "--out", out)
    cli("encode", "--ckpt_path", checkpoint, "--out", out)
    with np.load(out / "samples.npz") as found:
        assert found["x"].shape == (9, 1, 8, 8)
    with np.load(out / "codes.npz") as found:
        assert found["z"].shape == (180, 2)
        assert set(found["label"].tolist()) == set(range(10))
    with np.load(trained / "predictions.npz") as found:
        assert found["reconstruction"].shape == (180, 1, 8, 8)
        codes = found["z"]
    with np.load(out / "codes.npz") as found:
        assert np.allclose(found["z"], codes, atol=1e-5)
    for name in ("samples", "reconstructions", "latent"):
        assert imread(out / f"{name}.png").std() > 0.1


def test_other_data_may_be_named_for_a_checkpoint(trained: Path, cli: Cli) -> None:
    np.save(trained / "rows.npy", np.random.default_rng(0).random((30, 1, 8, 8), np.float32))
    arguments = ("--data", "Arrays", "--data.x", trained / "rows.npy", "--split", "train")
    cli("encode", "--ckpt_path", trained / "best.ckpt", *arguments)
    with np.load(trained / "codes.npz") as found:
        assert found["z"].shape == (24, 2)


def test_the_written_configuration_repeats_the_run(trained: Path, cli: Cli) -> None:
    cli("fit", "-c", trained / "config.yaml")
    folders = (trained, trained.parent / "version_1")
    configs = [yaml.safe_load((f / "config.yaml").read_text()) for f in folders]
    assert configs[0] == configs[1]
    assert configs[0]["model"]["encoder"]["class_path"] == "MLPEncoder"
    weights = [torch.load(f / "best.ckpt", weights_only=True)["state_dict"] for f in folders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_written_configuration_holds_the_optimizer(cli: Cli) -> None:
    optimizer = ("--model.optimizer", "AdamW", "--model.optimizer.lr", 0.01)
    more = ("--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", 5)
    folder = cli("fit", *FAST, *optimizer, *more, "--model.lr_interval", "step") / "runs/version_0"
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert model["optimizer"]["init_args"]["lr"] == 0.01
    assert model["lr_scheduler"]["init_args"]["step_size"] == 5
    assert model["lr_interval"] == "step"
    trained = VAEModule.load_from_checkpoint(folder / "best.ckpt")
    assert trained.optimizer["init_args"]["lr"] == 0.01
    assert trained.lr_interval == "step"


def test_training_goes_on_from_a_checkpoint(trained: Path, cli: Cli) -> None:
    arguments = ("--trainer.max_epochs", 3, "--trainer.enable_progress_bar", "false")
    latent = ("--model.latent_shape", 2)
    folder = cli("fit", *arguments, *latent, "--ckpt_path", trained / "last.ckpt")
    found = torch.load(folder / "runs/version_1/last.ckpt", weights_only=True)
    assert (found["epoch"], found["global_step"]) == (2, 3 * 23)


def test_the_bound_that_is_said_is_that_of_the_checkpoint_that_is_named(
    capsys: pytest.CaptureFixture[str], cli: Cli
) -> None:
    monitor = ("--checkpoint.monitor", "val/rate", "--checkpoint.mode", "min")
    folder = cli("fit", "--trainer.max_epochs", 4, *monitor) / "runs" / "version_0"
    said = capsys.readouterr().out
    elbo = next(line for line in said.splitlines() if "ELBO of best.ckpt" in line).split("│")[2]
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] < 3
    cli("validate", "--ckpt_path", folder / "best.ckpt")
    again = capsys.readouterr().out
    line = next(line for line in again.splitlines() if "val/elbo" in line)
    assert float(line.split("│")[2]) == pytest.approx(float(elbo), abs=0.006)


def test_a_conditional_model_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    rows = {"x": torch.rand(60, 3) > 0.5, "context": torch.randn(60, 2)}
    torch.save({"x": rows["x"].float(), "context": rows["context"]}, tmp_path / "rows.pt")
    folder = cli("fit", *FAST, "--data", "Arrays", "--data.x", tmp_path / "rows.pt") / "runs"
    checkpoint = folder / "version_0" / "best.ckpt"
    cli("sample", "--ckpt_path", checkpoint, "--n", 20)
    with np.load(checkpoint.parent / "samples.npz") as found:
        assert found["x"].shape == (20, 3)
    cli("predict", "--ckpt_path", checkpoint)
    cli("encode", "--ckpt_path", checkpoint)


def test_an_unconditional_model_samples_without_its_data(cli: Cli, tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist", train=50)
    module = data.MNIST(tmp_path, val=10)
    trainer = fit(Model(module, latent_shape=2), module, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    for file in (tmp_path / "mnist").iterdir():
        file.unlink()
    cli("sample", "--ckpt_path", tmp_path / "model.ckpt")
    assert (tmp_path / "samples.png").is_file()


def test_rows_of_several_entries_from_the_command_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    for part in (EncoderPerEntry, ProductOfExperts, DecoderPerEntry, LikelihoodPerEntry):
        register(part)
    np.save(tmp_path / "a.npy", (np.random.default_rng(0).random((90, 4)) > 0.5).astype("float32"))
    np.save(tmp_path / "b.npy", np.random.default_rng(0).normal(size=(90, 3)).astype("float32"))
    (tmp_path / "two.yaml").write_text(
        "model:\n"
        "  encoder: EncoderPerEntry\n"
        "  posterior: ProductOfExperts\n"
        "  decoder: DecoderPerEntry\n"
        "  likelihood:\n"
        "    class_path: LikelihoodPerEntry\n"
        "    init_args: {of: {a: Bernoulli, b: Gaussian}}\n"
        "data: {class_path: Arrays, init_args: {x: {a: a.npy, b: b.npy}}}\n"
    )
    folder = cli("fit", *FAST, "-c", "two.yaml") / "runs" / "version_0"
    drawn = {path.stem for path in folder.glob("*.png")}
    kinds = ("samples", "reconstructions")
    assert drawn == {f"{kind}.{entry}" for kind in kinds for entry in "ab"} | {"latent"}
    checkpoint = folder / "best.ckpt"
    cli("sample", "--ckpt_path", checkpoint, "--n", 50)
    # What was sampled can be read as data.
    assert data.Arrays(folder / "samples.npz").info.event_shape == {"a": (4,), "b": (3,)}
    cli(
        "encode", "--ckpt_path", checkpoint, "--data", "Arrays", "--data.x", folder / "samples.npz"
    )
    cli("predict", "--ckpt_path", checkpoint)
    with np.load(folder / "predictions.npz") as found:
        assert found["reconstruction.b"].shape == (9, 3)


def test_a_flow_trains_through_a_bare_fit_to_its_pictures(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    register(MAF)
    folder = cli("fit", *FAST, "--model.posterior", "MAF") / "runs" / "version_0"
    for name in ("samples", "reconstructions", "latent"):
        assert imread(folder / f"{name}.png").std() > 0.01
    cli("predict", "--ckpt_path", folder / "best.ckpt")
    cli("encode", "--ckpt_path", folder / "best.ckpt")


# Where settings come from


def resolved(monkeypatch: pytest.MonkeyPatch, *args: object) -> dict[str, Any]:
    """The configuration that a command line resolves to; nothing is trained."""
    found: dict[str, Any] = {}

    def keep(self: CLI) -> None:
        import vaekit.cli

        plain = vaekit.cli.yaml.safe_load(self.parser.dump(self.config, skip_unset=True))
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
    assert config["model"]["encoder"]["class_path"] == "vaekit.encoders.ConvEncoder"
    assert config["trainer"]["max_epochs"] == 9
    assert config["data"]["class_path"] == "vaekit.data.digits.Digits"  # from digits.yaml below


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
    assert config["data"]["class_path"] == "vaekit.data.digits.Digits"
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
    ],
    ids=str,
)
def test_lightnings_own_flags_work(more: tuple[object, ...], cli: Cli) -> None:
    folder = cli("fit", *FAST, *more)
    written = (folder / "runs").is_dir()
    assert written == (more[0] not in ("--trainer.fast_dev_run", "--trainer.logger"))


def test_adams_weight_decay_does_not_leak_into_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(monkeypatch, "fit", "-c", "mnist_dense", "--model.optimizer", "AdamW")
    assert config["model"]["optimizer"]["init_args"]["weight_decay"] == 0.01


def test_what_a_bare_fit_names_leaks_into_no_other_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # Digits' batch size of 64 and its binarisation would reach MNIST, and MLPEncoder's hidden
    # sizes any encoder with an argument of that name.
    given = resolved(monkeypatch, "fit", "--data", "MNIST")["data"]["init_args"]
    assert (given["batch_size"], given["binarize"]) == (128, "none")
    named = resolved(monkeypatch, "fit", "--data.batch_size", 32, "--model.encoder.hidden", "[3]")
    assert named["data"]["class_path"] == "vaekit.data.digits.Digits"
    assert named["data"]["init_args"]["batch_size"] == 32
    assert named["model"]["encoder"]["init_args"]["hidden"] == [3]
    monkeypatch.setenv("VAEKIT_FIT__DATA", "MNIST")
    config = resolved(monkeypatch, "fit")
    assert config["data"]["init_args"]["binarize"] == "none"


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
    assert set(COMMANDS) == {*CLI.subcommands(), "plugins"}


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
    assert config["model"]["encoder"]["class_path"] == "vaekit.encoders.ConvEncoder"


# Processes of their own


def vaekit(folder: Path, *args: object) -> str:
    """Runs the installed command."""
    command = [sys.executable, "-m", "vaekit", *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_ranks_from_the_command_line(tmp_path: Path) -> None:
    ranks = ("--trainer.devices", 2, "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp")
    # An optimal scale is one number for all ranks: whatever one rank did alone would hang or fail.
    optimal = ("--model.likelihood", "Gaussian", "--model.likelihood.scale", "optimal")
    said = vaekit(tmp_path, "fit", *FAST, *ranks, *optimal, "--data.binarize", "none")
    assert said.count("ELBO of best.ckpt") == 1
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["version_0"]
    checkpoint = tmp_path / "runs/version_0/best.ckpt"
    vaekit(tmp_path, "predict", "--ckpt_path", checkpoint, *ranks)
    with np.load(checkpoint.parent / "predictions.npz") as found:
        assert len(found["elbo"]) == 180


def test_bfloat16_from_the_command_line(tmp_path: Path) -> None:
    vaekit(tmp_path, "fit", *FAST, "--trainer.precision", "bf16-mixed")
    model = load(tmp_path / "runs/version_0/best.ckpt")
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_conv_networks_on_files_in_mnist_s_format(cli: Cli, tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist", train=150)
    arguments = ("-c", "mnist", "--data.root", tmp_path, "--data.val", 50)
    folder = cli("fit", *FAST, *arguments) / "runs/version_0"
    found = torch.load(folder / "best.ckpt", weights_only=True)
    assert found["vaekit"]["data"]["init_args"]["root"] == str(tmp_path)
