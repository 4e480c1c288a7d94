"""The laws of whatever stands in a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.trees import each, flat
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins, specs
from vaekit.testing.rows import a_row_depends_on_no_other
from vaekit.testing.subject import DRAWS, ROWS, Excused, Law, Subject, few, require, retyped
from vaekit.training.compile import Compiled

# What must hold before anything else can be checked


def it_is_built_for_the_rows_it_accepts(s: Subject) -> None:
    """A part is built for every shape of rows that `accepts` allows."""
    s.model()
    if s.data is not None or s.is_instance:
        return
    for event in ((4,), (2, 3), (3, 8, 8), (2, 3, 4, 5)):
        if s.accepts(event):
            try:
                s.model(DataInfo(event, (0.0, 1.0), levels=2, data_size=100))
            except plugins.RegistryError as error:
                raise AssertionError(f"it accepts rows of shape {event} but: {error}") from error


def terms_have_one_value_per_draw_and_row(s: Subject) -> None:
    """Every term of K draws of B rows is finite and (K, B), also of one draw, of one row, and with
    a context."""
    for info in s.infos():
        for own in [info] if s.data is not None else [info, s.conditional(info)]:
            model = s.model(own)
            _check_shapes(s, model.train(), s.batch(own), DRAWS)
            for draws, rows in ((DRAWS, ROWS), (1, ROWS), (DRAWS, 1), (1, 1)):
                with torch.no_grad():
                    _check_shapes(s, model.eval(), s.batch(own, rows), draws)


def _check_shapes(s: Subject, model: Model, batch: Batch, draws: int) -> None:
    draw, rows = model.core.draw(batch, draws), len(batch)
    told = f"of {draws} draws of {rows} rows"
    require(draw.z.shape[:2] == (draws, rows), f"z {told} has shape {tuple(draw.z.shape)}")
    for name, term in _terms(s, model.core, draw):
        shapes = [(draws, rows), *([(1, rows)] if name == "the rate" else [])]
        require(term.shape in shapes, f"{name} {told} has shape {tuple(term.shape)}")
        require(term.isfinite().all(), f"{name} {told} is not finite")
    found = tuple(draw.p.batch_shape)
    require(found == (draws, rows), f"p(x|z) {told} has batch shape {found}")
    wanted = each(tuple, model.info.event_shape)
    for sample in (False, True):
        made = model.sample(rows, batch.context, sample)
        got = each(lambda x: tuple(x.shape[1:]), made)
        require(got == wanted, f"generated rows have shape {got}, not {wanted}")
    for terms in (model.objective(model.core, batch, 0), model.evaluate(batch)):
        for name, term in terms.items():
            require(term.isfinite().all(), f"the term {name} is not finite")


def _terms(s: Subject, core: Core, draw: Draw) -> Iterator[tuple[str, Tensor]]:
    yield "log p(x|z)", draw.log_likelihood
    yield "log p(z)", draw.log_prior
    if s.dense(core):
        yield "log q(z|x)", draw.log_posterior
        yield "the rate", draw.rate


# Laws of all kinds


def every_parameter_gets_a_gradient(s: Subject) -> None:
    """Every weight has a part in what is minimised, with a mask or without."""
    model = s.model().train()
    for batch in _with_and_without_mask(s, model):
        loss = model.objective(model.core, batch, 0)["loss"].mean()
        if s.dense(model.core):
            loss = loss + s.weight(model.core, model.core.draw(batch)).sum()
        loss.backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    require(not idle, f"no gradient reaches {', '.join(idle)}")


def _with_and_without_mask(s: Subject, model: Model) -> Iterator[Batch]:
    batch = s.batch(model.info)
    yield batch
    try:
        yield masked(model.core, batch)
    except Excused:
        return


def masked(core: Core, batch: Batch) -> Batch:
    """The batch with a mask, drawn; excuses a likelihood that refuses masks, as it may."""
    # Single elements are hidden, or else whole pixels, of all channels.
    drawn = each(lambda x: torch.rand(x.shape) > 0.3, batch.x)
    whole = each(lambda x: x[:, :1].expand_as(x), drawn)
    with torch.no_grad():
        p = core.draw(batch).p
    for mask in (drawn, whole):
        try:
            with torch.no_grad():
                core.likelihood.log_prob(p, batch.x, mask)
            return replace(batch, mask=mask)
        except ValueError as error:
            refused = error
    raise Excused(f"its likelihood refuses masks: {refused}") from refused


def what_is_hidden_does_not_matter(s: Subject) -> None:
    """Elements that a mask hides may hold anything, NaN too."""
    for info in s.infos():
        model = s.model(info).eval()
        core, batch = model.core, masked(model.core, s.batch(info))
        noise, found = s.noise(core, batch), []
        for value in (0.0, 1.0, torch.nan):
            x = each(lambda leaf, m: torch.where(m, leaf, value), batch.x, batch.mask)  # noqa: B023
            own = replace(batch, x=x)
            with fixed_noise(1), torch.no_grad():
                weight = s.weight(core, core.draw(own, DRAWS, noise=noise))
                found.append(torch.cat([weight.flatten(), _flat(model.objective(core, own, 0))]))
        for other, name in zip(found[1:], ("1", "NaN"), strict=True):
            same = torch.equal(found[0], other)
            require(same, f"hidden elements change the terms: {name} in the place of 0")


@torch.no_grad()
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


def it_compiles_whole(s: Subject) -> None:
    """torch.compile takes core and objective as one region, and the numbers stay the same."""
    model, batch = s.model(), s.batch()
    compiled = Compiled(model, {"backend": "aot_eager"})
    with fixed_noise(1):
        expected = model.objective(model.core, batch, 3)
    with fixed_noise(1):
        found = compiled.terms(batch, 3)
    for name, term in expected.items():
        same = torch.allclose(found[name], term, rtol=1e-4, atol=1e-5)
        require(same, f"{name} is {few(found[name])} compiled but {few(term)} otherwise")


def its_state_comes_back(s: Subject) -> None:
    """A model made again from its description and its state gives the same terms."""
    model, batch = s.model().train(), s.batch()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.core.keep_draw = True
    for step in range(2):
        optimizer.zero_grad()
        model.objective(model.core, batch, step)["loss"].mean().backward()
        optimizer.step()
        finish_step(model)
    with fixed_noise(99):  # what a part draws in its __init__ has to be in its state
        again = s.rebuilt(model)
    again.load_state_dict(model.state_dict())
    found = []
    for one in (model.eval(), again.eval()):
        with fixed_noise(1), torch.no_grad():
            noise = s.noise(one.core, batch)
            weight = s.weight(one.core, one.core.draw(batch, DRAWS, noise=noise))
            found.append(torch.cat([weight.flatten(), _flat(one.objective(one.core, batch, 2))]))
    before, after = found
    same = torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
    require(same, f"terms were {few(before)} but are {few(after)} in a model made again")


def finish_step(model: Model) -> None:
    """What parts do after a step of the optimizer."""
    draw, model.core.last_draw = model.core.last_draw, None
    if draw is not None:
        with torch.no_grad():
            for part in model.overriding("after_step"):
                part.after_step(draw)


def forward_changes_no_state(s: Subject) -> None:
    """Buffers change in `after_step` alone; torch's batch norm and parametrizations are exempt."""
    model, batch = s.model().train(), s.batch()
    before = state_of(model)
    model.core.draw(batch, DRAWS)
    model.objective(model.core, batch, 0)
    _unchanged(before, model, "drawing in training")
    model.evaluate(batch)
    model.reconstruct(batch.x, batch.context)
    model.sample(3, None if batch.context is None else batch.context[:3])
    require(model.training, "evaluation leaves the model in another mode")
    _unchanged(before, model, "evaluation")


def state_of(model: Model) -> dict[str, Tensor]:
    """Weights and buffers by name, without those that torch's own modules update in forward."""
    norms = [name for name, m in model.named_modules() if hasattr(m, "num_batches_tracked")]
    return {
        name: value.clone()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if ".parametrizations." not in name
        and not any(name.startswith(f"{norm}.") for norm in norms)
    }


def _unchanged(before: dict[str, Tensor], model: Model, by: str) -> None:
    now = dict([*model.named_parameters(), *model.named_buffers()])
    changed = [name for name, value in before.items() if not torch.equal(value, now[name])]
    require(not changed, f"{by} changes {', '.join(changed)}")


def evaluation_repeats_itself(s: Subject) -> None:
    """Nothing is random in reconstructing a row through the points of q and p."""
    model, batch = s.model(), s.batch()
    once, twice = (flat("x", model.reconstruct(batch.x, batch.context)) for _ in range(2))
    same = all(torch.equal(x, twice[name]) for name, x in once.items())
    require(same, "the same rows are reconstructed in two ways")


def random_numbers_are_torchs(s: Subject) -> None:
    """The same seed of torch gives the same terms, and no other generator is used."""
    model, batch, found = s.model().train(), s.batch(), []
    before = _other_generators()
    for one in (deepcopy(model), model):
        with fixed_noise(1):
            found.append(_flat(one.objective(one.core, batch, 0)))
    require(torch.equal(*found), "the terms change from one run with a seed of torch to the next")
    same = _other_generators() == before
    require(same, "it draws from Python's or NumPy's generator")


def _other_generators() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, np.asarray(keys).tobytes(), *rest


def _flat(terms: dict[str, Tensor]) -> Tensor:
    return torch.cat([terms[name].detach().reshape(-1) for name in sorted(terms)])


# Laws of parts, but not of objectives


PLACE_OF_CONTEXT = {"encoder": 1, "posterior": 1, "prior": 0, "decoder": 1, "likelihood": 1}
"""Where among its arguments a part receives the context."""


def a_context_that_is_asked_for_counts(s: Subject) -> None:
    """A part whose `__init__` asks for `context_features` gives something else for another
    context, once its weights are no longer those that it starts with."""
    asks = not s.is_instance and "context_features" in specs.arguments(s.cls)
    if s.kind not in PLACE_OF_CONTEXT or not asks:
        raise Excused("it asks for no context_features")
    info = s.conditional(s.info)
    if not info.context_features:
        raise Excused("these rows have no context")
    model, batch, found = s.model(info).eval(), s.batch(info), []
    with torch.no_grad():
        for weight in getattr(model.core, s.kind).parameters():
            weight += 0.1 * torch.randn_like(weight)
    noise, place = s.noise(model.core, batch), PLACE_OF_CONTEXT[s.kind]

    def shift(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*args[:place], args[place] + 1, *args[place + 1 :])

    for shifted in (False, True):
        if shifted:
            getattr(model.core, s.kind).register_forward_pre_hook(shift)
        with fixed_noise(1), torch.no_grad():
            draw = model.core.draw(batch, DRAWS, noise=noise)
            found.append(s.weight(model.core, draw))
    require(not torch.equal(*found), "another context of its own gives the same terms")


def weights_of_any_type_give_float32_terms(s: Subject) -> None:
    """Terms of a model that was cast to a half type are float32, and of float64 float64."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        wanted = torch.promote_types(dtype, torch.float32)
        core = s.model().to(dtype).core
        draw = core.draw(retyped(s.batch(), wanted), DRAWS)
        for name, term in _terms(s, core, draw):
            require(term.dtype == wanted, f"{name} is {term.dtype} where weights are {dtype}")
            require(term.isfinite().all(), f"{name} is not finite where weights are {dtype}")


FIRST: tuple[Law, ...] = (
    it_is_built_for_the_rows_it_accepts,
    terms_have_one_value_per_draw_and_row,
)
OF_ALL: tuple[Law, ...] = (
    every_parameter_gets_a_gradient,
    what_is_hidden_does_not_matter,
    terms_are_float32_under_autocast,
    it_compiles_whole,
    its_state_comes_back,
    forward_changes_no_state,
    evaluation_repeats_itself,
    random_numbers_are_torchs,
)
OF_PARTS: tuple[Law, ...] = (
    *OF_ALL,
    a_row_depends_on_no_other,
    a_context_that_is_asked_for_counts,
    weights_of_any_type_give_float32_terms,
)
