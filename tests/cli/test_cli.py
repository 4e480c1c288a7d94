"""The command line as a user meets it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from sklearn.datasets import load_digits
from test_mnist import write_mnist

from conftest import fit
from parts.maf import OutsideMAF
from parts.poe import DecoderPerEntry, EncoderPerEntry, LikelihoodPerEntry, ProductOfExperts
from vaekit import Model, VAEModule, data, load, register
from vaekit.registry import plugins

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
    elbo, error = map(float, lines["ELBO of best.ckpt"][2].split("±"))
    baseline, _ = map(float, lines["baseline: no latents"][2].split("±"))
    assert elbo > baseline
    gain = re.search(r"beats the baseline by ([\d.]+) ± ([\d.]+) nats a row", said)
    assert gain is not None
    assert float(gain[1]) == pytest.approx(elbo - baseline, abs=0.011)
    assert 0 < float(gain[2]) < error  # both know which rows are hard
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
    line = next(line for line in said.splitlines() if "ELBO of best.ckpt" in line)
    elbo = line.split("│")[2].split("±")[0]
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


def test_what_looks_at_a_model_leaves_the_pictures_of_its_run(trained: Path, cli: Cli) -> None:
    before = {path: path.read_bytes() for path in trained.glob("*.png")}
    assert len(before) == 3
    wanted = {
        "sample": {"samples.png", "samples.npz"},
        "reconstruct": {"reconstructions.png"},
        "encode": {"latent.png", "codes.npz"},
    }
    for command, files in wanted.items():
        cli(command, "--ckpt_path", "best")
        assert {path.name for path in (trained / command).iterdir()} == files
    assert before == {path: path.read_bytes() for path in trained.glob("*.png")}


def test_codes_of_all_rows_stand_in_the_rows_order_with_their_numbers(
    trained: Path, cli: Cli
) -> None:
    cli("encode", "--ckpt_path", "best", "--split", "all")
    cli("encode", "--ckpt_path", "best", "--out", trained / "test")
    cli("predict", "--ckpt_path", "best")
    labels = load_digits().target
    with np.load(trained / "encode/codes.npz") as found:
        assert found["row"].tolist() == list(range(1797))
        assert np.array_equal(found["label"], labels)
        codes = found["z"]
    for path in (trained / "test/codes.npz", trained / "predictions.npz"):
        with np.load(path) as found:
            assert len(found["row"]) == 180
            assert np.array_equal(found["label"], labels[found["row"]])
            assert np.allclose(found["z"], codes[found["row"]], atol=1e-5)


def test_other_data_may_be_named_for_a_checkpoint(trained: Path, cli: Cli) -> None:
    np.save(trained / "rows.npy", np.random.default_rng(0).random((30, 1, 8, 8), np.float32))
    arguments = ("--data", "Arrays", "--data.x", trained / "rows.npy", "--split", "train")
    cli("encode", "--ckpt_path", trained / "best.ckpt", *arguments)
    with np.load(trained / "encode/codes.npz") as found:
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


@pytest.mark.parametrize("path", ["runs/version_0/last.ckpt", "last"])
def test_a_run_goes_on_in_its_folder_with_its_model_and_data(cli: Cli, path: str) -> None:
    parts = ("--model.latent_shape", 3, "--model.encoder.hidden", 20, "--model.optimizer", "SGD")
    cli("fit", *FAST, *parts, "--data.batch_size", 500)
    quiet = ("--trainer.enable_progress_bar", "false")
    folder = cli("fit", "--ckpt_path", path, "--trainer.max_epochs", 3, *quiet) / "runs/version_0"
    found = torch.load(folder / "last.ckpt", weights_only=True)
    assert (found["epoch"], found["global_step"]) == (2, 3 * 3)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["latent_shape"] == [3]
    assert config["model"]["encoder"]["init_args"]["hidden"] == 20
    assert config["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert config["data"]["init_args"]["batch_size"] == 500
    # What is said again is no contradiction.
    cli("fit", "-c", folder / "config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 4 * 3
    assert [p.name for p in folder.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize(
    "more",
    [
        ("--checkpoint.monitor", "val/rate", "--checkpoint.mode", "min"),
        ("--checkpoint.monitor", "val/rate", "--checkpoint.mode", "min", "-c", "ema"),
        ("--trainer.limit_val_batches", 0),
        ("--trainer.limit_val_batches", 1),
    ],
    ids=str,
)
def test_the_bound_that_is_said_is_that_of_the_checkpoint_that_is_named(
    capsys: pytest.CaptureFixture[str], cli: Cli, more: tuple[object, ...]
) -> None:
    # The averaged weights of training were put into the checkpoint that was looked at.
    folder = cli("fit", "--trainer.max_epochs", 4, *more) / "runs" / "version_0"
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "ELBO of best.ckpt" in line)
    elbo = line.split("│")[2].split("±")[0]
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
    with np.load(checkpoint.parent / "sample/samples.npz") as found:
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
    assert (tmp_path / "sample/samples.png").is_file()


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
    assert data.Arrays(folder / "sample/samples.npz").info.event_shape == {"a": (4,), "b": (3,)}
    arrays = ("--data", "Arrays", "--data.x", folder / "sample/samples.npz")
    cli("encode", "--ckpt_path", checkpoint, *arrays)
    cli("predict", "--ckpt_path", checkpoint)
    with np.load(folder / "predictions.npz") as found:
        assert found["reconstruction.b"].shape == (9, 3)


def test_a_flow_trains_through_a_bare_fit_to_its_pictures(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    register(OutsideMAF)
    folder = cli("fit", *FAST, "--model.posterior", "OutsideMAF") / "runs" / "version_0"
    for name in ("samples", "reconstructions", "latent"):
        assert imread(folder / f"{name}.png").std() > 0.01
    cli("predict", "--ckpt_path", folder / "best.ckpt")
    cli("encode", "--ckpt_path", folder / "best.ckpt")


def test_without_a_logger_a_run_has_its_own_folder_too(cli: Cli) -> None:
    for version in (0, 1):
        folder = cli("fit", *FAST, "--trainer.logger", "false")
        assert {path.name for path in folder.iterdir()} == {"runs"}
        found = {path.name for path in (folder / f"runs/version_{version}").iterdir()}
        assert {"best.ckpt", "last.ckpt", "config.yaml", "samples.png"} <= found


def test_many_rows_are_sampled_in_chunks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cli("fit", *FAST) / "runs/version_0"
    found = []
    for rows in (10_000, 40):
        monkeypatch.setattr("vaekit.training.trainer._ROWS", rows)
        cli("sample", "--ckpt_path", "best", "--n", 90)
        with np.load(folder / "sample/samples.npz") as arrays:
            found.append(arrays["x"])
    assert found[0].shape == found[1].shape == (90, 1, 8, 8)
    assert np.array_equal(found[0][:40], found[1][:40])
    assert len(np.unique(found[1].reshape(90, -1), axis=0)) == 90


def test_parts_in_a_file_of_one_s_own(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def afresh() -> None:
        """As if each command had a process of its own."""
        sys.modules.pop("my_parts", None)
        monkeypatch.setattr(plugins, "_registered", {})

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_parts.py").write_text(
        "from vaekit import register\n"
        "from vaekit.networks import MLPEncoder\n"
        "@register\n"
        "class Mine(MLPEncoder):\n"
        "    pass\n"
    )
    afresh()
    cli("fit", *FAST, "--model.encoder", "Mine", "--import", "my_parts")
    config = tmp_path / "runs/version_0/config.yaml"
    assert "import: my_parts" in config.read_text()
    afresh()
    with pytest.raises(SystemExit, match=r"names my_parts to import\. If you trust it, say so"):
        cli("fit", "-c", config)
    cli("fit", "-c", config, "--allow-import", "my_parts")
    afresh()
    cli("test", "--import=my_parts", "--ckpt_path", "best")
    afresh()
    with pytest.raises(SystemExit):
        cli("test", "--ckpt_path", "best")
    said = capsys.readouterr().err
    assert "my_parts registered it: import that first (--import my_parts)" in said


# Processes of their own


def vaekit(folder: Path, *args: object) -> str:
    """Runs the installed command."""
    command = [sys.executable, "-m", "vaekit", *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
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


def test_bfloat16_from_the_command_line(cli: Cli) -> None:
    folder = cli("fit", *FAST, "--trainer.precision", "bf16-mixed")
    model = load(folder / "runs/version_0/best.ckpt")
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
def test_conv_networks_on_files_in_mnist_s_format(cli: Cli, tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist", train=150)
    arguments = ("-c", "mnist", "--data.root", tmp_path, "--data.val", 50)
    folder = cli("fit", *FAST, *arguments) / "runs/version_0"
    found = torch.load(folder / "best.ckpt", weights_only=True)
    assert found["vaekit"]["data"]["init_args"]["root"] == str(tmp_path)
