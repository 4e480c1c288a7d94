"""A step that the guard or the gradient scaler leaves out changes nothing."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from conftest import fit
from vaekit import Model, VAEModule, callbacks, data

GECO = {"class_path": "GECO", "init_args": {"target": 5.0, "speed": 0.02}}


class Watch(pl.Callback):
    """What a fit's state is after each batch, and whether gradients are broken before a step.

    Arguments:
        broken: How many of the first steps have a gradient that is not finite.
    """

    def __init__(self, broken: int = 0) -> None:
        self.broken, self.seen = broken, list[dict[str, Any]]()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if len(self.seen) < self.broken:
            next(pl_module.parameters()).grad.fill_(torch.inf)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        self.seen.append(
            {
                "step": trainer.global_step,
                "rate": trainer.optimizers[0].param_groups[0]["lr"],
                "multiplier": float(pl_module.model.objective.log_multiplier),
                "weights": float(weights.double().sum()),
                "rows": 0 if "train" not in pl_module.means else pl_module.means["train"].rows,
            }
        )


def module(rows: data.DataModule) -> VAEModule:
    torch.manual_seed(0)
    schedule = {"class_path": "ExponentialLR", "init_args": {"gamma": 0.9}}
    return VAEModule(Model(rows, 2, objective=GECO), lr_scheduler=schedule, lr_interval="step")


@pytest.mark.parametrize("by", ["guard", "scaler"])
def test_a_skipped_step_changes_nothing(by: str) -> None:
    """24 skipped steps moved GECO's multiplier by .48, and the schedule by 24."""
    rows, left_out = data.Digits(batch_size=20), 24
    watch = Watch(left_out)
    settings: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 30}
    if by == "scaler":
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
        settings["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    guard = callbacks.Guard(skip=left_out)
    own = module(rows)
    before = own.model.objective.log_multiplier.clone()
    start = float(torch.cat([p.detach().flatten() for p in own.parameters()]).double().sum())
    fit(own, rows, callbacks=[watch, guard], **settings)
    skipped = watch.seen[left_out - 1]
    assert skipped["step"] == 0
    assert skipped["rate"] == pytest.approx(1e-3)
    assert skipped["multiplier"] == float(before)
    assert skipped["weights"] == start
    assert skipped["rows"] == 0
    end = watch.seen[-1]
    assert end["step"] == 6
    assert end["rate"] == pytest.approx(1e-3 * 0.9**6)
    assert end["multiplier"] != float(before)
    assert end["weights"] != start
    assert end["rows"] == 6 * 20


def test_steps_that_are_left_out_do_not_count_towards_max_steps() -> None:
    rows, watch = data.Digits(batch_size=20), Watch(3)
    fit(module(rows), rows, max_steps=5, callbacks=[watch, callbacks.Guard(skip=3)])
    assert len(watch.seen) == 8
    assert watch.seen[-1]["step"] == 5


def test_accumulated_batches_of_a_step_that_is_left_out_are_forgotten() -> None:
    rows, watch = data.Digits(batch_size=20), Watch(2)
    settings: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 8}
    guard = callbacks.Guard(skip=3)
    fit(module(rows), rows, accumulate_grad_batches=2, callbacks=[watch, guard], **settings)
    assert [own["step"] for own in watch.seen] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert guard.skipped == 1
