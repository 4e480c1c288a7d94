"""A law of every likelihood: no constant output beats the baseline on the training rows."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_trains import CASES, made
from torch import Tensor

from vaekit import Model
from vaekit.contracts.trees import each, leaves
from vaekit.evaluation.baseline import Baseline, fit_baseline
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins

LIKELIHOODS = [p.name for p in plugins.list_plugins("likelihood") if p.package == "vaekit"]
SCORES = {"MSSSIM", "FeatureSpace"}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_no_constant_output_beats_the_baseline_on_training_rows(name: str) -> None:
    torch.manual_seed(0)
    rows, parts = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(rows, 2, **parts)
    with model.using():
        fitted = fit_baseline(model, rows)
    assert fitted is not None
    with fixed_noise(0):  # as the fit, where rows are binarised anew each time
        batches = list(rows.rows("train"))
    for batch in batches:
        batch.x = each(torch.Tensor.double, batch.x)

    def mean(constant: Baseline) -> Tensor:
        return torch.cat([constant.log_prob(batch) for batch in batches]).mean()

    best = mean(fitted)
    weights = [*leaves(fitted.output), *fitted.likelihood.parameters()]
    weights = [w for w in weights if w.requires_grad]
    kept = [w.detach().clone() for w in weights]
    # Constants around it: none of them is better.
    for size in (0.003, 0.03, 0.3) if name not in SCORES else (0.03,):
        with torch.no_grad():
            for w, own in zip(weights, kept, strict=True):
                w.copy_(own + size * torch.randn_like(own))
            assert mean(fitted) < best
    # Nor is what another optimizer finds from there.
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(40 if name not in SCORES else 5):
        optimizer.zero_grad()
        loss = -mean(fitted)
        loss.backward()
        optimizer.step()
    assert -loss < best + 0.02


def test_every_likelihood_is_held_to_the_law() -> None:
    assert set(LIKELIHOODS) <= set(CASES)
