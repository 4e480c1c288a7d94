"""Every posterior and prior trains, is saved, comes back and samples; others are refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import fit
from latents import LATENTS
from vaekit import Model, VAEModule, data, load, plugins
from vaekit.batch import first
from vaekit.noise import fixed_noise

QUICK = ("VampPrior",)


def ours() -> list[Any]:
    found = [p for kind in ("posterior", "prior") for p in plugins.plugins(kind)]
    return [
        pytest.param(p, id=p.name, marks=() if p.name in QUICK else pytest.mark.slow)
        for p in found
        if p.package == "vaekit"
    ]


def bound(model: Model, rows: data.DataModule) -> float:
    """The validation objective, from given noise."""
    with fixed_noise(0):
        found = [model.evaluate(batch)[model.best[0]] for batch in rows.rows("val")]
    value = float(torch.cat(found).mean())
    return value if model.best[1] == "max" else -value


@pytest.mark.parametrize("plugin", ours())
def test_it_trains_on_the_digits_comes_back_and_samples(
    plugin: plugins.Plugin, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    rows = data.Digits(batch_size=100)
    init_args, around = LATENTS[plugin.name]
    own = {plugin.kind: {"class_path": plugin.name, "init_args": init_args}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(rows, **{"latent_shape": 4, **around, **own})
        before = bound(model, rows)
        optimizer = {"class_path": "Adam", "init_args": {"lr": 0.003}}
        trainer = fit(VAEModule(model, optimizer), rows, max_epochs=4)
        after = bound(model, rows)
        assert after > before + 1
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        again = load(tmp_path / "model.ckpt", **model.instances)
        assert bound(again, rows) == pytest.approx(after, rel=1e-6)
    for sample in (False, True):
        assert first(again.sample(3, sample=sample)).isfinite().all()
