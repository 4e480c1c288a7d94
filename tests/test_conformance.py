"""Laws that every registered part obeys, whoever wrote it; a new part needs no new test file."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from parts.maf import MAF
from vaekit import plugins, register
from vaekit.batch import Batch, DataInfo
from vaekit.contracts import Core
from vaekit.distributions import takes_noise
from vaekit.model import MODEL_KINDS, Model
from vaekit.noise import fixed_noise

ROWS, DRAWS, LATENT, CONTEXT = 5, 3, (4,), 2
EVENTS = {"image": (1, 13, 10), "row": (7,)}


def model_with(kind: str, name: str, event: tuple[int, ...], context: int = 0) -> Model:
    """A small model around one part."""
    info = DataInfo(event, (0.0, 1.0), levels=2, context_features=context, data_size=50)
    return Model(info, latent_shape=list(LATENT), **{kind: name})


def rows(event: tuple[int, ...], context: int = 0) -> Batch:
    x = (torch.rand(ROWS, *event) > 0.5).float()
    return Batch(x, torch.randn(ROWS, context) if context else None)


def cases() -> list[Any]:
    """Every part that can be imported, on the events that it accepts."""
    found = []
    for kind in MODEL_KINDS[:5]:
        for plugin in plugins.plugins(kind):
            with suppress(plugins.RegistryError):
                part: Any = plugins.load(plugin)
                found += [
                    pytest.param(kind, plugin.path, event, id=f"{plugin.name}-{event_name}")
                    for event_name, event in EVENTS.items()
                    if part.accepts(event)
                ]
    return found


@pytest.fixture(autouse=True)
def _flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    register(MAF)


def noise_for(core: Core, batch: Batch) -> Tensor | None:
    """Noise to draw with, where q's map from noise is registered."""
    q = core.infer(batch.x, batch.context, batch.mask)
    return torch.randn(DRAWS, ROWS, *LATENT).to(batch.x) if takes_noise(q) else None


OURS = cases()
FLOW = [pytest.param("posterior", "MAF", e, id=f"MAF-{name}") for name, e in EVENTS.items()]
PART = pytest.mark.parametrize(("kind", "name", "event"), [*OURS, *FLOW])


@PART
def test_an_event_that_is_accepted_can_be_built(
    kind: str, name: str, event: tuple[int, ...]
) -> None:
    part = plugins.load(plugins.find(kind, name))
    for other in ((4,), (2, 3), (3, 8, 8), (2, 3, 4, 5)):
        try:
            model_with(kind, name, other)
        except plugins.RegistryError:
            assert not part.accepts(other)
        else:
            assert part.accepts(other)


@PART
@pytest.mark.parametrize("context", [0, CONTEXT])
def test_terms_have_one_value_per_draw_and_row(
    kind: str, name: str, event: tuple[int, ...], context: int
) -> None:
    core = model_with(kind, name, event, context).core
    draw = core.draw(rows(event, context), samples=DRAWS)
    assert draw.z.shape == (DRAWS, ROWS, *LATENT)
    for term in (draw.log_likelihood, draw.log_prior, draw.log_posterior, draw.log_weight):
        assert term.shape == (DRAWS, ROWS)
        assert term.isfinite().all()
    assert draw.rate.shape in ((1, ROWS), (DRAWS, ROWS))
    assert draw.p.mean.shape == (DRAWS, ROWS, *event)
    made = core.generate(6, torch.randn(6, context) if context else None, sample=True)
    assert made.shape == (6, *event)


@PART
def test_every_parameter_gets_a_gradient(kind: str, name: str, event: tuple[int, ...]) -> None:
    core = model_with(kind, name, event).core
    core.draw(rows(event)).log_weight.sum().backward()
    idle = [n for n, p in core.named_parameters() if p.grad is None]
    assert idle == []


@PART
def test_a_row_does_not_depend_on_its_batch(kind: str, name: str, event: tuple[int, ...]) -> None:
    core = model_with(kind, name, event).double().eval().core
    batch = rows(event)
    x = batch.x.double()
    noise = noise_for(core, Batch(x))
    if noise is None:
        pytest.skip("draws of one batch are not those of another")
    whole = core.draw(Batch(x), DRAWS, noise=noise).log_weight
    single = [
        core.draw(Batch(x[i : i + 1]), DRAWS, noise=noise[:, i : i + 1]) for i in range(ROWS)
    ]
    assert torch.allclose(whole, torch.cat([d.log_weight for d in single], dim=1), atol=1e-11)


@PART
def test_densities_are_float32_under_bfloat16_autocast(
    kind: str, name: str, event: tuple[int, ...]
) -> None:
    core = model_with(kind, name, event).core
    batch = rows(event)
    noise = noise_for(core, batch)
    with fixed_noise(1):
        exact = core.draw(batch, DRAWS, noise=noise).log_weight
    with torch.autocast("cpu", dtype=torch.bfloat16), fixed_noise(1):
        draw = core.draw(batch, DRAWS, noise=noise)
        terms = (draw.log_likelihood, draw.log_prior, draw.log_posterior, draw.rate)
        assert all(term.dtype == torch.float32 for term in terms)
        assert torch.allclose(draw.log_weight, exact, rtol=0.02)


@PART
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_of_any_type_give_terms_of_at_least_float32(
    kind: str, name: str, event: tuple[int, ...], dtype: torch.dtype
) -> None:
    core = model_with(kind, name, event).to(dtype).core
    wanted = torch.promote_types(dtype, torch.float32)
    batch = rows(event)
    batch.x = batch.x.to(wanted)
    draw = core.draw(batch, DRAWS)
    assert draw.log_weight.dtype == wanted
    assert draw.log_weight.isfinite().all()


@PART
def test_what_is_hidden_does_not_matter(kind: str, name: str, event: tuple[int, ...]) -> None:
    core = model_with(kind, name, event).core
    x = rows(event).x
    mask = torch.rand_like(x) > 0.3
    noise, terms = noise_for(core, Batch(x, mask=mask)), []
    for hidden in (0.0, 1.0, torch.nan):
        with fixed_noise(1):
            draw = core.draw(Batch(torch.where(mask, x, hidden), mask=mask), DRAWS, noise=noise)
        terms.append(draw.log_weight)
    assert torch.equal(terms[0], terms[1])
    assert torch.equal(terms[0], terms[2])


@pytest.mark.parametrize(("kind", "name", "event"), OURS)  # zuko's flows do not
def test_the_objective_compiles_whole(kind: str, name: str, event: tuple[int, ...]) -> None:
    model = model_with(kind, name, event)
    batch = rows(event)

    def loss(x: Tensor) -> Tensor:
        return model.objective(model.core, Batch(x), 0)["loss"].mean()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    expected = loss(batch.x)
    torch.manual_seed(1)
    assert torch.allclose(compiled(batch.x), expected, rtol=1e-5)


@PART
def test_state_round_trip(kind: str, name: str, event: tuple[int, ...]) -> None:
    model = model_with(kind, name, event)
    again = Model(**model.spec)
    again.load_state_dict(model.state_dict())
    batch, terms = rows(event), []
    noise = noise_for(model.core, batch)
    for one in (model, again):
        with fixed_noise(1):
            terms.append(one.eval().core.draw(batch, DRAWS, noise=noise).log_weight)
    assert torch.equal(*terms)


@PART
def test_evaluation_changes_no_state(kind: str, name: str, event: tuple[int, ...]) -> None:
    # pythae's VQ-VAE changed its codebook in reconstruct(), since predict never called eval().
    model = model_with(kind, name, event).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batch = rows(event)
    assert torch.equal(model.reconstruct(batch.x), model.reconstruct(batch.x))
    model.sample(3)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", [*MODEL_KINDS, "schedule", "data"])
def test_every_plugin_of_ours_loads_and_is_documented(kind: str) -> None:
    found = [p for p in plugins.plugins(kind) if p.package == "vaekit"]
    assert found
    for plugin in found:
        assert (plugins.load(plugin).__doc__ or "").strip(), plugin
