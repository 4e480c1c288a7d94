"""The laws themselves: each catches its fault, and nothing else is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from faulty_parts import FAULTS
from parts.iwae import IWAE
from parts.maf import MAF
from test_parts import PARTS, _registered
from vaekit import DataInfo, Model, plugins, testing
from vaekit.data.base import DataModule
from vaekit.data.rows import Rows
from vaekit.encoders import MLPEncoder
from vaekit.likelihoods import Gaussian
from vaekit.schedules import Schedule
from vaekit.specs import as_spec
from vaekit.testing.others import Made
from vaekit.testing.subject import Subject

__all__ = ["_registered"]  # the fixture

RANKS = "two_ranks_end_with_one_model"
BINARY = DataInfo((6,), (0.0, 1.0), levels=2)


@pytest.mark.parametrize("law", [law for law in FAULTS if law != RANKS])
def test_a_fault_is_caught_by_its_law_and_by_no_other(law: str) -> None:
    kind, part = FAULTS[law]
    before = torch.get_rng_state()
    with pytest.raises(testing.LawError, match=rf"{part.__name__} breaks a law.*\n  {law}: ") as e:
        testing.check(Subject(kind, part), without=[RANKS])
    assert e.value.laws == (law,)
    assert torch.equal(torch.get_rng_state(), before)
    assert part.__name__ not in [plugin.name for plugin in plugins.plugins(kind)]


@pytest.mark.slow
def test_ranks_that_part_are_caught() -> None:
    kind, part = FAULTS[RANKS]
    with pytest.raises(testing.LawError, match=r"another core\.encoder\.middle") as e:
        testing.check(Subject(kind, part))
    assert e.value.laws == (RANKS,)


def test_a_part_may_be_an_instance_with_the_rows_that_it_was_made_for() -> None:
    encoder = MLPEncoder((6,), hidden=8)
    weight = encoder.net[0].weight.clone()
    testing.check_encoder(encoder, data=BINARY, without=[RANKS])
    assert torch.equal(encoder.net[0].weight, weight)
    with pytest.raises(testing.LawError, match=r"Expected data=DataInfo"):
        testing.check_encoder(encoder)


def test_a_class_need_not_be_registered_and_may_have_arguments() -> None:
    testing.check_objective(IWAE, {"samples": 3, "dreg": True}, without=[RANKS])
    with pytest.raises(testing.LawError, match=r"Gaussian.*Expected scale"):
        testing.check_likelihood(Gaussian, {"scale": -1.0})


def test_a_part_is_excused_in_plain_sight() -> None:
    with pytest.raises(testing.LawError) as e:
        testing.check_posterior(MAF, without=[RANKS])
    assert e.value.laws == ("it_compiles_whole",)  # zuko's flows do not
    testing.check_posterior(MAF, without=[RANKS, "it_compiles_whole"])
    with pytest.raises(ValueError, match=r"Expected laws of a posterior .* but got no_such"):
        testing.check_posterior(MAF, without=["no_such_law"])


LABELLED = DataInfo((6,), (0.0, 1.0), levels=2, classes=3)
COLOURS = DataInfo((2, 1, 1), (0.0, 1.0), levels=5)
PAIR = DataInfo(
    {"image": (1, 4, 4), "code": (3,)},
    {"image": (0.0, 1.0), "code": (-2.0, 2.0)},
    levels={"image": 2, "code": None},
)
OUTSIDE = [
    ("objective", "IWAE", None, {}),
    ("objective", "FactorVAE", None, {}),
    ("posterior", "VectorQuantised", None, PARTS["vq"]),
    ("objective", "Reconstruction", None, PARTS["vq"]),
    ("prior", "VampPrior", None, {}),
    ("core", "TwoLevel", BINARY, {}),
    ("likelihood", "LogisticMixture", COLOURS, {}),
    *((kind, PARTS["m2"][kind], LABELLED, PARTS["m2"]) for kind in PARTS["m2"] if kind[0] != "l"),
    *((kind, PARTS["poe"][kind], PAIR, PARTS["poe"]) for kind in PARTS["poe"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "part", "data", "around"), OUTSIDE)
def test_parts_of_outside_authors_obey_the_laws(
    kind: str, part: Any, data: DataInfo | None, around: dict[str, Any]
) -> None:
    others = {name: value for name, value in around.items() if name != kind}
    spec = as_spec(part)
    # The classes are registered in this process alone.
    testing.check(
        Subject(kind, spec["class_path"], spec["init_args"], data, others), without=[RANKS]
    )


def test_a_whole_model_is_held_to_the_laws() -> None:
    testing.check_model(Model(BINARY, latent_shape=2), without=[RANKS])


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
        train = slice(0, 45) if self.fault == "shared" else slice(0, 40)
        return {"train": rows.subset(train), "val": rows.subset(slice(40, 60))}

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
        ("noise", "held_out_rows_stay"),
    ],
)
def test_a_faulty_data_module_is_caught(fault: str, law: str | None) -> None:
    part = type("Points", (Points,), {"fault": fault})
    skipped = ["its_description_makes_it_again"]  # it is registered nowhere
    if law is None:
        testing.check_data(part, {"batch_size": 16}, without=skipped)
        return
    with pytest.raises(testing.LawError) as e:
        testing.check_data(part, {"batch_size": 16}, without=skipped)
    assert law in e.value.laws


def test_the_laws_of_every_kind_say_what_they_are() -> None:
    for kind in (*plugins.KINDS, "model"):
        found = testing.laws(kind)
        assert len({law.__name__ for law in found}) == len(found)
        assert all((law.__doc__ or "").strip() for law in found)
    assert isinstance(Made("schedule", "Constant").make(), Schedule)
