"""Checkpoints and configurations of commit ad5c4b0, before the files moved, load and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from conftest import ROOT
from vaekit import data, load
from vaekit.model.checkpoints import read_checkpoint

Cli = Callable[..., Path]
OLD = ROOT / "tests" / "old"


def people() -> pd.DataFrame:
    """The table that the old model was trained on."""
    r = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": r.integers(20, 80, 60),
            "income": r.normal(50, 9, 60).round(1),
            "job": r.choice(["cook", "nurse", "pilot"], 60),
            "smokes": r.choice(["no", "yes"], 60),
        }
    )


def test_a_dense_model_has_the_codes_that_it_had() -> None:
    model = load(OLD / "digits.ckpt")
    codes = model.encode(next(data.Digits().rows("test")).x)
    expected = torch.tensor([[0.796754, -0.596619, -0.096063], [0.812457, -0.579114, -0.067381]])
    torch.testing.assert_close(codes[:2], expected, rtol=0, atol=2e-6)
    assert type(model.core.posterior).__name__ == "VonMisesFisherPosterior"
    assert model.parts["posterior"]["class_path"] == "VonMisesFisher"  # its registered name


def test_a_model_of_a_table_has_the_codes_that_it_had() -> None:
    model = load(OLD / "table.ckpt")
    table = data.Table(people()).follow(model.info.schema)
    codes = model.encode(next(table.rows("test")).x)
    expected = torch.tensor([[0.494750, 0.035377], [-0.077009, 0.155809]])
    torch.testing.assert_close(codes[:2], expected, rtol=0, atol=2e-6)


def test_an_old_run_resumes(cli: Cli) -> None:
    before = read_checkpoint(OLD / "digits.ckpt")
    folder = cli("fit", "--ckpt_path", OLD / "digits.ckpt", "--trainer.max_epochs", 3)
    after = read_checkpoint(folder / "runs/version_0/last.ckpt")
    assert (before["epoch"], after["epoch"]) == (1, 2)
    assert after["global_step"] == before["global_step"] + 2
    assert after["vaekit"]["model"]["posterior"] == before["vaekit"]["model"]["posterior"]


@pytest.mark.parametrize("path", ["vaekit.encoders.MLPEncoder", "vaekit.encoders:MLPEncoder"])
def test_a_configuration_with_old_paths_is_read(path: str, cli: Cli, tmp_path: Path) -> None:
    config = {
        "trainer": {"max_epochs": 1, "callbacks": [{"class_path": "vaekit.callbacks.EMA"}]},
        "model": {
            "encoder": {"class_path": path.replace(":", "."), "init_args": {"hidden": [7]}},
            "likelihood": {"class_path": "vaekit.likelihoods.binary.Bernoulli"},
            "objective": {
                "class_path": "vaekit.objectives.elbo.ELBO",
                "init_args": {
                    "beta": {"class_path": "vaekit.schedules.Linear", "init_args": {"steps": 5}}
                },
            },
        },
        "data": {"class_path": "vaekit.data.digits.Digits"},
    }
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    folder = cli("fit", "-c", "./old.yaml")
    written = yaml.safe_load((folder / "runs/version_0/config.yaml").read_text())
    assert written["model"]["encoder"]["class_path"] == "MLPEncoder"
    assert written["model"]["encoder"]["init_args"]["hidden"] == [7]
    assert written["model"]["objective"]["init_args"]["beta"]["class_path"] == "Linear"
    (callback,) = written["trainer"]["callbacks"]
    assert callback["class_path"] == "vaekit.callbacks.EMA"
