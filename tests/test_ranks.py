"""Several processes: training equals that of one, evaluation counts every row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import fit
from torch import Tensor, nn

from vaekit import VAEModule, callbacks, data, plugins, register
from vaekit.contracts import Batch
from vaekit.vae import VAE

NOISE = torch.randn(64, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture(autouse=True)
def row_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that draws each row's latents with that row's noise, whichever rank has the row."""
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class RowNoise(VAE):
        def draw(self, batch: Batch, samples: int = 1, stop: bool = False, noise: Any = None) -> Any:
            assert batch.label is not None
            return super().draw(batch, samples, stop, NOISE[batch.label].expand(samples, -1, -1))


def rows(n: int, batch_size: int) -> data.Arrays:
    x = torch.rand(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return data.Arrays(x, label=torch.arange(n), val=0.2, test=0.2, batch_size=batch_size)


def trained(ranks: int, n: int, likelihood: Any, samples: int = 2) -> tuple[Tensor, dict[str, Any]]:
    torch.manual_seed(0)
    module = rows(n, batch_size=8 // ranks)
    model = VAEModule(
        latent_shape=3,
        likelihood=likelihood,
        objective={"class_path": "ELBO", "init_args": {"samples": samples}},
        core="RowNoise",
        data=module.info,
    ).double()  # forked ranks give their weights back to this copy
    strategy = "ddp_fork" if ranks > 1 else "auto"
    settings = {"precision": "64-true", "use_distributed_sampler": False}
    trainer = fit(model, module, max_epochs=3, devices=ranks, strategy=strategy, **settings)
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if "step" not in k}
    return nn.utils.parameters_to_vector(model.parameters()).detach(), metrics


LIKELIHOODS = [
    {"class_path": "Gaussian", "init_args": {"scale": scale}}
    for scale in (0.5, "learned", "elementwise", "optimal")
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda p: str(p["init_args"]["scale"]))
@pytest.mark.parametrize("n", [40, 43])  # 24 training rows in three batches; 26, the last one of 2
def test_two_ranks_give_the_weights_of_one(n: int, likelihood: dict[str, Any]) -> None:
    weights, metrics = trained(1, n, likelihood)
    other, two = trained(2, n, likelihood)
    assert (weights - other).abs().max() < 1e-12
    for name, value in metrics.items():
        assert two[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("n", [41, 55])  # the last batch has one row: a rank gets a stand-in
def test_a_last_batch_that_does_not_divide_changes_nothing(n: int) -> None:
    sizes = {len(b) for b in rows(n, 8).rows("train", batch_size=8)}
    assert sizes == {8, 1}
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "learned"}}
    weights, metrics = trained(1, n, likelihood)
    other, two = trained(2, n, likelihood)
    assert (weights - other).abs().max() < 1e-12
    assert two["val/elbo"] == pytest.approx(metrics["val/elbo"], rel=1e-6)


def test_ranks_draw_different_noise(tmp_path: Path) -> None:
    # seed_everything gives all ranks one seed, and with it their rows would share their noise.
    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def,override]
            if trainer.global_step == 1:
                torch.save(torch.randn(4), tmp_path / f"{trainer.global_rank}.pt")

    module = data.Digits()
    pl.seed_everything(0, verbose=False)
    model = VAEModule(latent_shape=3, data=module.info)
    fit(model, module, max_steps=1, devices=2, strategy="ddp_fork", callbacks=[Keep()])
    first, second = (torch.load(tmp_path / f"{r}.pt") for r in (0, 1))
    assert not torch.equal(first, second)


def test_predictions_of_two_ranks_are_whole_and_in_order(tmp_path: Path) -> None:
    module = rows(43, batch_size=4)
    model = VAEModule(latent_shape=3, likelihood="Gaussian", core="RowNoise", data=module.info)
    found = {}
    for ranks in (1, 2):
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp_fork" if ranks > 1 else "auto",
            precision="64-true",
            logger=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            callbacks=[callbacks.PredictionWriter(tmp_path)],
        )
        trainer.predict(model, module, return_predictions=ranks == 1)
        with np.load(tmp_path / "predictions.npz") as arrays:
            found[ranks] = dict(arrays)
    assert found[1]["label"].tolist() == sorted(found[1]["label"].tolist())
    for name, array in found[1].items():
        assert np.allclose(array, found[2][name], atol=1e-12), name
