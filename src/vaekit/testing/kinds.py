"""The laws of one kind of part: likelihoods, objectives, cores."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vaekit.batch import Batch, DataInfo, each
from vaekit.importance import log_likelihood
from vaekit.testing.models import excuse_without_masks
from vaekit.testing.subject import DRAWS, Excused, Subject, few, require, retyped

__all__ = ["BOUND", "CORE", "LIKELIHOOD"]

Law = Callable[[Subject], None]


def shown_and_hidden_add_up(s: Subject) -> None:
    """log p of the shown elements and of the hidden ones is that of all, where they factorise."""
    model = s.model().double().eval()
    batch = retyped(s.batch(), torch.float64)
    mask = each(lambda x: torch.rand(x.shape) > 0.4, batch.x)
    core = model.core
    excuse_without_masks(core, batch, mask)
    p = core.draw(batch, DRAWS).p
    try:
        core.likelihood.elements(p, batch.x)
    except ValueError as error:
        raise Excused("its elements depend on one another") from error
    shown, hidden = (
        core.likelihood.log_prob(p, batch.x, m) for m in (mask, each(torch.logical_not, mask))
    )
    both, whole = shown + hidden, core.likelihood.log_prob(p, batch.x)
    close = torch.allclose(both, whole, rtol=1e-9)
    require(close, f"both sum to {few(both)} but all elements to {few(whole)}")


def what_it_calls_a_bound_is_one(s: Subject) -> None:
    """The number that `evaluate` reports as a bound is, in the mean, at most log p(x)."""
    model = s.model().eval()
    if not model.objective.bound:
        raise Excused("it reports no bound")
    batch = s.batch()
    with model.using():
        name = model.objective.best[0]
        found = torch.stack([model.evaluate(batch)[name] for _ in range(400)]).double()
        exact = log_likelihood(model.core, batch, 20_000).log_likelihood.double()
    error = found.std(0) / len(found) ** 0.5
    require(
        (found.mean(0) <= exact + 5 * error + 1e-3).all(),
        f"{name} is {few(found.mean(0))} but log p(x) {few(exact)}",
    )


def all_rows_together_have_probability_one(s: Subject) -> None:
    r"""The sum of p(x) over all rows of three bits, by importance sampling, is one."""
    if s.kind == "model" or s.data is not None:
        raise Excused("it was made for other rows")
    info = DataInfo((3,), (0.0, 1.0), levels=2)
    core = s.model(info).double().eval().core
    if not s.dense(core):
        raise Excused("its posterior has no density")
    bits = torch.tensor([[n >> i & 1 for i in range(3)] for n in range(8)]).double()
    with torch.no_grad():
        total = core.draw(Batch(bits), 4000).log_weight.exp().sum(1)
    error = float(total.std()) / len(total) ** 0.5
    away = abs(float(total.mean()) - 1)
    require(away < 5 * error + 1e-9, f"it is {float(total.mean()):.4f}, give or take {error:.4f}")


def rates_agree_with_the_draws(s: Subject) -> None:
    """The rate is, in the mean over draws, log q(z|x) - log p(z)."""
    core = s.model().double().eval().core
    if not s.dense(core):
        raise Excused("its posterior has no density")
    batch = retyped(s.batch(), torch.float64)
    with torch.no_grad():
        draw = core.draw(batch, 4000)
        difference = draw.rate - (draw.log_posterior - draw.log_prior)
    error = difference.std(0) / len(difference) ** 0.5
    close = (difference.mean(0).abs() < 5 * error + 1e-9).all()
    require(close, f"they differ by {few(difference.mean(0))}, give or take {few(error)}")


def stopping_leaves_the_value_and_only_the_path(s: Subject) -> None:
    """`draw(stop=True)` gives the same terms, and log q(z|x) the gradient through z alone."""
    model = s.model().double().eval()
    core = model.core
    batch = retyped(s.batch(), torch.float64)
    noise = s.noise(core, batch)
    if noise is None or not s.dense(core):
        raise Excused("its draws cannot be repeated, or have no density")
    weights = list(core.posterior.parameters())
    found = []
    for stop in (False, True):
        draw = core.draw(batch, DRAWS, stop=stop, noise=noise)
        log_q = draw.log_posterior
        found.append((log_q, torch.autograd.grad(log_q.sum(), weights, allow_unused=True)))
    (plain, whole), (stopped, path) = found
    require(torch.allclose(plain, stopped), "stop changes log q(z|x) itself")
    pairs = [(a, b) for a, b in zip(whole, path, strict=True) if a is not None and b is not None]
    require(not all(torch.allclose(a, b) for a, b in pairs), "stop leaves the gradient as it was")


BOUND: tuple[Law, ...] = (what_it_calls_a_bound_is_one,)
LIKELIHOOD: tuple[Law, ...] = (shown_and_hidden_add_up,)
CORE: tuple[Law, ...] = (
    all_rows_together_have_probability_one,
    rates_agree_with_the_draws,
    stopping_leaves_the_value_and_only_the_path,
)
