"""What is done for speed changes no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn

from conftest import fit
from vaekit import Model, VAEModule, callbacks, data
from vaekit.cli import app as cli
from vaekit.data.rows.batches import Rows
from vaekit.training import optimizers
from vaekit.training.callbacks import progress

TINY = torch.finfo(torch.float32).tiny


def digits() -> data.Digits:
    return data.Digits(binarize="static")


@pytest.mark.parametrize(
    ("optimizer", "settings", "fused"),
    [
        (None, {}, True),
        ("AdamW", {"precision": "bf16-mixed"}, True),
        ("Adam", {"precision": "bf16-mixed", "gradient_clip_val": 1.0}, None),
        ({"class_path": "Adam", "init_args": {"foreach": True}}, {}, None),
        ({"class_path": "Adam", "init_args": {"fused": False}}, {}, False),
        ({"class_path": "Adam", "init_args": {"fused": None, "capturable": False}}, {}, True),
        ("SGD", {}, None),
    ],
)
def test_adam_is_fused_where_it_may_be(optimizer: Any, settings: Any, fused: bool | None) -> None:
    module = VAEModule(Model(digits(), latent_shape=2), optimizer)
    trainer = fit(module, digits(), max_steps=1, **settings)
    assert trainer.optimizers[0].defaults["fused"] is fused


def test_a_fused_step_is_the_step_of_adam() -> None:
    weights = []
    for init_args in ({}, {"fused": False}):
        torch.manual_seed(0)
        optimizer = {"class_path": "Adam", "init_args": init_args}
        module = VAEModule(Model(digits(), latent_shape=2), optimizer)
        fit(module, digits(), max_steps=3, precision="64-true")
        weights.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.allclose(*weights, rtol=1e-12)


def steps(flush: bool, make: Callable[..., Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A parameter after 1,500 steps, of which all but a few give it no gradient; its averages."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(50, dtype=dtype))
    optimizer = make([p])
    first = torch.randn_like(p) * torch.logspace(-6, 0, 50).to(dtype)
    for step in range(1, 1501):
        p.grad = first.clone() if step in (1, 40) else torch.zeros_like(p)
        p.grad[:5] = 0.1  # one that goes on
        optimizer.step()
        if flush:
            optimizers.flush(optimizer, step)
    averages = [x for x in optimizer.state[p].values() if isinstance(x, Tensor) and x.dim()]
    return p.detach(), torch.cat(averages).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, fused=True),
        lambda p: torch.optim.Adam(p, betas=(0.9, 0.99)),
        lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    ],
)
def test_averages_that_have_decayed_are_zeroed_and_no_weight_changes(
    make: Callable[..., Any], dtype: torch.dtype
) -> None:
    (kept, before), (flushed, after) = (steps(flush, make, dtype) for flush in (False, True))
    assert torch.equal(kept, flushed)
    for averages, denormal in ((before, True), (after, False)):
        assert bool(((averages != 0) & (averages.abs() < TINY)).any()) is denormal


def test_no_average_is_denormal_between_two_looks_at_it() -> None:
    p = nn.Parameter(torch.zeros(1000))
    optimizer = torch.optim.Adam([p])
    for step in range(1, 1200):
        p.grad = torch.logspace(-5, 5, 1000) * (step == 1)
        optimizer.step()
        optimizers.flush(optimizer, step)
        average = optimizer.state[p]["exp_avg"]
        assert not ((average != 0) & (average.abs() < TINY)).any()


def test_a_fit_zeroes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(optimizers, "flush", lambda optimizer, step: seen.append(step))
    fit(Model(digits(), latent_shape=2), digits(), max_steps=3)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.bool, torch.float64])
def test_rows_are_gathered_whole(dtype: torch.dtype) -> None:
    x = torch.arange(60).reshape(10, 2, 3).to(dtype)
    at = torch.tensor([7, 0, 7])
    assert torch.equal(Rows(x)[at].x.float(), x.float()[at])
    assert torch.equal(Rows(x.mT)[at].x.float(), x.float().mT[at])
    assert torch.equal(Rows(x, index=at)[torch.tensor([2])].x.float(), x.float()[7:8])


def test_the_progress_bar_is_drawn_ten_times_a_second(
    cli: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, drawn = [0.0], []
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        RichProgressBar, "on_train_batch_end", lambda *args: drawn.append((now[0], args[-1]))
    )

    def tick(*_: Any) -> None:
        now[0] += 0.03

    monkeypatch.setattr(callbacks.BestCheckpoint, "on_train_batch_end", tick)
    cli("fit", "--trainer.max_epochs", 1, "--data.batch_size", 100)
    assert drawn[-1][1] == 14  # of 15 batches the last, whenever it comes
    assert [time for time, _ in drawn[:-1]] == pytest.approx([0.12, 0.24, 0.36])


def test_a_progress_bar_that_is_named_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bar = "lightning.pytorch.callbacks.RichProgressBar"
    with cli.names_lead_to_plugins():
        args = ["fit", "--trainer.fast_dev_run=true", f"--trainer.callbacks={bar}"]
        found = cli.CLI(args).trainer.progress_bar_callback
    assert type(found) is RichProgressBar
