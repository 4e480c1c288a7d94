"""Checkpoints: what they hold, and how a model is made of them again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from conftest import fit
from vaekit import Model, VAEModule, callbacks, data, load, register
from vaekit.contracts import Encoder
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.registry import plugins, specs
from vaekit.registry.plugins import RegistryError

INFO = DataInfo((1, 8, 8), (0.0, 1.0), levels=2, data_size=100)


def digits(**kwargs: Any) -> data.Digits:
    return data.Digits(binarize="static", **kwargs)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = Model(
        digits(),
        latent_shape=[3],
        encoder={"class_path": "MLPEncoder", "init_args": {"hidden": [7]}},
        objective={
            "class_path": "ELBO",
            "init_args": {"beta": {"class_path": "Linear", "init_args": {"steps": 5}}},
        },
    )
    trainer = fit(model, digits(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_a_checkpoint_reloads_without_arguments(checkpoint: Path) -> None:
    model = load(checkpoint)
    again = load(checkpoint)
    assert not model.training
    assert model.core.encoder.features == 7
    assert model.objective.beta(1) == 0.2
    x = (torch.rand(4, 1, 8, 8) > 0.5).float()
    assert torch.equal(model.reconstruct(x), again.reconstruct(x))


def test_a_checkpoint_holds_tensors_and_plain_data_alone(checkpoint: Path) -> None:
    found = torch.load(checkpoint, weights_only=True)
    for part in ("objective 'ELBO'", "schedule 'Linear'", "data 'Digits'"):
        assert found["vaekit"]["packages"][part].startswith("vaekit ")
    assert found["vaekit"]["data"] == {
        "class_path": "Digits",
        "init_args": {
            "val": 0.1,
            "test": 0.1,
            "batch_size": 64,
            "binarize": "static",
            "dequantize": False,
            "seed": 0,
            "missing": 0.0,
        },
    }
    assert found["vaekit"]["model"]["data"]["event_shape"] == [1, 8, 8]


def test_the_stored_data_loads_the_same_rows(checkpoint: Path) -> None:
    spec = torch.load(checkpoint, weights_only=True)["vaekit"]["data"]
    rows = [next(m.rows("val")).x for m in (specs.build("data", spec), digits())]
    assert torch.equal(*rows)


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "bad.ckpt"

    class Bomb:
        def __reduce__(self) -> object:
            return Path.touch, (marker,)

    torch.save({"vaekit": Bomb(), "state_dict": {}}, path)
    with pytest.raises(ValueError, match="tensors and plain data alone"):
        load(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "torch.nn.Linear"])
def test_a_checkpoint_builds_registered_parts_alone(checkpoint: Path, name: str) -> None:
    found = torch.load(checkpoint, weights_only=True)
    found["vaekit"]["model"]["prior"] = {"class_path": name, "init_args": {}}
    torch.save(found, checkpoint)
    with pytest.raises(RegistryError, match=f"There is no prior '{name}'"):
        load(checkpoint)


def test_an_instantiator_in_a_checkpoint_is_not_followed(checkpoint: Path) -> None:
    found = torch.load(checkpoint, weights_only=True)
    found["hyper_parameters"] = {"_instantiator": "os.system"}
    found["vaekit"]["model"]["_instantiator"] = "os.system"
    torch.save(found, checkpoint)
    with pytest.raises(ValueError, match="_instantiator"):
        load(checkpoint)


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="Expected a checkpoint of a VAEModule"):
        load(tmp_path / "other.ckpt")


def test_a_part_given_as_a_module_has_to_be_given_again(tmp_path: Path) -> None:
    class Flat(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.net = 5, nn.Linear(64, 5)

        def forward(self, x, context=None, mask=None):
            return self.net(x.flatten(1))

    model = Model(digits(), latent_shape=2, encoder=Flat())
    trainer = fit(model, digits(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"instance of .*Flat: pass.*encoder="):
        load(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt", encoder=Flat())
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again.encode(x), model.encode(x))


def test_pythaes_best_weights_with_the_current_optimizer_is_not_here(tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:  # after the second epoch everything gets worse
                with torch.no_grad():
                    for p in pl_module.parameters():
                        p.mul_(3)

    keep = callbacks.BestCheckpoint()
    fit(
        Model(digits(), latent_shape=2),
        digits(),
        max_epochs=4,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        callbacks=[keep, Stop()],
    )
    best = torch.load(keep.best_model_path, weights_only=True)
    last = torch.load(keep.last_model_path, weights_only=True)
    steps = [c["optimizer_states"][0]["state"][0]["step"].item() for c in (best, last)]
    assert (best["epoch"], steps[0]) == (1, 46)
    assert (last["epoch"], steps[1]) == (3, 92)


def test_a_data_module_with_kwargs_stands_in_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Mine(data.Digits):
        def __init__(self, extra: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    trainer = fit(Model(INFO, latent_shape=2), Mine(extra=2, batch_size=50), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    found = torch.load(tmp_path / "model.ckpt", weights_only=True)["vaekit"]
    assert found["data"]["init_args"]["batch_size"] == 50
    assert found["data"]["init_args"]["extra"] == 2
    assert found["packages"]["data 'Mine'"].startswith("this process")


def test_the_package_of_a_missing_part_within_a_part_is_named(checkpoint: Path) -> None:
    found = torch.load(checkpoint, weights_only=True)
    found["vaekit"]["model"]["objective"]["init_args"]["beta"]["class_path"] = "Gone"
    found["vaekit"]["packages"]["schedule 'Gone'"] = "other-package 1.0"
    torch.save(found, checkpoint)
    with pytest.raises(RegistryError, match=r"no part 'Gone'.*other-package 1.0: install"):
        load(checkpoint)


def test_a_model_that_keeps_a_draw_can_be_copied() -> None:
    # After an interrupted step, say: a draw has a graph, which no copy can carry.
    optimal = {"class_path": "Gaussian", "init_args": {"scale": "optimal"}}
    model = Model(DataInfo((3,)), latent_shape=2, likelihood=optimal)
    model.core.keep_draw = True
    model.objective(model.core, Batch(torch.randn(4, 3)), 0)
    assert model.core.last_draw is not None
    assert copy.deepcopy(model).core.last_draw is None


def test_a_subclass_s_own_state_is_loaded_too(tmp_path: Path) -> None:
    class Counting(VAEModule):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register_buffer("seen", torch.zeros(()))

        def on_train_batch_end(self, *args: Any) -> None:
            self.seen += 1

    module = Counting(Model(digits(), latent_shape=2))
    fit(module, digits(), max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    assert Counting.load_from_checkpoint(tmp_path / "model.ckpt", None).seen == 23


def test_a_loaded_module_lies_where_it_was_asked_to(checkpoint: Path) -> None:
    module = VAEModule.load_from_checkpoint(checkpoint, map_location="meta")
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert load(checkpoint, device="meta").device.type == "meta"
