"""Every likelihood against scipy, in float64; with masks, contexts and at the edges."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import inf, log, nan
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from vaekit import DataInfo, Model, likelihoods
from vaekit.contracts import Likelihood
from vaekit.contracts.batch import Batch
from vaekit.likelihoods.binary import Exponential01

EVENT = (2, 3)
GREY = DataInfo(EVENT, (0.0, 1.0), levels=256)
FIVE = DataInfo(EVENT, (-1.0, 1.0), levels=5)
COUNTS = DataInfo(EVENT, (0.0, inf), context_features=2)


def _levels(n: int) -> Tensor:
    return torch.randint(n, (4, *EVENT)).double()


def _logistic(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """By differences of the distribution function, in bins whose ends are open."""
    loc, scale = y[:, :, 0], 0.1 / 255 + np.exp(y[:, :, 1])
    edges = np.concatenate([[-inf], (np.arange(255) + 0.5) / 255, [inf]])
    k = np.rint(x * 255).astype(int)
    high, low = ((edges[k + i] - loc) / scale for i in (1, 0))
    with mpmath.workdps(1000):  # for what is left of them more than a thousand scales away
        return np.vectorize(lambda b, a: float(mpmath.log(_sigmoid(b) - _sigmoid(a))))(high, low)


def _sigmoid(z: float) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-mpmath.mpf(z)))


def _zinb(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    mean, lost = y[:, :, 0], y[:, :, 1]
    counted = special.log_expit(-lost) + stats.nbinom.logpmf(x, 1.0, special.expit(-mean))
    return np.logaddexp(counted, np.where(x == 0, special.log_expit(lost), -inf))


def _sech(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    scale = 0.4  # scipy's is sech(z) / pi, z = x / scale
    return stats.hypsecant.logpdf(x, y, scale)


# A likelihood, what draws rows x (B, *event), and scipy's log p of each element from
# y (K, B, *output_shape).
CASES: dict[str, tuple[Callable[[], Likelihood], Callable[[], Tensor], Callable[..., Any]]] = {
    "Laplace": (
        lambda: likelihoods.Laplace(EVENT, scale=0.3),
        lambda: torch.randn(4, *EVENT).double(),
        lambda y, x: stats.laplace.logpdf(x, y, 0.3),
    ),
    "Laplace elementwise": (
        lambda: likelihoods.Laplace(EVENT, scale="elementwise", min_scale=0.01),
        lambda: torch.randn(4, *EVENT).double(),
        lambda y, x: stats.laplace.logpdf(x, y[:, :, 0], 0.01 + np.exp(y[:, :, 1])),
    ),
    "StudentT": (
        lambda: likelihoods.StudentT(EVENT, df=2.5, scale=0.7),
        lambda: 10 * torch.randn(4, *EVENT).double(),
        lambda y, x: stats.t.logpdf(x, 2.5, y, 0.7),
    ),
    "LogCosh": (
        lambda: likelihoods.LogCosh(EVENT, scale=0.4),
        lambda: 20 * torch.randn(4, *EVENT).double(),
        _sech,
    ),
    "LogNormal": (
        lambda: likelihoods.LogNormal(EVENT, scale=0.6, from_baseline=False),
        lambda: torch.randn(4, *EVENT).double().exp(),
        lambda y, x: stats.lognorm.logpdf(x, 0.6, scale=np.exp(y)),
    ),
    "Beta": (
        lambda: likelihoods.Beta(EVENT, margin=0.01),
        lambda: torch.rand(4, *EVENT).double().round(decimals=1),
        lambda y, x: (
            stats.beta.logpdf(
                (x + 0.01) / 1.02,
                1e-3 + special.expit(y[:, :, 0]) * np.exp(y[:, :, 1]),
                1e-3 + special.expit(-y[:, :, 0]) * np.exp(y[:, :, 1]),
            )
            - log(1.02)
        ),
    ),
    "ContinuousBernoulli": (
        lambda: likelihoods.ContinuousBernoulli(EVENT),
        lambda: torch.rand(4, *EVENT).double(),
        lambda y, x: x * y + np.log(y / np.expm1(y)),
    ),
    "Categorical": (
        lambda: likelihoods.Categorical(EVENT, FIVE),
        lambda: _levels(5) / 2 - 1,
        lambda y, x: np.take_along_axis(
            special.log_softmax(y, 2),
            np.broadcast_to(np.rint(2 * x + 2).astype(int)[None, :, None], y[:, :, :1].shape),
            2,
        )[:, :, 0],
    ),
    "DiscretizedLogistic": (
        lambda: likelihoods.DiscretizedLogistic(EVENT, GREY),
        lambda: _levels(256) / 255,
        _logistic,
    ),
    "Poisson": (
        lambda: likelihoods.Poisson(EVENT),
        lambda: _levels(9),
        lambda y, x: stats.poisson.logpmf(x, np.exp(y)),
    ),
    "NegativeBinomial": (
        lambda: likelihoods.NegativeBinomial(EVENT),
        lambda: _levels(9),
        lambda y, x: stats.nbinom.logpmf(x, 1.0, 1 / (1 + np.exp(y))),
    ),
    "NegativeBinomial elementwise": (
        lambda: likelihoods.NegativeBinomial(EVENT, dispersion="elementwise"),
        lambda: _levels(9),
        lambda y, x: stats.nbinom.logpmf(
            x, np.exp(y[:, :, 1]), 1 / (1 + np.exp(y[:, :, 0] - y[:, :, 1]))
        ),
    ),
    "ZeroInflatedNegativeBinomial": (
        lambda: likelihoods.ZeroInflatedNegativeBinomial(EVENT),
        lambda: _levels(3),
        _zinb,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_likelihood_is_scipys(name: str) -> None:
    make, draw, scipys = CASES[name]
    likelihood, x = make(), draw()
    y = torch.randn(3, 4, *likelihood.output_shape).double()
    terms = torch.from_numpy(np.ascontiguousarray(scipys(y.numpy(), x.numpy())))
    p = likelihood(y)
    assert torch.allclose(likelihood.elements(p, x), terms, rtol=1e-8, atol=1e-8)
    assert torch.allclose(likelihood.log_prob(p, x), terms.flatten(2).sum(2), rtol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_a_mean_is_that_of_the_samples(name: str) -> None:
    make, _, _ = CASES[name]
    likelihood = make()
    p = likelihood(torch.randn(1, 2, *likelihood.output_shape).double())
    drawn = p.sample((20_000,))
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - p.mean).abs() < 5.5 * error + 1e-4).all()
    assert likelihood.point(p).shape == (1, 2, *EVENT)


@pytest.mark.parametrize("name", CASES)
def test_masks_add_up_hide_nan_and_leave_gradients_finite(name: str) -> None:
    make, draw, _ = CASES[name]
    likelihood, x = make(), draw()
    y = torch.randn(3, 4, *likelihood.output_shape).double().requires_grad_()
    mask = torch.rand(x.shape) > 0.4
    p = likelihood(y)
    seen, hidden = (likelihood.log_prob(p, x, m) for m in (mask, ~mask))
    assert torch.allclose(seen + hidden, likelihood.log_prob(p, x))
    spoilt = likelihood.log_prob(p, torch.where(mask, x, nan), mask)
    assert torch.equal(spoilt, seen)
    (gradient,) = torch.autograd.grad(spoilt.sum(), y)
    assert gradient.isfinite().all()


EDGES = {
    "Bernoulli": (DataInfo(EVENT, (0, 1), levels=2), {}, (0.0, 1.0)),
    "ContinuousBernoulli": (GREY, {}, (0.0, 1 / 255, 0.5, 1.0)),
    "Gaussian": (DataInfo(EVENT), {}, (-1e6, 0.0, 1e6)),
    "Laplace": (DataInfo(EVENT), {}, (-1e6, 0.0, 1e6)),
    "StudentT": (DataInfo(EVENT), {}, (-1e6, 0.0, 1e6)),
    "LogCosh": (DataInfo(EVENT), {}, (-1e6, 0.0, 1e6)),
    "LogNormal": (DataInfo(EVENT, (0, inf)), {}, (1e-30, 1.0, 1e6)),
    "Beta": (GREY, {}, (0.0, 1 / 255, 1.0)),
    "Categorical": (GREY, {}, (0.0, 1 / 255, 1.0)),
    "DiscretizedLogistic": (GREY, {}, (0.0, 1 / 255, 1.0)),
    "DiscretizedLogisticMixture": (GREY, {}, (0.0, 1 / 255, 1.0)),
    "Poisson": (COUNTS, {"library": 1}, (0.0, 1.0, 1e5)),
    "NegativeBinomial": (COUNTS, {"library": 1}, (0.0, 1.0, 1e5)),
    "ZeroInflatedNegativeBinomial": (COUNTS, {"library": 1}, (0.0, 1.0, 1e5)),
}


@pytest.mark.parametrize("size", [0.0, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("name", EDGES)
def test_values_and_gradients_are_finite_at_the_edges(name: str, size: float) -> None:
    """With a mask and without, with a context, in bfloat16, for outputs of every size."""
    info, init_args, values = EDGES[name]
    spec = {"class_path": name, "init_args": init_args}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        likelihood = Model(info, likelihood=spec).core.likelihood
    x = torch.tensor(values).repeat(24)[:24].view(4, *EVENT)
    context = torch.randn(4, 2) if info.context_features else None
    for dtype in (torch.float32, torch.bfloat16):
        y = (size * torch.randn(2, 4, *likelihood.output_shape)).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            p = likelihood(y.float(), context if context is None else context.expand(2, 4, 2))
            for mask in (None, torch.rand(x.shape) > 0.5):
                log_p = likelihood.log_prob(p, x, mask)
                assert log_p.isfinite().all()
                assert log_p.dtype == torch.float32
                (gradient,) = torch.autograd.grad(log_p.sum(), y, retain_graph=True)
                assert gradient.isfinite().all()
        if name != "LogNormal":  # whose samples are as large as exp(y)
            assert p.sample().isfinite().all()


def _without_latents(likelihood: Any, mean: Any, variance: Any) -> Any:
    """p(x) at the moments."""
    y = likelihood.output_of(mean, variance)
    return likelihood.without_latents(mean, variance)(y[None, None])


@pytest.mark.parametrize("name", [n for n in EDGES if n not in ("LogNormal", "Gaussian")])
def test_independent_elements_have_the_moments_of_the_rows(name: str) -> None:
    info, _, values = EDGES[name]
    if max(values) > 1:
        values = (0.0, 0.0, 0.0, 2.0, 5.0)
    x = torch.tensor(values).double()[torch.randint(len(values), (4000, *EVENT))]
    spec = {"class_path": name, "init_args": {"df": 30.0} if name == "StudentT" else {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        likelihood = Model(info, likelihood=spec).core.likelihood
    p = _without_latents(likelihood, *likelihood.moments([Batch(x)]))
    mean = likelihood.point(p) if name == "DiscretizedLogisticMixture" else p.mean
    # Rounded into open bins, a logistic loses a part of its tails.
    loose = name.startswith(("Discretized", "Beta"))
    assert torch.allclose(mean, x.mean(0), atol=0.1 if loose else 0.02)


def test_the_constant_of_a_continuous_bernoulli_is_right_at_one_half_and_far_from_it() -> None:
    # Against the integral, by the trapezoidal rule; torch's is off by 1e-5 beside one half.
    logits = torch.tensor([0.0, 1e-9, -1e-4, 0.19, 0.21, -3.0, 40.0, -40.0]).double()
    x = torch.linspace(0, 1, 400_001).double()
    integral = torch.trapezoid((logits[:, None] * (x - 0.5)).exp(), x)
    assert torch.allclose(
        Exponential01(logits).log_prob(torch.tensor(0.5)), -integral.log(), atol=1e-7
    )
    single = Exponential01(logits.float())
    assert torch.allclose(single.log_prob(torch.tensor(0.5)).double(), -integral.log(), atol=1e-5)
    mean = torch.trapezoid(x * (logits[:, None] * (x - 0.5)).exp(), x) / integral
    assert torch.allclose(Exponential01(logits).mean, mean, atol=1e-7)
    assert torch.allclose(single.mean.double(), mean, atol=1e-5)
    assert torch.autograd.gradcheck(
        lambda t: Exponential01(t).log_prob(torch.tensor(0.3).double()), logits.requires_grad_()
    )


def test_a_beta_of_high_concentration_is_exact_in_float32() -> None:
    likelihood = likelihoods.Beta((1,), margin=0.0)
    for concentration in (5.0, 12.0, 18.0):
        y = torch.tensor([0.3, concentration]).view(1, 1, 2, 1)
        x = torch.tensor([[0.5745]])
        found = [
            float(likelihood.log_prob(likelihood(y.to(t)), x.to(t)))
            for t in (torch.float32, torch.float64)
        ]
        # The mean itself is known to seven digits, and the density is as narrow as exp(-c / 2).
        assert found[0] == pytest.approx(found[1], abs=0.02 if concentration < 15 else 2)


@pytest.mark.parametrize("margin", [0.0, 1e-3])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_beta_is_exact_at_values_below_the_eps_of_float32(
    margin: float, kind: torch.dtype
) -> None:
    # With margin 0, log p was that of eps: 11.483 at 1e-9 instead of 15.936 (alpha 0.5, beta 1).
    x = torch.tensor([1e-40, 1e-30, 1e-9, 1e-8, 0.3, 1 - 2**-23, 1 - 2**-24], dtype=kind)
    for alpha, beta in ((0.25, 0.5), (0.5, 1.0), (3.0, 0.7), (2.0, 9.0)):
        ends = torch.tensor([alpha, beta], dtype=torch.float64).log()
        y = torch.stack([ends[0] - ends[1], torch.tensor(alpha + beta).double().log()])
        likelihood = likelihoods.Beta((1,), margin=margin)
        p = likelihood(y.view(1, 1, 2, 1))
        unit = p.base_dist.unit
        exact = stats.beta(float(unit.concentration1), float(unit.concentration0))
        width = 1 + 2 * margin
        wanted = exact.logpdf((x.double().numpy() + margin) / width) - log(width)
        found = p.log_prob(x.view(-1, 1, 1, 1)).flatten()
        assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-6, abs=1e-6)


def test_a_beta_is_finite_where_rounding_moved_a_value_to_an_end() -> None:
    for margin in (0.0, 1e-3):
        likelihood = likelihoods.Beta((1,), margin=margin)
        y = torch.tensor([0.3, 4.0]).view(1, 1, 2, 1).requires_grad_()
        x = torch.tensor([-margin - 1e-10, -margin, 1 + margin, 1 + margin + 1e-7])
        x = x.view(-1, 1, 1, 1).requires_grad_()
        log_p = likelihood(y).log_prob(x)
        assert log_p.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_p.sum(), (x, y)))


@pytest.mark.parametrize("df", [1.0, 2.0])
def test_without_a_variance_a_students_scale_is_that_of_the_rows(df: float) -> None:
    likelihood = likelihoods.StudentT((1,), df=df, scale="elementwise")
    p = _without_latents(likelihood, torch.zeros(1).double(), torch.tensor([25.0]).double())
    assert float(p.base_dist.scale) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("name", "info", "words"),
    [
        ("Bernoulli", DataInfo(EVENT, (0, 9)), r"\[0, 1\].*\[0, 9\].*Gaussian.*Poisson"),
        ("LogNormal", DataInfo(EVENT), r"positive data.*\[-inf, inf\].*such data: .*Gaussian"),
        ("Poisson", GREY, r"whole numbers from 0.*256 levels.*Categorical"),
        ("Poisson", DataInfo(EVENT, (-3, 3)), "whole numbers from 0"),
        ("Poisson", DataInfo(EVENT, (0, 1)), "whole numbers from 0.*Beta"),
        ("NegativeBinomial", DataInfo(EVENT, (0, 1), bin_width=0.1), "whole numbers from 0"),
        ("Categorical", DataInfo(EVENT, (0, inf)), "known number of levels.*Poisson"),
        ("Beta", DataInfo(EVENT, (-1, 1)), r"\[0, 1\].*Laplace"),
    ],
)
def test_the_error_for_data_out_of_range_names_likelihoods_that_take_it(
    name: str, info: DataInfo, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Model(info, likelihood=name)
    named = str(caught.value).partition("for such data: ")[2].partition(".")[0]
    others = named.replace("Choose one of them", "").split(", ")
    assert name not in others
    assert not {"MSSSIM", "FeatureSpace"} & set(others)
    for other in others:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Model(info, likelihood=other)


@pytest.mark.parametrize(
    ("likelihood", "x", "words"),
    [
        (likelihoods.Poisson((1,)), [[1.0], [2.5]], r"whole numbers from 0 but .* hold 2\.5"),
        (likelihoods.NegativeBinomial((1,)), [[-1.0]], "whole numbers from 0 but .* hold -1"),
        (likelihoods.LogNormal((1,)), [[1.0], [0.0]], "positive values but .* hold 0"),
        (likelihoods.LogNormal((1,), scale=1.0), [[-2.0]], "positive values but .* hold -2"),
        (likelihoods.Beta((1,), margin=0.0), [[0.5], [1.0]], "hold 1. Give it a margin"),
    ],
)
def test_values_that_a_range_cannot_tell_are_refused_unless_they_are_hidden(
    likelihood: Any, x: list[list[float]], words: str
) -> None:
    rows = torch.tensor(x)
    with pytest.raises(ValueError, match=words):
        likelihood.check_rows(rows)
    likelihood.check_rows(rows, torch.zeros_like(rows, dtype=torch.bool))
    likelihood.check_rows(torch.ones(3, 1) if likelihood.data_range[1] > 1 else rows[:1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: likelihoods.StudentT(EVENT, df=0.0), "df, degrees of freedom, to be positive"),
        (lambda: likelihoods.Laplace(EVENT, scale="optimal"), "'optimal'"),
        (lambda: likelihoods.Beta(EVENT, margin=-1.0), "margin to be at least 0"),
        (lambda: likelihoods.NegativeBinomial(EVENT, dispersion="gene"), "'gene'"),
        (lambda: likelihoods.Categorical(EVENT, DataInfo(EVENT)), "known number of levels"),
        (
            lambda: likelihoods.DiscretizedLogistic(EVENT, GREY, scale="x"),
            "elementwise or learned",
        ),
        (lambda: likelihoods.DiscretizedLogistic(EVENT, GREY, min_scale=0), "min_scale"),
        (lambda: likelihoods.DiscretizedLogisticMixture(EVENT, GREY, 0), "at least one"),
        (lambda: likelihoods.DiscretizedLogisticMixture(EVENT, GREY, 1, 0), "min_scale"),
    ],
)
def test_bad_arguments_say_what_was_expected(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
