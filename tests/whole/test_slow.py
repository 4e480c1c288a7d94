"""What takes longer: the main job to its end, and real data against a published number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import fit
from vaekit import Model, VAEModule, data, load

pytestmark = pytest.mark.slow


def test_the_bare_fit_trains_a_good_model(cli: Callable[..., Path]) -> None:
    folder = cli("fit", "--trainer.enable_progress_bar", "false") / "runs" / "version_0"
    best = torch.load(folder / "best.ckpt", weights_only=True)
    state = next(v for k, v in best["callbacks"].items() if "Checkpoint" in k)
    assert state["best_model_score"] > -23.4  # the baseline stands at -27.36
    # Samples are as sharp as digits are: most pixels are nearly certain.
    model = load(folder / "best.ckpt")
    x = model.sample(500)
    grey = next(data.Digits(binarize="none").rows("train", 500)).x
    assert x.std().item() == pytest.approx(grey.std().item(), rel=0.1)


def test_the_pytorch_example_begins_as_published(mnist_root: Path) -> None:
    rows = data.MNIST(mnist_root, val=0, batch_size=128)
    hidden = {"init_args": {"hidden": [400]}}
    model = Model(
        rows,
        latent_shape=20,
        encoder={"class_path": "MLPEncoder", **hidden},
        decoder={"class_path": "MLPDecoder", **hidden},
    )
    trainer = fit(model, rows, max_epochs=1)
    loss = -trainer.test(VAEModule(model), rows, verbose=False)[0]["test/elbo"]
    assert loss == pytest.approx(127.3, abs=1.5)  # after ten epochs see benchmarks/results.md


def test_torchrun_launches_two_ranks(tmp_path: Path) -> None:
    arguments = "fit --trainer.devices 2 --trainer.accelerator cpu --trainer.strategy ddp"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "-m",
        "vaekit",
    ]
    more = ["--trainer.max_epochs", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments.split(), *more],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ELBO of best.ckpt") == 1
    assert (tmp_path / "runs/version_0/best.ckpt").is_file()


def test_the_moving_average_is_what_is_kept(cli: Callable[..., Path]) -> None:
    arguments = ("--trainer.max_epochs", 3, "--trainer.enable_progress_bar", "false")
    folder = cli("fit", "-c", "ema", *arguments) / "runs" / "version_0"
    found = torch.load(folder / "last.ckpt", weights_only=True)
    name = "model.core.encoder.net.0.weight"
    now = found["current_model_state"][name]
    assert not torch.equal(found["state_dict"][name], now)
    model = load(folder / "last.ckpt")
    assert torch.equal(model.core.encoder.net[0].weight, found["state_dict"][name])
