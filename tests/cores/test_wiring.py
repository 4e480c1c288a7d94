"""What reaches which part: each test was written for a fault that nothing else caught."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from conftest import fit
from vaekit import Model, VAEModule, data, load, register
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.likelihoods import Gaussian
from vaekit.numerics.random import fixed_noise
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.registry import plugins

K, B, D, Z, C = 3, 5, 4, 2, 3
INFO = DataInfo((D,), (0.0, 1.0), levels=2, context_features=C)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})


@pytest.fixture
def batch() -> Batch:
    x = (torch.rand(B, D, dtype=torch.float64) > 0.5).double()
    return Batch(x, torch.randn(B, C, dtype=torch.float64))


def by_hand(model: Model, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, scale and draws of q, and log p(x|z): each row with its own context, draw by draw."""
    core = model.core
    h = core.encoder.net(torch.cat([batch.x, batch.context], dim=1))
    q = core.posterior(h, batch.context).base_dist
    z = q.loc + q.scale * noise
    logits = [core.decoder.net(torch.cat([z[k], batch.context], dim=1)) for k in range(K)]
    terms = [Bernoulli(logits=y).log_prob(batch.x).sum(1) for y in logits]
    return q.loc, q.scale, z, torch.stack(terms)


def test_encoder_and_decoder_see_each_row_s_own_context(batch: Batch) -> None:
    model = Model(INFO, latent_shape=Z).double()
    noise = torch.randn(K, B, Z, dtype=torch.float64)
    draw = model.core.draw(batch, K, noise=noise)
    loc, scale, z, likelihood = by_hand(model, batch, noise)
    assert torch.allclose(draw.z, z, atol=1e-12)
    assert torch.allclose(draw.log_likelihood, likelihood, atol=1e-12)
    posterior = Normal(loc, scale).log_prob(z).sum(-1)
    assert torch.allclose(draw.log_posterior, posterior, atol=1e-12)


def test_what_is_generated_has_the_context_it_was_asked_for(batch: Batch) -> None:
    model = Model(INFO, latent_shape=Z).double()
    with fixed_noise(1):
        x = model.sample(B, batch.context)
    with fixed_noise(1), torch.no_grad():
        z = model.core.prior().sample((B,)).double()
        y = model.core.decoder.net(torch.cat([z, batch.context], dim=1))
    assert torch.allclose(x, y.sigmoid(), atol=1e-12)


class Asking(StandardNormal):
    """A prior that asks for q of rows of its own, as a VampPrior does."""

    def forward(self, context: Any = None, infer: Any = None) -> Any:
        self.found = infer(torch.ones(2, D), torch.ones(2, C)).mean
        return super().forward(context, infer)


def test_a_prior_is_given_q_wherever_it_is_called(batch: Batch) -> None:
    register(Asking)
    model = Model(INFO, latent_shape=Z, prior="Asking").double()
    expected = model.core.infer(torch.ones(2, D), torch.ones(2, C)).mean
    for use in (lambda: model.core.draw(batch), lambda: model.sample(B, batch.context)):
        use()
        assert torch.equal(model.core.prior.found, expected)
        del model.core.prior.found


class Joint(DiagonalNormal):
    """A posterior that looks at log p(x, z), as Hamiltonian refinement does."""

    def forward(self, h: Any, context: Any = None, log_joint: Any = None) -> Any:
        q = super().forward(h, context)
        if log_joint is not None:
            self.at = torch.randn(1, len(h), Z, dtype=h.dtype)
            self.found = log_joint(self.at)
        return q


def test_log_joint_is_the_likelihood_and_the_prior(batch: Batch) -> None:
    register(Joint)
    model = Model(INFO, latent_shape=Z, posterior="Joint").double()
    model.core.draw(batch)
    z = model.core.posterior.at
    y = model.core.decoder.net(torch.cat([z[0], batch.context], dim=1))
    likelihood = Bernoulli(logits=y).log_prob(batch.x).sum(1)
    prior = Normal(torch.zeros_like(z[0]), 1.0).log_prob(z[0]).sum(1)
    assert torch.allclose(model.core.posterior.found[0], likelihood + prior, atol=1e-12)


def test_stop_lets_the_gradient_through_the_draws_alone(batch: Batch) -> None:
    model = Model(INFO, latent_shape=Z).double()
    noise = torch.randn(K, B, Z, dtype=torch.float64)
    weights = list(model.core.encoder.parameters())
    draw = model.core.draw(batch, K, stop=True, noise=noise)
    got = torch.autograd.grad(draw.log_posterior.sum(), weights)
    loc, scale, z, _ = by_hand(model, batch, noise)
    path = Normal(loc.detach(), scale.detach()).log_prob(z).sum()
    expected = torch.autograd.grad(path, weights)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(got, expected, strict=True))


# Around the steps of training


class Looking(Gaussian):
    """A likelihood that counts how often it is started."""

    def start(self, data: Iterable[Batch]) -> None:
        self.started = getattr(self, "started", 0) + sum(1 for _ in data)


def test_parts_do_not_look_at_the_rows_again_when_training_goes_on(tmp_path: Path) -> None:
    register(Looking)
    module = data.Digits(binarize="static")
    first = VAEModule(Model(module, latent_shape=2, likelihood="Looking"))
    fit(first, module, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    assert first.model.core.likelihood.started == 2  # slices of 1,000 rows
    again = VAEModule(Model(module, latent_shape=2, likelihood="Looking"))
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(again, module, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert trainer.current_epoch == 2
    assert not hasattr(again.model.core.likelihood, "started")


def test_parts_do_not_look_at_the_rows_again_in_another_fit(tmp_path: Path) -> None:
    # Pseudo-inputs that were trained would be drawn anew.
    register(Looking)
    module = data.Digits(binarize="static")
    model = Model(module, latent_shape=2, likelihood="Looking")
    for _ in range(2):
        trainer = fit(VAEModule(model), module, max_epochs=1)
    assert model.core.likelihood.started == 2
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = load(tmp_path / "a.ckpt")
    fit(VAEModule(again), module, max_epochs=1)
    assert not hasattr(again.core.likelihood, "started")


@pytest.mark.parametrize(("interval", "times"), [("step", 6), ("epoch", 2)])
def test_the_scheduler_steps_as_often_as_it_was_asked(interval: str, times: int) -> None:
    halving = {"class_path": "StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
    module = data.Digits(batch_size=600)  # 1437 rows in 3 batches
    model = VAEModule(
        Model(module, latent_shape=2),
        optimizer={"class_path": "SGD", "init_args": {"lr": 1e-3}},
        lr_scheduler=halving,
        lr_interval=interval,
    )
    trainer = fit(model, module, max_epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**times)


def test_what_is_logged_at_a_step_is_the_mean_over_its_rows() -> None:
    seen: list[tuple[float, float]] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen.append((float(outputs["loss"]), float(trainer.logged_metrics["step/loss"])))

    module = data.Digits()
    settings = {"log_every_n_steps": 1, "callbacks": [Keep()]}
    fit(Model(module, latent_shape=2), module, max_epochs=1, **settings)
    assert len(seen) == 23
    assert all(logged == pytest.approx(loss) for loss, logged in seen)


@pytest.mark.parametrize("prepared", [{}, {"binarize": "none", "dequantize": True}], ids=str)
def test_rows_of_the_sanity_check_are_validation_rows(prepared: dict[str, Any]) -> None:
    module = data.Digits(**prepared)
    seen: list[Tensor] = []

    class Keep(pl.Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, *_: Any) -> None:
            if trainer.sanity_checking:
                seen.append(batch.x)

    settings = {"num_sanity_val_steps": 2, "callbacks": [Keep()]}
    fit(Model(module, latent_shape=2), module, max_epochs=1, **settings)
    expected = list(module.rows("val", batch_size=64))
    assert len(seen) == 2
    assert all(torch.equal(a, b.x) for a, b in zip(seen, expected, strict=False))
