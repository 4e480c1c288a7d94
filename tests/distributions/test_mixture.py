"""Mixtures of any family against torch's own, and what they hold in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_normals import largest_made
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from vaekit.distributions import base as distributions
from vaekit.distributions import mixture as mixtures
from vaekit.distributions.mixture import Mixture

M, B = 5, 4


def families(shape: tuple[int, ...]) -> dict[str, Any]:
    """Of batch shape `shape[:-2]` and event shape `shape[-2:]` or `shape[-1:]`."""
    loc, scale = torch.randn(shape).double(), torch.rand(shape).double() + 0.3
    return {
        "Normal": Independent(distributions.Normal(loc, scale), 2),
        "torch's Normal": Independent(Normal(loc, scale), 2),
        "Laplace": Independent(Laplace(loc, scale), 2),
        "MultivariateNormal": MultivariateNormal(
            loc[..., 0, :], torch.diag_embed(scale[..., 0, :])
        ),
    }


def both(name: str, rows: int | None) -> tuple[Mixture, MixtureSameFamily]:
    """A mixture, and torch's own of the same components, whose dimension it has last."""
    batch = (M,) if rows is None else (M * rows,)
    components = families((*batch, 2, 3))[name]
    log_weights = torch.randn(M) if rows is None else torch.randn(M, rows)
    mixed = Mixture(components, log_weights.double(), rows)
    if rows is None:
        return mixed, MixtureSameFamily(Categorical(logits=log_weights.double()), components)
    at = torch.arange(M * rows).view(M, rows).T  # (B, M)

    def placed(x: Tensor) -> Tensor:
        return x[at]

    if isinstance(components, MultivariateNormal):
        own: Any = MultivariateNormal(*map(placed, (components.loc, components.covariance_matrix)))
    else:
        base = components.base_dist
        own = Independent(type(base)(placed(base.loc), placed(base.scale)), 2)
    return mixed, MixtureSameFamily(Categorical(logits=log_weights.double().T), own)


NAMES = ["Normal", "torch's Normal", "Laplace", "MultivariateNormal"]


@pytest.mark.parametrize("rows", [None, B])
@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_is_torchs(name: str, rows: int | None) -> None:
    p, wanted = both(name, rows)
    event = tuple(p.event_shape)
    assert (p.batch_shape, p.event_shape) == (wanted.batch_shape, wanted.event_shape)
    assert torch.allclose(p.mean, wanted.mean, rtol=1e-12)
    for size in ((), (1,), (6,), (7, 6)):
        z = 2 * torch.randn(*size, *p.batch_shape, *event).double()
        found = p.log_prob(z)
        assert found.shape == (*size, *p.batch_shape)
        assert torch.allclose(found, wanted.log_prob(z), rtol=1e-11)
        assert p.sample(size).shape == z.shape


@pytest.mark.parametrize("rows", [None, B])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("held", [2**22, 5000])  # in one piece, and in many with a last one
def test_draws_of_a_mixture_are_its_own(
    name: str, rows: int | None, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixtures, "_HELD", held)
    p, wanted = both(name, rows)
    z = p.sample(torch.Size([50, 100])).flatten(0, 1)
    spread = wanted.variance.sqrt() / len(z) ** 0.5
    assert ((z.mean(0) - wanted.mean).abs() < 5 * spread).all()
    log_p, other = wanted.log_prob(z), wanted.log_prob(wanted.sample((5000,)))
    error = (log_p.var(0) + other.var(0)).sqrt() / len(z) ** 0.5
    assert ((log_p.mean(0) - other.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("rows", [None, B])
def test_gradients_of_a_mixture_of_normals_are_torchs(rows: int | None) -> None:
    batch = (M,) if rows is None else (M, rows)
    loc, scale = torch.randn(*batch, 3).double(), torch.rand(*batch, 3).double() + 0.3
    log_weights, z = torch.randn(batch).double(), torch.randn(6, *batch[1:], 3).double()
    given = [x.requires_grad_() for x in (loc, scale, log_weights, z)]
    flat = [x.flatten(0, -2) for x in (loc, scale)]
    p = Mixture(Independent(distributions.Normal(*flat), 1), log_weights, rows)
    found = torch.autograd.grad(p.log_prob(z).sum(), given)
    own = Independent(Normal(*(x.movedim(0, -2) for x in (loc, scale))), 1)
    wanted = MixtureSameFamily(Categorical(logits=log_weights.movedim(0, -1)), own)
    for a, b in zip(found, torch.autograd.grad(wanted.log_prob(z).sum(), given), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_narrow_normals_far_from_zero_are_exact_in_float32(scale: float) -> None:
    # Their squared distances, multiplied out, are differences of large numbers.
    loc = 30 + torch.randn(M, 3)
    z = loc + scale * torch.randn(6, M, 3)
    p = Mixture(Independent(distributions.Normal(loc, torch.full_like(loc, scale)), 1), loc[:, 0])
    exact = MixtureSameFamily(
        Categorical(logits=loc[:, 0].double()),
        Independent(Normal(loc.double(), torch.full_like(loc, scale).double()), 1),
    )
    found = p.log_prob(z)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact.log_prob(z.double()), rtol=1e-5, atol=1e-5)


def test_a_mixture_of_normals_holds_no_latents_for_each_component() -> None:
    loc = torch.randn(50, 16, requires_grad=True)
    p = Mixture(Independent(distributions.Normal(loc, torch.ones_like(loc)), 1), torch.zeros(50))
    z = torch.randn(7, 8, 16, requires_grad=True)
    assert largest_made(lambda: p.log_prob(z)) <= 7 * 8 * 50 < z.numel() * 50


@pytest.mark.parametrize("rows", [None, B])
def test_draws_of_normals_hold_one_component_each(rows: int | None) -> None:
    p, _ = both("Normal", rows)
    held = largest_made(lambda: p.sample(torch.Size([700])).requires_grad_())
    assert held == 700 * (rows or 1) * 6


@pytest.mark.parametrize("rows", [None, B])
def test_draws_of_others_hold_a_few_of_all_components(
    rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixtures, "_HELD", 6000)
    p, _ = both("Laplace", rows)
    held = largest_made(lambda: p.sample(torch.Size([10, 70])).requires_grad_())
    assert held <= max(6000, 700 * (rows or 1) * 6) < 700 * (rows or 1) * 6 * M
    once = largest_made(lambda: p.sample().requires_grad_())
    assert once == M * (rows or 1) * 6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [None, B])
def test_no_gradient_reaches_what_a_mixture_draws_from(name: str, rows: int | None) -> None:
    weights = torch.zeros(M, requires_grad=True)
    p = Mixture(both(name, rows)[0].components, weights, rows)
    base: Any = getattr(p.components, "base_dist", p.components)
    base.loc.requires_grad_()
    assert not p.sample(torch.Size([3])).requires_grad


def test_a_mixture_of_numbers_is_one_too() -> None:
    loc = torch.randn(M)
    p = Mixture(Independent(distributions.Normal(loc, torch.ones(M)), 0), torch.zeros(M))
    wanted = MixtureSameFamily(Categorical(logits=torch.zeros(M)), Normal(loc, torch.ones(M)))
    z = torch.randn(6, 2)
    assert torch.allclose(p.log_prob(z), wanted.log_prob(z), atol=1e-6)
    assert p.sample(torch.Size([6, 2])).shape == z.shape


def test_a_normal_with_a_density_of_its_own_keeps_it_in_a_mixture() -> None:
    class Flat(Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            return torch.zeros_like(value + self.loc)

    p = Mixture(Independent(Flat(torch.zeros(M, 2), torch.ones(M, 2)), 1), torch.zeros(M))
    assert torch.allclose(p.log_prob(torch.ones(3, 2)), torch.zeros(3), atol=1e-6)
