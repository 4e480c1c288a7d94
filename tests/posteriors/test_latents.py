"""Every posterior and prior trains, is saved, comes back and samples; others are refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from conftest import fit
from latent_cases import LATENTS
from vaekit import DataInfo, Model, VAEModule, data, load
from vaekit.contracts.batch import Batch
from vaekit.contracts.trees import first
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins

QUICK = ("VampPrior",)


OURS = [
    p
    for kind in ("posterior", "prior")
    for p in plugins.list_plugins(kind)
    if p.package == "vaekit"
]


def with_slow() -> list[Any]:
    return [
        pytest.param(p, id=p.name, marks=() if p.name in QUICK else pytest.mark.slow) for p in OURS
    ]


def around(plugin: plugins.Plugin, **changes: Any) -> dict[str, Any]:
    """Arguments of a model of which the plugin is a part."""
    init_args, others = LATENTS[plugin.name]
    own = {plugin.kind: {"class_path": plugin.name, "init_args": init_args}}
    return {"latent_shape": 4, **others, **own, **changes}


def bound(model: Model, rows: data.DataModule) -> float:
    """The validation objective, from given noise."""
    with fixed_noise(0):
        found = [model.evaluate(batch)[model.best[0]] for batch in rows.rows("val")]
    value = float(torch.cat(found).mean())
    return value if model.best[1] == "max" else -value


@pytest.mark.parametrize("plugin", with_slow())
def test_it_trains_on_the_digits_comes_back_and_samples(
    plugin: plugins.Plugin, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    rows = data.Digits(batch_size=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(rows, **around(plugin))
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


MAKERS = "arange empty eye full linspace ones rand randint randn randperm tensor zeros"


class OnAnyDevice(TorchFunctionMode):
    """Lets no tensor be made on the CPU alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        makes = any(func is getattr(torch, name) for name in MAKERS.split())
        assert not makes or kwargs.get("device") is not None, func
        return func(*args, **kwargs)


@pytest.mark.filterwarnings("ignore:KL")
@pytest.mark.parametrize("plugin", [pytest.param(p, id=p.name) for p in OURS])
@pytest.mark.parametrize("context", [0, 2])
def test_it_makes_each_tensor_where_its_weights_are(plugin: plugins.Plugin, context: int) -> None:
    info = DataInfo((6,), (0.0, 1.0), levels=2, context_features=context)
    model, batch = Model(info, **around(plugin)), Batch(torch.rand(5, 6).round())
    if context:
        batch.context = torch.randn(5, context)
    core = model.core
    with OnAnyDevice():
        model.objective(core, batch, 0)["loss"].sum().backward()
        model.evaluate(batch)
        core.infer(batch.x, batch.context).sample()
        core.generate(5, batch.context)
