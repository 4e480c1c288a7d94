"""The flat core against closed forms: probabilistic PCA, whose likelihood is a Normal's."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from conftest import fit
from vaekit import Model, VAEModule, data
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.part import frozen
from vaekit.cores.vae import VAE

LINEAR = {
    "encoder": {"class_path": "MLPEncoder", "init_args": {"hidden": []}},
    "decoder": {"class_path": "MLPDecoder", "init_args": {"hidden": []}},
}


def linear_gaussian(d: int, k: int, scale: float) -> tuple[VAE, Tensor, Tensor]:
    """A linear VAE with the exact posterior put in; its weights W (d, k) and offset."""
    model = Model(
        DataInfo(event_shape=(d,)),
        latent_shape=k,
        likelihood={"class_path": "Gaussian", "init_args": {"scale": scale}},
        **LINEAR,
    ).double()
    basis, _ = torch.linalg.qr(torch.randn(d, k, dtype=torch.float64))
    w = basis * torch.linspace(0.5, 2.0, k, dtype=torch.float64)  # orthogonal columns
    offset = torch.randn(d, dtype=torch.float64)
    # p(z|x) = N(S W'(x - offset) / scale², S), with S = (1 + W'W / scale²)^-1, here diagonal
    s = 1 / (1 + (w**2).sum(0) / scale**2)
    project = (s / scale**2).unsqueeze(1) * w.T
    core = model.core
    with torch.no_grad():
        core.decoder.net[0].weight.copy_(w)
        core.decoder.net[0].bias.copy_(offset)
        core.posterior.linear.weight.copy_(torch.cat([project, torch.zeros(k, d)]))
        core.posterior.linear.bias.copy_(torch.cat([-project @ offset, s.log()]))
    return core, w, offset


def test_with_the_exact_posterior_every_weight_is_the_likelihood_of_probabilistic_pca() -> None:
    core, w, offset = linear_gaussian(d=10, k=3, scale=0.6)
    x = torch.randn(7, 10, dtype=torch.float64) * 2
    covariance = w @ w.T + 0.36 * torch.eye(10, dtype=torch.float64)
    exact = stats.multivariate_normal.logpdf(x.numpy(), offset.numpy(), covariance.numpy())
    draw = core.draw(Batch(x), samples=50)
    assert draw.log_weight.shape == (50, 7)
    assert (draw.log_weight - torch.from_numpy(exact)).abs().max() < 1e-8


def test_a_draw_is_freed_as_soon_as_nobody_holds_it() -> None:
    core = Model(DataInfo(event_shape=(3,)), likelihood="Gaussian", latent_shape=2).core
    draw = core.draw(Batch(torch.randn(4, 3)))
    draw.bound()
    gone = weakref.ref(draw)
    gc.disable()
    try:
        del draw
        assert gone() is None
    finally:
        gc.enable()


def test_with_the_exact_posterior_the_bound_with_closed_kl_is_tight_in_the_mean() -> None:
    core, w, offset = linear_gaussian(d=6, k=2, scale=0.5)
    x = torch.randn(4, 6, dtype=torch.float64)
    covariance = w @ w.T + 0.25 * torch.eye(6, dtype=torch.float64)
    exact = stats.multivariate_normal.logpdf(x.numpy(), offset.numpy(), covariance.numpy())
    draw = core.draw(Batch(x), samples=40_000)
    bound = draw.log_likelihood - draw.rate
    error = bound.std(0) / 40_000**0.5
    assert draw.rate.shape == (1, 4)
    assert ((bound.mean(0) - torch.from_numpy(exact)).abs() < 4 * error).all()


@pytest.mark.slow
def test_training_reaches_the_closed_form_optimum_of_probabilistic_pca() -> None:
    d, k, n = 10, 3, 500
    w = 0.6 * torch.randn(k, d, dtype=torch.float64)
    x = torch.randn(n, k, dtype=torch.float64) @ w + 1.0
    x = x + 0.5 * torch.randn(n, d, dtype=torch.float64)
    # Tipping and Bishop (1999): the optimum keeps the k largest eigenvalues, and the noise is the
    # mean of the others.
    values = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True)))[::-1]
    noise = values[k:].mean()
    log_det = np.log(values[:k]).sum() + (d - k) * np.log(noise)
    optimum = -0.5 * (d * np.log(2 * np.pi) + log_det + d)

    torch.manual_seed(0)
    rows = data.Arrays(x, val=0, test=0, batch_size=100)
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "learned"}}
    model = Model(rows, latent_shape=k, likelihood=likelihood, **LINEAR)
    module = VAEModule(
        model,
        optimizer={"class_path": "Adam", "init_args": {"lr": 0.02}},
        lr_scheduler={"class_path": "ExponentialLR", "init_args": {"gamma": 0.996}},
    )
    fit(module, rows, max_epochs=1200, precision="64-true")
    model.double().eval()
    with torch.no_grad():
        bound = model.core.draw(Batch(x), samples=1000).bound()["elbo"].mean().item()
    assert bound < optimum + 0.005
    assert abs(bound - optimum) < 0.02


def test_evaluation_given_the_same_noise_does_not_depend_on_batch_or_chunk_size() -> None:
    core, _, _ = linear_gaussian(d=5, k=2, scale=0.7)
    x = torch.randn(12, 5, dtype=torch.float64)
    noise = torch.randn(6, 12, 2, dtype=torch.float64)
    whole = core.draw(Batch(x), samples=6, noise=noise).log_weight
    rows = [
        core.draw(Batch(x[i : i + 5]), samples=6, noise=noise[:, i : i + 5]).log_weight
        for i in (0, 5, 10)
    ]
    chunks = [core.draw(Batch(x), samples=2, noise=noise[i : i + 2]).log_weight for i in (0, 2, 4)]
    assert torch.allclose(torch.cat(rows, dim=1), whole, atol=1e-13)
    assert torch.allclose(torch.cat(chunks), whole, atol=1e-13)


def test_stop_gives_the_path_gradient_which_vanishes_at_the_exact_posterior() -> None:
    # Roeder et al. (2017): with log q's parameters stopped, the ELBO's gradient has no noise left
    # where q is exact. With the total gradient it is noise with mean zero.
    core, _, _ = linear_gaussian(d=5, k=2, scale=0.7)
    x = torch.randn(8, 5, dtype=torch.float64)
    weights = list(core.posterior.parameters())
    path = torch.autograd.grad(core.draw(Batch(x), stop=True).log_weight.sum(), weights)
    total = torch.autograd.grad(core.draw(Batch(x)).log_weight.sum(), weights)
    assert max(g.abs().max() for g in path) < 1e-10
    assert max(g.abs().max() for g in total) > 1e-2


def test_frozen_lets_no_gradient_into_parameters_and_leaves_buffers_alone() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    mean = net[1].running_mean.clone()
    x = torch.randn(8, 3, requires_grad=True)
    frozen(net)(x).square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(net[1].running_mean, mean)


@pytest.mark.parametrize("sample", [True, False])
def test_generate_draws_from_the_prior(sample: bool) -> None:
    core, w, offset = linear_gaussian(d=4, k=2, scale=0.6)
    x = core.generate(100_000, sample=sample)
    covariance = w @ w.T + (0.36 * torch.eye(4) if sample else 0)
    assert torch.allclose(x.mean(0), offset, atol=0.03)
    assert torch.allclose(torch.cov(x.T), covariance, atol=0.05)
