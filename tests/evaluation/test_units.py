"""The ELBO is that of the user's values, whatever was done to bring them to one scale."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from conftest import fit
from vaekit import DataInfo, Model, data
from vaekit.evaluation.baseline import baseline
from vaekit.model.parts_for_data import parts_for

PARTS: dict[str, Any] = {"latent_shape": 2}


def table(folder: Path, by: float, missing: bool = False) -> data.Table:
    rng = np.random.default_rng(0)
    size = rng.normal(3, 2, 300)
    frame = pd.DataFrame({"size": by * size, "weight": rng.normal(size, 1), "kind": "a"})
    frame["kind"] = np.where(rng.random(300) < 0.3, "b", "a")
    if missing:
        frame.loc[rng.random(300) < 0.4, "size"] = np.nan
    frame.to_csv(folder / f"{by}.csv", index=False)
    return data.Table(folder / f"{by}.csv")


@pytest.mark.parametrize("missing", [False, True])
def test_the_elbo_of_a_table_does_not_depend_on_its_scaling(tmp_path: Path, missing: bool) -> None:
    found = []
    for by in (1.0, 1000.0):
        rows = table(tmp_path, by, missing)
        torch.manual_seed(0)
        model = Model(rows, **parts_for(rows))
        trainer = fit(model, rows, max_epochs=2)
        seen = [b.mask for b in rows.rows("val")]
        share = 1.0
        if missing:
            share = float(torch.cat([m["numeric"][:, 0] for m in seen]).float().mean())  # type: ignore[index]
        base = baseline(model, rows)
        assert base is not None
        logged = trainer.callback_metrics
        assert logged["val/elbo"] == pytest.approx(
            float(-logged["val/distortion"] - logged["val/rate"]), rel=1e-5
        )
        found.append([float(logged["val/elbo"]), float(base.mean()), share])
    (elbo, base_, share), (other, its_base, _) = found
    assert other == pytest.approx(elbo - share * log(1000), abs=1e-3)
    assert its_base == pytest.approx(base_ - share * log(1000), abs=1e-3)


def test_the_baseline_of_a_standardised_array_is_the_density_of_its_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([5, -300], [2, 50], (400, 2))
    likelihood = {"class_path": "Gaussian", "init_args": {"scale": "elementwise"}}
    rows = data.Arrays(x, val=0.2, test=0, standardize=True)
    found = baseline(Model(rows, 2, likelihood=likelihood), rows, "train")
    train = x[rows.numbers("train").numpy()]
    expected = stats.norm.logpdf(train, train.mean(0), train.std(0)).sum(1)
    assert found is not None
    assert float(found.mean()) == pytest.approx(expected.mean(), abs=1e-4)


def test_training_and_validation_have_the_same_units(tmp_path: Path) -> None:
    rows = table(tmp_path, 1e6)
    model = Model(rows, **parts_for(rows))
    logged = fit(model, rows, max_epochs=1).callback_metrics
    assert abs(float(logged["train/elbo"] - logged["val/elbo"])) < 5


def test_a_checkpoint_keeps_the_units(tmp_path: Path) -> None:
    rows = table(tmp_path, 1000.0)
    info = rows.info
    assert DataInfo(**info.as_dict()) == info
    again = Model(**Model(rows, **parts_for(rows)).spec)
    assert again.info.scale == info.scale


def test_the_units_of_channels_and_entries() -> None:
    info = DataInfo({"a": (2, 3), "b": (1,)}, scale={"a": [2.0, 4.0], "b": None})
    x = {"a": torch.zeros(5, 2, 3), "b": torch.zeros(5, 1)}
    assert float(info.log_units(x)) == pytest.approx(3 * log(8))  # type: ignore[arg-type]
    mask = {"a": torch.ones(5, 2, 3, dtype=torch.bool), "b": torch.ones(5, 1, dtype=torch.bool)}
    mask["a"][1, 0] = False
    found = info.log_units(x, mask)
    assert found is not None
    assert found.tolist() == pytest.approx([3 * log(8), 3 * log(4), *[3 * log(8)] * 3])
