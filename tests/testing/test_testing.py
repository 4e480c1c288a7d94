"""The laws themselves: each catches its fault, and nothing else is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_parts import PARTS, _registered
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    RelaxedBernoulli,
)

from faulty_parts import FAULTS
from parts.maf import OutsideMAF
from vaekit import DataInfo, Model, testing
from vaekit.contracts import Prior
from vaekit.contracts.draw import Draw, Level
from vaekit.contracts.schedule import Schedule
from vaekit.cores.vae import VAE
from vaekit.data.base import DataModule
from vaekit.data.rows.batches import Rows
from vaekit.distributions.base import normal
from vaekit.likelihoods import Gaussian
from vaekit.networks.mlp import MLPEncoder
from vaekit.objectives.elbo import ELBO
from vaekit.registry import plugins
from vaekit.registry.specs import as_spec
from vaekit.testing.subject import Subject

__all__ = ["_registered"]  # the fixture

RANKS, COMPILES = "two_ranks_end_with_one_model", "it_compiles_whole"
CONTEXT = "a_context_that_is_asked_for_counts"
STOPS = "stopping_leaves_the_value_and_the_path"
BINARY = DataInfo((6,), (0.0, 1.0), levels=2)


@pytest.mark.parametrize("law", [law for law in FAULTS if law != RANKS])
def test_a_fault_is_caught_by_its_law_and_by_no_other(law: str) -> None:
    kind, part = FAULTS[law]
    before = torch.get_rng_state()
    with pytest.raises(testing.LawError, match=rf"{part.__name__} breaks a law.*\n  {law}: ") as e:
        testing.check(Subject(kind, part), without=[RANKS, COMPILES])
    assert e.value.laws == (law,)
    assert torch.equal(torch.get_rng_state(), before)
    assert part.__name__ not in [plugin.name for plugin in plugins.list_plugins(kind)]


@pytest.mark.slow
@pytest.mark.parametrize("law", FAULTS)
def test_so_it_is_by_all_laws_together(law: str) -> None:
    kind, part = FAULTS[law]
    with pytest.raises(testing.LawError) as e:
        testing.check(Subject(kind, part))
    assert e.value.laws == (law,)


def test_a_part_may_be_an_instance_with_the_rows_that_it_was_made_for() -> None:
    encoder = MLPEncoder((6,), hidden=8)
    weight = encoder.net[0].weight.clone()
    testing.check_encoder(encoder, data=BINARY, without=[RANKS])
    assert torch.equal(encoder.net[0].weight, weight)
    with pytest.raises(testing.UsageError, match=r"Expected data=DataInfo.* was made for"):
        testing.check_encoder(encoder)


def test_a_class_need_not_be_registered_and_may_have_arguments() -> None:
    class Own(ELBO):
        """The ELBO under another name."""

    testing.check_objective(Own, {"samples": 3}, without=[RANKS, COMPILES])
    with pytest.raises(testing.LawError, match=r"Gaussian.*Expected scale"):
        testing.check_likelihood(Gaussian, {"scale": -1.0})


def test_a_part_is_excused_in_plain_sight() -> None:
    laws = [law for law in testing.laws("posterior") if law.__name__ in (CONTEXT, COMPILES)]
    with pytest.raises(testing.LawError) as e:
        testing.check(Subject("posterior", OutsideMAF), only=laws)
    assert e.value.laws == (COMPILES,)  # zuko's flows do not
    excused = testing.check(Subject("posterior", OutsideMAF), only=laws, without=[COMPILES])
    assert excused == {CONTEXT: "it asks for no context_features"}
    with pytest.raises(ValueError, match=r"Expected laws of a posterior .* but got no_such"):
        testing.check_posterior(OutsideMAF, without=["no_such_law"])


def test_a_posterior_that_reads_its_weights_in_log_prob_alone_is_caught() -> None:
    # zuko's flows do, when whoever froze them is done: STL and DReG would train it wrongly.
    law = next(law for law in testing.laws("posterior") if law.__name__ == STOPS)
    with pytest.raises(testing.LawError, match=r"the gradient of .*through z but .* with stop"):
        testing.check(Subject("posterior", OutsideMAF), only=[law])
    assert testing.check(Subject("posterior", "MAF"), only=[law]) == {}
    excused = testing.check(Subject("posterior", "PlanarFlow"), only=[law])
    assert "its own draws alone" in excused[STOPS]


LABELLED = DataInfo((6,), (0.0, 1.0), levels=2, classes=3)
COLOURS = DataInfo((2, 1, 1), (0.0, 1.0), levels=5)
PAIR = DataInfo(
    {"image": (1, 4, 4), "code": (3,)},
    {"image": (0.0, 1.0), "code": (-2.0, 2.0)},
    levels={"image": 2, "code": None},
)
OUTSIDE = [
    ("posterior", "VectorQuantised", None, PARTS["vq"]),
    ("objective", "Reconstruction", None, PARTS["vq"]),
    ("prior", "VampPrior", None, {}),
    ("core", "TwoLevel", BINARY, {}),
    ("likelihood", "LogisticMixture", COLOURS, {}),
    *((kind, PARTS["m2"][kind], LABELLED, PARTS["m2"]) for kind in PARTS["m2"] if kind[0] != "l"),
    *((kind, PARTS["poe"][kind], PAIR, PARTS["poe"]) for kind in PARTS["poe"]),
]


@pytest.mark.slow
def test_a_flow_obeys_the_other_laws() -> None:
    excused = testing.check_posterior(OutsideMAF, without=[COMPILES, STOPS])
    assert excused.keys() == {"a_registered_kl_is_the_integral", CONTEXT}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "part", "data", "around"), OUTSIDE)
def test_parts_of_outside_authors_obey_the_laws(
    kind: str, part: Any, data: DataInfo | None, around: dict[str, Any]
) -> None:
    others = {name: value for name, value in around.items() if name != kind}
    # M2 is for one posterior alone, which brings no losses.
    without = [RANKS, *(["losses_of_q_are_minimised"] if part == "M2" else [])]
    spec = as_spec(part)
    # The classes are registered in this process alone.
    testing.check(
        Subject(kind, spec["class_path"], spec["init_args"], data, others), without=without
    )


def test_a_whole_model_is_held_to_the_laws() -> None:
    model = Model(BINARY, latent_shape=2)
    testing.check_model(model, without=[RANKS, COMPILES])
    with pytest.raises(testing.UsageError, match=r"Expected nothing but laws to leave out"):
        testing.check_model(model, data=BINARY)


@pytest.mark.parametrize("kind", ["posterior", "prior", "likelihood"])
def test_a_conditional_part_is_held_to_the_laws(kind: str) -> None:
    data = DataInfo((2,), (0.0, 1.0), levels=2, context_features=2)
    name = {"posterior": "DiagonalNormal", "prior": Conditional, "likelihood": "Bernoulli"}[kind]
    excused = testing.check(Subject(kind, name, data=data), without=[RANKS, COMPILES])
    assert "a_density_integrates_to_one" not in excused
    assert (CONTEXT in excused) == (kind == "likelihood")


class Conditional(Prior):
    """A Normal whose mean is linear in the context."""

    def __init__(self, latent_shape: tuple[int, ...], context_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_features, latent_shape[0])

    def forward(self, context: Any = None, infer: Any = None) -> Any:
        loc = self.linear(context)
        return normal(loc, torch.ones_like(loc), 1)


class Tempered(Conditional):
    """Torch's own relaxed Bernoulli, whose draws lie at the ends of (0, 1)."""

    def forward(self, context: Any = None, infer: Any = None) -> Any:
        logits = self.linear(context)
        temperature = torch.tensor(0.05).to(logits)
        return Independent(RelaxedBernoulli(temperature, logits=logits), 1)


class Narrow(Conditional):
    """Ten narrow Normals, far apart."""

    def forward(self, context: Any = None, infer: Any = None) -> Any:
        loc = self.linear(context).unsqueeze(1)
        loc = loc + torch.arange(10.0).to(loc).view(-1, 1)
        base = Independent(Normal(loc, torch.full_like(loc, 0.004)), 1)
        return MixtureSameFamily(Categorical(loc.new_zeros(len(loc), 10).exp()), base)


@pytest.mark.parametrize(
    ("part", "why"), [(Tempered, "ends of its support"), (Narrow, "too narrow for a grid")]
)
def test_a_density_that_no_grid_resolves_is_excused_not_accused(part: type, why: str) -> None:
    data = DataInfo((2,), (0.0, 1.0), levels=2, context_features=2)
    law = next(w for w in testing.laws("prior") if w.__name__ == "a_density_integrates_to_one")
    excused = testing.check(Subject("prior", part, data=data), only=[law])
    assert why in excused[law.__name__]


class Dropped(MLPEncoder):
    """Asks for the context and leaves it out."""

    def forward(self, x: Any, context: Any = None, mask: Any = None) -> Any:
        return super().forward(x, None if context is None else 0 * context, mask)


class Coupled(MLPEncoder):
    """Rows see one another in training alone."""

    def forward(self, x: Any, context: Any = None, mask: Any = None) -> Any:
        h = super().forward(x, context, mask)
        return h - 0.01 * h.mean(0) if self.training else h


class Forgetful(ELBO):
    """Has a weight that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = float(torch.rand(()))

    def forward(self, model: Any, batch: Any, step: int) -> Any:
        terms = super().forward(model, batch, step)
        return {**terms, "loss": terms["loss"] * self.weight}


class LossesLeft(ELBO):
    """Does not minimise what q brings."""

    def forward(self, model: Any, batch: Any, step: int) -> Any:
        terms = model.draw(batch).bound()
        return {**terms, "loss": -terms["elbo"]}


class HalfStopped(VAE):
    """Stops the parameters of the scale, but not of the mean."""

    def draw(self, batch: Any, samples: int = 1, stop: bool = False, **given: Any) -> Any:
        if not stop:
            return super().draw(batch, samples, **given)
        draw = super().draw(batch, samples, **given)
        (level,) = draw.levels
        base: Any = level.q.base_dist  # type: ignore[attr-defined]
        half = normal(base.loc, base.scale.detach(), 1)
        own = Level.of(level.z, level.q, level.p, density=half)
        return Draw(batch, (own,), draw.features, draw.p, lambda: draw.log_likelihood)


@pytest.mark.parametrize(
    ("kind", "part", "law"),
    [
        ("encoder", Dropped, CONTEXT),
        ("encoder", Coupled, "a_row_depends_on_no_other"),
        ("objective", Forgetful, "its_state_comes_back"),
        ("objective", LossesLeft, "losses_of_q_are_minimised"),
        ("core", HalfStopped, STOPS),
    ],
)
def test_a_subtle_fault_is_caught_too(kind: str, part: type, law: str) -> None:
    with pytest.raises(testing.LawError) as e:
        testing.check(Subject(kind, part), without=[RANKS, COMPILES])
    assert law in e.value.laws


class Odd(MLPEncoder):
    @classmethod
    def accepts(cls, event_shape: Any) -> bool:
        return tuple(event_shape) == (9, 9)


def test_who_accepts_none_of_the_usual_rows_is_told_to_name_some() -> None:
    with pytest.raises(testing.UsageError, match=r"data=DataInfo.* that the encoder accepts"):
        testing.check_encoder(Odd)
    data = DataInfo((9, 9), (0.0, 1.0), levels=2)
    testing.check(Subject("encoder", Odd, data=data), without=[RANKS, COMPILES])


class Random(Schedule):
    def __call__(self, step: int) -> float:
        return float(torch.rand(()))


class Counting(Schedule):
    calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return float(self.calls)


class Unbounded(Schedule):
    def __call__(self, step: int) -> float:
        return 1 / (1000 - step) if step != 1000 else float("inf")


@pytest.mark.parametrize(
    ("part", "law"),
    [
        (Counting, "a_weight_depends_on_the_step_alone"),
        (Random, "a_weight_depends_on_the_step_alone"),
        (Unbounded, "weights_are_finite_numbers"),
    ],
)
def test_a_faulty_schedule_is_caught(part: type, law: str) -> None:
    with pytest.raises(testing.LawError) as e:
        testing.check_schedule(part)
    assert law in e.value.laws


class Points(DataModule):
    """Rows of two numbers."""

    fault = ""

    def load(self) -> dict[str, Rows]:
        noise = None if self.fault == "seed" else torch.Generator().manual_seed(self.seed)
        x = torch.rand(60, 2, generator=noise)
        x = x + 1 if self.fault == "range" else x
        rows = Rows(x)
        if self.fault == "views":
            return {"train": Rows(x[:45]), "val": Rows(x[40:])}
        train = slice(0, 45) if self.fault == "shared" else slice(0, 40)
        return {"train": rows.subset(train), "val": rows.subset(slice(40, 60))}

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        if self.fault != "twice":
            return loader
        first, _, *others = loader
        return [first, first, *others]

    def rows(self, split: str, *args: Any, **kwargs: Any) -> Any:
        for batch in super().rows(split, *args, **kwargs):
            if self.fault == "noise" and split != "train":
                batch.x = batch.x * torch.rand_like(batch.x)
            yield batch


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("", None),
        ("range", "rows_are_as_declared"),
        ("seed", "the_same_arguments_give_the_same_rows"),
        ("shared", "splits_share_no_row"),
        ("views", "splits_share_no_row"),
        ("twice", "every_training_row_is_in_one_batch"),
        ("noise", "held_out_rows_stay"),
    ],
)
def test_a_faulty_data_module_is_caught(fault: str, law: str | None) -> None:
    part = type("Points", (Points,), {"fault": fault})
    if law is None:
        assert testing.check_data(part, {"batch_size": 16}) == {}
        return
    with pytest.raises(testing.LawError) as e:
        testing.check_data(part, {"batch_size": 16})
    assert law in e.value.laws


def test_the_laws_of_every_kind_say_what_they_are() -> None:
    for kind in (*plugins.KINDS, "model"):
        found = testing.laws(kind)
        assert len({law.__name__ for law in found}) == len(found)
        assert all((law.__doc__ or "").strip() for law in found)
    with pytest.raises(ValueError, match=r"Expected a kind out of encoder, .* but got 'coder'"):
        testing.laws("coder")
