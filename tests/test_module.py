"""The LightningModule: losses, evaluation, reloading, and what it refuses."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from conftest import fit
from vaekit import VAEModule, callbacks, data, plugins, register
from vaekit.batch import Batch, DataInfo
from vaekit.contracts import Encoder, Likelihood
from vaekit.likelihoods import Gaussian
from vaekit.metrics.means import RowMeans
from vaekit.noise import fixed_noise
from vaekit.plugins import RegistryError
from vaekit.vae import VAE

INFO = DataInfo((1, 8, 8), (0.0, 1.0), levels=2, data_size=100)


def digits(**kwargs: Any) -> data.Digits:
    return data.Digits(binarize="static", **kwargs)


# Training and evaluation


def test_training_raises_the_validation_bound() -> None:
    model, values = VAEModule(latent_shape=4), []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            values.append(trainer.callback_metrics["val/elbo"].item())

    fit(model, digits(), max_epochs=8, callbacks=[Watch()])
    assert values[-1] > values[0] + 3


def test_what_is_logged_is_the_mean_over_rows_not_over_batches() -> None:
    # 180 rows in batches of 64, 64 and 52: a mean of batch means would be another number.
    module = digits()
    model = VAEModule(latent_shape=4, data=module.info)
    trainer = fit(model, module, max_epochs=1)
    model.eval()
    found = []
    for batch in module.rows("val", batch_size=64):
        assert batch.start is not None
        with fixed_noise(batch.start), torch.no_grad():
            found.append(model.evaluate(batch)["elbo"])
    rows = torch.cat(found)
    assert len(rows) == 180
    assert trainer.callback_metrics["val/elbo"].item() == pytest.approx(
        rows.mean().item(), rel=1e-6
    )
    bits = module.info.bits_per_dimension(rows.double().mean().item())
    assert trainer.callback_metrics["val/bpd"].item() == pytest.approx(bits, rel=1e-6)


def test_row_means_count_rows() -> None:
    means = RowMeans()
    means.update({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(5.0)}, rows=2)
    means.update({"a": torch.tensor([9.0]), "b": torch.tensor(8.0)}, rows=1)
    means.update({"a": torch.tensor([1e9]), "b": torch.tensor(1e9)}, rows=0)  # a stand-in row
    assert means.compute() == {"a": 4.0, "b": 6.0}


def test_looking_at_the_validation_rows_does_not_change_training() -> None:
    weights = []
    for every in (1, 1000):
        pl.seed_everything(1, verbose=False)
        module = data.Digits()
        model = VAEModule(latent_shape=3, data=module.info)
        fit(model, module, max_epochs=3, check_val_every_n_epoch=every)
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def test_a_run_is_a_function_of_its_seed() -> None:
    def weights(seed: int) -> Tensor:
        pl.seed_everything(seed, verbose=False)
        module = data.Digits()
        model = VAEModule(latent_shape=3, data=module.info)
        fit(model, module, max_epochs=1)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_loss_of_a_step_is_the_mean_over_its_rows() -> None:
    seen: list[Tensor] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen.append(outputs["loss"])

    model = VAEModule(latent_shape=3)
    trainer = fit(model, digits(batch_size=5000), max_epochs=1, callbacks=[Keep()])
    assert len(seen) == 1
    assert seen[0].item() == pytest.approx(trainer.callback_metrics["train/loss"].item())
    assert seen[0].item() > 30  # summed over 64 pixels, not averaged: a pixel costs below .7 nats


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains(precision: str) -> None:
    model = VAEModule(latent_shape=3)
    trainer = fit(model, digits(), max_epochs=2, precision=precision)
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])
    wanted = torch.float64 if precision == "64-true" else torch.float32
    assert model.core.posterior.linear.weight.dtype == wanted


def test_state_changes_after_a_step_once_and_only_in_training() -> None:
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "optimal"}}
    model = VAEModule(latent_shape=3, likelihood=likelihood)
    module = data.Digits(batch_size=300, binarize="none")  # 1437 rows in 5 batches
    fit(model, module, max_epochs=1, accumulate_grad_batches=2)
    assert model.core.likelihood.seen.item() == pytest.approx(1 - 0.99**3)  # three optimizer steps
    assert model.core.last_draw is None  # nor is a graph kept alive
    variance = model.core.likelihood.variance.clone()
    model.evaluate(next(module.rows("val")))
    assert torch.equal(model.core.likelihood.variance, variance)


def test_start_sees_all_training_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    rows: list[int] = []

    @register
    class Looking(Gaussian):
        def start(self, data: Iterable[Batch]) -> None:
            assert not torch.is_grad_enabled()
            rows.extend(len(batch) for batch in data)

    module = digits()
    fit(VAEModule(latent_shape=2, likelihood="Looking"), module, max_epochs=2)
    assert sum(rows) == module.info.data_size


def test_optimizer_and_scheduler_are_those_asked_for() -> None:
    model = VAEModule(
        latent_shape=2,
        optimizer={"class_path": "AdamW", "init_args": {"lr": 0.01}},
        lr_scheduler={"class_path": "StepLR", "init_args": {"step_size": 1, "gamma": 0.5}},
    )
    trainer = fit(model, digits(), max_epochs=2)
    assert isinstance(trainer.optimizers[0], torch.optim.AdamW)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0025)
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01  # AdamW's own


def test_latent_diffusions_scale_that_is_never_optimised_is_not_here() -> None:
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "learned"}}
    model = VAEModule(latent_shape=2, likelihood=likelihood)
    fit(model, digits(), max_epochs=1)
    assert model.core.likelihood.log_scale.item() < -0.01
    optimizer = model.configure_optimizers()
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.parameters()}


def test_a_plateau_scheduler_watches_the_validation_bound() -> None:
    scheduler = {"class_path": "ReduceLROnPlateau", "init_args": {"mode": "max", "patience": 0}}
    model = VAEModule(latent_shape=2, lr_scheduler=scheduler)
    trainer = fit(model, digits(), max_epochs=2)
    assert trainer.lr_scheduler_configs[0].monitor == "val/elbo"


def test_ordinary_loaders_work_without_a_data_module() -> None:
    x = (torch.rand(50, 1, 8, 8) > 0.5).float()
    loader = DataLoader(TensorDataset(x, torch.arange(50)), batch_size=16)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=1, enable_progress_bar=False, **settings)
    model = VAEModule(latent_shape=2, data=INFO)
    trainer.fit(model, loader, loader)
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])
    with pytest.raises(ValueError, match="Expected a vaekit data module, which says"):
        trainer.fit(VAEModule(latent_shape=2), loader)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(8, 1, 7, 7), r"rows of shape \(1, 8, 8\) but got \(1, 7, 7\)"),
        (torch.rand(8, 1, 8, 8) * 255, r"data's range \[0, 1\] but these rows span"),
        (torch.full((8, 1, 8, 8), torch.nan), r"Expected finite values"),
    ],
)
def test_the_first_batch_of_an_unknown_loader_is_looked_at(x: Tensor, words: str) -> None:
    loader = DataLoader(TensorDataset(x), batch_size=8)
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(ValueError, match=words):
        trainer.fit(VAEModule(latent_shape=2, data=INFO), loader)


# Use


def test_encode_and_reconstruct_are_deterministic_unless_a_sample_is_asked_for() -> None:
    # pythae's reconstruct() and embed() are stochastic.
    model = VAEModule(latent_shape=2, data=INFO)
    x = (torch.rand(5, 1, 8, 8) > 0.5).float()
    assert torch.equal(model.encode(x), model.encode(x))
    assert torch.equal(model.reconstruct(x), model.reconstruct(x))
    assert not torch.equal(model.encode(x, sample=True), model.encode(x, sample=True))
    assert not model.encode(x).requires_grad
    assert torch.equal(model.decode(model.encode(x)), model.reconstruct(x))
    samples = model.sample(6, sample=True)
    assert samples.shape == (6, 1, 8, 8)
    assert set(samples.unique().tolist()) <= {0.0, 1.0}


def test_use_before_building_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expected a model that is built"):
        VAEModule().sample(3)


def test_predict_gives_every_row_in_order() -> None:
    module = digits()
    model = VAEModule(latent_shape=2, data=module.info)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False)
    batches = trainer.predict(model, module)
    assert batches is not None
    rows = torch.cat([batch["label"] for batch in batches])
    assert torch.equal(rows, torch.cat([b.label for b in module.rows("test")]))
    z = torch.cat([batch["z"] for batch in batches])
    x = torch.cat([b.x for b in module.rows("test")])
    assert torch.allclose(z, model.encode(x), atol=1e-6)


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = VAEModule(
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
    model = VAEModule.load_from_checkpoint(checkpoint)
    again = VAEModule.load_from_checkpoint(checkpoint)
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
        },
    }
    assert found["hyper_parameters"]["data"]["event_shape"] == [1, 8, 8]


def test_the_stored_data_loads_the_same_rows(checkpoint: Path) -> None:
    spec = torch.load(checkpoint, weights_only=True)["vaekit"]["data"]
    rows = [next(m.rows("val")).x for m in (plugins.build("data", spec), digits())]
    assert torch.equal(*rows)


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "bad.ckpt"

    class Bomb:
        def __reduce__(self) -> object:
            return Path.touch, (marker,)

    torch.save({"vaekit": {}, "state_dict": {}, "hyper_parameters": Bomb()}, path)
    with pytest.raises(ValueError, match="tensors and plain data alone"):
        VAEModule.load_from_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "torch.nn.Linear"])
def test_a_checkpoint_builds_registered_parts_alone(checkpoint: Path, name: str) -> None:
    found = torch.load(checkpoint, weights_only=True)
    found["hyper_parameters"]["prior"] = {"class_path": name, "init_args": {}}
    torch.save(found, checkpoint)
    with pytest.raises(RegistryError, match=f"There is no prior '{name}'"):
        VAEModule.load_from_checkpoint(checkpoint)


def test_an_instantiator_in_a_checkpoint_is_not_followed(checkpoint: Path) -> None:
    found = torch.load(checkpoint, weights_only=True)
    found["hyper_parameters"]["_instantiator"] = "os.system"
    torch.save(found, checkpoint)
    with pytest.raises(TypeError, match="_instantiator"):
        VAEModule.load_from_checkpoint(checkpoint)


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="Expected a checkpoint of a VAEModule"):
        VAEModule.load_from_checkpoint(tmp_path / "other.ckpt")


def test_a_part_given_as_a_module_has_to_be_given_again(tmp_path: Path) -> None:
    class Flat(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.net = 5, nn.Linear(64, 5)

        def forward(self, x, context=None, mask=None):
            return self.net(x.flatten(1))

    model = VAEModule(latent_shape=2, encoder=Flat())
    trainer = fit(model, digits(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"instance of .*Flat: pass.*encoder="):
        VAEModule.load_from_checkpoint(tmp_path / "model.ckpt")
    again = VAEModule.load_from_checkpoint(tmp_path / "model.ckpt", encoder=Flat())
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
        VAEModule(latent_shape=2),
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


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latent_shape": 0}, "latent_shape of positive sizes but got 0"),
        ({"latent_shape": []}, "latent_shape of positive sizes"),
        ({"encoder": "Nothing"}, "There is no encoder 'Nothing'"),
        ({"optimizer": "Adm"}, "a class of torch.optim but got 'Adm'"),
        ({"optimizer": "os.system"}, "a class of torch.optim but got 'os.system'"),
        ({"lr_scheduler": "Step"}, "a class of torch.optim.lr_scheduler but got 'Step'"),
        ({"lr_interval": "batch"}, "lr_interval to be epoch or step"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAEModule(**arguments, data=INFO)


def test_an_optimizer_s_wrong_argument_is_named() -> None:
    spec = {"class_path": "Adam", "init_args": {"learning_rate": 1}}
    with pytest.raises(RegistryError, match=r"torch\.optim\.Adam:.*learning_rate"):
        VAEModule(optimizer=spec, data=INFO).configure_optimizers()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (DataInfo((1, 9, 9), (0, 1)), r"event_shape \(1, 8, 8\) but got \(1, 9, 9\)"),
        (DataInfo((1, 8, 8), (0, 1), context_features=2), "context_features 0 but got 2"),
        (DataInfo((1, 8, 8), (-1, 1)), r"data in \[0, 1\] but got \[-1, 1\]"),
    ],
)
def test_other_data_than_the_model_was_made_for_is_refused(other: DataInfo, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAEModule(data=INFO).check_data(other)


def test_a_model_that_is_not_built_is_not_forked() -> None:
    # Its weights would be lost with the processes, silently.
    model = VAEModule(latent_shape=2)
    model.trainer = pl.Trainer(strategy="ddp_fork", accelerator="cpu", devices=2, logger=False)
    with pytest.raises(ValueError, match="built before processes are forked"):
        model.configure_model()


def test_a_module_can_be_copied() -> None:
    model = VAEModule(latent_shape=2, data=INFO)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    x = torch.rand(2, 1, 8, 8)
    assert not torch.equal(model.encode(x), other.encode(x))


def test_predictions_are_written_in_the_rows_order(tmp_path: Path) -> None:
    module = digits()
    model = VAEModule(latent_shape=2, data=module.info)
    writer = callbacks.PredictionWriter(tmp_path)
    pl.Trainer(logger=False, enable_progress_bar=False, callbacks=[writer]).predict(model, module)
    with np.load(tmp_path / "predictions.npz") as found:
        assert set(found.files) == {"elbo", "distortion", "rate", "z", "reconstruction", "label"}
        labels = torch.cat([b.label for b in module.rows("test")])
        assert found["label"].tolist() == labels.tolist()
        assert np.allclose(found["elbo"], -found["distortion"] - found["rate"], rtol=1e-4)


def test_only_the_bernoulli_warning_is_heard_and_once() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        VAEModule(latent_shape=2, data=DataInfo((1, 8, 8), (0.0, 1.0), levels=17))
    assert len([w for w in heard if "binarise" in str(w.message)]) == 1


def test_likelihood_bases_know_no_baseline() -> None:
    assert Likelihood().independent(torch.zeros(2), torch.ones(2)) is None


def test_a_likelihood_that_forgets_independent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its (K, B, 1) would broadcast against (K, B) to (K, B, B), and train.
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Forgetful(Gaussian):
        def forward(self, y, context=None):
            return torch.distributions.Normal(y, 1.0)

    model = VAEModule(latent_shape=2, likelihood="Forgetful", data=DataInfo((1,)))
    with pytest.raises(
        ValueError, match=r"likelihood Forgetful .*event shape \(1,\).*\(1, 6, 1\).*Independent"
    ):
        model.evaluate(Batch(torch.randn(6, 1)))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m: m.sample(4), r"a context of shape \(4, 2\) but got none"),
        (lambda m: m.sample(4, torch.zeros(3, 2)), r"\(4, 2\) but got one of shape \(3, 2\)"),
        (lambda m: m.encode(torch.zeros(4, 3)), r"a context of shape \(4, 2\)"),
        (lambda m: m.sample(0), "at least one row"),
        (lambda m: m.encode(torch.full((4, 3), 255), torch.zeros(4, 2)), r"range \[0, 1\]"),
        (lambda m: m.encode(torch.zeros(4, 2), torch.zeros(4, 2)), r"rows of shape \(3,\)"),
    ],
)
def test_wrong_use_says_what_was_expected(use: Any, words: str) -> None:
    info = DataInfo((3,), (0.0, 1.0), levels=2, context_features=2)
    model = VAEModule(latent_shape=2, data=info)
    assert model.encode(torch.zeros(4, 3), torch.zeros(4, 2)).shape == (4, 2)
    with pytest.raises(ValueError, match=words):
        use(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prior": Gaussian((3,))}, "Expected prior to be .*contracts.Prior but got a Gaussian"),
        ({"encoder": nn.Linear(2, 2)}, "contracts.Encoder but got a Linear"),
        ({"optimizer": {"class_path": "Adam", "init_args": {"lr": -1}}}, "Invalid learning rate"),
    ],
)
def test_what_cannot_be_a_part_is_refused_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        VAEModule(**arguments)


def test_a_core_may_ask_for_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Shaped(VAE):
        def __init__(self, build: Any, latent_shape: Any, size: int = 3) -> None:
            super().__init__(build)
            self.latent_shape, self.size = latent_shape, size

    core = {"class_path": "Shaped", "init_args": {"size": 5}}
    model = VAEModule(latent_shape=[2, 2], core=core, data=INFO)
    assert (model.core.latent_shape, model.core.size) == ((2, 2), 5)


def test_a_data_module_with_kwargs_stands_in_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Mine(data.Digits):
        def __init__(self, extra: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    trainer = fit(VAEModule(latent_shape=2), Mine(extra=2, batch_size=50), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    found = torch.load(tmp_path / "model.ckpt", weights_only=True)["vaekit"]
    assert found["data"]["init_args"]["batch_size"] == 50
    assert found["data"]["init_args"]["extra"] == 2
    assert found["packages"]["data 'Mine'"].startswith("this process")


def test_bits_per_dimension_are_not_told_of_rows_with_hidden_elements() -> None:
    x = (torch.rand(60, 4) > 0.5).float()
    module = data.Arrays(x, mask=torch.rand(60, 4) > 0.5, val=0.3)
    trainer = fit(VAEModule(latent_shape=2), module, max_epochs=1)
    assert "val/elbo" in trainer.callback_metrics
    assert "val/bpd" not in trainer.callback_metrics
