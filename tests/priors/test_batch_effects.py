"""Priors and batch effects: the context that a prior gets, and what the latents encode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, data
from vaekit.contracts.batch import Batch
from vaekit.model.checkpoints import describe, rebuild
from vaekit.model.fitted_priors import fit_prior

INFO = DataInfo((6,), (0.0, 1.0), levels=2, context_features=3, batch_effects=(1, 2))
FEW = {"class_path": "VampPrior", "init_args": {"components": 4}}


def with_columns(columns: Any) -> dict[str, Any]:
    return {"class_path": "VAE", "init_args": {"prior_context": columns}}


def given_to_prior(info: DataInfo, columns: Any = "auto", prior: Any = "LearnedNormal") -> Any:
    """The context (5, C) of a batch, and what of it the prior gets."""
    torch.manual_seed(0)
    model = Model(info, latent_shape=2, prior=prior, core=with_columns(columns))
    context, seen = torch.randn(5, info.context_features), []
    model.core.prior.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.core.draw(Batch(torch.zeros(5, 6), context))
    return context, seen[0]


@pytest.mark.parametrize(
    ("columns", "wanted"), [("auto", [0]), ("all", [0, 1, 2]), ([2, 0], [2, 0]), ("none", None)]
)
def test_a_prior_gets_the_columns_that_are_chosen(columns: Any, wanted: Any) -> None:
    context, got = given_to_prior(INFO, columns)
    assert got is None if wanted is None else torch.equal(got, context[:, wanted])


def test_a_prior_gets_all_columns_of_which_nothing_is_known() -> None:
    context, got = given_to_prior(replace(INFO, batch_effects=None))
    assert torch.equal(got, context)


@pytest.mark.parametrize("columns", [[3], [-1], [0, 0], [], "library"])
def test_columns_that_the_context_does_not_have_are_refused(columns: Any) -> None:
    with pytest.raises(ValueError, match="Expected prior_context to be"):
        Model(INFO, latent_shape=2, core=with_columns(columns))


def cells(n: int = 1200) -> pd.DataFrame:
    """Counts of 20 genes in cells of one kind, which two batches read at different rates."""
    random = np.random.default_rng(0)
    batch, state = random.integers(0, 2, n), random.normal(size=(n, 2))
    effect = random.normal(size=(2, 20))
    rate = np.exp(1 + 0.7 * state @ random.normal(size=(2, 20)) + effect[batch])
    counts = pd.DataFrame(random.poisson(rate), columns=[f"g{i}" for i in range(20)])
    return pd.concat([pd.Series(np.where(batch == 1, "b", "a"), name="batch"), counts], axis=1)


def test_one_hot_columns_and_all_columns_of_counts_are_batch_effects() -> None:
    table = cells(40).assign(age=np.linspace(20, 60, 40))
    assert data.Counts(table, covariates="batch,age").info.batch_effects == (0, 1, 2, 3)
    assert data.Table(table, context="batch,age").info.batch_effects == (0, 1)
    assert data.Arrays(torch.zeros(40, 2), context=torch.randn(40, 2)).info.batch_effects == ()


def _accuracy_from_latents(model: Model, rows: data.DataModule) -> float:
    """The share of held-out rows whose batch a logistic regression on the latents predicts."""
    from sklearn.linear_model import LogisticRegression

    parts = {}
    for split in ("train", "test"):
        batches = list(rows.rows(split))
        z = torch.cat([model.encode(b.x, b.context) for b in batches])
        group = torch.cat([b.context[:, 2] for b in batches if b.context is not None])
        parts[split] = (z.numpy(), group.numpy())
    regression = LogisticRegression(max_iter=1000).fit(*parts["train"])
    return float(regression.score(*parts["test"]))


@pytest.mark.parametrize("prior", ["LearnedNormal", FEW], ids=["LearnedNormal", "VampPrior"])
def test_a_learned_prior_does_not_lead_the_latents_to_encode_the_batch(prior: Any) -> None:
    accuracies = {}
    for columns in ("auto", "all"):
        torch.manual_seed(0)
        rows = data.Counts(cells(), covariates="batch", test=0.3, batch_size=64)
        model = Model(
            rows,
            latent_shape=5,
            prior=prior,
            likelihood={"class_path": "Poisson", "init_args": {"library": 0}},
            core=with_columns(columns),
        )
        adam = {"class_path": "Adam", "init_args": {"lr": 0.003}}
        fit(VAEModule(model, adam), rows, max_epochs=60, limit_val_batches=0)
        accuracies[columns] = _accuracy_from_latents(model, rows)
    assert accuracies["auto"] < 0.7, accuracies  # by chance 0.5
    assert accuracies["all"] > 0.95, accuracies


def test_pseudo_inputs_are_encoded_once_and_not_for_each_row() -> None:
    for columns, encoded in (("none", 4), ([0], 5 * 4)):
        model = Model(INFO, latent_shape=2, prior=FEW, core=with_columns(columns))
        sizes: list[int] = []
        model.core.encoder.register_forward_pre_hook(  # type: ignore[union-attr, operator]
            lambda module, args, sizes=sizes: sizes.append(len(args[0]))
        )
        model.core.draw(Batch(torch.zeros(5, 6), torch.randn(5, 3)))
        assert sizes == [5, encoded]


def test_pseudo_inputs_keep_the_contexts_of_their_rows() -> None:
    model = Model(INFO, latent_shape=2, prior=FEW)
    prior: Any = model.core.prior
    x = torch.eye(6)
    context = torch.arange(18.0).reshape(6, 3)
    with torch.no_grad():
        prior.start(iter([Batch(x[:4], context[:4]), Batch(x[4:], context[4:])]))
    places = prior.inputs[0].argmax(1)
    assert torch.equal(prior.contexts, context[places])
    given: list[Tensor] = []

    def infer(u: Tensor, c: Tensor) -> Any:
        given.append(c)
        return model.core.infer(u, c)

    prior(torch.tensor([[7.0], [8.0]]), infer)
    wanted = prior.contexts.repeat_interleave(2, 0)
    wanted[:, 0] = torch.tensor([7.0, 8.0]).repeat(4)
    assert torch.equal(given[0], wanted)


@pytest.mark.parametrize("prior", ["LearnedNormal", FEW])
def test_a_checkpoint_of_before_batch_effects_were_known_gives_its_prior_all_columns(
    prior: Any,
) -> None:
    old = Model(INFO, latent_shape=2, prior=prior, core=with_columns("all"))
    stored = {"vaekit": describe(old, {}, None)}
    del stored["vaekit"]["model"]["data"]["batch_effects"]
    del stored["vaekit"]["model"]["core"]["init_args"]["prior_context"]
    again = rebuild(stored)
    again.load_state_dict(old.state_dict())
    assert again.core.prior_columns is None


def test_a_fitted_prior_gets_no_batch_effect() -> None:
    torch.manual_seed(0)
    rows = data.Counts(cells(100), covariates="batch")
    model = Model(rows, latent_shape=2, likelihood="Poisson")
    prior = fit_prior(model, rows, "FittedNormal")
    assert prior.slope.shape == (2, 0)
    model.use_prior(prior)
    context = torch.cat([b.context for b in rows.rows("test") if b.context is not None])
    assert model.sample(len(context), context).shape == (len(context), 20)  # type: ignore[union-attr]
