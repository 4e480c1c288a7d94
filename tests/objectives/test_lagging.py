"""Lagging inference networks: what moves in which step, and what rests."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from conftest import fit
from known import INFO, made, part, registered
from vaekit import Model, VAEModule, data
from vaekit.contracts import Prior
from vaekit.networks.mlp import MLPEncoder
from vaekit.objectives.elbo import ELBO
from vaekit.registry import plugins
from vaekit.schedules import Linear
from vaekit.training.non_finite import NonFiniteError


@pytest.fixture(autouse=True)
def _own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    registered()


def test_steps_of_which_the_generative_model_rests() -> None:
    core = made()
    steps = {
        n: [bool(list(ELBO(lagging=n).resting(core, s))) for s in range(6)] for n in (0, 1, 2)
    }
    assert steps == {0: [False] * 6, 1: [True, False] * 3, 2: [True, True, False] * 2}
    falling = ELBO(lagging=Linear(steps=8, start=3.0, end=0.0))
    numbers = [3, 3, 2, 2, 2, 1, 1, 0, 0, 0]
    rests = [bool(list(falling.resting(core, step))) for step in range(10)]
    assert rests == [step % (n + 1) < n for step, n in enumerate(numbers)]
    assert rests == [True, True, False, True, True, False, True, False, False, False]


def test_what_rests_is_all_but_encoders_and_posteriors() -> None:
    core = made(core="KnownTwo", prior="StandardNormal")
    resting = {id(p) for p in ELBO(lagging=1).resting(core, 0)}
    parts = {name.split(".")[0] for name, p in core.named_parameters() if id(p) in resting}
    moving = {name.split(".")[0] for name, p in core.named_parameters() if id(p) not in resting}
    assert parts == {"decoder", "prior"}
    assert moving == {"encoder", "posterior", "top_encoder", "top_posterior"}


class Inside(Prior):
    """A prior with an encoder of its own."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.own = MLPEncoder((3,), hidden=4)


def test_an_encoder_inside_a_prior_is_generative_and_a_shared_weight_is_not() -> None:
    core = made()
    core.prior = Inside((2,))
    core.decoder.tied = core.encoder.net[0].weight
    resting = {id(p) for p in ELBO(lagging=1).resting(core, 0)}
    assert resting >= {id(p) for p in core.prior.parameters()}
    assert id(core.decoder.tied) not in resting
    assert resting >= {id(p) for p in core.decoder.net.parameters()}


def test_lagging_refuses_a_core_in_which_nothing_is_left_over() -> None:
    lagging = part("ELBO", lagging=1)
    with pytest.raises(
        ValueError, match=r"ELBO .*: expected a core with more to train than encoders"
    ):
        Model(INFO, latent_shape=3, decoder=nn.Identity(), objective=lagging)
    Model(INFO, latent_shape=3, decoder=nn.Identity())
    core = made()
    for p in (*core.encoder.parameters(), *core.posterior.parameters()):
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="a core with an encoder or a posterior to train"):
        ELBO(lagging=1).check(core)


class Watch(pl.Callback):
    """Weights and the optimizer's state after each optimizer step, by parameter."""

    def __init__(self, module: VAEModule) -> None:
        self.seen = [self.look(module, {})]

    def look(self, module: VAEModule, state: Any) -> dict[str, list[Tensor]]:
        found = {}
        for name, p in module.model.core.named_parameters():
            kept = [x for x in state.get(p, {}).values() if isinstance(x, Tensor)]
            found[name] = [x.detach().clone() for x in (p, *kept)]
        return found

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == len(self.seen):
            self.seen.append(self.look(pl_module, trainer.optimizers[0].state))

    def moved(self, step: int) -> set[str]:
        """Parts with a weight or a state that a step changed."""
        before, after = self.seen[step : step + 2]
        return {
            name.split(".")[0]
            for name, then in before.items()
            if len(then) != len(after[name])
            or any(not torch.equal(a, b) for a, b in zip(then, after[name], strict=True))
        }


ALL = {"encoder", "posterior", "decoder", "prior", "likelihood"}


def lagged(compile: Any = False, **settings: Any) -> Watch:
    torch.manual_seed(0)
    rows = data.Digits(binarize="none", batch_size=100)
    model = Model(
        rows,
        latent_shape=2,
        prior="LearnedNormal",
        likelihood=part("Gaussian", scale="learned"),
        objective=part("ELBO", lagging=2),
    )
    module = VAEModule(model, part("AdamW", weight_decay=0.1), compile=compile)
    watch = Watch(module)
    fit(module, rows, max_steps=7, limit_val_batches=0, callbacks=[watch], **settings)
    return watch


def rests_as_it_must(watch: Watch) -> None:
    assert len(watch.seen) == 8
    for step in range(7):
        assert watch.moved(step) == (ALL if step % 3 == 2 else {"encoder", "posterior"}), step


def test_generative_weights_and_their_averages_rest() -> None:
    rests_as_it_must(lagged())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"precision": "64-true", "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
        {"compile": {"backend": "aot_eager"}},
    ],
    ids=str,
)
def test_so_they_do_however_one_trains(settings: dict[str, Any]) -> None:
    rests_as_it_must(lagged(**settings))


@pytest.mark.slow
def test_so_they_do_with_a_gradient_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    rests_as_it_must(lagged(plugins=[MixedPrecision("16-mixed", "cpu", scaler)]))
    assert scaler.get_scale() == 2.0**10  # no step was left out


@pytest.mark.slow
def test_the_norm_that_is_clipped_is_of_what_moves() -> None:
    # Else a step of the encoder would be shortened by a gradient that is dropped.
    norms = []

    class Clipped(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            found = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.append(float(nn.utils.get_total_norm(found)) if found else None)

    rows = data.Digits(binarize="none", batch_size=100)
    model = Model(rows, latent_shape=2, likelihood="Gaussian", objective=part("ELBO", lagging=9))
    fit(
        model,
        rows,
        max_steps=4,
        limit_val_batches=0,
        gradient_clip_val=0.01,
        callbacks=[Clipped()],
    )
    assert [n for n in norms if n is not None] == pytest.approx([0.01] * 3, rel=1e-3)


def test_a_step_that_rests_is_watched_like_any_other() -> None:
    rows = data.Digits(binarize="static")
    model = Model(rows, latent_shape=2, objective=part("ELBO", lagging=50))
    with pytest.raises(NonFiniteError, match=r"Step \d+ .*is not finite"):
        fit(VAEModule(model, part("SGD", lr=1e25)), rows, max_epochs=1)


def test_a_schedule_below_0_lags_by_nothing() -> None:
    objective = ELBO(lagging=Linear(steps=2, start=-1.0, end=-2.0))
    model = Model(data.Digits(), latent_shape=2, objective=objective)
    assert [len(list(objective.resting(model.core, step))) for step in range(4)] == [0] * 4
