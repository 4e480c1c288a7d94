"""The importance-weighted likelihood, against closed forms and whatever the chunks."""

from __future__ import annotations

import subprocess
import sys
from math import log
from typing import Any

import pytest
import torch
from scipy import stats
from test_vae import linear_gaussian
from torch import Tensor

from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import Model, VAEModule, data, log_likelihood, register
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.training.trainer import Trainer

BUDGETS = (1, 3_000, 40_000, 2**30)


def weights_of(core: Any, batch: Batch, samples: int, noise: Any) -> Tensor:
    with torch.no_grad():
        return core.draw(batch, samples, noise=noise).log_weight


def test_it_is_the_likelihood_of_a_linear_gaussian_model_within_its_standard_error() -> None:
    core, w, offset = linear_gaussian(d=8, k=2, scale=0.6)
    with torch.no_grad():  # a posterior that is not the exact one
        core.posterior.linear.bias.add_(torch.tensor([0.2, -0.1, 0.3, 0.3], dtype=torch.float64))
    x = torch.randn(5, 8, dtype=torch.float64) * 1.5
    covariance = w @ w.T + 0.36 * torch.eye(8, dtype=torch.float64)
    exact = stats.multivariate_normal.logpdf(x.numpy(), offset.numpy(), covariance.numpy())
    samples = 20_000
    found = log_likelihood(core, Batch(x), samples)
    # Of the mean of weights, relative to it: 1 / effective - 1 / K is its squared error.
    error = (1 / found.effective_samples - 1 / samples).sqrt()
    assert (error < 0.02).all()
    assert ((found.log_likelihood - torch.from_numpy(exact)).abs() < 4 * error).all()
    assert (found.effective_samples < 0.95 * samples).all()


def test_with_the_exact_posterior_one_draw_is_enough() -> None:
    core, *_ = linear_gaussian(d=8, k=2, scale=0.6)
    x = torch.randn(5, 8, dtype=torch.float64)
    one, many = (log_likelihood(core, Batch(x), samples) for samples in (1, 50))
    assert torch.allclose(one.log_likelihood, many.log_likelihood, rtol=1e-10)
    assert torch.allclose(many.effective_samples, torch.full((5,), 50.0).double(), rtol=1e-8)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("hidden", [False, True])
def test_the_value_is_the_same_for_any_chunk(budget: int, hidden: bool) -> None:
    info = DataInfo((1, 8, 8), (0.0, 1.0), levels=2, context_features=2)
    core = Model(info, latent_shape=3).eval().core
    batch = Batch(torch.rand(7, 1, 8, 8).round(), torch.randn(7, 2))
    if hidden:
        batch.mask = torch.rand_like(batch.x) > 0.4
    noise = torch.randn(31, 7, 3)
    weights = weights_of(core, batch, 31, noise).double()
    found = log_likelihood(core, batch, 31, budget, noise)
    assert torch.allclose(found.log_likelihood.double(), weights.logsumexp(0) - log(31), rtol=2e-6)
    normed = weights.softmax(0)
    assert torch.allclose(found.effective_samples.double(), 1 / normed.square().sum(0), rtol=1e-3)
    assert not found.log_likelihood.requires_grad


def test_a_hierarchy_is_given_noise_for_each_level() -> None:
    register(ConditionalNormal)
    register(TwoLevel)
    core = Model(DataInfo((6,)), latent_shape=2, likelihood="Gaussian", core="TwoLevel").core
    batch = Batch(torch.randn(4, 6))
    draw = core.draw(batch, 9)
    noise = tuple(torch.randn_like(level.z) for level in draw.levels)
    expected = weights_of(core, batch, 9, noise).logsumexp(0) - log(9)
    for budget in BUDGETS:
        found = log_likelihood(core, batch, 9, budget, noise)
        assert torch.allclose(found.log_likelihood, expected, rtol=1e-5)


def test_the_encoder_sees_a_row_once_and_draws_do_not_grow_with_their_number() -> None:
    core = Model(DataInfo((1, 8, 8), (0.0, 1.0), levels=2), latent_shape=3).eval().core
    batch, seen, decoded = Batch(torch.zeros(6, 1, 8, 8)), [], []
    core.encoder.register_forward_hook(lambda *args: seen.append(len(args[2])))
    core.decoder.register_forward_hook(lambda *args: decoded.append(len(args[2])))
    for samples in (10, 1000):
        seen.clear()
        decoded.clear()
        log_likelihood(core, batch, samples, budget=100_000)
        assert seen == [1, 6]  # one to see how large a draw is
        assert sum(decoded) == 6 * samples + 1
        assert max(decoded) <= 60


def test_the_networks_of_a_prior_s_density_are_within_the_budget() -> None:
    prior = {"class_path": "TwoStagePrior", "init_args": {"hidden": [32], "draws": 50}}
    core: Any = Model(DataInfo((4,)), latent_shape=2, likelihood="Gaussian", prior=prior).core
    made: list[int] = []
    for module in (*core.prior.encoder, *core.prior.decoder):
        module.register_forward_hook(lambda *args: made.append(4 * args[2].numel()))
    found = log_likelihood(core.eval(), Batch(torch.zeros(6, 4)), 100, budget=200_000)
    assert found.log_likelihood.isfinite().all()
    assert 6 * 6400 <= max(made) <= 200_000


def test_a_row_without_any_weight_has_no_likelihood_and_harms_no_other() -> None:
    class Walled(torch.nn.Module):
        density = True

        def draw(self, batch: Batch, samples: int = 1, **_: Any) -> Any:
            weight = torch.full((samples, len(batch)), -1.0)
            weight[:, 0] = -torch.inf
            return type("Draw", (), {"log_weight": weight[:, : len(batch)], "z": weight})

    found = log_likelihood(Walled(), Batch(torch.zeros(3, 2)), 10)  # type: ignore[arg-type]
    assert found.log_likelihood.tolist() == [-torch.inf, -1.0, -1.0]
    assert found.effective_samples.tolist() == pytest.approx([0.0, 10.0, 10.0])


def test_given_noise_nothing_is_drawn() -> None:
    core = Model(DataInfo((4,)), latent_shape=2, likelihood="Gaussian").core
    state = torch.get_rng_state()
    log_likelihood(core, Batch(torch.zeros(3, 4)), 5, noise=torch.zeros(5, 3, 2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"samples": 0}, "samples and budget of at least 1 but got 0"),
        ({"samples": 5, "budget": 0}, "samples and budget of at least 1 but got 5 and 0"),
        ({"samples": 5, "noise": torch.zeros(4, 3, 2)}, r"noise of 5 draws of 3 rows.*\(4, 3, 2"),
    ],
)
def test_what_cannot_be_estimated_is_refused(given: dict[str, Any], words: str) -> None:
    core = Model(DataInfo((4,)), latent_shape=2, likelihood="Gaussian").core
    with pytest.raises(ValueError, match=words):
        log_likelihood(core, Batch(torch.zeros(3, 4)), **given)


def test_a_posterior_without_a_density_is_refused() -> None:
    core = Model(DataInfo((4,)), latent_shape=2, likelihood="Gaussian").core
    core.posterior.density = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="Expected a posterior with a density"):
        log_likelihood(core, Batch(torch.zeros(3, 4)), 5)


def test_a_test_tells_the_likelihood_beside_the_bound() -> None:
    rows = data.Digits(binarize="static")
    module = VAEModule(Model(rows, latent_shape=2))
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (plain,) = trainer.test(module, rows, verbose=False)
    (found,) = trainer.test(module, rows, samples=50, verbose=False)
    new = {"log_likelihood", "log_likelihood_error", "log_likelihood_error_draws"}
    new |= {"effective_samples", "effective_samples_error"}
    assert found.keys() - plain.keys() == {f"test/{name}" for name in new}
    assert found["test/elbo"] == pytest.approx(plain["test/elbo"])
    assert found["test/log_likelihood"] > found["test/elbo"]
    assert 1 < found["test/effective_samples"] < 50
    with pytest.raises(ValueError, match="Expected samples of at least 0 but got -1"):
        trainer.test(module, rows, samples=-1)


def test_a_test_reports_standard_errors_over_rows_and_over_draws() -> None:
    rows = data.Digits(binarize="static", batch_size=50)
    module = VAEModule(Model(rows, latent_shape=2))
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (found,) = trainer.test(module, rows, samples=50, verbose=False)
    (batch,) = rows.rows("test", batch_size=1000)
    model = module.model
    terms = model.evaluate(batch.keyed())
    n = len(batch)
    for name in ("elbo", "rate"):
        assert found[f"test/{name}_error"] == pytest.approx(float(terms[name].std()) / n**0.5)
    with model.using():
        repeats = [log_likelihood(model.core, batch, 50)[0] for _ in range(200)]
    every = torch.stack(repeats)
    assert found["test/log_likelihood_error"] == pytest.approx(
        float(every.std(1).mean()) / n**0.5, rel=0.1
    )
    draws = float(every.mean(1).std())
    assert found["test/log_likelihood_error_draws"] == pytest.approx(draws, rel=0.3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_draws() -> None:
    code = """
import resource, sys, torch
from vaekit import Batch, DataInfo, Model, log_likelihood
core = Model(DataInfo((1, 28, 28), (0.0, 1.0), levels=2), latent_shape=8).eval().core
log_likelihood(core, Batch(torch.zeros(20, 1, 28, 28)), int(sys.argv[1]), budget=2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", code, str(samples)]))
        for samples in (500, 10_000)
    ]
    assert peaks[1] < peaks[0] + 20_000  # kB; the draws would take 1.3 GB of logits
