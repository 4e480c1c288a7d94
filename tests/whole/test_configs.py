"""Every configuration that we ship trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from test_frey_faces import write_frey
from test_mnist import write_mnist

from conftest import ROOT
from vaekit import load
from vaekit.cli.configs import config_path

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
QUICK = ("digits", "mnist", "frey", "multi_gpu")
# What a machine without GPUs cannot do as it stands.
INSTEAD = {"multi_gpu": ("--trainer.accelerator", "cpu", "--trainer.devices", 1)}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow)
        for p in CONFIGS
    ],
)
def test_a_configuration_trains_a_step_and_reloads(
    path: Path, cli: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data" / "mnist", train=10_100)
    write_frey(tmp_path / "data" / "freyfaces")
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    limits = ("--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1)
    more = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")
    folder = cli("fit", "-c", path.stem, *limits, *more, *INSTEAD.get(path.stem, ()))
    checkpoint = folder / "runs/version_0/best.ckpt"
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert step == 1
    model = load(checkpoint)
    assert model.sample(2).isfinite().all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_configuration_is_short_and_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 20


def test_the_classical_networks_are_what_their_names_say() -> None:
    def read(name: str) -> dict[str, object]:
        return yaml.safe_load(config_path(name).read_text())

    for name, hidden, latents in (("mnist_dense", 128, 2), ("mnist_pytorch_example", 400, 20)):
        model = read(name)["model"]
        assert model["encoder"]["init_args"]["hidden"] == [hidden]
        assert model["decoder"]["init_args"]["hidden"] == [hidden]
        assert model["latent_shape"] == latents


def test_a_mere_name_is_one_of_ours_and_a_file_has_a_suffix_or_a_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "mnist.yaml", "mine"):
        (tmp_path / name).write_text("{}")
    assert config_path("mnist").parent.name == "configs"
    for name in ("mnist.yaml", "./mnist", "./mine"):
        assert config_path(name) == Path(name)
    with pytest.raises(SystemExit, match=r"named with its suffix or a slash, \./mine"):
        config_path("mine")
    (tmp_path / "mnist.yaml").unlink()
    with pytest.raises(SystemExit, match=r"Did you mean mnist\?"):
        config_path("mnist.yaml")
