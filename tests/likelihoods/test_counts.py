"""Counts: their libraries, their moments, and models that are found again from what they draw."""

from __future__ import annotations

from math import inf, log
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, data, likelihoods
from vaekit.contracts.batch import Batch
from vaekit.distributions.base import soft_clamp, soft_unclamp
from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial

EVENT = (2, 3)
COUNTS = DataInfo(EVENT, (0.0, inf), context_features=2)


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
    mean = library * (z @ (0.5 * torch.randn(2, genes)) + 2 * torch.rand(genes) + 1.5).exp()
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
    # Where zeros may also be lost counts, an element of which most counts are 0 anyway says less.
    assert away["log r"].abs().median() < 0.08
    assert away["log r"].abs().max() < (0.6 if inflated else 0.3)
    assert away["log mean"].abs().max() < 0.2
    assert away["dropout"].abs().median() < 0.02
    assert away["dropout"].abs().max() < 0.15


def test_a_baseline_knows_the_library() -> None:
    """Without latents a model is the baseline, with the offset of each row's own library."""
    _, x, context = _library(2000)
    likelihood = likelihoods.NegativeBinomial(EVENT, COUNTS, library=1)
    moments = likelihood.moments([Batch(x, context)])
    alone = likelihood.without_latents(*moments)
    with torch.no_grad():
        p = alone(likelihood.output_of(*moments).expand(1, 2000, *EVENT), context[None])
        likelihood.start([Batch(x, context)])
        own = likelihood(torch.zeros(1, 2000, *EVENT), context[None])
    assert torch.allclose(
        likelihood.log_prob(p, x).float(), likelihood.log_prob(own, x), rtol=1e-4
    )
    assert torch.allclose(p.mean[0].mean(0), x.double().mean(0), rtol=1e-6)


def test_moments_of_counts_leave_out_the_librarys_part_of_the_variance() -> None:
    r = torch.tensor([[0.7, 2.0, 5.0]]).double().expand(EVENT)
    sizes = (0.6 * torch.randn(60_000, 1, 1)).exp().double() * 50
    rate = sizes * 0.1 * torch.distributions.Gamma(r, r).sample((60_000,))
    context = torch.cat([torch.zeros(60_000, 1), sizes[:, :, 0].log()], 1)
    likelihood = likelihoods.NegativeBinomial(EVENT, COUNTS, library=1)
    with torch.no_grad():
        likelihood.start([Batch(torch.poisson(rate), context)])
    assert torch.allclose(likelihood.log_r.exp().double(), r, rtol=0.15)


def test_integers_are_counts_of_their_libraries_too() -> None:
    likelihood = likelihoods.Poisson((1,), DataInfo((1,), (0, inf), context_features=1), library=0)
    context = torch.tensor([50.0, 100.0]).log()[:, None]
    mean, variance = likelihood.moments([Batch(torch.tensor([[50], [100]]), context)])
    assert torch.allclose(likelihood.output_of(mean, variance), torch.zeros(1).double(), atol=1e-6)


def test_large_counts_have_exact_terms_in_float32() -> None:
    x, rate = torch.tensor([1e5]), torch.tensor([1.001e5])
    exact = stats.poisson.logpmf(1e5, 1.001e5)
    y = soft_unclamp(rate.log())[None, None]
    poisson = likelihoods.Poisson((1,))
    found = poisson.log_prob(poisson.forward(y), x)
    # The rate itself is known to seven digits, of 1e5 a hundredth.
    assert float(found) == pytest.approx(exact, abs=0.05)
    counts = likelihoods.NegativeBinomial((1,))
    torch.nn.init.constant_(counts.log_r, log(20_000.0))
    exact = stats.nbinom.logpmf(1e5, 20_000, 20_000 / (20_000 + 1.001e5))
    found = counts.log_prob(counts.forward(y), x)
    assert float(found) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("bad", [-inf, 31.0, 1e4])
def test_a_library_size_of_0_or_no_logarithm_is_an_error(bad: float) -> None:
    likelihood = likelihoods.Poisson(EVENT, COUNTS, library=1)
    context = torch.zeros(1, 2, 2)
    context[0, 1, 1] = bad
    words = "of a library size of 0" if bad == -inf else "not the size itself"
    with pytest.raises(ValueError, match=words):
        likelihood(torch.zeros(1, 2, *EVENT), context)


def _library(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rates, counts, and contexts with the logarithm of the rows' library sizes."""
    sizes = torch.rand(rows, 1) * 1000 + 100
    rates = torch.rand(EVENT) * 0.1
    x = torch.poisson(sizes.view(-1, 1, 1) * rates)
    return rates, x, torch.cat([torch.randn(rows, 1), sizes.log()], 1)


def test_a_library_multiplies_the_mean_and_begins_at_the_training_rows_rates() -> None:
    rates, x, context = _library(5000)
    likelihood = likelihoods.NegativeBinomial(EVENT, COUNTS, library=1)
    with torch.no_grad():
        likelihood.start([Batch(x, context)])
    p = likelihood(torch.zeros(1, 5000, *EVENT), context[None])
    sizes = context[:, 1].exp().view(-1, 1, 1)
    assert torch.allclose(p.mean[0] / sizes, rates.expand_as(x), rtol=0.05)


@pytest.mark.parametrize("kind", [likelihoods.Poisson, NegativeBinomial])
def test_rare_counts_of_large_libraries_and_what_no_row_shows_have_a_start(kind: Any) -> None:
    likelihood = kind((3,), DataInfo((3,), (0, inf), context_features=1), library=0)
    x = torch.tensor([[1.0, 0.0, 7.0]]).repeat(100, 1)
    x[10:, 0] = 0.0  # a tenth of a count in a library of 100,000
    mask = torch.tensor([True, True, False]).expand(100, 3)
    context = torch.full((100, 1), 1e5).log()
    with torch.no_grad():
        likelihood.start([Batch(x, context, mask)])
    expected = torch.tensor([0.1 / 1e5, 1e-4 / 1e5, 1e-4])
    assert torch.allclose(soft_clamp(likelihood.shift).exp(), expected, rtol=1e-3)


def test_a_library_has_to_be_a_column_of_the_context() -> None:
    with pytest.raises(ValueError, match="column of the context, which has 2, but got 2"):
        likelihoods.Poisson(EVENT, COUNTS, library=2)
    with pytest.raises(ValueError, match="which has 0, but got 0"):
        likelihoods.Poisson(EVENT, library=0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_such_values_are_refused_before_the_first_step(split: str) -> None:
    x = torch.poisson(torch.full((100, 2), 3.0))
    rows = data.Arrays(x)
    x[int(rows.numbers(split)[5])] = 2.5
    with pytest.raises(ValueError, match=r"whole numbers from 0 but the rows hold 2\.5"):
        fit(Model(rows, 2, likelihood="Poisson"), rows, max_epochs=1)


def test_rows_of_a_foreign_loader_are_begun_at_and_refused_too() -> None:
    x = torch.poisson(torch.full((100, 2), 30.0))
    info = DataInfo((2,), (0.0, inf))
    model = VAEModule(Model(info, 2, likelihood="Poisson"))
    fit(model, torch.utils.data.DataLoader(x, batch_size=10), max_epochs=1)
    shift = model.model.core.likelihood.shift
    assert torch.allclose(shift, x.mean(0).log(), atol=1e-4)
    x[50] = 0.5
    other = VAEModule(Model(info, 2, likelihood="Poisson"))
    with pytest.raises(ValueError, match=r"hold 0\.5"):
        fit(other, torch.utils.data.DataLoader(x, batch_size=10), max_epochs=1)


def test_the_variance_of_zero_inflated_counts_is_that_of_their_probabilities() -> None:
    p = likelihoods.counts.GammaPoisson(
        torch.tensor([1.5]).double(), torch.tensor([0.4]).double(), torch.tensor([-0.7]).double()
    )
    x = torch.arange(2000).double()
    mass = p.log_prob(x).exp()
    mean = (mass * x).sum()
    assert float(mass.sum()) == pytest.approx(1.0)
    assert float(p.mean) == pytest.approx(float(mean))
    assert float(p.variance) == pytest.approx(float((mass * (x - mean).square()).sum()))
