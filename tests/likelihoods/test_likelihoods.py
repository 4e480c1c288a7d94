"""Likelihoods against scipy, in float64, with masks and in every mode."""

from __future__ import annotations

import warnings
from math import inf, log, nan, pi
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal

from conftest import fit
from vaekit import Model, VAEModule, data
from vaekit.contracts import Likelihood
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.draw import Draw
from vaekit.likelihoods import Bernoulli, Gaussian

EVENT = (1, 3, 2)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, *EVENT, dtype=torch.float64)


@pytest.fixture
def y() -> Tensor:
    return torch.randn(4, 5, *EVENT, dtype=torch.float64)


def _summed(terms: np.ndarray) -> Tensor:
    return torch.from_numpy(terms).flatten(2).sum(-1)


def test_bernoulli_is_scipys(x: Tensor, y: Tensor) -> None:
    x = (x > 0.5).double()
    likelihood = Bernoulli(EVENT)
    terms = stats.bernoulli.logpmf(x.numpy(), y.sigmoid().numpy())
    assert torch.allclose(likelihood.log_prob(likelihood(y), x), _summed(terms), atol=1e-12)


def test_bernoulli_on_grey_values_is_minus_the_binary_cross_entropy(x: Tensor, y: Tensor) -> None:
    likelihood = Bernoulli(EVENT)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        y, x.expand_as(y), reduction="none"
    )
    assert torch.allclose(likelihood.log_prob(likelihood(y), x), -loss.flatten(2).sum(-1))


@pytest.mark.parametrize("mean", ["identity", "sigmoid", "tanh"])
def test_gaussian_of_fixed_scale_is_scipys(mean: str, x: Tensor, y: Tensor) -> None:
    likelihood = Gaussian(EVENT, scale=0.3, mean=mean)
    loc = {"identity": y, "sigmoid": y.sigmoid(), "tanh": y.tanh()}[mean]
    terms = stats.norm.logpdf(x.numpy(), loc.numpy(), 0.3)
    assert torch.allclose(likelihood.log_prob(likelihood(y), x), _summed(terms), atol=1e-10)


def test_gaussian_is_half_the_squared_error_plus_the_stated_constant(x: Tensor, y: Tensor) -> None:
    likelihood = Gaussian(EVENT, scale=0.7)
    error = ((x - y) ** 2).flatten(2).sum(-1)
    constant = 6 * (log(0.7) + log(2 * pi) / 2)
    assert torch.allclose(-likelihood.log_prob(likelihood(y), x), error / 2 / 0.49 + constant)


def test_gaussian_with_a_learned_scale(x: Tensor, y: Tensor) -> None:
    likelihood = Gaussian(EVENT, scale="learned", min_scale=0.01).double()
    torch.nn.init.constant_(likelihood.log_scale, log(0.2))
    terms = stats.norm.logpdf(x.numpy(), y.numpy(), 0.21)
    log_prob = likelihood.log_prob(likelihood(y), x)
    assert torch.allclose(log_prob, _summed(terms))
    log_prob.sum().backward()
    assert likelihood.log_scale.grad is not None


def test_gaussian_with_a_scale_per_element(x: Tensor, y: Tensor) -> None:
    likelihood = Gaussian(EVENT, scale="elementwise", min_scale=0.01)
    assert likelihood.output_shape == (2, *EVENT)
    both = torch.stack([y, y.flip(0)], dim=2)  # (K, B, 2, *event)
    terms = stats.norm.logpdf(x.numpy(), y.numpy(), y.flip(0).exp().numpy() + 0.01)
    assert torch.allclose(likelihood.log_prob(likelihood(both), x), _summed(terms))


@pytest.mark.parametrize("mode", ["learned", "elementwise", "optimal"])
def test_a_learned_scale_has_a_floor(mode: str) -> None:
    likelihood = Gaussian(EVENT, scale=mode, min_scale=0.05)
    y = torch.full((1, 5, *likelihood.output_shape), -1e4)
    if mode == "learned":
        torch.nn.init.constant_(likelihood.log_scale, -1e4)
    if mode == "optimal":
        likelihood.variance.zero_()
    assert likelihood(y).base_dist.scale.min() >= 0.05


def test_the_optimal_scale_maximises_the_likelihood_of_the_batch(x: Tensor, y: Tensor) -> None:
    likelihood = Gaussian(EVENT, scale="optimal").double()
    best = likelihood.log_prob(likelihood(y), x).sum()
    scales = torch.linspace(0.3, 3, 200).tolist()
    fixed = [(lik := Gaussian(EVENT, scale=s)).log_prob(lik(y), x).sum().item() for s in scales]
    assert best >= max(fixed)
    assert best == pytest.approx(max(fixed), rel=1e-3)


def test_the_optimal_scale_sends_back_the_gradient_of_the_profile_likelihood(
    x: Tensor, y: Tensor
) -> None:
    # Written out: max over sigma of log p is -N/2 (log(mean square) + 1 + log 2 pi).
    likelihood = Gaussian(EVENT, scale="optimal").double()
    other = y.clone().requires_grad_()
    y.requires_grad_()
    likelihood.log_prob(likelihood(y), x).sum().backward()
    (-y.numel() / 2 * ((x - other) ** 2).mean().log()).backward()
    assert torch.allclose(y.grad, other.grad)


def test_the_optimal_scale_is_stored_in_training_and_used_elsewhere(x: Tensor, y: Tensor) -> None:
    likelihood = Gaussian(EVENT, scale="optimal").double()
    p = likelihood(y)
    draw = Draw(Batch(x), (), x, p, lambda: x)
    before = likelihood.variance.clone()
    likelihood.log_prob(p, x)
    assert torch.equal(likelihood.variance, before)  # never changed in forward
    for _ in range(3):
        likelihood.after_step(draw)
    assert torch.allclose(likelihood.variance, ((x - y) ** 2).mean())
    likelihood.eval()
    x = x * 100  # held-out rows do not set their own scale
    scale = likelihood.variance.sqrt().item()
    terms = stats.norm.logpdf(x.numpy(), y.numpy(), scale)
    assert torch.allclose(likelihood.log_prob(likelihood(y), x), _summed(terms))


@pytest.mark.parametrize("make", [Bernoulli, lambda e: Gaussian(e, scale=0.4)])
def test_masks_add_up_and_hide_nan(make: type[Likelihood], x: Tensor, y: Tensor) -> None:
    likelihood = make(EVENT)
    x = (x > 0.5).double()
    mask = torch.rand_like(x) > 0.4
    y = y.clone().requires_grad_()
    p = likelihood(y)
    whole = likelihood.log_prob(p, x)
    seen, hidden = (likelihood.log_prob(p, x, m) for m in (mask, ~mask))
    assert torch.allclose(seen + hidden, whole)
    spoilt = likelihood.log_prob(p, torch.where(mask, x, nan), mask)
    assert torch.equal(spoilt, seen)
    spoilt.sum().backward()
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_a_mask_on_a_likelihood_that_does_not_factorise_is_refused() -> None:
    p = MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"factorises.*MultivariateNormal"):
        Likelihood().log_prob(p, torch.zeros(3, 2), torch.ones(3, 2) > 0)


def test_data_outside_the_range_is_refused_with_the_range() -> None:
    for bad in ((0.0, 255.0), (-1.0, 1.0), (-inf, inf)):
        with pytest.raises(ValueError, match=r"expected data in \[0, 1\]"):
            Bernoulli(EVENT).check(DataInfo(EVENT, bad, levels=2))
    Gaussian(EVENT).check(DataInfo(EVENT, (-inf, inf)))


def test_disentanglement_libs_bernoulli_on_grey_values_is_allowed_but_said() -> None:
    with pytest.warns(UserWarning, match=r"that of no likelihood.*binarise"):
        Bernoulli(EVENT).check(DataInfo(EVENT, (0.0, 1.0), levels=256))


def test_pytorch_vaes_tanh_against_data_from_0_to_1_is_said() -> None:
    with pytest.warns(UserWarning, match=r"mean is a tanh, in \[-1, 1\], but the data's range"):
        Gaussian(EVENT, mean="tanh").check(DataInfo(EVENT, (0.0, 1.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gaussian(EVENT, mean="sigmoid").check(DataInfo(EVENT, (0.0, 1.0)))
        Gaussian(EVENT).check(DataInfo(EVENT, (0.0, 1.0)))


def test_a_mean_that_cannot_reach_the_data_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sigmoid, in \[0, 1\], and cannot reach data in \[-1, 1\]"
    ):
        Gaussian(EVENT, mean="sigmoid").check(DataInfo(EVENT, (-1.0, 1.0)))


@pytest.mark.parametrize("name", ["Gaussian", "Laplace", "StudentT", "LogCosh"])
def test_latent_diffusions_learned_log_variance_that_is_never_optimised_is_not_here(
    name: str,
) -> None:
    rows = data.Arrays(0.1 * torch.randn(200, 3), batch_size=20)
    spec = {"class_path": name, "init_args": {"scale": "learned"}}
    model = Model(rows, 2, likelihood=spec)
    before = float(model.core.likelihood.log_scale.detach())
    fit(VAEModule(model, {"class_path": "Adam", "init_args": {"lr": 0.02}}), rows, max_epochs=8)
    assert float(model.core.likelihood.log_scale.detach()) < before - 0.5


@pytest.mark.parametrize("scale", [0.3, "learned", "elementwise"])
def test_pythaes_three_sigmas_in_one_model_are_one_here(scale: Any, x: Tensor) -> None:
    """In training, evaluation, the likelihood's estimate and samples the scale is the same."""
    info = DataInfo((3,))
    spec = {"class_path": "Gaussian", "init_args": {"scale": scale}}
    model = Model(info, 2, likelihood=spec).double()
    batch, noise = Batch(x[:, 0, :, 0]), torch.zeros(1, 5, 2).double()
    found = []
    for mode in (True, False):
        draw = model.train(mode).core.draw(batch, noise=noise)
        found.append(draw.p.base_dist.scale)
        terms = stats.norm.logpdf(
            batch.x.numpy(), *(t.detach().numpy() for t in (draw.p.mean, found[-1]))
        )
        assert torch.allclose(draw.log_likelihood, torch.from_numpy(terms).sum(2))
    assert torch.equal(*found)
    p = model.core.decode(draw.z)
    drawn = p.sample((4000,))
    assert torch.allclose(drawn.std(0), found[0], rtol=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 0.0}, "scale to be positive"),
        ({"scale": "lerned"}, "'lerned'"),
        ({"mean": "relu"}, "'relu'"),
        ({"min_scale": 0.0}, "min_scale to be positive"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gaussian(EVENT, **arguments)


def test_an_optimal_scale_survives_a_batch_that_shows_nothing() -> None:
    # Its mean squared error is 0 / 0, which made the weights NaN.
    info = DataInfo((3,))
    model = Model(
        info, likelihood={"class_path": "Gaussian", "init_args": {"scale": "optimal"}}
    ).train()
    hidden = Batch(torch.full((4, 3), torch.nan), mask=torch.zeros(4, 3, dtype=torch.bool))
    terms = model.objective(model.core, hidden, 0)
    terms["loss"].mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(terms["distortion"], torch.zeros(4))
    likelihood = model.core.likelihood
    shown = Batch(torch.randn(4, 3))
    for batch in (hidden, shown, hidden):
        with torch.no_grad():
            likelihood.after_step(model.core.draw(batch))
    assert likelihood.seen.item() == pytest.approx(0.01)
    once = likelihood.variance.item()
    with torch.no_grad():
        likelihood.after_step(model.core.draw(hidden))
    assert likelihood.variance.item() == once > 0
