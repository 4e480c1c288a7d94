"""Batches, data declarations and draws."""

from __future__ import annotations

from math import inf, log

import pytest
import torch
from torch import Tensor, nn

from vaekit.contracts import Prior
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.draw import Draw, Level, once
from vaekit.distributions.base import normal
from vaekit.numerics.precision import full_precision


def test_bits_per_dimension_of_a_uniform_guess() -> None:
    # Guessing each of 256 values with the same probability costs 8 bits, told as a probability of
    # the values or as a density of values spread over bins of width 1/256.
    nats = -12 * log(256)
    assert DataInfo(event_shape=(3, 2, 2)).bits_per_dimension(nats) == pytest.approx(8)
    spread = DataInfo(event_shape=(3, 2, 2), bin_width=1 / 256)
    assert spread.bits_per_dimension(0.0) == pytest.approx(8)


def test_data_info_survives_a_round_trip() -> None:
    info = DataInfo((1, 28, 28), (0.0, inf), levels=None, context_features=3, data_size=7)
    assert DataInfo(**info.as_dict()) == info
    assert info.as_dict()["event_shape"] == [1, 28, 28]


def test_a_batch_moves_whole() -> None:
    x = torch.zeros(4, 2)
    batch = Batch(x, x[:, :1], x > 0, torch.arange(4), weight=0.5).to("meta")
    for moved in (batch.x, batch.context, batch.mask, batch.label):
        assert moved is not None
        assert moved.device.type == "meta"
    assert batch.weight == 0.5
    assert len(batch) == 4


def test_terms_are_computed_once_and_only_when_read() -> None:
    calls = []

    def compute() -> Tensor:
        calls.append(1)
        return torch.ones(2, 3)

    def never() -> Tensor:
        raise AssertionError("an unread term was computed")

    z = torch.zeros(2, 3, 1)
    q = normal(torch.zeros(3, 1), torch.ones(3, 1), 1)
    term = once(compute, z)
    level = Level(z, q, q, log_prior=term, log_posterior=term, rate=never, losses={}, closed=True)
    draw = Draw(Batch(z[0]), (level, level), z[0], q, log_likelihood=term)
    assert torch.equal(draw.log_weight, torch.ones(2, 3) * (1 + 2 - 2))
    assert draw.log_prior.sum() == 12
    assert len(calls) == 1


def test_scale_latent_grad_scales_what_comes_back_into_z() -> None:
    z = torch.randn(2, 3, 4, requires_grad=True)
    used = z * 1
    q = normal(torch.zeros(3, 4), torch.ones(3, 4), 1)
    terms = (lambda: used.sum(-1), lambda: used.sum(-1), lambda: used.sum(-1))
    level = Level(used, q, q, *terms, {}, True)
    draw = Draw(Batch(z[0]), (level,), z[0], q, lambda: used.sum(-1))
    w = torch.rand(2, 3)
    draw.scale_latent_grad(w)
    draw.log_likelihood.sum().backward()
    assert z.grad is not None
    assert torch.allclose(z.grad, w.unsqueeze(-1).expand(2, 3, 4))


def test_heads_and_priors_stay_in_float32_when_the_module_goes_to_bfloat16() -> None:
    class Learned(Prior):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.loc = nn.Parameter(torch.full((2,), 1 / 3))
            self.register_buffer("n", torch.tensor(3))

    module = nn.ModuleDict({"prior": Learned(), "net": nn.Linear(2, 2)}).to(torch.bfloat16)
    assert module["net"].weight.dtype == torch.bfloat16
    assert module["prior"].loc.dtype == torch.float32
    assert torch.equal(module["prior"].loc, torch.full((2,), 1 / 3))  # not rounded on the way
    assert module["prior"].linear.weight.dtype == torch.float32
    assert module.double()["prior"].loc.dtype == torch.float64


def test_full_precision_switches_autocast_off() -> None:
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
