"""The laws of likelihoods, objectives and cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.trees import each
from vaekit.evaluation.importance_sampling import log_likelihood
from vaekit.numerics.random import fixed_noise
from vaekit.testing.models import PLACE_OF_CONTEXT, masked
from vaekit.testing.subject import DRAWS, Excused, Law, Subject, few, require, retyped


def shown_and_hidden_add_up(s: Subject) -> None:
    """log p of the shown elements and of the hidden ones sum to that of all, where elements are
    independent."""
    model = s.model().double().eval()
    core, batch = model.core, masked(model.core, retyped(s.batch(), torch.float64))
    p = core.draw(batch, DRAWS).p
    try:
        core.likelihood.elements(p, batch.x)
    except ValueError as error:
        raise Excused(f"its elements depend on one another: {error}") from error
    hidden = each(torch.logical_not, batch.mask)
    both = sum(core.likelihood.log_prob(p, batch.x, m) for m in (batch.mask, hidden))
    whole = core.likelihood.log_prob(p, batch.x)
    same = torch.allclose(torch.as_tensor(both), whole, rtol=1e-9)
    require(same, f"the sum is {few(torch.as_tensor(both))} but of all elements {few(whole)}")


def what_it_calls_a_bound_is_one(s: Subject) -> None:
    """The number that `evaluate` reports as a bound is, in the mean, at most log p(x)."""
    model = s.model().eval()
    if not model.has_bound:
        raise Excused("it reports no bound")
    batch, name = s.batch(), model.bound_name
    assert name is not None
    with model.using():
        found = torch.stack([model.evaluate(batch)[name] for _ in range(400)]).double()
        estimate = log_likelihood(model.core, batch, 20_000)
    exact = estimate.log_likelihood.double()
    error = (found.var(0) / len(found) + 1 / estimate.effective_samples).sqrt()
    below = (found.mean(0) <= exact + 5 * error).all()
    require(below, f"{name} is {few(found.mean(0))} but log p(x) {few(exact)}")


def losses_of_q_are_minimised(s: Subject) -> None:
    """Terms that q brings beside its density are added to the loss and told by their names."""
    model, batch = s.model().eval(), s.batch()
    found = []
    for extra in (0.0, 1000.0):

        def bring(part: Any, args: Any, q: Any, extra: float = extra) -> Any:
            q.losses = {"brought": torch.full(q.batch_shape, extra)}
            return q

        handle = model.core.posterior.register_forward_hook(bring)
        with fixed_noise(1), torch.no_grad():
            found.append(model.objective(model.core, batch, 0))
        handle.remove()
    told = "brought" in found[1]
    require(told, "a loss of q is not among the terms (draw.losses)")
    more = float((found[1]["loss"] - found[0]["loss"]).mean())
    require(abs(more - 1000) < 1, f"a loss of q of 1000 nats changes the loss by {more:.6g}")


def all_rows_together_have_probability_one(s: Subject) -> None:
    r"""The sum of p(x) over all rows of three bits, by importance sampling, is one."""
    info = DataInfo((3,), (0.0, 1.0), levels=2, data_size=100)
    if s.kind == "model" or s.data is not None or not s.accepts((3,)):
        raise Excused("it is for other rows")
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
    for draws in (200, 1):  # a prior that depends on the draws has another shape of several
        rows = batch[torch.arange(200 // draws * len(batch)) % len(batch)]
        _agree(core, rows, draws, len(batch))


def _agree(core: Core, rows: Batch, draws: int, different: int) -> None:
    chunks: list[Tensor] = []
    with torch.no_grad():
        for _ in range(20):
            draw = core.draw(rows, draws)
            chunks.append(draw.rate - (draw.log_posterior - draw.log_prior))
    difference = torch.cat(chunks).reshape(-1, different)
    error = difference.std(0) / len(difference) ** 0.5
    close = (difference.mean(0).abs() < 5 * error + 1e-9).all()
    require(close, f"they differ by {few(difference.mean(0))}, give or take {few(error)}")


def stopping_leaves_the_value_and_the_path(s: Subject) -> None:
    """`draw(stop=True)` gives the same log q(z|x), and its gradient through z alone."""
    core, batch = s.model().double().core.eval(), retyped(s.batch(), torch.float64)
    if not s.evaluates(core):
        raise Excused("its density is known of its own draws alone, if at all")
    q = core.infer(batch.x, batch.context, batch.mask)
    core.train(not (q.has_rsample or hasattr(q, "rsample_and_log_prob")))  # relaxed there
    plain, stopped = (_drawn_again(core, batch, stop) for stop in (False, True))
    if len(plain.levels) > 1:
        raise Excused("its draws are of several levels")
    weights = {name: p for name, p in core.named_parameters() if p.requires_grad}

    def gradient(of: Tensor) -> list[Tensor]:
        own = list(weights.values())
        if not of.requires_grad:  # of draws without one
            return [torch.zeros_like(p) for p in own]
        found = torch.autograd.grad(of.sum(), own, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(own, found, strict=True)]

    whole = gradient(plain.log_posterior)
    score = gradient(plain.q.log_prob(plain.z.detach()))
    same = torch.allclose(plain.log_posterior, stopped.log_posterior)
    require(same, "stop changes log q(z|x) itself")
    found = gradient(stopped.log_posterior)
    for name, g, a, b in zip(weights, found, whole, score, strict=True):
        off = (g - (a - b)).abs().argmax()
        told = f"{few((a - b).flatten()[off])} through z but {few(g.flatten()[off])} with stop"
        same = torch.allclose(g, a - b, rtol=1e-6, atol=1e-8)
        require(same, f"the gradient of {name} is {told}")


def _drawn_again(core: Core, batch: Batch, stop: bool) -> Draw:
    with fixed_noise(1):
        return core.draw(batch, DRAWS, stop=stop)


def no_elements_have_probability_one(s: Subject) -> None:
    """log p(x|z) of a row of which a mask hides everything is 0."""
    model = s.model().eval()
    batch = masked(model.core, s.batch())
    hidden = replace(batch, mask=each(torch.zeros_like, batch.mask))
    with torch.no_grad():
        log_p = model.core.draw(hidden, DRAWS).log_likelihood
    require((log_p.abs() < 1e-3).all(), f"it is {few(log_p)}")


def every_part_gets_its_rows_context(s: Subject) -> None:
    """Encoder, posterior, prior, decoder and likelihood are called with the contexts of the rows
    they work on, also for each of several draws."""
    info = s.conditional(s.info)
    if not info.context_features:
        raise Excused("these rows have no context")
    core, batch = s.model(info).eval().core, s.batch(info)
    parts = {kind: getattr(core, kind, None) for kind in PLACE_OF_CONTEXT}
    given: dict[str, list[Any]] = {kind: [] for kind, part in parts.items() if part is not None}
    for kind in given:

        def note(module: Any, args: tuple[Any, ...], kind: str = kind) -> None:
            given[kind].append(args[PLACE_OF_CONTEXT[kind]])

        parts[kind].register_forward_pre_hook(note)  # type: ignore[union-attr]
    with torch.no_grad():
        s.weight(core, core.draw(batch, DRAWS))
    assert batch.context is not None
    rows: dict[str, Any] = {
        "decoder": batch.context.repeat(DRAWS, 1),
        "likelihood": batch.context.expand(DRAWS, -1, -1),
        "prior": core.prior_context(batch.context),
    }
    for kind, contexts in given.items():
        wanted = rows.get(kind, batch.context)
        for context in contexts:
            same = context is wanted or (context is not None and torch.equal(context, wanted))
            require(same, f"the {kind} gets {'none' if context is None else few(context)}")


OF_LIKELIHOODS: tuple[Law, ...] = (shown_and_hidden_add_up, no_elements_have_probability_one)
OF_OBJECTIVES: tuple[Law, ...] = (what_it_calls_a_bound_is_one, losses_of_q_are_minimised)
OF_CORES: tuple[Law, ...] = (
    all_rows_together_have_probability_one,
    rates_agree_with_the_draws,
    stopping_leaves_the_value_and_the_path,
    every_part_gets_its_rows_context,
)
