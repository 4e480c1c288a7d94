"""A hundred models of parts that are drawn at random train, come back and sample."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import test_trains as rows_of
import torch

from conftest import fit
from latent_cases import LATENTS, part
from vaekit import DataInfo, Model, data, load
from vaekit.contracts.trees import leaves
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins

SPACES: dict[str, tuple[set[str], set[str]]] = {
    "the real numbers": (
        {"DiagonalNormal", "FullNormal", "LowRankNormal", "LaplacePosterior", "StudentTPosterior"}
        | {"Delta", "PlanarFlow", "RadialFlow", "SylvesterFlow", "IAF", "MAF", "RealNVP"}
        | {"SplineFlow", "Hamiltonian", "RiemannianHamiltonian"},
        {"StandardNormal", "LearnedNormal", "NormalMixture", "LaplacePrior", "FlowPrior"}
        | {"FittedNormal", "GaussianMixturePrior", "TwoStagePrior"},
    ),
    "positive numbers": ({"GammaPosterior"}, {"GammaPrior"}),
    "the simplex": ({"DirichletPosterior", "LogisticNormal"}, {"DirichletPrior"}),
    "bits": ({"RelaxedBernoulli"}, {"UniformBernoulli"}),
    "one-hot vectors": ({"RelaxedCategorical"}, {"UniformCategorical"}),
    "the sphere": ({"VonMisesFisher"}, {"UniformSphere"}),
    "the ball": (
        {"WrappedNormal", "RiemannianNormal"},
        {"WrappedNormalPrior", "RiemannianNormalPrior"},
    ),
}
OWN_DRAWS = {"PlanarFlow", "SylvesterFlow", "Hamiltonian", "RiemannianHamiltonian"}
EITHER = {"VampPrior"}  # of whatever support the posterior has
LEARNED = {"LearnedNormal", "NormalMixture", "FlowPrior"}  # which no autoencoder trains
POSTERIORS = sorted(set().union(*(q for q, _ in SPACES.values())))
PRIORS = sorted(EITHER.union(*(p for _, p in SPACES.values())))

ROWS: dict[Callable[[], data.DataModule], tuple[list[Any], list[Any], list[Any]]] = {
    rows_of.digits: (
        [part("Bernoulli"), part("Bernoulli", from_baseline=True)],
        [part("MLPEncoder"), part("ConvEncoder"), part("ResNetEncoder", channels=[8])],
        [part("MLPDecoder"), part("ConvDecoder"), part("ResNetDecoder", channels=[8])],
    ),
    rows_of.grey: (
        [part(n) for n in ("ContinuousBernoulli", "Beta", "Categorical", "DiscretizedLogistic")]
        + [part("DiscretizedLogisticMixture", components=2), part("MSSSIM"), part("Gaussian")]
        + [part("FeatureSpace", network="ConvEncoder"), part("LogCosh")],
        [part("MLPEncoder", activation="GLU"), part("ConvEncoder")],
        [part("MLPDecoder", activation="GLU"), part("ConvDecoder")],
    ),
    rows_of.reals: (
        [part(n, scale="elementwise") for n in ("Gaussian", "Laplace", "StudentT", "LogCosh")],
        [part("MLPEncoder", hidden=[16])],
        [part("MLPDecoder", hidden=[16])],
    ),
    rows_of.positive: ([part("LogNormal")], [part("MLPEncoder")], [part("MLPDecoder")]),
    rows_of.counts: (
        [part(n) for n in ("Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial")],
        [part("MLPEncoder")],
        [part("MLPDecoder")],
    ),
    rows_of.signals: (
        [part("Gaussian", scale="learned"), part("StudentT"), part("Laplace", scale="learned")],
        [
            part("Conv1dEncoder", channels=[8]),
            part("GRUEncoder", width=8),
            part("TransformerEncoder", width=8),
        ],
        [
            part("Conv1dDecoder", channels=[8]),
            part("GRUDecoder", width=8),
            part("TransformerDecoder", width=8),
        ],
    ),
    rows_of.tokens: (
        [part("Categorical")],
        [part("GRUEncoder", tokens=True, width=8), part("EmbeddingEncoder")],
        [part("GRUDecoder", width=8), part("MLPDecoder")],
    ),
    rows_of.sets: (
        [part("Gaussian", scale="learned")],
        [part("DeepSets", inner=[8])],
        [part("MLPDecoder")],
    ),
    rows_of.table: (
        [rows_of.MIXED],
        [part("EmbeddingEncoder"), part("MLPEncoder")],
        [part("MLPDecoder")],
    ),
}
"""The likelihoods, encoders and decoders that are tried with rows of each kind."""

Combination = tuple[Callable[[], data.DataModule], dict[str, Any], bool]


def fits(posterior: str, prior: str) -> bool:
    """Whether the two have latents of one kind, by the table above and not by the parts."""
    if prior in EITHER:
        return posterior not in {*OWN_DRAWS, "Delta"}
    if posterior == "Delta" and prior in LEARNED:
        return False
    return any(posterior in q and prior in p for q, p in SPACES.values())


def tried(name: str) -> dict[str, Any]:
    """A posterior or prior, all of which that lie in a ball have one curvature."""
    return part(name, **{k: v for k, v in LATENTS[name][0].items() if k != "curvature"})


def objective_of(posterior: str) -> Any:
    return LATENTS[posterior][1].get("objective", "ELBO")


def combinations(n: int) -> list[Combination]:
    """n models, a quarter of which have a prior drawn from all; every part is among them."""
    chance = random.Random(24)

    def endless(names: list[Any]) -> Any:
        while True:
            yield from chance.sample(names, len(names))

    posterior, makers = endless(POSTERIORS), cycle(ROWS)
    fitting = {q: endless([p for p in PRIORS if fits(q, p)] or PRIORS) for q in POSTERIORS}
    around = {make: [endless(names) for names in parts] for make, parts in ROWS.items()}
    found: list[Combination] = []
    for number, make in enumerate(islice(makers, n)):
        q = next(posterior)
        p = chance.choice(PRIORS) if number % 4 == 3 else next(fitting[q])
        likelihood, encoder, decoder = (next(names) for names in around[make])
        parts = {
            "posterior": tried(q),
            "prior": tried(p),
            "encoder": encoder,
            "decoder": decoder,
            "likelihood": likelihood,
        }
        found.append((make, parts, fits(q, p)))
    return found


def named(combination: Combination) -> str:
    return "-".join(spec["class_path"] for spec in combination[1].values())


ALL = combinations(100)


@pytest.mark.parametrize(
    "combination",
    [
        pytest.param(c, id=f"{n}-{named(c)}", marks=[pytest.mark.slow] if n >= 15 else [])
        for n, c in enumerate(ALL)
    ],
)
def test_parts_combine_or_are_refused(combination: Combination, tmp_path: Path) -> None:
    make, parts, possible = combination
    torch.manual_seed(0)
    rows = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        q, p = (parts[kind]["class_path"] for kind in ("posterior", "prior"))
        objective = objective_of(q)
        if not possible:
            with pytest.raises(ValueError, match=f"{q}.*{p}|VampPrior.*{q}|{objective}.*{p}"):
                Model(rows, 4, **parts, objective=objective)
            return
        model = Model(rows, 4, **parts, objective=objective)
        trainer = fit(model, rows, max_steps=3, limit_val_batches=1)
    assert trainer.global_step == 3
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again, batch = load(tmp_path / "model.ckpt", **model.instances), next(rows.rows("val", 5))
    found = []
    for one in (model, again):
        with fixed_noise(1):
            found.append(one.evaluate(batch))
    for name, term in found[0].items():
        assert term.isfinite().all(), name
        assert torch.equal(term, found[1][name]), name
    for sample in (False, True):
        context = None if batch.context is None else batch.context[:3]
        made = leaves(again.sample(3, context, sample=sample))
        assert all(leaf.isfinite().all() for leaf in made)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_model_takes_the_priors_of_the_table_and_no_others(posterior: str) -> None:
    info, taken = DataInfo((6,), (0.0, 1.0), levels=2), set()
    for prior in PRIORS:
        parts = {"posterior": tried(posterior), "prior": tried(prior)}
        with suppress(ValueError):
            Model(info, 4, **parts, objective=objective_of(posterior))
            taken.add(prior)
    assert taken == {prior for prior in PRIORS if fits(posterior, prior)}


def test_every_part_is_among_them() -> None:
    among = {
        spec["class_path"] for _, parts, possible in ALL if possible for spec in parts.values()
    }
    for kind in ("posterior", "prior", "encoder", "decoder", "likelihood"):
        ours = {p.name for p in plugins.list_plugins(kind) if p.package == "vaekit"}
        assert ours <= among, ours - among
    assert 10 < sum(not possible for *_, possible in ALL) < 30
