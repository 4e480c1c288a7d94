"""The noise of evaluation is that of the rows, whatever batch or rank they are in."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from scipy import stats

from latent_cases import LATENTS, part
from vaekit import DataInfo, Model, data, log_likelihood
from vaekit.contracts.batch import Batch
from vaekit.data.rows.batches import Batches
from vaekit.numerics.random import later_draws, row_keys, row_normal, row_uniform
from vaekit.registry import plugins

POSTERIORS = [p.name for p in plugins.list_plugins("posterior") if p.package == "vaekit"]


def model(posterior: str) -> tuple[Model, Batch]:
    init, others = LATENTS[posterior]
    torch.manual_seed(0)
    info = DataInfo((6,), (0.0, 1.0), levels=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Model(info, 4, posterior=part(posterior, **init), **others).double().eval()
    batch = Batch((torch.rand(11, 6) < 0.5).double(), start=0)
    return made, batch


@pytest.mark.parametrize("name", POSTERIORS)
def test_held_out_elbo_does_not_depend_on_the_batch(name: str) -> None:
    own, batch = model(name)
    key = own.best[0]
    batch = batch.keyed()
    whole = own.evaluate(batch)[key]
    for size in (1, 3, 4):
        parts = [own.evaluate(batch[at : at + size])[key] for at in range(0, 11, size)]
        assert torch.allclose(torch.cat(parts), whole, atol=1e-9), size
    other = Batch(batch.x, start=100).keyed()
    if name != "Delta":
        assert not torch.allclose(own.evaluate(other)[key], whole)


@pytest.mark.parametrize("name", ["DiagonalNormal", "IAF", "GammaPosterior"])
def test_an_estimate_s_draws_do_not_depend_on_batch_or_memory(name: str) -> None:
    own, batch = model(name)
    batch = batch.keyed()
    with own.using():
        whole = log_likelihood(own.core, batch, 20)
        assert not torch.allclose(log_likelihood(own.core, batch, 5)[0], whole[0])
        if name != "GammaPosterior":  # which has no map from given noise
            for budget in (1, 10_000):
                again = log_likelihood(own.core, batch, 20, budget)
                assert torch.allclose(again[0], whole[0], atol=1e-9)
        parts = [log_likelihood(own.core, batch[at : at + 4], 20)[0] for at in (0, 4, 8)]
    assert torch.allclose(torch.cat(parts), whole[0], atol=1e-9)


def test_the_draws_of_an_estimate_are_not_those_of_its_first_chunk_again() -> None:
    own, batch = model("DiagonalNormal")
    with own.using():
        once = log_likelihood(own.core, batch.keyed(), 1, budget=1)
        many = log_likelihood(own.core, batch.keyed(), 50, budget=1)
    assert (many.effective_samples < 49.9).all()
    assert not torch.allclose(once.log_likelihood, many.log_likelihood)


def test_row_noise_is_standard_normal_and_independent() -> None:
    keys = row_keys(3, 0, 400)
    u = row_uniform(keys, 5, (40,), torch.float64)
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.001
    z = row_normal(keys, 5, (40,), torch.float64)
    assert abs(float(z.mean())) < 0.02
    flat = z.permute(1, 0, 2).flatten(1)  # rows, then what is within one
    for a in (flat, flat.T):
        c = torch.corrcoef(a)
        off = c[~torch.eye(len(c), dtype=torch.bool)]
        assert float(off.std()) == pytest.approx(a.shape[1] ** -0.5, rel=0.05)
    assert torch.equal(row_normal(later_draws(keys, 2), 3, (40,), torch.float64), z[2:])
    assert torch.equal(row_normal(row_keys(3, 100, 7), 5, (40,), torch.float64), z[:, 100:107])
    assert not torch.equal(row_uniform(row_keys(4, 0, 400), 5, (40,), torch.float64), u)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_dequantised_held_out_values_do_not_depend_on_the_batch(size: int) -> None:
    rows = data.Digits(binarize="none", dequantize=True)
    whole = torch.cat([b.x for b in rows.rows("val")])  # type: ignore[misc]
    again = torch.cat([b.x for b in rows.rows("val", batch_size=size)])  # type: ignore[misc]
    assert torch.equal(whole, again)
    at = whole * 17 % 1
    assert stats.kstest(at.flatten().numpy(), "uniform").pvalue > 0.001


def test_validation_of_a_fit_does_not_depend_on_the_batch_size() -> None:
    from vaekit import VAEModule
    from vaekit.training.trainer import Trainer

    torch.manual_seed(0)
    found: list[Any] = []
    own = Model(data.Digits(binarize="none", dequantize=True), 3, likelihood="Gaussian").double()
    for size in (5, 64, 180):
        trainer = Trainer(logger=False, enable_progress_bar=False, precision="64-true")
        rows = data.Digits(binarize="none", dequantize=True, batch_size=size)
        found += trainer.validate(VAEModule(own), rows, verbose=False)
    assert found[0]["val/elbo"] == pytest.approx(found[1]["val/elbo"], rel=1e-12)
    assert found[0]["val/elbo"] == pytest.approx(found[2]["val/elbo"], rel=1e-12)


def test_two_ranks_have_the_terms_of_one() -> None:
    rows = data.Digits(binarize="none", dequantize=True)
    torch.manual_seed(0)
    own = Model(rows, 3, likelihood="Gaussian").double()
    found: dict[int, list[torch.Tensor]] = {}
    for ranks in (1, 2):
        rows.setup()
        terms: list[torch.Tensor] = []
        loaders = [
            Batches(rows._splits["val"], 32, False, 0, rank, ranks) for rank in range(ranks)
        ]
        for step in zip(*loaders, strict=True):
            for batch in step:
                converted = rows._converted(batch, "val", torch.float64)
                terms.append(own.evaluate(converted.keyed())["elbo"])
        found[ranks] = terms
    assert torch.allclose(torch.cat(found[1]), torch.cat(found[2]), atol=1e-12)
