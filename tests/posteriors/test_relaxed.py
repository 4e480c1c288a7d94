"""Discrete latents and what they are relaxed to, against torch, scipy and quadrature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    constraints,
    kl_divergence,
)
from torch.distributions import RelaxedBernoulli as TorchRelaxedBernoulli

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, data, load
from vaekit.contracts.batch import Batch
from vaekit.contracts.schedule import Schedule
from vaekit.distributions.base import transport
from vaekit.distributions.concrete import Bits, ConcreteBits, ConcreteOneHot, OneHot
from vaekit.numerics.random import fixed_noise
from vaekit.posteriors import RelaxedBernoulli, RelaxedCategorical
from vaekit.priors import UniformBernoulli, UniformCategorical
from vaekit.schedules import Cyclical, Linear
from vaekit.testing.grids import grid_of
from vaekit.training.compile import Compiled

TEMPERATURES = [0.3, 2 / 3, 1.7]
PAIR = DataInfo((2,), (0.0, 1.0), levels=2)
LATENTS: dict[str, dict[str, Any]] = {
    "bits": {"posterior": "RelaxedBernoulli", "prior": "UniformBernoulli"},
    "one-hot": {"posterior": "RelaxedCategorical", "prior": "UniformCategorical"},
}


def concrete(family: Any, logits: Any, temperature: float) -> Any:
    return family(torch.as_tensor(logits).double(), torch.tensor(temperature, dtype=torch.float64))


def model(latents: str, shape: Any, **changes: Any) -> Model:
    return Model(PAIR, latent_shape=shape, **{**LATENTS[latents], **changes})


# The relaxed densities


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_relaxed_densities_are_torchs(temperature: float) -> None:
    logits = torch.randn(5, 4).double()
    t = torch.tensor(temperature).double()
    q, theirs = ConcreteBits(logits, t), TorchRelaxedBernoulli(t, logits=logits)
    z = theirs.sample((7,)).clamp(1e-9, 1 - 1e-9)
    assert torch.allclose(q.log_prob(z), theirs.log_prob(z), rtol=1e-6)
    one, other = ConcreteOneHot(logits, t), RelaxedOneHotCategorical(t, logits=logits)
    z = one.sample((7,))
    assert torch.allclose(one.log_prob(z), other.log_prob(z), rtol=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_relaxed_densities_integrate_to_one(temperature: float) -> None:
    logits = torch.tensor([[1.5], [-4.0]]).double()
    q = concrete(ConcreteBits, logits, temperature)
    grid = grid_of(constraints.unit_interval, q.sample((2000,)), 2)  # its last cell is cut
    total = (q.log_prob(grid.points).squeeze(2) + grid.log_volume).logsumexp(0)
    high, low = ((end * temperature - logits).sigmoid() for end in (33, -33))
    assert torch.allclose(total.exp(), (high - low).squeeze(1), atol=1e-4)  # the grid goes so far
    for classes in ([[1.5, 0.0]], [[1.5, -0.7, 0.2]]):
        q = concrete(ConcreteOneHot, classes, temperature)
        grid = grid_of(constraints.simplex, q.sample((2000,)))
        total = (q.log_prob(grid.points) + grid.log_volume).logsumexp(0)
        assert torch.allclose(total, torch.zeros(1).double(), atol=1e-4)


@pytest.mark.parametrize("given", [False, True])
def test_draws_are_those_of_logistic_and_gumbel_noise(given: bool) -> None:
    def drawn(q: Any) -> Tensor:
        if not given:
            return q.rsample((20_000,))
        return transport(q, torch.randn(20_000, *q.batch_shape, *q.event_shape).double())

    z = drawn(concrete(ConcreteBits, [-1.0], 0.6))
    logistic = 0.6 * z.logit() + 1.0
    assert stats.kstest(logistic.flatten(), stats.logistic.cdf).pvalue > 1e-4
    logits = torch.tensor([0.5, -1.0, 1.0]).double()
    log_z = drawn(concrete(ConcreteOneHot, logits, 0.6)).log()
    for i, j in ((0, 1), (1, 2), (0, 2)):  # the difference of two Gumbels is logistic
        logistic = 0.6 * (log_z[:, i] - log_z[:, j]) - (logits[i] - logits[j])
        assert stats.kstest(logistic, stats.logistic.cdf).pvalue > 1e-4
    share = (log_z.argmax(1)[:, None] == torch.arange(3)).double().mean(0)
    assert torch.allclose(share, logits.softmax(0), atol=0.02)


def test_given_noise_is_mapped_by_quantiles() -> None:
    noise = torch.tensor([-6.0, -1.0, 0.3, 5.0]).double()
    u = stats.norm.cdf(noise)
    z = transport(concrete(ConcreteBits, torch.zeros(4), 1.0), noise)
    assert np.allclose(z, u, rtol=1e-9)
    z = transport(concrete(ConcreteOneHot, torch.zeros(4), 1.0), noise)
    assert np.allclose(z.log().diff(), np.diff(stats.gumbel_r.ppf(u)), rtol=1e-9)


def function(z: Tensor) -> Tensor:
    return (z * torch.tensor([1.0, -0.5, 2.0])[: z.shape[-1]]).sum(-1).cos()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("family", "support", "logits"),
    [
        (ConcreteBits, constraints.unit_interval, [[1.2]]),
        (ConcreteOneHot, constraints.simplex, [[1.2, -0.3, 0.4]]),
    ],
)
def test_gradients_through_draws_are_those_of_integrals(
    family: Any, support: Any, logits: Any, temperature: float
) -> None:
    at = torch.tensor(logits).double().requires_grad_()
    q = concrete(family, at, temperature)
    grid = grid_of(support, q.sample((2000,)))
    log_prob = q.log_prob(grid.points)
    weight = (log_prob.flatten(1) + grid.log_volume).exp()
    (wanted,) = torch.autograd.grad((weight * function(grid.points)).sum(), at)
    found = []
    for _ in range(20):
        mean = function(q.rsample((20_000,))).mean()
        found.append(torch.autograd.grad(mean, at)[0])
    error = torch.stack(found).std(0) / 20**0.5
    assert (error < 0.01).all()
    assert ((torch.stack(found).mean(0) - wanted).abs() < 5 * error + 1e-5).all()


# At the ends


@pytest.mark.parametrize("family", [ConcreteBits, ConcreteOneHot])
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 2 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_give_finite_terms_and_gradients(
    family: Any, temperature: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([20.0, 0.0, -20.0], dtype=dtype, requires_grad=True)
    q = family(logits, torch.tensor(temperature, dtype=dtype))
    p = family(torch.zeros(3, dtype=dtype), torch.tensor(0.5, dtype=dtype))
    z = q.rsample((2000,))
    assert ((z > 0) & (z <= 1)).all()
    term = 3 * (q.log_prob(z) - p.log_prob(z))
    assert term.isfinite().all()
    term.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert q.log_prob(torch.tensor([1.0, 0.0, 0.0], dtype=dtype)).isfinite().all()


def test_the_density_at_an_end_is_the_probability_of_what_lies_beyond() -> None:
    q = concrete(ConcreteBits, [0.7], 0.4)
    eps = torch.finfo(torch.float64).eps
    end = np.log((1 - eps) / eps)
    wanted = stats.logistic.logsf(0.4 * end - 0.7), stats.logistic.logcdf(-0.4 * end - 0.7)
    found = [q.log_prob(torch.tensor([z]).double()).item() for z in (1.0, 0.0)]
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("temperatures", [(2 / 3, 0.5), (0.1, 0.5), (0.5, 0.1), (0.05, 0.05)])
def test_weights_of_rounded_bits_are_one_in_the_mean(temperatures: tuple[float, float]) -> None:
    ours, theirs = (torch.tensor(t) for t in temperatures)
    q, p = ConcreteBits(torch.tensor(1.5), ours), ConcreteBits(torch.tensor(0.0), theirs)
    z = q.sample((200_000,))
    weight = (p.log_prob(z) - q.log_prob(z)).exp().double()
    error = float(weight.std()) / len(weight) ** 0.5
    assert error < 0.1
    assert abs(float(weight.mean()) - 1) < 5 * error


@pytest.mark.parametrize(
    "temperatures", [(0.02, 0.1), (0.02, 0.02), (0.05, 0.1), (0.1, 0.05), (2 / 3, 0.5)]
)
@pytest.mark.parametrize("logits", [(1.5, 0.0, 0.0), (0.5, 0.0, -0.5, 1.0)])
def test_weights_of_rounded_one_hot_vectors_are_one_in_the_mean(
    logits: tuple[float, ...], temperatures: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    at = torch.tensor(logits)
    ours, theirs = (torch.tensor(t) for t in temperatures)
    q, p = ConcreteOneHot(at, ours), ConcreteOneHot(0 * at, theirs)
    z = q.sample((200_000,))
    weight = (p.log_prob(z) - q.log_prob(z)).exp().double()
    error = float(weight.std()) / len(weight) ** 0.5
    assert error < 0.1
    assert abs(float(weight.mean()) - 1) < 5 * error


# The bound of training


def relaxed_log_likelihood(own: Model, x: Tensor) -> Tensor:
    """log p(x) of a model of relaxed latents, by quadrature."""
    prior: Any = own.core.prior(None)
    p = getattr(prior, "base_dist", prior)
    single = prior.sample((2000,))[:, None]  # one family
    is_bits = isinstance(p, ConcreteBits)
    grid = grid_of(constraints.unit_interval if is_bits else constraints.simplex, single)
    z = grid.points  # (N, 1, d)
    log_x = own.core.likelihood.log_prob(own.core.decode(z), x)  # (N, B)
    return (log_x + prior.log_prob(z) + grid.log_volume).logsumexp(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:KL")
@pytest.mark.parametrize(("latents", "shape"), [("bits", 1), ("one-hot", 3)])
@torch.no_grad()
def test_the_objective_of_training_is_a_bound_of_the_relaxed_model(
    latents: str, shape: int
) -> None:
    own = model(latents, shape).double().train()
    for parameter in own.parameters():
        parameter.mul_(4)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).double()
    exact = torch.cat([relaxed_log_likelihood(own, row[None]) for row in x])
    draw = own.core.draw(Batch(x), 20_000)
    assert draw.rate.shape == (20_000, 2)  # no closed form of discrete latents enters
    bound, weight = (draw.log_likelihood - draw.rate), (draw.log_weight - exact).exp()
    errors = [term.std(0) / 20_000**0.5 for term in (bound, weight)]
    assert (bound.mean(0) < exact - 3 * errors[0]).all()
    assert ((weight.mean(0) - 1).abs() < 5 * errors[1]).all()


# What is discrete


def test_closed_forms_of_discrete_rates_are_sums() -> None:
    logits = torch.randn(5, 3).double()
    q, p = Bits(logits), Bits(torch.tensor([0.3, -2.0, 0.0]).double())
    theirs = kl_divergence(Bernoulli(logits=logits), Bernoulli(logits=p.logits.expand(5, 3)))
    assert torch.allclose(kl_divergence(q, p), theirs)
    one, other = OneHot(logits), OneHot(torch.zeros(3).double())
    wanted = np.log(3) - one.entropy()
    assert torch.allclose(kl_divergence(one, other), wanted)
    z = OneHotCategorical(logits=logits).sample((4,))
    assert torch.allclose(one.log_prob(z), (z * logits.log_softmax(-1)).sum(-1))
    sure = Bits(torch.tensor([800.0, -800.0]))
    assert torch.allclose(kl_divergence(sure, Bits(torch.zeros(2))), torch.tensor(2.0).log())


@pytest.mark.parametrize("shape", [[4], [2, 3]])
@pytest.mark.parametrize("sample", [False, True])
def test_codes_are_bits(shape: list[int], sample: bool) -> None:
    z = model("bits", shape).encode(torch.ones(5, 2), sample=sample)
    assert z.shape == (5, *shape)
    assert ((z == 0) | (z == 1)).all()


@pytest.mark.parametrize("shape", [[4], [3, 4]])
@pytest.mark.parametrize("sample", [False, True])
def test_codes_are_one_hot(shape: list[int], sample: bool) -> None:
    z = model("one-hot", shape).encode(torch.ones(5, 2), sample=sample)
    assert z.shape == (5, *shape)
    assert constraints.one_hot.check(z).all()


@pytest.mark.parametrize("latents", LATENTS)
def test_the_point_is_the_most_likely(latents: str) -> None:
    posterior: Any = model(latents, 3).eval().core.posterior
    q = posterior(torch.randn(200, posterior.linear.in_features))
    point = posterior.point(q)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    every = every if latents == "bits" else torch.eye(3)
    best = torch.stack([q.log_prob(z.expand(200, 3)) for z in every]).max(0).values
    assert torch.allclose(q.log_prob(point), best)


@pytest.mark.parametrize("latents", LATENTS)
def test_rows_are_generated_from_discrete_latents(latents: str) -> None:
    own, seen = model(latents, [3, 4]), []
    own.core.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    own.sample(50)
    assert ((seen[0] == 0) | (seen[0] == 1)).all()
    assert own.training
    own.core.draw(Batch(torch.ones(5, 2)))
    assert not ((seen[1] == 0) | (seen[1] == 1)).any()


@pytest.mark.parametrize("latents", LATENTS)
def test_a_gradient_through_discrete_draws_is_refused(latents: str) -> None:
    with pytest.raises(TypeError, match="reparametrised sample"):
        model(latents, 3).eval().core.draw(Batch(torch.ones(5, 2)))


@pytest.mark.parametrize("latents", LATENTS)
def test_the_rate_of_evaluation_is_exact(latents: str) -> None:
    own = model(latents, [2, 3])
    with torch.no_grad():
        draw = own.eval().core.draw(Batch(torch.rand(5, 2)), 7)
    assert draw.rate.shape == (1, 5)
    most = np.log(2) * 6 if latents == "bits" else np.log(3) * 2
    entropy: Any = draw.q
    assert torch.allclose(draw.rate[0], most - entropy.entropy(), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("latents", LATENTS)
def test_evaluation_compiles_whole(latents: str) -> None:
    own = model(latents, [2, 3])
    batch, found = Batch(torch.rand(5, 2).round()), []
    for by in (None, Compiled(own, {"backend": "aot_eager"}).evaluate):
        with fixed_noise(1):
            found.append(own.evaluate(batch, by)["elbo"])
    assert torch.allclose(*found)


# The temperature

PARTS = [RelaxedBernoulli, RelaxedCategorical, UniformBernoulli, UniformCategorical]


def relaxed(part: Any, **init_args: Any) -> Any:
    given = {"features": 4} if "Relaxed" in part.__name__ else {}
    return part(**given, latent_shape=(3,), **init_args)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "temperature",
    [
        *(0.0, -1.0, float("nan"), float("inf")),
        *(Linear(10), Linear(10, start=1.0, end=-0.1), Linear(10, start=1.0, end=0.0)),
        Cyclical(10, start=0.5, end=-0.5),
    ],
)
def test_temperatures_are_positive(part: Any, temperature: Any) -> None:
    at = " at (step 0|its schedule's end)" if isinstance(temperature, Schedule) else ""
    with pytest.raises(ValueError, match=f"Expected a positive temperature but got [^ ]+{at}\\.$"):
        relaxed(part, temperature=temperature)


def test_a_schedule_that_is_below_zero_for_a_while_is_told_when_it_is() -> None:
    part = relaxed(UniformBernoulli)
    part.schedule = Linear(3, start=0.5, end=0.0)
    part.after_step(None)
    part.after_step(None)
    with pytest.raises(ValueError, match=r"positive temperature but got .* at step 3"):
        part.after_step(None)


@pytest.mark.parametrize("part", PARTS)
def test_the_temperature_follows_its_schedule_and_is_in_the_state(part: Any) -> None:
    schedule = Linear(4, start=1.0, end=0.5)
    first, second = (relaxed(part, temperature=schedule) for _ in range(2))
    found = [float(first.temperature)]
    for _ in range(2):
        first.after_step(None)
        found.append(float(first.temperature))
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.after_step(None)
        found.append(float(second.temperature))
    assert found == [schedule(step) for step in range(6)]


def test_the_temperature_is_that_of_the_density() -> None:
    part = relaxed(UniformBernoulli, temperature=0.7)
    assert part().base_dist.temperature == part.temperature == torch.tensor(0.7)
    wanted = TorchRelaxedBernoulli(torch.tensor(0.7), logits=torch.zeros(3))
    z = torch.tensor([0.1, 0.6, 0.9])
    assert torch.allclose(part().log_prob(z), wanted.log_prob(z).sum())


@pytest.mark.slow
def test_training_cools_and_a_loaded_model_is_as_cool(tmp_path: Path) -> None:
    cooling = {"class_path": "Linear", "init_args": {"steps": 8, "start": 1.0, "end": 0.5}}
    parts = {
        kind: {"class_path": name, "init_args": {"temperature": cooling}}
        for kind, name in LATENTS["bits"].items()
    }
    rows = data.Digits(batch_size=100)
    trainer = fit(VAEModule(Model(rows, 4, **parts)), rows, max_steps=4)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    core = load(tmp_path / "model.ckpt").core
    assert core.posterior.temperature == core.prior.temperature == 0.75


def test_a_prior_in_the_place_of_another_is_relaxed_where_that_was() -> None:
    for training in (False, True):
        own = model("bits", 3).train(training)
        prior = own.new_prior("UniformBernoulli")
        own.use_prior(prior.train(not training))
        assert prior.training == training
        assert isinstance(prior().base_dist, ConcreteBits if training else Bits)


def test_one_class_is_none() -> None:
    for make in (lambda: RelaxedCategorical(4, (3, 1)), lambda: UniformCategorical((1,))):
        with pytest.raises(ValueError, match="Expected one-hot latents of two classes or more"):
            make()
