"""A table whose columns have likelihoods of different kinds, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import DataInfo, Model, data
from vaekit.contracts.batch import Batch
from vaekit.distributions.base import Joint
from vaekit.likelihoods import Mixed

SHAPES = {"age": (1,), "income": (1,), "job": (1,), "visits": (1,), "smoker": (1,)}
TABLE = DataInfo(
    SHAPES,
    {"age": (-inf, inf), "income": (0, inf), "job": (0, 3), "visits": (0, inf), "smoker": (0, 1)},
    {"age": None, "income": None, "job": 4, "visits": None, "smoker": 2},
)
COLUMNS = {
    "age": {"class_path": "Gaussian", "init_args": {"scale": "learned"}},
    "income": "LogNormal",
    "job": "Categorical",
    "visits": "NegativeBinomial",
    "smoker": "Bernoulli",
}


def _model(info: DataInfo = TABLE, **columns: Any) -> Model:
    init_args = {"columns": {**COLUMNS, **columns}}
    return Model(info, 2, likelihood={"class_path": "Mixed", "init_args": init_args})


def _rows(n: int) -> dict[str, torch.Tensor]:
    """Columns that all depend on one hidden number."""
    z = torch.randn(n, 1)
    return {
        "age": z + 0.2 * torch.randn(n, 1),
        "income": (z + 0.2 * torch.randn(n, 1)).exp(),
        "job": (z + 1.5).clamp(0, 3).round().long(),
        "visits": torch.poisson((1 + z).exp()),
        "smoker": torch.bernoulli((3 * z).sigmoid()),
    }


def _floats(n: int) -> dict[str, torch.Tensor]:
    return {name: x.float() for name, x in _rows(n).items()}


def test_the_columns_log_probabilities_add_up_and_a_mask_leaves_some_out() -> None:
    model, x = _model().eval(), _floats(6)
    likelihood = model.core.likelihood
    with torch.no_grad():
        p = model.core.draw(Batch(x), 3).p
    assert isinstance(p, Joint)
    parts = {n: dict(likelihood.parts())[n].log_prob(p.parts[n], x[n]) for n in x}
    assert torch.allclose(likelihood.log_prob(p, x), sum(parts.values()))
    seen = {name: torch.full((6, 1), name in ("age", "job")) for name in x}
    spoilt = {n: torch.where(seen[n], x[n], torch.nan) for n in x}
    assert torch.allclose(likelihood.log_prob(p, spoilt, seen), parts["age"] + parts["job"])


def test_what_stands_for_a_row_is_of_each_columns_kind() -> None:
    x = _model().sample(40)
    assert {name: tuple(leaf.shape) for name, leaf in x.items()} == {n: (40, 1) for n in SHAPES}
    assert torch.equal(x["job"], x["job"].round())
    assert (x["income"] > 0).all()
    drawn = _model().sample(40, sample=True)
    assert torch.equal(drawn["visits"], drawn["visits"].round())


def test_a_density_and_a_probability_together_count_no_bits() -> None:
    assert not _model().has_bits
    discrete = DataInfo(
        {"job": (1,), "smoker": (1,)}, {"job": (0, 3), "smoker": (0, 1)}, {"job": 4, "smoker": 2}
    )
    spec = {"class_path": "Mixed", "init_args": {"others": "Categorical"}}
    assert Model(discrete, 2, likelihood=spec).has_bits


@pytest.mark.parametrize(
    ("init_args", "words"),
    [
        ({"columns": {"ages": "Gaussian"}}, "columns out of age, income.* but got ages"),
        ({"columns": {"age": "Gaussian"}}, "likelihood for income, job, visits, smoker too"),
        (
            {"others": "Bernoulli"},
            r"age: Bernoulli expected .*such data: .*Laplace",
        ),
        ({"columns": {"job": "Poison"}, "others": "Gaussian"}, "Did you mean Poisson"),
    ],
)
def test_mistakes_name_the_column(init_args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Model(TABLE, likelihood={"class_path": "Mixed", "init_args": init_args})


@pytest.mark.parametrize("name", ["type", "items", "a.b", "train"])
def test_a_column_may_have_any_name(name: str) -> None:
    info = DataInfo({name: (1,), "b": (1,)}, {name: (0, 3), "b": (0, 3)}, 4)
    spec = {"class_path": "Mixed", "init_args": {"others": "Categorical"}}
    model = Model(info, 2, encoder="EmbeddingEncoder", likelihood=spec)
    assert set(model.sample(3)) == {name, "b"}


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("others", {"class_path": "Gausian", "init_args": {"scale": 1}}, "Did you mean Gaussian"),
        ("others", {"class_path": "Gaussian", "init_args": {"scal": 1}}, "Did you mean scale"),
        ("others", "Gausian", "Did you mean Gaussian"),
        ("columns", {"a": {"class_path": "Poison", "init_args": {}}}, "Did you mean Poisson"),
    ],
)
def test_a_misspelt_part_inside_is_told_on_the_command_line(
    option: str,
    value: Any,
    words: str,
    cli: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez("table.npz", **{"x.a": np.zeros((9, 1)), "x.b": np.zeros((9, 1))})
    given = (
        f"--model.likelihood.{option}",
        value if isinstance(value, str) else json.dumps(value),
    )
    source = ("--data", "Arrays", "--data.x", "table.npz")
    with pytest.raises(SystemExit):
        cli("fit", *source, "--model.likelihood", "Mixed", *given)
    assert words in capsys.readouterr().err


def test_rows_of_one_entry_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected rows of several entries"):
        Model(DataInfo((3,)), likelihood="Mixed")


def test_columns_begin_where_independent_ones_are() -> None:
    x, model = _floats(3000), _model()
    likelihood = model.core.likelihood
    assert isinstance(likelihood, Mixed)
    assert likelihood.looks
    with torch.no_grad():
        likelihood.start(iter([Batch(x)]))
        p = likelihood({n: torch.zeros(1, 1, *s) for n, s in likelihood.output_shape.items()})
    assert float(p.mean["visits"]) == pytest.approx(float(x["visits"].mean()), rel=1e-3)


def test_a_table_trains_above_the_baseline_of_independent_columns() -> None:
    from vaekit.evaluation.baseline import baseline

    rows = data.Arrays(
        _rows(2000),
        data_range={
            "age": (-9, 9),
            "income": (0, inf),
            "job": (0, 3),
            "visits": (0, inf),
            "smoker": (0, 1),
        },
    )
    model = _model(rows.info)
    trainer = fit(model, rows, max_epochs=15)
    base = baseline(model, rows)
    assert base is not None
    assert float(trainer.callback_metrics["val/elbo"]) > float(base.mean()) + 1
