"""The laws of whatever stands in a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vaekit import plugins, specs
from vaekit.batch import Batch, DataInfo, each, flat
from vaekit.compiled import Compiled
from vaekit.contracts import Core
from vaekit.draw import Draw
from vaekit.model import Model
from vaekit.noise import fixed_noise
from vaekit.testing.subject import (
    CONTEXT,
    DRAWS,
    ROWS,
    Excused,
    Subject,
    few,
    rebuilt,
    require,
    retyped,
)

__all__ = ["EVERY", "FIRST", "OBJECTIVE", "excuse_without_masks", "state_of", "take_step"]

Law = Callable[[Subject], None]


# What must hold before anything else can be looked at


def it_is_built_for_the_rows_it_accepts(s: Subject) -> None:
    """A part is built for every shape of rows that `accepts` allows, and for no other."""
    s.model()
    if s.data is not None or s.given:
        return
    for event in ((4,), (2, 3), (3, 8, 8), (2, 3, 4, 5)):
        accepted = s.cls.accepts(event)
        try:
            s.model(DataInfo(event, (0.0, 1.0), levels=2))
        except plugins.RegistryError as error:
            require(not accepted, f"it accepts rows of shape {event} but: {error}")
        else:
            require(accepted, f"it accepts no rows of shape {event} but is built for them")


def terms_have_one_value_per_draw_and_row(s: Subject) -> None:
    """Every term of K draws of B rows is finite and (K, B), also with a context."""
    for info in s.infos():
        for context in {info.context_features, CONTEXT} if s.data is None else {None}:
            own = info if context is None else _with_context(info, context)
            _look_at_shapes(s, s.model(own), s.batch(own))


def _with_context(info: DataInfo, features: int) -> DataInfo:
    return DataInfo(info.event_shape, info.data_range, info.levels, context_features=features)


def _look_at_shapes(s: Subject, model: Model, batch: Batch) -> None:
    draw = model.core.draw(batch, DRAWS)
    require(
        draw.z.shape[:2] == (DRAWS, ROWS),
        f"z of {DRAWS} draws of {ROWS} rows has shape {tuple(draw.z.shape)}",
    )
    for name, term in _terms(s, model.core, draw):
        wide = (term.shape == (1, ROWS)) if name == "the rate" else False
        require(
            wide or term.shape == (DRAWS, ROWS),
            f"{name} has shape {tuple(term.shape)}, not (K, B)",
        )
        require(term.isfinite().all(), f"{name} is not finite")
    one = (*draw.p.batch_shape,)
    require(one == (DRAWS, ROWS), f"p(x|z) has batch shape {one}, not (K, B)")
    shapes = each(tuple, model.info.event_shape)
    for sample in (False, True):
        made = model.sample(ROWS, batch.context, sample)
        got = each(lambda x: tuple(x.shape[1:]), made)
        require(got == shapes, f"generated rows have shape {got}, not {shapes}")
    for terms in (model.objective(model.core, batch, 0), model.evaluate(batch)):
        for name, term in terms.items():
            require(term.isfinite().all(), f"the term {name} is not finite")


def _terms(s: Subject, core: Core, draw: Draw) -> Iterator[tuple[str, Tensor]]:
    yield "log p(x|z)", draw.log_likelihood
    yield "log p(z)", draw.log_prior
    if s.dense(core):
        yield "log q(z|x)", draw.log_posterior
        yield "the rate", draw.rate


# Laws of every part


def every_parameter_gets_a_gradient(s: Subject) -> None:
    """No weight is left out of what is minimised."""
    model = s.model().train()
    batch = s.batch()
    if s.kind == "objective" or not s.dense(model.core):
        model.objective(model.core, batch, 0)["loss"].mean().backward()
        looked: nn.Module = model
    else:
        s.weight(model.core, model.core.draw(batch)).sum().backward()
        looked = model.core
    idle = [n for n, p in looked.named_parameters() if p.requires_grad and p.grad is None]
    require(not idle, f"no gradient reaches {', '.join(idle)}")


def a_row_depends_on_no_other(s: Subject) -> None:
    """What is said of a row is the same alone and among others, with its own context."""
    for info in [s.info] if s.data is not None else [_with_context(s.info, CONTEXT)]:
        model = s.model(info).double().eval()
        core = model.core
        if core.likelihood.couples_rows:
            raise Excused("its likelihood says that it couples rows")
        batch = retyped(s.batch(info), torch.float64)
        noise = s.noise(core, batch)
        for row in range(ROWS):
            at = slice(row, row + 1)
            for name, whole, alone in _both(s, core, batch, at, noise):
                require(
                    torch.allclose(whole, alone, rtol=1e-9, atol=1e-9),
                    f"{name} of row {row} is {few(whole)} among {ROWS} rows but {few(alone)} "
                    "alone",
                )


def _both(
    s: Subject, core: Core, batch: Batch, at: slice, noise: object
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is said of a row among the others, and alone."""
    own = batch[at]
    with torch.no_grad():
        if noise is not None:
            levels = noise if isinstance(noise, tuple) else (noise,)
            cut = tuple(level[:, at] for level in levels)
            alone = cut if isinstance(noise, tuple) else cut[0]
            draws = [core.draw(batch, DRAWS, noise=noise), core.draw(own, DRAWS, noise=alone)]  # type: ignore[arg-type]
            weights = [s.weight(core, draw) for draw in draws]
            yield "log p(x, z) - log q(z|x)", weights[0][:, at], weights[1]
            return
        many, one = (core.infer(b.x, b.context, b.mask) for b in (batch, own))
        point = core.posterior.point(many)
        yield "the point of q(z|x)", point[at], core.posterior.point(one)
        if s.dense(core):
            yield "log q(z|x)", many.log_prob(point)[at], one.log_prob(point[at])
        whole = core.likelihood.log_prob(core.decode(point[None], batch.context), batch.x)
        part = core.likelihood.log_prob(core.decode(point[at][None], own.context), own.x)
        yield "log p(x|z)", whole[:, at], part


def a_context_that_is_asked_for_counts(s: Subject) -> None:
    """A part whose `__init__` asks for `context_features` gives something else for another."""
    if s.given or "context_features" not in specs.arguments(s.cls):
        raise Excused("it asks for no context_features")
    info = s.info if s.data is not None else _with_context(s.info, CONTEXT)
    if not info.context_features:
        raise Excused("these rows have no context")
    model = s.model(info).eval()
    batch, found = s.batch(info), []
    for shift in (0.0, 1.0):
        assert batch.context is not None
        own = Batch(batch.x, batch.context + shift, batch.mask, batch.label)
        with fixed_noise(1), torch.no_grad():
            found.append(s.weight(model.core, model.core.draw(own, DRAWS)))
    require(not torch.equal(*found), "another context gives the same terms")


def terms_are_float32_under_autocast(s: Subject) -> None:
    """Densities, sums and heads run in float32 at least where networks run in bfloat16."""
    model, batch = s.model().eval(), s.batch()
    core = model.core
    noise = s.noise(core, batch)
    with fixed_noise(1):
        exact = s.weight(core, core.draw(batch, DRAWS, noise=noise))
    with torch.autocast("cpu", dtype=torch.bfloat16), fixed_noise(1):
        draw = core.draw(batch, DRAWS, noise=noise)
        for name, term in _terms(s, core, draw):
            require(term.dtype == torch.float32, f"{name} is {term.dtype} under autocast")
        close = torch.allclose(s.weight(core, draw), exact, rtol=0.02, atol=0.1)
        told = f"{few(s.weight(core, draw))} under autocast but {few(exact)} without"
        require(close, f"log p(x, z) - log q(z|x) is {told}")
        for name, term in model.objective(core, batch, 0).items():
            require(term.dtype == torch.float32, f"the term {name} is {term.dtype} under autocast")


def weights_of_any_type_give_float32_terms(s: Subject) -> None:
    """Terms of a model that was cast to a half type are float32, and of float64 float64."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        wanted = torch.promote_types(dtype, torch.float32)
        core = s.model().to(dtype).core
        draw = core.draw(retyped(s.batch(), wanted), DRAWS)
        for name, term in _terms(s, core, draw):
            require(term.dtype == wanted, f"{name} is {term.dtype} where weights are {dtype}")
            require(term.isfinite().all(), f"{name} is not finite where weights are {dtype}")


def what_is_hidden_does_not_matter(s: Subject) -> None:
    """Elements that a mask hides may hold anything, NaN too."""
    for info in s.infos():
        core = s.model(info).eval().core
        batch = s.batch(info)
        mask = each(lambda x: torch.rand(x.shape) > 0.3, batch.x)
        excuse_without_masks(core, batch, mask)
        noise, found = s.noise(core, batch), []
        for hidden in (0.0, 1.0, torch.nan):
            x = each(lambda leaf, m: torch.where(m, leaf, hidden), batch.x, mask)  # noqa: B023
            own = Batch(x, batch.context, mask, batch.label)
            with fixed_noise(1):
                found.append(s.weight(core, core.draw(own, DRAWS, noise=noise)))
        for other, held in zip(found[1:], ("1", "NaN"), strict=True):
            same = torch.equal(found[0], other)
            require(same, f"with {held} in the place of 0 where a mask hides, terms are others")


def excuse_without_masks(core: Core, batch: Batch, mask: object) -> None:
    """Excuses a likelihood that says that it cannot leave elements out."""
    p = core.draw(batch).p
    try:
        core.likelihood.log_prob(p, batch.x, mask)
    except ValueError as error:
        if "factorises over elements" in str(error):
            raise Excused("its likelihood does not factorise over elements") from error
        raise


def it_compiles_whole(s: Subject) -> None:
    """torch.compile takes core and objective as one region, and the numbers are the same."""
    model, batch = s.model(), s.batch()
    compiled = Compiled(model, {"backend": "aot_eager"})
    with fixed_noise(1):
        expected = model.objective(model.core, batch, 3)
    with fixed_noise(1):
        found = compiled.terms(batch, 3)
    for name, term in expected.items():
        require(torch.allclose(found[name], term, rtol=1e-4, atol=1e-5), f"{name} is another")


def its_state_comes_back(s: Subject) -> None:
    """A model made again from its description and its state says what it said."""
    model, batch = s.model().train(), s.batch()
    for step in range(2):
        take_step(model, batch, step)
    with fixed_noise(99):  # what a part draws in its __init__ has to be in its state
        again = rebuilt(s, model)
    again.load_state_dict(model.state_dict())
    found = []
    for one in (model.eval(), again.eval()):
        with fixed_noise(1), torch.no_grad():
            noise = s.noise(one.core, batch)
            found.append(s.weight(one.core, one.core.draw(batch, DRAWS, noise=noise)))
    require(torch.equal(*found), f"terms were {few(found[0])} and are {few(found[1])} again")


def take_step(model: Model, batch: Batch, step: int) -> None:
    """A step of plain gradient descent, with what parts do after it."""
    model.core.keep_draw = True
    loss = model.objective(model.core, batch, step)["loss"].mean()
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(weights, gradients, strict=True):
            if g is not None:
                p.sub_(0.01 * g)
        draw, model.core.last_draw = model.core.last_draw, None
        if draw is not None:
            for part in model.overriding("after_step"):
                part.after_step(draw)


def forward_changes_no_state(s: Subject) -> None:
    """Buffers change in `after_step` alone; torch's own batch norm may as it is used to."""
    model, batch = s.model().train(), s.batch()
    before = state_of(model)
    model.core.draw(batch, DRAWS)
    model.objective(model.core, batch, 0)
    _unchanged(before, model, "drawing in training")
    model.eval()
    model.evaluate(batch)
    model.sample(3, None if batch.context is None else batch.context[:3])
    model.train()
    once, twice = (
        flat("x", model.reconstruct(batch.x, batch.context)),
        flat("x", model.reconstruct(batch.x, batch.context)),
    )
    same = all(torch.equal(x, twice[name]) for name, x in once.items())
    require(same, "rows are reconstructed in another way the second time")
    require(model.training, "evaluation leaves the model in another mode")
    _unchanged(before, model, "evaluation")


def state_of(model: Model) -> dict[str, Tensor]:
    """Weights and buffers by name, without those of torch's batch norm."""
    norms = [name for name, m in model.named_modules() if hasattr(m, "num_batches_tracked")]
    return {
        name: value.clone()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if not any(name.startswith(f"{norm}.") for norm in norms)
    }


def _unchanged(before: dict[str, Tensor], model: Model, by: str) -> None:
    now = dict([*model.named_parameters(), *model.named_buffers()])
    changed = [name for name, value in before.items() if not torch.equal(value, now[name])]
    require(not changed, f"{by} changes {', '.join(changed)}")


def random_numbers_are_torchs(s: Subject) -> None:
    """The same seed of torch gives the same terms, and no other generator is used."""
    model, batch, found = s.model().train(), s.batch(), []
    before = _other_generators()
    for _ in range(2):
        with fixed_noise(1):
            terms = model.objective(model.core, batch, 0)
            found.append(torch.cat([terms[name].reshape(-1) for name in sorted(terms)]))
    require(torch.equal(*found), "after the same torch.manual_seed the terms are others")
    same = _other_generators() == before
    require(same, "it draws from Python's or NumPy's generator")


def _other_generators() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, np.asarray(keys).tobytes(), *rest


FIRST: tuple[Law, ...] = (
    it_is_built_for_the_rows_it_accepts,
    terms_have_one_value_per_draw_and_row,
)
OBJECTIVE: tuple[Law, ...] = (
    every_parameter_gets_a_gradient,
    terms_are_float32_under_autocast,
    it_compiles_whole,
    its_state_comes_back,
    forward_changes_no_state,
    random_numbers_are_torchs,
)
EVERY: tuple[Law, ...] = (
    *OBJECTIVE,
    a_row_depends_on_no_other,
    a_context_that_is_asked_for_counts,
    weights_of_any_type_give_float32_terms,
    what_is_hidden_does_not_matter,
)
