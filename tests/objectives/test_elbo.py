"""What holds the ELBO's rate up, against plain arithmetic: free bits and a capacity."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

import known
from conftest import fit
from known import INFO, NOISE, SPLITS, X, distortion, first_step, made, part, same_gradients
from vaekit import Model, VAEModule, callbacks, data
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.numerics.random import fixed_noise
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.geco import GECO
from vaekit.registry import plugins
from vaekit.schedules import Constant, Linear
from vaekit.training.compile import Compiled


@pytest.fixture(autouse=True)
def _own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    known.registered()


def held_up(rates: list[Tensor], free: float, per: str, over: str) -> tuple[Tensor, set[bool]]:
    """The mean over rows of sum_j max(free, KL_j), number by number; which sides of the floor
    there were."""
    groups = [r.sum(1, keepdim=True) if per == "level" else r for r in rates]
    total, sides = torch.zeros((), dtype=torch.float64), set()
    for kl in groups:
        for j in range(kl.shape[1]):
            compared = [kl[b, j] for b in range(6)] if over == "row" else [sum(kl[:, j]) / 6]
            for value in compared:
                sides.add(bool(value > free))
                kept = value if value > free else torch.tensor(free, dtype=torch.float64)
                total = total + kept / len(compared)
    return total, sides


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("over", ["batch", "row"])
@pytest.mark.parametrize("per", ["latent", "level"])
@pytest.mark.parametrize(("prior", "samples"), [("LearnedNormal", 1), ("Heavy", 4)])
def test_free_bits_have_the_papers_value_and_gradient(
    prior: str, samples: int, per: str, over: str, beta: float
) -> None:
    core = made(prior)
    rates, z = known.latent_rates(core, samples)
    found = rates.detach() if over == "row" else rates.detach().mean(0, keepdim=True)
    found = found.sum(1, keepdim=True) if per == "level" else found
    free = float(found.min() + found.max()) / 2 if found.numel() > 1 else float(found) * 0.9
    objective = ELBO(beta, samples, free, per, over)  # type: ignore[arg-type]
    terms = objective(core, Batch(X, start=0), 0)
    held, sides = held_up([rates], free, per, over)
    assert sides == ({True, False} if found.numel() > 1 else {True})
    same_gradients(core, terms["loss"].mean(), distortion(core, z).mean() + beta * held)


def test_rates_below_the_free_bits_have_no_gradient_and_cost_them() -> None:
    core = made()
    terms = ELBO(free_bits=50.0)(core, Batch(X, start=0), 0)
    assert torch.allclose(terms["loss"], terms["distortion"] + 100)
    terms["loss"].mean().backward()
    assert all(p.grad is None or not p.grad.any() for p in core.prior.parameters())
    plain = torch.autograd.grad(
        distortion(core, known.latent_rates(core, 1)[1]).mean(), [core.encoder.net[0].weight]
    )
    assert torch.allclose(core.encoder.net[0].weight.grad, plain[0], atol=1e-13)


@pytest.mark.parametrize("over", ["batch", "row"])
@pytest.mark.parametrize("per", ["latent", "level"])
def test_free_bits_of_two_levels(per: str, over: str) -> None:
    core = made("StandardNormal", core="KnownTwo")
    rates = known.level_rates(core, 3)
    found = torch.cat([r.sum(1, keepdim=True) if per == "level" else r for r in rates], 1)
    free = float((found if over == "row" else found.mean(0)).detach().quantile(0.5))
    terms = ELBO(1.0, 3, free, per, over)(core, Batch(X), 0)  # type: ignore[arg-type]
    held, sides = held_up(rates, free, per, over)
    assert sides == {True, False}
    z = first_step(core, X)
    draws = z[0] + (z[1] / 2).exp() * NOISE[:3]
    same_gradients(core, terms["loss"].mean(), distortion(core, draws).mean() + held)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("core", ["Known", "KnownTwo"])
def test_latents_rates_sum_to_the_rate(core: str, samples: int) -> None:
    one = made("StandardNormal" if core == "KnownTwo" else "Heavy", core=core)
    # A floor that nothing is under, of a weight that is not the number 0.
    for over in ("batch", "row"):
        terms = ELBO(1.0, samples, Constant(0.0), "latent", over)(one, Batch(X, start=0), 0)
        assert torch.allclose(terms["loss"], -terms["elbo"])


@pytest.mark.parametrize(
    "init_args",
    [{"free_bits": 3.0}, {"free_bits": 9.0, "free_bits_per": "level"}, {"capacity": 1}],
)
def test_the_loss_alone_changes_and_the_terms_stay_true(init_args: dict[str, Any]) -> None:
    core = made()
    plain, other = (ELBO(**a)(core, Batch(X, start=0), 0) for a in ({}, init_args))
    assert not torch.allclose(plain["loss"], other["loss"])
    for name in ("elbo", "distortion", "rate"):
        assert torch.equal(plain[name], other[name])


def test_no_free_bits_are_the_plain_elbo_bit_for_bit() -> None:
    core, found = made("Heavy"), []
    for objective in (ELBO(2.0), ELBO(2.0, free_bits=0.0, free_bits_per="level")):
        loss = objective(core, Batch(X, start=0), 0)["loss"]
        found.append([loss, *torch.autograd.grad(loss.mean(), list(core.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    terms = ELBO(2.0)(core, Batch(X, start=0), 0)
    assert torch.equal(found[0][0], terms["distortion"] + 2 * terms["rate"])


@pytest.mark.parametrize("objective", ["free_bits", "capacity"])
def test_free_bits_and_a_capacity_may_be_schedules(objective: str) -> None:
    core = made()
    scheduled = ELBO(**{objective: Linear(steps=10, end=20.0)})
    for step in (0, 3, 10):
        fixed = ELBO(**{objective: 2.0 * step})
        a, b = (o(core, Batch(X, start=0), step)["loss"] for o in (scheduled, fixed))
        assert torch.allclose(a, b)


# What chooses the checkpoint


def test_a_rising_capacity_that_keeps_the_model_of_the_natural_rate_is_not_here(
    tmp_path: Path,
) -> None:
    # The ELBO chose the checkpoint of the step at which the capacity passed the natural rate.
    rows = data.Digits(batch_size=256, binarize="static")
    capacity = part("Linear", steps=60, end=25.0)  # ten epochs
    model = Model(rows, 4, objective=part("ELBO", beta=10, capacity=capacity))
    keep = callbacks.BestCheckpoint()
    seen: list[tuple[float, float]] = []

    class Notes(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found = trainer.callback_metrics
            seen.append((float(found["val/elbo"]), float(found["val/loss"])))

    settings: dict[str, Any] = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    module = VAEModule(model, part("Adam", lr=0.01))
    trainer = fit(module, rows, max_epochs=14, callbacks=[keep, Notes()], **settings)
    elbo, loss = zip(*seen, strict=True)
    assert max(range(14), key=elbo.__getitem__) < 9
    assert min(range(14), key=loss.__getitem__) >= 9
    assert keep.monitor == "val/loss"
    step = torch.load(keep.best_model_path, weights_only=True)["global_step"]
    assert step >= 10 * trainer.num_training_batches


@pytest.mark.parametrize("name", ["beta", "free_bits", "capacity"])
def test_a_schedule_and_its_end_choose_the_checkpoint_alike(name: str) -> None:
    core = made()
    found = []
    for value in (9.0, Linear(steps=10, end=9.0)):
        objective = ELBO(**{name: value})
        assert objective.best == ("loss", "min")
        found.append(objective.evaluate(core, Batch(X, start=0)))
    assert {"elbo", "distortion", "rate", "loss"} <= set(found[0])
    for term, value in found[0].items():
        assert torch.equal(value, found[1][term])
    trained = ELBO(**{name: 9.0})(core, Batch(X, start=0), 0)["loss"]
    assert torch.allclose(found[0]["loss"].mean(), trained.mean())


@pytest.mark.parametrize(
    "init_args", [{}, {"beta": Linear(steps=10)}, {"free_bits": Linear(10, 1.0, 0.0)}]
)
def test_a_warm_up_that_ends_in_the_elbo_is_chosen_by_the_elbo(init_args: dict[str, Any]) -> None:
    objective = ELBO(**init_args)
    assert objective.best == ("elbo", "max")
    assert "loss" not in objective.evaluate(made(), Batch(X, start=0))


def test_validation_by_one_rank_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*args: Any) -> None:
        raise AssertionError("waits for the other ranks")

    monkeypatch.setattr("vaekit.objectives.elbo.mean_over_ranks", waits)
    assert ELBO(free_bits=0.5).evaluate(made(), Batch(X, start=0))["loss"].isfinite()


# A capacity of the data


def test_a_capacity_in_log_rows_is_that_of_the_training_rows() -> None:
    core = made()
    fixed = ELBO(capacity=2 * log(500))
    relative = ELBO(capacity=2.0, capacity_unit="log_rows", data_size=500)
    rising = ELBO(capacity=Linear(steps=10, end=4.0), capacity_unit="log_rows", data_size=500)
    a, b, c = (o(core, Batch(X, start=0), 5)["loss"] for o in (fixed, relative, rising))
    assert torch.allclose(a, b)
    assert torch.allclose(a, c)
    spec = part("ELBO", capacity=1.0, capacity_unit="log_rows")
    rows = data.Digits()
    objective: Any = Model(rows, 2, objective=spec).objective
    assert objective.nats == log(rows.info.data_size or 0)


def test_a_capacity_in_log_rows_without_their_number_says_what_to_do() -> None:
    spec = part("ELBO", capacity=1.0, capacity_unit="log_rows")
    with pytest.raises(ValueError, match=r"number of training rows.*data_size=\.\.\."):
        Model(DataInfo((3,), (0, 1), levels=2), 2, objective=spec)
    with pytest.raises(ValueError, match="capacity_unit to be nats or log_rows but got 'bits'"):
        ELBO(capacity=1.0, capacity_unit="bits")  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [1, 4])
def test_a_capacity_is_approached_from_both_sides(samples: int) -> None:
    core = made()
    rates, z = known.latent_rates(core, samples)
    whole = rates.sum(1)
    capacity = float(whole.detach().median() + 0.01)
    terms = ELBO(7.0, samples, capacity=capacity)(core, Batch(X, start=0), 0)
    away = [r - capacity if r > capacity else capacity - r for r in whole]
    assert {bool(r > capacity) for r in whole} == {True, False}
    expected = distortion(core, z).mean() + 7 * sum(away) / 6
    same_gradients(core, terms["loss"].mean(), expected)


@pytest.mark.parametrize(
    "around", [{"posterior": "FullNormal"}, {"prior": "NormalMixture"}], ids=str
)
def test_latents_that_are_no_product_name_the_way_out(around: dict[str, Any]) -> None:
    core = Model(INFO, latent_shape=2, **around).core
    with pytest.raises(ValueError, match=r"products over the latents.*free_bits_per level"):
        ELBO(free_bits=0.1)(core, Batch(X.float()), 0)
    terms = ELBO(free_bits=90.0, free_bits_per="level")(core, Batch(X.float()), 0)
    assert torch.allclose(terms["loss"], terms["distortion"] + 90)


@pytest.mark.parametrize(
    ("init_args", "words"),
    [
        (
            {"free_bits": -0.1},
            "free_bits to be a schedule or .* but got -0.1",
        ),
        (
            {"free_bits": float("nan")},
            "free_bits to be a schedule or .* but got nan",
        ),
        (
            {"capacity": -2},
            "capacity to be a schedule or .* but got -2",
        ),
        ({"lagging": -1}, "lagging to be a schedule or .* but got -1"),
        ({"lagging": 1.5}, "lagging to be a whole number but got 1.5"),
        ({"free_bits_per": "row"}, "free_bits_per to be latent or level but got 'row'"),
        ({"free_bits_over": "latent"}, "free_bits_over to be batch or row but got 'latent'"),
        ({"free_bits": 1.0, "capacity": 2.0}, "free_bits or a capacity but got both: 1.0 and 2.0"),
    ],
)
def test_arguments_are_checked(init_args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ELBO(**init_args)


@pytest.mark.slow
def test_two_ranks_have_the_gates_and_the_multiplier_of_one(tmp_path: Path) -> None:
    known.on_two_ranks(tmp_path)
    found = torch.load(tmp_path / "0.pt", weights_only=True)
    for split in SPLITS:
        for init_args in known.ways():
            got = found.pop(0)
            whole = known.gradients(ELBO(**init_args), (0, 6), 1.0)
            assert torch.allclose(got, whole, atol=1e-13)
            if split == SPLITS[0]:  # gates of each rank's own rows would be others
                each = [known.gradients(ELBO(**init_args), r, (r[1] - r[0]) / 6) for r in split]
                assert not torch.allclose(got, each[0] + each[1], atol=1e-4)
        followed = known.followed(GECO(1.0).double(), (0, 6), 1.0)
        assert torch.allclose(found.pop(0), followed, atol=1e-12)
    assert not found


@pytest.mark.slow
def test_scvis_warm_up_that_large_data_never_end_is_not_here() -> None:
    # There it takes 400 epochs, and large data are trained for fewer. Here a schedule counts
    # optimizer steps: it ends within an epoch that has enough of them.
    seen: list[tuple[float, float]] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            logged = trainer.logged_metrics
            seen.append((float(logged["step/loss"]), -float(logged["step/elbo"])))

    rows = data.Digits(batch_size=64)  # 23 batches
    model = Model(rows, latent_shape=2, objective=part("ELBO", beta=part("Linear", steps=4)))
    settings: dict[str, Any] = {"log_every_n_steps": 1, "limit_val_batches": 0}
    fit(model, rows, max_steps=7, callbacks=[Keep()], **settings)
    assert [abs(a - b) < 1e-4 for a, b in seen] == [False] * 4 + [True] * 3


@pytest.mark.slow
def test_free_bits_of_a_schedule_are_followed_where_a_model_is_compiled() -> None:
    model = Model(INFO, latent_shape=2, objective=part("ELBO", free_bits=part("Linear", steps=4)))
    compiled, batch = Compiled(model, {"backend": "eager"}), Batch(X.float())
    for step in (0, 2, 4):
        with fixed_noise(1):
            found = compiled.terms(batch, step)["loss"]
        with fixed_noise(1):
            assert torch.allclose(found, model.objective(model.core, batch, step)["loss"])
