"""Every part that is installed, whoever wrote it, obeys the laws of its kind."""

from __future__ import annotations

import os
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from latent_cases import LATENTS
from objective_cases import OBJECTIVES
from vaekit import DataInfo, testing
from vaekit.registry import plugins
from vaekit.testing.models import (
    FIRST,
    every_parameter_gets_a_gradient,
    it_compiles_whole,
    its_state_comes_back,
)
from vaekit.testing.ranks import OF_RANKS
from vaekit.testing.subject import Made, Subject

Case = tuple[dict[str, Any], dict[str, Any]]
"""Arguments of a part's own, and of the check."""


def rows(event: Any, span: Any = (0.0, 1.0), levels: Any = None, **known: Any) -> dict[str, Any]:
    return {"data": DataInfo(event, span, levels, data_size=100, **known)}


SEEDED = torch.Generator().manual_seed(0)
AGES = torch.rand(90, generator=SEEDED).numpy()
PEOPLE = pd.DataFrame({"age": AGES, "job": ["a", "b", None] * 30})
TABLE = rows(
    {"a": (2,), "b": (1,), "c": (1,)},
    {"a": (-inf, inf), "b": (0, 5), "c": (0, 3)},
    {"a": None, "b": 6, "c": 4},
)
LIBRARY = rows((2,), (0, inf), context_features=2)
TOKENS = {**rows((9,), (0, 4), 5), "likelihood": "Categorical"}
SMALL = {"width": 8}
OF_TABLE = {"class_path": "Mixed", "init_args": {"others": "Gaussian"}}
DENSE = {"class_path": "MLPEncoder", "init_args": {"hidden": [8]}}

CASES: dict[str, list[Case]] = {
    **{name: [case] for name, case in LATENTS.items()},
    **OBJECTIVES,
    "RelaxedCategorical": [
        LATENTS["RelaxedCategorical"],
        ({}, {"latent_shape": [3, 4], "prior": "UniformCategorical"}),
        ({}, {"prior": {"class_path": "VampPrior", "init_args": {"components": 5}}}),
    ],
    "LogisticNormal": [
        LATENTS["LogisticNormal"],
        ({}, {"prior": {"class_path": "VampPrior", "init_args": {"components": 5}}}),
    ],
    "Cyclical": [({"steps": 10}, {})],
    "Linear": [({"steps": 10}, {})],
    "Sigmoid": [({"steps": 10}, {})],
    "Step": [({"at": 10}, {})],
    "Arrays": [
        ({"x": torch.rand(90, 5, generator=SEEDED)}, {}),
        ({"x": torch.rand(90, 2, generator=SEEDED).tolist(), "missing": 0.2}, {}),
    ],
    "Table": [({"path": PEOPLE}, {})],
    "DSprites": [({"rows": 200}, {})],
    "Counts": [({"path": csr_matrix(torch.arange(1, 451).remainder(7).view(90, 5).numpy())}, {})],
    "Sequences": [
        ({"path": [torch.randn(2 + i % 5, 2, generator=SEEDED) for i in range(90)]}, {}),
        ({"path": [torch.arange(2 + i % 5) for i in range(90)]}, {}),
    ],
    "Bernoulli": [({}, {}), ({"from_baseline": True}, {})],
    "ContinuousBernoulli": [({}, rows((2,))), ({"from_baseline": True}, {})],
    "Gaussian": [({}, {}), ({"scale": "learned"}, {}), ({"scale": "elementwise"}, {})],
    "Laplace": [({"scale": "elementwise", "from_baseline": True}, {}), ({"scale": "learned"}, {})],
    "StudentT": [({}, {}), ({"scale": "elementwise", "df": 2.5}, {})],
    "LogCosh": [({"scale": "learned"}, {}), ({"scale": "elementwise"}, {})],
    "LogNormal": [({}, rows((2,), (0.5, 4.0))), ({"scale": 0.5}, rows((2,), (0.5, 4.0)))],
    "Beta": [({}, {}), ({"from_baseline": True}, rows((2,)))],
    "Categorical": [({}, rows((2,), (0, 4), 5)), ({}, {})],
    "DiscretizedLogistic": [
        ({}, rows((2,), (0, 1), 16)),
        ({"scale": "learned"}, rows((1,), (-1, 1), 256)),
    ],
    "DiscretizedLogisticMixture": [
        ({"components": 3}, rows((2, 1, 1), (0, 1), 16)),
        ({}, rows((7,), (0, 1), 16)),
    ],
    "Poisson": [({}, {}), ({"library": 0}, LIBRARY)],
    "NegativeBinomial": [({}, {}), ({"dispersion": "elementwise", "library": 0}, LIBRARY)],
    "ZeroInflatedNegativeBinomial": [
        ({}, {}),
        ({"dispersion": "elementwise", "library": 1}, LIBRARY),
    ],
    "Mixed": [({"columns": {"c": "Categorical", "b": "Poisson"}, "others": "Gaussian"}, TABLE)],
    "MSSSIM": [({}, {}), ({}, rows((1, 24, 24)))],
    "FeatureSpace": [({"network": DENSE}, {}), ({"network": "ConvEncoder"}, {})],
    "MLPEncoder": [({}, {}), ({"activation": "GLU"}, {})],
    "GRUEncoder": [(SMALL, {}), ({"tokens": True, "layers": 2, **SMALL}, TOKENS)],
    "TransformerEncoder": [(SMALL, {}), ({"tokens": True, **SMALL}, TOKENS)],
    "Conv1dEncoder": [({"channels": [8]}, {}), ({"tokens": True, "channels": [8]}, TOKENS)],
    "DeepSets": [({"inner": [8]}, {}), ({"pool": "max"}, {}), ({"pool": "sum"}, {})],
    "EmbeddingEncoder": [
        ({"categorical": ["c"]}, {**TABLE, "likelihood": OF_TABLE}),
        ({}, TOKENS),
    ],
    "GRUDecoder": [(SMALL, {}), ({"layers": 2, **SMALL}, TOKENS)],
    "TransformerDecoder": [(SMALL, {})],
    "Conv1dDecoder": [({"channels": [8]}, {})],
    "ResNetEncoder": [({"channels": [8]}, {})],
    "ResNetDecoder": [({"channels": [8]}, {}), ({"channels": [8], "blocks": 2}, {})],
}
"""What parts are tried with that need some, or have several ways; the first in the quick set."""

WITHOUT = dict.fromkeys(("GRUEncoder", "GRUDecoder"), ("it_compiles_whole",))
"""Laws that a part of ours is excused from: torch.compile cannot follow recurrent units."""

FILES = (
    *("MNIST", "FashionMNIST", "KMNIST", "CIFAR10"),
    *("FreyFaces", "Omniglot", "Caltech101Silhouettes"),
)  # which no test downloads
OWN = ("ImageFolder", "HuggingFace")  # whose tests write the files that they are tried on


def installed() -> list[Any]:
    """Every part that can be imported; what cannot be is told by `vaekit plugins --check`."""
    found = []
    for plugin in plugins.list_plugins():
        with suppress(plugins.RegistryError):
            plugins.load(plugin)
            found.append(pytest.param(plugin, id=f"{plugin.kind}-{plugin.name}"))
    return found


def subject(plugin: plugins.Plugin, case: Case | None = None) -> Subject | Made:
    init_args, around = case or CASES.get(plugin.name, [({}, {})])[0]
    if plugin.kind in ("schedule", "data"):
        return Made(plugin.kind, plugin.path, init_args)
    around = dict(around)
    return Subject(plugin.kind, plugin.path, init_args, around.pop("data", None), around)


COMPILED = ("Gaussian", "ConvEncoder", "MLPDecoder", "DiagonalNormal", "StandardNormal")
"""Those parts that are compiled in the quick set."""

WHOLLY = ("DiagonalNormal", "StandardNormal", "VampPrior", "DirichletPosterior", "FlowPrior")
WHOLLY += ("VonMisesFisher", "GaussianMixturePrior", "ELBO")
"""Those posteriors, priors and objectives that are held to all laws in the quick set."""

BRIEFLY = (*FIRST, every_parameter_gets_a_gradient, its_state_comes_back)
"""What the others are held to there."""


def obeys(plugin: plugins.Plugin, case: Case | None = None, quick: bool = False) -> None:
    left = {law.__name__ for law in OF_RANKS} | set(WITHOUT.get(plugin.name, ()))
    many = plugin.kind in ("posterior", "prior", "objective")
    later = plugin.kind in ("posterior", "prior", "encoder", "decoder", "likelihood")
    if quick and later and plugin.name not in COMPILED:
        left.add("it_compiles_whole")
    only = BRIEFLY if quick and many and plugin.name not in WHOLLY else ()
    known = {law.__name__ for law in testing.laws(plugin.kind)}
    testing.check(subject(plugin, case), without=left & known, only=only)


@pytest.mark.parametrize("plugin", installed())
def test_a_part_obeys_the_laws_of_its_kind(plugin: plugins.Plugin) -> None:
    if plugin.name in FILES and plugin.package == "vaekit":
        pytest.skip("its files are tried in the slow set")
    if plugin.name in OWN and plugin.package == "vaekit":
        pytest.skip("it is tried where its files are written")
    obeys(plugin, quick=True)


def of(*kinds: str) -> list[Any]:
    return [p for p in installed() if p.values[0].kind in kinds]


@pytest.mark.slow
@pytest.mark.parametrize("plugin", of("encoder", "decoder", "likelihood"))
def test_a_part_compiles_whole(plugin: plugins.Plugin) -> None:
    if plugin.name in WITHOUT:
        pytest.skip("torch.compile cannot follow it")
    testing.check(subject(plugin), only=(it_compiles_whole,))


@pytest.mark.slow
@pytest.mark.parametrize("plugin", of("posterior", "prior", "objective"))
def test_a_posterior_prior_or_objective_obeys_all_laws(plugin: plugins.Plugin) -> None:
    obeys(plugin)


def others() -> list[Any]:
    """Every part with each further way in which it is tried."""
    return [
        pytest.param(p.values[0], case, id=f"{p.id}-{number}")
        for p in installed()
        for number, case in enumerate(CASES.get(p.values[0].name, [])[1:], start=2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("plugin", "case"), others())
def test_a_part_obeys_the_laws_in_its_other_ways(plugin: plugins.Plugin, case: Case) -> None:
    obeys(plugin, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plugin", [p for p in installed() if p.values[0].kind not in ("schedule", "data")]
)
def test_two_ranks_end_with_one_model(plugin: plugins.Plugin) -> None:
    testing.check(subject(plugin), only=OF_RANKS)


def test_two_ranks_end_with_one_likelihood_whose_scale_is_shared() -> None:
    part = Subject("likelihood", "Gaussian", {"scale": "optimal"})
    testing.check(part, only=OF_RANKS)


@pytest.mark.slow
def test_mnist_s_own_files_obey_the_laws(mnist_root: Path) -> None:
    testing.check_data("MNIST", {"root": os.fspath(mnist_root)})


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_plugin_of_ours_loads_and_is_documented(kind: str) -> None:
    found = [p for p in plugins.list_plugins(kind) if p.package == "vaekit"]
    assert found
    for plugin in found:
        assert (plugins.load(plugin).__doc__ or "").strip(), plugin
