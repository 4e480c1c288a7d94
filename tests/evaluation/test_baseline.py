"""The baseline: exact values, masks, batches of unequal size, and which rows it is fitted to."""

from __future__ import annotations

import warnings
from math import log, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from vaekit import Model, VAEModule, data
from vaekit.contracts.batch import Batch
from vaekit.data.rows.batches import Rows
from vaekit.evaluation import baseline as baselines
from vaekit.evaluation.baseline import baseline


def spec(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


class Given(data.DataModule):
    """Rows of these splits."""

    def __init__(self, rows: dict[str, Rows], low: float = -9.0, high: float = 9.0) -> None:
        super().__init__(batch_size=7)
        self.given, self.ends = rows, (low, high)

    def load(self) -> dict[str, Rows]:
        return self.given

    def natural_range(self) -> tuple[float, float]:
        return self.ends


def reals(mask: bool = False, rows: int = 230) -> Given:
    torch.manual_seed(3)
    splits = {}
    for split, n in (("train", rows), ("val", 101)):
        x = torch.randn(n, 3, dtype=torch.float64) * torch.tensor([1.0, 0.3, 2.0]) + 0.5
        seen = torch.rand(n, 3) < torch.tensor([0.9, 0.3, 0.6]) if mask else None
        splits[split] = Rows(x.float(), mask=seen)
    return Given(splits)


def model(rows: data.DataModule, likelihood: Any) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Model(rows, 2, likelihood=likelihood)


def numbers(rows: Given, split: str) -> np.ndarray[Any, Any]:
    """x of a split, NaN where it is hidden."""
    given = rows.given[split]
    x = given.x.double()  # type: ignore[union-attr]
    return (x if given.mask is None else x.masked_fill(~given.mask, torch.nan)).numpy()  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("mask", [False, True], ids=["all seen", "some hidden"])
@pytest.mark.parametrize("name", ["Gaussian", "Laplace"])
def test_the_baseline_is_the_maximum_of_the_likelihood(
    name: str, mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = reals(mask)
    # Three batches of unequal size: a mean of their means is another number.
    monkeypatch.setattr("vaekit.data.base.fitting", lambda *_: 40)
    train, val = numbers(rows, "train"), numbers(rows, "val")
    smooth = name == "Gaussian"
    if smooth:
        loc, scale = np.nanmean(train, 0), np.nanstd(train, 0)
        expected = stats.norm.logpdf(val, loc, scale)
    else:
        loc = np.nanmedian(train, 0)
        expected = stats.laplace.logpdf(val, loc, np.nanmean(np.abs(train - loc), 0))
    found = baseline(model(rows, spec(name, scale="elementwise")), rows)
    assert found is not None
    assert found.shape == (101,)
    # The Laplace density has a kink at each row's value: near the maximum it is nearly flat.
    assert np.allclose(found.numpy(), np.nansum(expected, 1), atol=1e-5 if smooth else 0.06)


@pytest.mark.parametrize("scale", ["learned", "optimal"])
def test_one_scale_for_all_elements_is_that_of_the_observed_ones(scale: str) -> None:
    rows = reals(mask=True)
    train, val = numbers(rows, "train"), numbers(rows, "val")
    loc = np.nanmean(train, 0)
    spread = np.sqrt(np.nanmean((train - loc) ** 2))
    found = baseline(model(rows, spec("Gaussian", scale=scale)), rows)
    assert found is not None
    expected = np.nansum(stats.norm.logpdf(val, loc, spread), 1)
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_the_baseline_of_a_fixed_scale_is_the_mean() -> None:
    rows = reals()
    found = baseline(model(rows, spec("Gaussian", scale=0.7)), rows)
    expected = stats.norm.logpdf(numbers(rows, "val"), numbers(rows, "train").mean(0), 0.7).sum(1)
    assert found is not None
    assert np.allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mask", [False, True], ids=["all seen", "some hidden"])
def test_the_baseline_of_categories_is_their_frequencies(mask: bool) -> None:
    torch.manual_seed(1)
    splits = {}
    for split, n in (("train", 300), ("val", 90)):
        x = torch.multinomial(torch.tensor([0.2, 0.5, 0.3]), n * 4, replacement=True).view(n, 4)
        splits[split] = Rows(x, mask=torch.rand(n, 4) < 0.6 if mask else None)
    rows = Given(splits, 0, 2)
    rows.levels = 3
    train: Any = splits["train"].x
    val: Any = splits["val"].x
    seen: Any = splits["train"].mask if mask else torch.ones_like(train)
    shown: Any = splits["val"].mask if mask else torch.ones_like(val)
    counts = torch.stack([((train == k) * seen).sum(0) for k in range(3)]).double()
    log_p = (counts / counts.sum(0)).log()
    expected = (log_p.gather(0, val) * shown).sum(1)
    found = baseline(model(rows, "Categorical"), rows)
    assert found is not None
    assert torch.allclose(found, expected, atol=2e-3)


def test_counted_values_give_the_same_baseline_as_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data.Digits()
    own = model(rows, "DiscretizedLogistic")
    counted = baseline(own, rows)
    monkeypatch.setattr(baselines._Part, "_factorises", lambda _: False)
    by_rows = baseline(own, rows)
    assert counted is not None
    assert by_rows is not None
    assert float(counted.mean()) == pytest.approx(float(by_rows.mean()), abs=0.02)


def test_a_part_of_the_rows_that_misses_rare_values_is_not_taken_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(2)
    x = 0.01 * torch.randn(400, 1)
    x[1::4] = 2 * torch.randn(100, 1)  # in none of the rows that are fitted
    rows = Given({"train": Rows(x), "val": Rows(x)})
    own = model(rows, spec("Gaussian", scale="elementwise"))
    expected = -(x.std(correction=0).log() + 0.5 * log(2 * pi) + 0.5)
    monkeypatch.setattr(baselines, "_MOST_NUMBERS", 400)
    found = baseline(own, rows)
    assert found is not None
    assert float(found.mean()) == pytest.approx(float(expected), abs=1e-3)


def test_the_model_and_its_random_numbers_stay_as_they_are() -> None:
    rows = reals()
    own = model(rows, spec("Gaussian", scale="learned", from_baseline=True)).train()
    before, state = {n: p.clone() for n, p in own.state_dict().items()}, torch.get_rng_state()
    baseline(own, rows)
    assert own.training
    assert all(torch.equal(p, before[n]) for n, p in own.state_dict().items())
    assert all(p.grad is None for p in own.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_constant_does_not_beat_the_baseline_of_grey_images(tmp_path: Path) -> None:
    """Moments gave -215.63 for images whose best constant has -202.96, and a model with no active
    unit was said to beat it."""
    rng = np.random.default_rng(0)
    for i in range(400):
        grey = np.where(
            rng.random((8, 8)) < 0.3, 255 * rng.random((8, 8)), rng.normal(120, 9, (8, 8))
        )
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
    rows = data.ImageFolder(tmp_path)
    own = model(rows, "DiscretizedLogistic")
    found = baseline(own, rows, "train")
    assert found is not None
    x = torch.cat([b.x for b in rows.rows("train")]).double()  # type: ignore[misc]
    y = torch.zeros(2, *x.shape[1:], dtype=torch.float64)
    y[0], y[1] = x.mean(0), (x.std(0) * 3**0.5 / pi).log()
    y.requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = -own.core.likelihood.forward(y[None, None]).log_prob(x).mean()
        loss.backward()
        optimizer.step()
    loss = loss.detach()
    assert -float(loss) < float(found.mean()) + 0.05
    assert -float(loss) > float(found.mean()) - 0.5


def test_a_likelihood_that_gives_no_output_for_moments_has_no_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = reals()
    own = model(rows, "Gaussian")
    monkeypatch.setattr(type(own.core.likelihood), "output_of", lambda *_: None)
    assert baseline(own, rows) is None


def test_a_row_s_own_context_is_given_to_the_baseline() -> None:
    torch.manual_seed(0)
    size = torch.tensor([1.0, 10.0, 100.0]).repeat(100)
    x = torch.poisson(size[:, None] * torch.tensor([0.5, 2.0]))
    rows = data.Arrays(
        x.long(), data_range=(0, float("inf")), context=size.log()[:, None], val=0.2, test=0
    )
    own = Model(rows, 2, likelihood=spec("Poisson", library=0))
    found = baseline(own, rows)
    batches: dict[str, Batch] = {s: next(rows.rows(s)) for s in ("train", "val")}
    train, val = batches["train"], batches["val"]
    assert train.context is not None
    assert val.context is not None
    rate = train.x.sum(0) / train.context.exp().sum()  # type: ignore[union-attr]
    expected = stats.poisson.logpmf(val.x, val.context.exp() * rate).sum(1)
    assert found is not None
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_a_baseline_is_the_same_after_training() -> None:
    rows = reals()
    own = model(rows, spec("Gaussian", scale="learned", from_baseline=True))
    before = baseline(own, rows)
    with torch.no_grad():
        for p in VAEModule(own).parameters():
            p.add_(1.0)
    after = baseline(own, rows)
    assert before is not None
    assert after is not None
    assert torch.allclose(before, after, atol=1e-3)
