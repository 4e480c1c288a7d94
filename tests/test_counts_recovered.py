"""Counts drawn from a known model: its dispersion, dropout and mean come back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import fit
from vaekit import Model, VAEModule, data
from vaekit.batch import Batch
from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial


def _drawn(mean: Tensor, r: Tensor, dropout: Tensor | float = 0.0) -> Tensor:
    """By its definition: a Poisson count of a Gamma rate, or nothing."""
    rate = mean * torch.distributions.Gamma(r, r).sample(mean.shape[:1])
    return torch.poisson(rate) * (torch.rand(mean.shape) >= dropout)


@pytest.mark.parametrize("inflated", [False, True])
def test_the_maximum_of_the_likelihood_is_the_truth_within_its_standard_errors(
    inflated: bool,
) -> None:
    rows = 20_000
    mean, r, dropout = 3.0, 1.7, 0.3 if inflated else 0.0
    x = _drawn(torch.full((rows, 1), mean).double(), torch.tensor([r]).double(), dropout)
    kind = ZeroInflatedNegativeBinomial if inflated else NegativeBinomial
    likelihood = kind((1,), dispersion="elementwise")
    truth = torch.tensor([mean, r, *([dropout / (1 - dropout)] if inflated else [])]).log()
    order = [0, 2, 1] if inflated else [0, 1]  # the decoder gives mean, zeros, dispersion

    def loss(theta: Tensor) -> Tensor:
        y = theta.view(1, 1, -1, 1)
        return -likelihood.log_prob(likelihood(y), x).sum()

    theta = torch.zeros(len(truth)).double().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theta) / rows
        value.backward()
        return value

    optimizer.step(closure)
    information = torch.autograd.functional.hessian(loss, theta.detach())
    error = information.inverse().diagonal().sqrt()
    away = (theta.detach() - truth[order]) / error
    assert away.abs().max() < 4
    assert error.max() < 0.1  # of a logarithm: a tenth of the parameter


def test_moments_find_a_dropout_that_is_there() -> None:
    mean, r = torch.full((50_000, 3), 4.0).double(), torch.tensor([1.0, 3.0, 8.0]).double()
    dropout = torch.tensor([0.2, 0.4, 0.6]).double()
    x = _drawn(mean, r, dropout)
    likelihood = ZeroInflatedNegativeBinomial((3,))
    with torch.no_grad():
        likelihood.start([Batch(x)])
    assert likelihood.shift is not None
    assert torch.allclose(likelihood.shift[1].sigmoid().double(), dropout, atol=0.03)
    assert torch.allclose(likelihood.shift[0].exp().double(), mean[0], rtol=0.06)
    assert torch.allclose(likelihood.log_r.exp().double(), r, rtol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("inflated", [False, True])
def test_a_model_finds_the_dispersion_dropout_and_mean_of_each_element(inflated: bool) -> None:
    rows, genes = 4000, 30
    z, library = torch.randn(rows, 2), torch.exp(0.3 * torch.randn(rows, 1))
    mean = library * (z @ (0.5 * torch.randn(2, genes)) + 2 * torch.rand(genes) + 0.5).exp()
    r = (torch.rand(genes) * 2 - 0.5).exp()
    dropout = 0.1 + 0.4 * torch.rand(genes) if inflated else torch.zeros(genes)
    x = _drawn(mean, r, dropout)
    counts = data.Arrays(x, context=library.log(), batch_size=100, data_range=(0, float("inf")))
    kind = "ZeroInflatedNegativeBinomial" if inflated else "NegativeBinomial"
    model = Model(
        counts,
        2,
        encoder={"class_path": "MLPEncoder", "init_args": {"hidden": [64]}},
        decoder={"class_path": "MLPDecoder", "init_args": {"hidden": [64]}},
        likelihood={"class_path": kind, "init_args": {"library": 0}},
    )
    module = VAEModule(model, {"class_path": "Adam", "init_args": {"lr": 0.003}})
    fit(module, counts, max_epochs=60)
    likelihood = model.core.likelihood
    with model.using():
        draw = model.core.draw(Batch(x, library.log()))
        p = draw.p.base_dist
    # A single draw of z for each row blurs its mean, but not the mean of its logarithm over rows.
    away = {
        "log r": likelihood.log_r.detach() - r.log(),
        "log mean": (p.log_mean[0] - mean.log()).mean(0),
        "dropout": p.zero[0].sigmoid().mean(0) - dropout if inflated else dropout,
    }
    print({name: (float(e.abs().median()), float(e.abs().max())) for name, e in away.items()})
    # Where zeros may also be lost counts, an element of few counts says less of its dispersion.
    assert away["log r"].abs().median() < (0.15 if inflated else 0.1)
    assert away["log r"].abs().max() < (0.8 if inflated else 0.3)
    assert away["log mean"].abs().max() < (0.2 if inflated else 0.15)
    assert away["dropout"].abs().max() < 0.06
