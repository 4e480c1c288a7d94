"""Every likelihood and network trains above the baseline of independent elements."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from math import inf, pi
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import fit
from vaekit import Model, VAEModule, data
from vaekit.evaluation.baseline import baseline
from vaekit.registry import plugins

ROWS = 1000


@cache
def digits(grey: bool = False) -> data.DataModule:
    return data.Digits(binarize="none" if grey else "dynamic", batch_size=100)


def arrays(x: Any, **known: Any) -> data.DataModule:
    return data.Arrays(x, batch_size=50, **known)


@cache
def latents() -> tuple[Tensor, Tensor]:
    """Two hidden numbers of each row, and what 20 elements make of them."""
    torch.manual_seed(1)
    z = torch.randn(ROWS, 2)
    return z, z @ torch.randn(2, 20)


def counts(dropout: float = 0.0, library: bool = False) -> data.DataModule:
    _, y = latents()
    size = 100 + 900 * torch.rand(ROWS, 1) if library else torch.ones(ROWS, 1)
    rate = size * (y + 1).exp() / (100.0 if library else 1.0)
    x = torch.poisson(torch.distributions.Gamma(2.0, 2.0 / rate).sample())
    x = x * (torch.rand(x.shape) >= dropout)
    return arrays(x.long(), data_range=(0, inf), context=size.log() if library else None)


def reals() -> data.DataModule:
    _, y = latents()
    return arrays(y + 0.3 * torch.randn(ROWS, 20))


def shares() -> data.DataModule:
    _, y = latents()
    return arrays((y + 0.3 * torch.randn(ROWS, 20)).sigmoid())


def positive() -> data.DataModule:
    _, y = latents()
    return arrays((y + 0.3 * torch.randn(ROWS, 20)).exp())


def signals() -> data.DataModule:
    """Two waves of one frequency, each row with its own, and its own length."""
    t = torch.arange(24) / 24
    rate, phase = 1 + 2 * torch.rand(ROWS, 1, 1), 2 * pi * torch.rand(ROWS, 2, 1)
    x = torch.sin(2 * pi * rate * t + phase) + 0.1 * torch.randn(ROWS, 2, 24)
    length = torch.randint(16, 25, (ROWS, 1, 1))
    return arrays(x, mask=(torch.arange(24) < length).expand(-1, 2, -1))


def tokens() -> data.DataModule:
    """Each row repeats one of three words of four letters, some of which are misspelt."""
    words = torch.tensor([[0, 1, 2, 3], [4, 4, 1, 0], [2, 0, 3, 4]])
    x = words[torch.randint(3, (ROWS,))].repeat(1, 4)
    x = torch.where(torch.rand(x.shape) < 0.1, torch.randint(5, x.shape), x)
    length = torch.randint(8, 17, (ROWS, 1))
    return arrays(x, data_range=(0, 4), mask=torch.arange(16) < length)


def sets() -> data.DataModule:
    """Points around a centre of each row's own."""
    return arrays(torch.randn(ROWS, 1, 2) + 0.2 * torch.randn(ROWS, 10, 2))


def table() -> data.DataModule:
    z = torch.randn(ROWS, 1)
    return arrays(
        {
            "age": z + 0.2 * torch.randn(ROWS, 1),
            "job": (2 * z + 3).clamp(0, 6).round().long(),
            "visits": torch.poisson((1 + z).exp()).long(),
        },
        data_range={"age": (-9, 9), "job": (0, 6), "visits": (0, inf)},
    )


def spec(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


def grey() -> data.DataModule:
    return digits(grey=True)


MIXED = spec(
    "Mixed",
    columns={"job": "Categorical", "visits": "NegativeBinomial"},
    others=spec("Gaussian", scale="learned"),
)
NORMAL = {"likelihood": spec("Gaussian", scale="learned")}
WORDS = {"likelihood": "Categorical"}
SOFT = {"scale": "elementwise"}


def _convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU())


def _dense() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))


CASES: dict[str, tuple[Callable[[], data.DataModule], dict[str, Any]]] = {
    "Bernoulli": (digits, {"likelihood": spec("Bernoulli", from_baseline=True)}),
    "ContinuousBernoulli": (shares, {"likelihood": "ContinuousBernoulli"}),
    "Beta": (shares, {"likelihood": spec("Beta", from_baseline=True)}),
    "Categorical": (grey, {"likelihood": "Categorical"}),
    "DiscretizedLogistic": (grey, {"likelihood": "DiscretizedLogistic"}),
    "DiscretizedLogisticMixture": (grey, {"likelihood": "DiscretizedLogisticMixture"}),
    "MSSSIM": (grey, {"likelihood": "MSSSIM"}),
    "FeatureSpace": (
        grey,
        {"likelihood": spec("FeatureSpace", network="ConvEncoder", weight=1000.0)},
    ),
    "Gaussian": (reals, {"likelihood": spec("Gaussian", **SOFT)}),
    "Laplace": (reals, {"likelihood": spec("Laplace", **SOFT)}),
    "StudentT": (reals, {"likelihood": spec("StudentT", **SOFT)}),
    "LogCosh": (reals, {"likelihood": spec("LogCosh", **SOFT)}),
    "LogNormal": (positive, {"likelihood": "LogNormal"}),
    "Poisson": (counts, {"likelihood": "Poisson"}),
    "NegativeBinomial": (
        lambda: counts(library=True),
        {"likelihood": spec("NegativeBinomial", library=0)},
    ),
    "ZeroInflatedNegativeBinomial": (
        lambda: counts(dropout=0.15),
        {"likelihood": "ZeroInflatedNegativeBinomial"},
    ),
    "Mixed": (table, {"likelihood": MIXED}),
    "EmbeddingEncoder": (table, {"likelihood": MIXED, "encoder": "EmbeddingEncoder"}),
    "MLPEncoder": (digits, {"encoder": spec("MLPEncoder", activation="GLU")}),
    "MLPDecoder": (digits, {"decoder": spec("MLPDecoder", activation="GLU")}),
    "ConvEncoder": (digits, {"encoder": "ConvEncoder"}),
    "ConvDecoder": (digits, {"decoder": "ConvDecoder"}),
    "ResNetEncoder": (digits, {"encoder": "ResNetEncoder"}),
    "ResNetDecoder": (digits, {"decoder": "ResNetDecoder"}),
    "a module": (
        digits,
        {"encoder": _convolution, "decoder": _dense},
    ),
    "GRUEncoder": (tokens, {**WORDS, "encoder": spec("GRUEncoder", tokens=True)}),
    "GRUDecoder": (tokens, {**WORDS, "decoder": "GRUDecoder"}),
    "TransformerEncoder": (tokens, {**WORDS, "encoder": spec("TransformerEncoder", tokens=True)}),
    "TransformerDecoder": (tokens, {**WORDS, "decoder": "TransformerDecoder"}),
    "Conv1dEncoder": (signals, {**NORMAL, "encoder": "Conv1dEncoder"}),
    "Conv1dDecoder": (signals, {**NORMAL, "decoder": "Conv1dDecoder"}),
    "DeepSets": (sets, {**NORMAL, "encoder": "DeepSets"}),
}
QUICK = ("Poisson", "EmbeddingEncoder", "DeepSets")
LONGER = {"a module": 25, "MSSSIM": 20, "GRUDecoder": 25, "Conv1dDecoder": 25}
LONGER |= {"NegativeBinomial": 40, "ZeroInflatedNegativeBinomial": 40}
LONGER |= {"EmbeddingEncoder": 30, "Mixed": 30}


def made(name: str) -> tuple[data.DataModule, dict[str, Any]]:
    """Make the rows of a case and the parts of its model, modules with new weights."""
    make, parts = CASES[name]
    return make(), {kind: part() if callable(part) else part for kind, part in parts.items()}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_a_part_trains_above_the_baseline_of_independent_elements(name: str) -> None:
    torch.manual_seed(0)
    rows, parts = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(rows, 8, **parts)
    module = VAEModule(model, spec("Adam", lr=0.003))
    trainer = fit(module, rows, max_epochs=LONGER.get(name, 12))
    base = baseline(model, rows)
    assert base is not None
    best = float(base.mean())
    found = float(trainer.callback_metrics[f"val/{model.best[0]}"])
    assert found > best + 0.02 * abs(best), (found, best)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", CASES)
def test_a_part_trains_in_half_precision(name: str, precision: str) -> None:
    torch.manual_seed(0)
    rows, parts = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(rows, 8, **parts)
    trainer = fit(model, rows, max_epochs=2, precision=precision)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert all(p.isfinite().all() for p in model.parameters())


def test_every_likelihood_and_network_of_ours_is_trained() -> None:
    for kind in ("likelihood", "encoder", "decoder"):
        ours = {p.name for p in plugins.list_plugins(kind) if p.package == "vaekit"}
        assert ours <= set(CASES), ours - set(CASES)
