"""Densities, KLs and draws against independent values."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    Normal,
    StudentT,
    kl_divergence,
)

from vaekit.distributions import base as distributions
from vaekit.distributions.base import normal, rate, sample_and_log_prob, soft_clamp, transport
from vaekit.numerics.random import fixed_noise


def test_soft_clamp_is_the_identity_within_its_bound() -> None:
    x = torch.linspace(-10, 10, 101, dtype=torch.float64)
    assert torch.equal(soft_clamp(x), x)


def test_soft_clamp_keeps_exp_finite_and_its_gradient_alive() -> None:
    x = torch.tensor([-1e30, -50.0, 50.0, 1e30], requires_grad=True)
    y = soft_clamp(x)
    assert y.exp().isfinite().all()
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad > 0).all()


def test_soft_clamp_gradient() -> None:
    x = torch.tensor([-30.0, -10.5, 0.3, 11.0, 1e3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_clamp, (x,))


@pytest.mark.parametrize("rows", [(), (5,)])
def test_a_normal_is_torchs(rows: tuple[int, ...]) -> None:
    q, p = (
        distributions.Normal(torch.randn(shape).double(), torch.rand(shape).double() + 0.3)
        for shape in ((5, 3), (*rows, 3))
    )
    q0, p0 = (Normal(of.loc, of.scale) for of in (q, p))
    x = torch.randn(4, 5, 3).double()
    assert torch.allclose(q.log_prob(x), q0.log_prob(x), rtol=1e-13)
    assert torch.allclose(kl_divergence(q, p), kl_divergence(q0, p0), rtol=1e-12)
    assert q.expand((2, 5, 3)).batch_shape == (2, 5, 3)
    for of in (q, q0):
        torch.manual_seed(1)
        drawn = q.loc + q.scale * noise_after_seed((6, 5, 3))
        assert torch.allclose(of.rsample((6,)), drawn, rtol=1e-14)


def noise_after_seed(shape: tuple[int, ...]) -> Tensor:
    with fixed_noise(1):
        return torch.randn(shape, dtype=torch.float64)


def test_torchs_own_normal_takes_noise() -> None:
    q = Independent(Normal(torch.ones(2), torch.ones(2)), 1)
    assert distributions.takes_noise(q)
    assert torch.equal(transport(q, torch.ones(4, 2)), torch.full((4, 2), 2.0))


def test_a_registered_kl_is_the_monte_carlo_mean() -> None:
    q = normal(torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.3, 1)
    p = normal(torch.zeros(3).double(), torch.ones(3).double(), 1)
    closed = rate(q, p, _never, _never)
    assert closed.shape == (5,)
    z = q.sample(torch.Size([200_000]))
    estimate = q.log_prob(z) - p.log_prob(z)
    error = estimate.std(0) / 200_000**0.5
    assert ((estimate.mean(0) - closed).abs() < 4 * error).all()


def test_a_kl_without_closed_form_is_estimated_and_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributions, "_estimated", set())
    q = normal(torch.zeros(4, 2), torch.ones(4, 2), 1)
    p = Independent(StudentT(5.0, torch.zeros(2), torch.ones(2)), 1)
    z = q.rsample(torch.Size([6]))
    with pytest.warns(UserWarning, match=r"KL\(Normal \|\| StudentT\) has no registered closed"):
        estimate = rate(q, p, lambda: q.log_prob(z), lambda: p.log_prob(z))
    assert torch.equal(estimate, q.log_prob(z) - p.log_prob(z))
    closed = normal(torch.zeros(2), torch.ones(2), 1)
    assert torch.equal(rate(q, closed, _never, _never), torch.zeros(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rate(q, p, lambda: q.log_prob(z), lambda: p.log_prob(z))


def test_transport_of_noise_is_the_distribution() -> None:
    q = normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), 1)
    z = transport(q, torch.randn(100_000, 2))
    assert torch.allclose(z.mean(0), q.mean, atol=0.05)
    assert torch.allclose(z.std(0), q.base_dist.scale, rtol=0.02)


def test_unknown_transport_names_the_distribution_and_the_way_out() -> None:
    with pytest.raises(NotImplementedError, match=r"got StudentT.*transport\.register"):
        transport(Independent(StudentT(3.0, torch.zeros(2)), 1), torch.zeros(3, 2))


def test_sampling_without_gradient_where_one_is_wanted_is_an_error() -> None:
    q = Categorical(logits=torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"Categorical has none"):
        sample_and_log_prob(q, 2)
    with torch.no_grad():
        z, log_q = sample_and_log_prob(q, 2)
    assert z.shape == (2, 4)
    assert log_q is None


def test_a_posterior_may_draw_with_its_density() -> None:
    class Both(Normal):
        def rsample_and_log_prob(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
            z = self.rsample(shape)
            return z, z * 0 + 7

    z, log_q = sample_and_log_prob(Both(torch.zeros(3), torch.ones(3)), 2)
    assert log_q is not None
    assert (log_q == 7).all()
    assert z.shape == (2, 3)


def _never() -> Tensor:
    raise AssertionError("a closed form was at hand")
