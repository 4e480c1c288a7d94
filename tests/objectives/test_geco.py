"""GECO: its gradient and its multiplier against plain arithmetic, and that it keeps its word."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

import known
from conftest import fit
from known import NOISE, X, distortion, first_step, made, part, same_gradients
from vaekit import Model, VAEModule, callbacks, data
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.evaluation import summary
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.geco import GECO
from vaekit.registry import plugins
from vaekit.testing.models import finish_step


@pytest.fixture(autouse=True)
def _own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    known.registered()


def at(multiplier: float, **init_args: Any) -> GECO:
    objective = GECO(**{"target": 1.5, **init_args}).double()
    objective.log_multiplier.fill_(log(multiplier))
    return objective


@pytest.mark.parametrize("multiplier", [0.2, 1.0, 30.0])
@pytest.mark.parametrize("samples", [1, 4])
def test_loss_and_gradient_at_a_multiplier(multiplier: float, samples: int) -> None:
    core = made()
    rates, z = known.latent_rates(core, samples)
    terms = at(multiplier, samples=samples)(core, Batch(X, start=0), 0)
    expected = rates.sum(1) + multiplier * (distortion(core, z) - 1.5)
    assert torch.allclose(terms["loss"], expected, atol=1e-12)
    same_gradients(core, terms["loss"].mean(), expected.mean())
    assert terms["multiplier"].item() == pytest.approx(multiplier)
    assert torch.allclose(terms["elbo"], -rates.sum(1) - distortion(core, z))


def test_it_serves_a_core_of_two_levels() -> None:
    core = made("StandardNormal", core="KnownTwo")
    objective = at(3.0, samples=3)
    upper, lower = (r.sum(1) for r in known.level_rates(core, 3))
    mu, log_var = first_step(core, X)
    away = distortion(core, mu + (log_var / 2).exp() * NOISE[:3]) - 1.5
    terms = objective(core, Batch(X), 0)
    same_gradients(core, terms["loss"].mean(), (upper + lower + 3 * away).mean())
    objective.after_step(core.draw(Batch(X), 3))
    assert objective.violation.item() == pytest.approx(away.mean().item())


def test_at_one_it_is_the_elbo_and_else_one_of_another_beta() -> None:
    core = made()
    weights = list(core.parameters())
    for multiplier in (1.0, 5.0):
        found = [
            torch.autograd.grad(o(core, Batch(X, start=0), 0)["loss"].mean(), weights)
            for o in (at(multiplier), ELBO(beta=1 / multiplier))
        ]
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, multiplier * b, atol=1e-12)


class Given:
    """A draw of which the distortions are given."""

    def __init__(self, *distortions: float) -> None:
        self.distortion = torch.tensor(distortions, dtype=torch.float64)
        self.batch = Batch(torch.zeros(len(distortions), 1))


def follow(objective: GECO, *distortions: float) -> list[float]:
    """The multiplier after each of some steps."""
    found = []
    for value in distortions:
        objective.after_step(Given(value))  # type: ignore[arg-type]
        found.append(float(objective.log_multiplier.exp()))
    return found


def test_the_multiplier_follows_the_moving_average() -> None:
    seen = [7.0, 3.0, -4.0, 5.5, 0.0, 12.0]
    found = follow(at(1.0, target=5.0, speed=0.1, decay=0.8), *seen)
    level, average = 0.0, 0.0
    for step, (value, got) in enumerate(zip(seen, found, strict=True), start=1):
        average = 0.8 * average + 0.2 * (value - 5)
        level += 0.1 * max(-1.0, min(1.0, average / (1 - 0.8**step) / 5))
        assert got == pytest.approx(exp(level))


def test_it_grows_where_the_constraint_is_violated_and_falls_where_it_holds() -> None:
    for target in (50.0, -50.0, 0.0):
        grown = follow(GECO(target).double(), *[target + 10] * 20)
        fallen = follow(GECO(target).double(), *[target - 10] * 20)
        assert grown == sorted(grown)
        assert fallen == sorted(fallen, reverse=True)
        assert fallen[-1] < 1 < grown[-1]
        assert grown[-1] == pytest.approx(exp(0.02 * 20 * (1 if target == 0 else 0.2)))
    assert follow(GECO(3.0).double(), *[3.0] * 20) == [1.0] * 20


def test_it_survives_a_distortion_of_ten_thousand() -> None:
    objective = GECO(target=100.0, speed=0.1, limit=100.0)
    found = follow(objective, *[1e4] * 60)
    assert found[0] == pytest.approx(exp(0.1))
    assert all(b / a <= exp(0.1) * 1.0001 for a, b in pairwise(found))
    assert found[-1] == pytest.approx(100.0, rel=1e-4)
    assert follow(objective, *[-1e4] * 200)[-1] == pytest.approx(0.01, rel=1e-4)


def test_it_follows_the_mean_over_rows() -> None:
    one = at(1.0)
    one.after_step(Given(1.0, 2.0, 6.0))  # type: ignore[arg-type]
    assert one.violation.item() == pytest.approx(3.0 - 1.5)


@pytest.mark.parametrize(
    ("init_args", "words"),
    [
        ({"target": float("inf")}, "target to be a finite number of nats but got inf"),
        ({"target": float("nan")}, "target to be a finite number of nats but got nan"),
        ({"samples": 0}, "samples to be at least 1 but got 0"),
        ({"speed": 0.0}, "speed to be positive but got 0.0"),
        ({"decay": 1.0}, r"decay to be in \[0, 1\) but got 1.0"),
        ({"limit": 1.0}, "limit to be above 1 but got 1.0"),
    ],
)
def test_arguments_are_checked(init_args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GECO(**{"target": 1.0, **init_args})


# In training


def steps(model: Model, batches: list[Tensor], lr: float, count: int) -> list[float]:
    """Trains, and returns the distortion of each step."""
    model.train().core.keep_draw = True
    optimizer = torch.optim.Adam(model.parameters(), lr, fused=True)
    found = []
    for step in range(count):
        optimizer.zero_grad()
        terms = model.objective(model.core, Batch(batches[step % len(batches)]), step)
        terms["loss"].mean().backward()
        optimizer.step()
        finish_step(model)
        found.append(float(terms["distortion"].detach().mean()))
    return found


@pytest.mark.slow
def test_a_linear_gaussian_model_ends_at_the_target() -> None:
    with torch.no_grad():
        x = torch.randn(512, 2) @ torch.randn(2, 8) + 0.3 * torch.randn(512, 8)
    model = Model(
        DataInfo((8,)),
        latent_shape=4,
        encoder=part("MLPEncoder", hidden=[16]),
        decoder=part("MLPDecoder", hidden=[]),
        likelihood=part("Gaussian", scale=0.5),
        objective=part("GECO", target=8.0, speed=0.05),
    )
    found = steps(model, list(x.split(128)), 1e-2, 2000)
    assert sum(found[-400:]) / 400 == pytest.approx(8.0, rel=0.03)


@pytest.mark.slow
def test_digits_end_at_the_target() -> None:
    rows = data.Digits(binarize="static")
    model = Model(rows, latent_shape=8, objective=part("GECO", target=20.0, speed=0.05))
    batches = [batch.x for batch in rows.rows("train", batch_size=128)]
    found = steps(model, batches[:-1], 3e-3, 2000)
    assert sum(found[-400:]) / 400 == pytest.approx(20.0, rel=0.04)


def trained(epochs: int, resume: Path | None = None, **settings: Any) -> VAEModule:
    torch.manual_seed(0)
    rows = data.Digits(binarize="static", batch_size=300)  # 5 batches
    model = Model(rows, latent_shape=2, objective=part("GECO", target=30.0, speed=0.1))
    module = VAEModule(model, compile=settings.pop("compile", False))
    trainer = pl.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(module, rows, ckpt_path=resume, weights_only=True)
    return module


def state(module: VAEModule) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.slow
def test_a_fit_goes_on_exactly(tmp_path: Path) -> None:
    whole = state(trained(4))
    half = trained(2)
    half.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = state(trained(4, tmp_path / "a.ckpt"))
    assert whole["model.objective.log_multiplier"] != state(half)["model.objective.log_multiplier"]
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_a_compiled_model_moves_its_multiplier_alike() -> None:
    plain, fast = (state(trained(2, compile=way)) for way in (False, {"backend": "aot_eager"}))
    for name in ("log_multiplier", "violation", "seen"):
        value = plain[f"model.objective.{name}"]
        assert value != 0
        assert torch.allclose(value, fast[f"model.objective.{name}"], rtol=1e-5), name


def test_the_multiplier_moves_once_in_an_optimizer_step() -> None:
    module = trained(1, accumulate_grad_batches=2)  # 3 steps
    objective: Any = module.model.objective
    assert objective.seen.item() == pytest.approx(1 - 0.99**3)


@pytest.mark.slow
def test_the_multiplier_is_not_rounded_under_bf16_true() -> None:
    # In bfloat16 a step of a thousandth would be lost.
    objective: Any = trained(1, precision="bf16-true").model.objective
    assert objective.log_multiplier.dtype == torch.float32


@pytest.mark.slow
def test_validation_reports_the_elbo_and_training_the_multiplier() -> None:
    rows = data.Digits(binarize="static")
    model = Model(rows, latent_shape=2, objective=part("GECO", target=30.0))
    trainer = fit(model, rows, max_epochs=1)
    found = trainer.callback_metrics
    assert {"train/multiplier", "train/loss", "train/rate", "val/elbo"} <= set(found)
    total = found["val/distortion"] + found["val/rate"]
    assert torch.allclose(found["val/elbo"], -total, rtol=1e-4)
    assert model.best == ("elbo", "max")


def test_a_checkpoint_chosen_before_the_target_is_reached_is_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The ELBO, which does not know the constraint, chose it.
    rows = data.Digits(binarize="static")
    model = Model(rows, latent_shape=2, objective=part("GECO", target=5.0))
    keep = callbacks.BestCheckpoint()
    settings: dict[str, Any] = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    trainer = fit(model, rows, max_epochs=3, callbacks=[keep], **settings)
    assert keep.monitor is None
    found = torch.load(keep.best_model_path, weights_only=True)
    assert found["global_step"] == trainer.global_step
    summary.show(model, rows, -30.0, [Path("best.ckpt")])
    said = " ".join(capsys.readouterr().out.split())
    assert "best.ckpt is the newest model: the target of GECO moves until the fit ends" in said
    assert "ELBO of best.ckpt" in said
