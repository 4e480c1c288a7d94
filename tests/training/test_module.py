"""The LightningModule: losses, evaluation, prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from conftest import fit
from vaekit import Model, VAEModule, data, register
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.data.rows.batches import Rows
from vaekit.likelihoods import Gaussian
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins
from vaekit.training.callbacks.predictions import PredictionWriter
from vaekit.training.non_finite import NonFiniteError

INFO = DataInfo((1, 8, 8), (0.0, 1.0), levels=2, data_size=100)


def digits(**kwargs: Any) -> data.Digits:
    return data.Digits(binarize="static", **kwargs)


def test_training_raises_the_validation_bound() -> None:
    model, values = Model(digits(), latent_shape=4), []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            values.append(trainer.callback_metrics["val/elbo"].item())

    fit(model, digits(), max_epochs=8, callbacks=[Watch()])
    assert values[-1] > values[0] + 3


def test_what_is_logged_is_the_mean_over_rows_not_over_batches() -> None:
    # 180 rows in batches of 64, 64 and 52: a mean of batch means would be another number.
    module = digits()
    model = Model(module, latent_shape=4)
    trainer = fit(model, module, max_epochs=1)
    model.eval()
    found = []
    for batch in module.rows("val", batch_size=64):
        assert batch.start is not None
        with torch.no_grad():
            found.append(model.evaluate(batch.keyed())["elbo"])
    rows = torch.cat(found)
    assert len(rows) == 180
    assert trainer.callback_metrics["val/elbo"].item() == pytest.approx(
        rows.mean().item(), rel=1e-6
    )
    bits = module.info.bits_per_dimension(rows.double().mean().item())
    assert trainer.callback_metrics["val/bpd"].item() == pytest.approx(bits, rel=1e-6)


def test_looking_at_the_validation_rows_does_not_change_training() -> None:
    weights = []
    for every in (1, 1000):
        pl.seed_everything(1, verbose=False)
        module = data.Digits()
        model = Model(module, latent_shape=3)
        fit(model, module, max_epochs=3, check_val_every_n_epoch=every)
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def test_a_run_is_a_function_of_its_seed() -> None:
    def weights(seed: int) -> Tensor:
        pl.seed_everything(seed, verbose=False)
        module = data.Digits()
        model = Model(module, latent_shape=3)
        fit(model, module, max_epochs=1)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_loss_of_a_step_is_the_mean_over_its_rows() -> None:
    seen: list[Tensor] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen.append(outputs["loss"])

    model = Model(digits(), latent_shape=3)
    trainer = fit(model, digits(batch_size=5000), max_epochs=1, callbacks=[Keep()])
    assert len(seen) == 1
    assert seen[0].item() == pytest.approx(trainer.callback_metrics["train/loss"].item())
    assert seen[0].item() > 30  # summed over 64 pixels, not averaged: a pixel costs below .7 nats


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains(precision: str) -> None:
    model = Model(digits(), latent_shape=3)
    trainer = fit(model, digits(), max_epochs=2, precision=precision)
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])
    wanted = torch.float64 if precision == "64-true" else torch.float32
    assert model.core.posterior.linear.weight.dtype == wanted


def test_state_changes_after_a_step_once_and_only_in_training() -> None:
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "optimal"}}
    module = data.Digits(batch_size=300, binarize="none")  # 1437 rows in 5 batches
    model = Model(module, latent_shape=3, likelihood=likelihood)
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
    fit(Model(module, latent_shape=2, likelihood="Looking"), module, max_epochs=2)
    assert sum(rows) == module.info.data_size


def test_optimizer_and_scheduler_are_those_asked_for() -> None:
    model = VAEModule(
        Model(digits(), latent_shape=2),
        optimizer={"class_path": "AdamW", "init_args": {"lr": 0.01}},
        lr_scheduler={"class_path": "StepLR", "init_args": {"step_size": 1, "gamma": 0.5}},
    )
    trainer = fit(model, digits(), max_epochs=2)
    assert isinstance(trainer.optimizers[0], torch.optim.AdamW)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0025)
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01  # AdamW's own


def test_latent_diffusions_scale_that_is_never_optimised_is_not_here() -> None:
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "learned"}}
    model = Model(digits(), latent_shape=2, likelihood=likelihood)
    fit(model, digits(), max_epochs=1)
    assert model.core.likelihood.log_scale.item() < -0.01
    optimizer = VAEModule(model).configure_optimizers()
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.parameters()}


def test_ordinary_loaders_work_without_a_data_module() -> None:
    x = (torch.rand(50, 1, 8, 8) > 0.5).float()
    loader = DataLoader(TensorDataset(x, torch.arange(50)), batch_size=16)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=1, enable_progress_bar=False, **settings)
    model = Model(INFO, latent_shape=2)
    trainer.fit(VAEModule(model), loader, loader)
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])
    with pytest.raises(ValueError, match="Expected a vaekit data module, which says"):
        Model(loader)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: torch.rand(8, 1, 7, 7), r"rows of shape \(1, 8, 8\) but got \(1, 7, 7\)"),
        (lambda: torch.rand(8, 1, 8, 8) * 255, r"data's range \[0, 1\] but these rows span"),
        (lambda: torch.full((8, 1, 8, 8), torch.nan), r"x, the data is not finite in rows 0, 1"),
    ],
)
def test_every_batch_of_an_unknown_loader_is_looked_at(
    draw: Callable[[], Tensor], words: str
) -> None:
    # A later row of 200 trained a Bernoulli in silence, to a loss of 2,691.
    good = [torch.zeros(8, 1, 8, 8)] * 2
    loader: Any = DataLoader([*good, draw()], batch_size=None)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises((ValueError, NonFiniteError), match=words):
        trainer.fit(VAEModule(Model(INFO, latent_shape=2)), loader)


def test_predict_gives_every_row_in_order() -> None:
    module = digits()
    model = Model(module, latent_shape=2)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False)
    batches = trainer.predict(VAEModule(model), module)
    assert batches is not None
    rows = torch.cat([batch["label"] for batch in batches])
    assert torch.equal(rows, torch.cat([b.label for b in module.rows("test")]))
    z = torch.cat([batch["z"] for batch in batches])
    x = torch.cat([b.x for b in module.rows("test")])
    assert torch.allclose(z, model.encode(x), atol=1e-6)


def test_predictions_are_written_in_the_rows_order(tmp_path: Path) -> None:
    module = digits()
    model = Model(module, latent_shape=2)
    writer = PredictionWriter(tmp_path)
    pl.Trainer(logger=False, enable_progress_bar=False, callbacks=[writer]).predict(
        VAEModule(model), module
    )
    with np.load(tmp_path / "predictions.npz") as found:
        assert found["row"].tolist() == module.numbers("test").tolist()
        wanted = {"row", "elbo", "distortion", "rate", "z", "reconstruction", "label"}
        assert set(found.files) == wanted
        labels = torch.cat([b.label for b in module.rows("test")])
        assert found["label"].tolist() == labels.tolist()
        assert np.allclose(found["elbo"], -found["distortion"] - found["rate"], rtol=1e-4)


def test_bits_per_dimension_are_not_told_of_rows_with_hidden_elements() -> None:
    x = (torch.rand(60, 4) > 0.5).float()
    module = data.Arrays(x, mask=torch.rand(60, 4) > 0.5, val=0.3)
    trainer = fit(Model(module, latent_shape=2), module, max_epochs=1)
    assert "val/elbo" in trainer.callback_metrics
    assert "val/bpd" not in trainer.callback_metrics


def test_bits_per_dimension_are_not_told_of_data_of_other_levels() -> None:
    # Grey values for a model of binary ones: the bound is then that of no likelihood.
    module = VAEModule(Model(digits(), latent_shape=2))
    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    for grey in (True, False):
        trainer = pl.Trainer(**settings)
        trainer.validate(module, data.Digits(binarize="none") if grey else digits())
        assert "val/elbo" in trainer.callback_metrics
        assert ("val/bpd" in trainer.callback_metrics) != grey


@pytest.mark.parametrize("settings", [{"log_every_n_steps": 0}, {"barebones": True}])
def test_nothing_need_be_logged_during_an_epoch(settings: dict[str, Any]) -> None:
    model = VAEModule(Model(digits(), latent_shape=2))
    bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, **({} if "barebones" in settings else bare), **settings)
    trainer.fit(model, digits())
    assert trainer.global_step == 23


def test_an_epoch_that_broke_off_does_not_count_in_the_next() -> None:
    class Break(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            raise RuntimeError

    seen: list[int] = []

    class Count(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen.append(int(pl_module.means["train"].rows))

    module = VAEModule(Model(digits(), latent_shape=2))
    with pytest.raises(RuntimeError):
        fit(module, digits(), max_epochs=1, callbacks=[Break()])
    fit(module, digits(), max_epochs=1, callbacks=[Count()])
    assert seen[-1] == 1437


def test_overfitting_shows_the_same_batches_in_every_epoch() -> None:
    shown: list[Tensor] = []

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            shown.append(batch.label)

    fit(
        Model(digits(), latent_shape=2),
        digits(),
        max_epochs=3,
        overfit_batches=1,
        callbacks=[Keep()],
    )
    assert len(shown) == 3
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])


def test_noise_on_a_device_that_torch_cannot_fork_goes_on_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On MPS the noise of training repeated after each validation.
    states: list[str] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    with pytest.raises(RuntimeError), fixed_noise(0, "mps"):
        raise RuntimeError
    assert states == ["before"]


def test_rows_are_not_rounded_under_bf16_true() -> None:
    # Lightning makes bfloat16 of them, in which 257 is 256.
    x = torch.tensor([[257.0, 300.0, 1001.0]]).repeat(40, 1)
    seen = []

    class Seeing(VAEModule):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            seen.append(batch)
            return super().training_step(batch, batch_idx)

    for rows in (data.Arrays(x, data_range=(0, 2000)), DataLoader(x, batch_size=10)):
        model = Model(DataInfo((3,), (0, 2000)), 2, likelihood="Poisson")
        fit(Seeing(model), rows, max_epochs=1, precision="bf16-true")
    assert len(seen) > 2
    for batch in seen:
        own = batch.x if isinstance(batch, Batch) else batch
        assert torch.equal(own, x[: len(own)])
        assert own.dtype == torch.float32


class MissingInTraining(data.DataModule):
    """Tokens, some of which are missing in training rows."""

    levels = 4

    def load(self) -> dict[str, Rows]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(4, (200, 3), generator=generator)
        mask = torch.rand(150, 3, generator=generator) < 0.5
        return {"train": Rows(x[:150], mask=mask), "val": Rows(x[150:])}

    def natural_range(self) -> tuple[float, float]:
        return (0.0, 3.0)


def test_bits_are_logged_of_the_splits_without_missing_values_alone() -> None:
    """Of training rows with missing values they were .9486, where an element costs 2.00."""
    rows = MissingInTraining()
    logged = fit(Model(rows, 2, likelihood="Categorical"), rows, max_epochs=1).callback_metrics
    assert "val/bpd" in logged
    assert "train/bpd" not in logged
