"""Parts of outside authors: trained, validated, predicted, drawn, saved and reloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from conftest import fit
from parts.logistic_mixture import LogisticMixture
from parts.m2 import M2, LabelledNormal, UniformLabel
from parts.maf import OutsideMAF
from parts.poe import DecoderPerEntry, EncoderPerEntry, LikelihoodPerEntry, ProductOfExperts
from parts.two_level import ConditionalNormal, TwoLevel
from parts.vq import Reconstruction, VectorQuantised
from vaekit import Model, VAEModule, callbacks, data, load, register
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.trees import leaves
from vaekit.data.rows.batches import Rows
from vaekit.evaluation.baseline import baseline
from vaekit.posteriors import DiagonalNormal
from vaekit.registry import plugins
from vaekit.training.callbacks.predictions import PredictionWriter

PARTS: dict[str, dict[str, Any]] = {
    "iwae": {"objective": "IWAE"},
    "dreg": {"objective": {"class_path": "IWAE", "init_args": {"gradient": "dreg"}}},
    "vq": {"posterior": "VectorQuantised", "objective": "Reconstruction"},
    "maf": {"posterior": "OutsideMAF"},
    "factor_vae": {"objective": "FactorVAE"},
    "two_level": {"core": "TwoLevel"},
    "logistic_mixture": {"likelihood": "LogisticMixture"},
    "m2": {
        "latent_shape": 13,
        "posterior": "LabelledNormal",
        "prior": "UniformLabel",
        "objective": "M2",
    },
    "poe": {
        "encoder": "EncoderPerEntry",
        "posterior": "ProductOfExperts",
        "decoder": "DecoderPerEntry",
        "likelihood": {
            "class_path": "LikelihoodPerEntry",
            "init_args": {
                "of": {
                    "image": "Bernoulli",
                    "code": {"class_path": "Gaussian", "init_args": {"scale": 0.1}},
                }
            },
        },
    },
}
INFO = DataInfo((3,), (0.0, 1.0), levels=2)


class FewLabels(data.Digits):
    """The digits, of whose training rows nine in ten have no label."""

    def load(self) -> dict[str, Rows]:
        splits = super().load()
        train = splits["train"][:]
        assert train.label is not None
        label = torch.where(torch.arange(len(train)) % 10 == 0, train.label, -1)
        return {**splits, "train": Rows(train.x, label=label, top=splits["train"].top)}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    for part in (
        VectorQuantised,
        Reconstruction,
        OutsideMAF,
        TwoLevel,
        ConditionalNormal,
        LogisticMixture,
        LabelledNormal,
        UniformLabel,
        M2,
        EncoderPerEntry,
        ProductOfExperts,
        DecoderPerEntry,
        LikelihoodPerEntry,
        FewLabels,
    ):
        register(part)


def two_modalities(folder: Path) -> data.Arrays:
    """Digits and a noisy code of their class; one row in three lacks its code."""
    digits = next(data.Digits(binarize="static").rows("train", batch_size=900))
    assert digits.label is not None
    code = torch.nn.functional.one_hot(digits.label, 10) + 0.1 * torch.randn(900, 10)
    shown = (torch.arange(900) % 3 > 0).unsqueeze(1).expand(-1, 10)
    arrays = {
        "x.image": digits.x,
        "x.code": torch.where(shown, code, torch.nan),
        "mask.image": torch.ones_like(digits.x, dtype=torch.bool),
        "mask.code": shown,
        "label": digits.label,
    }
    np.savez(folder / "rows.npz", **{name: array.numpy() for name, array in arrays.items()})
    return data.Arrays(folder / "rows.npz", batch_size=32)


def rows_for(name: str, folder: Path) -> data.DataModule:
    if name == "poe":
        return two_modalities(folder)
    if name == "m2":
        return FewLabels(binarize="static")
    return data.Digits(binarize="none" if name == "logistic_mixture" else "static")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.filterwarnings("ignore:KL.* has no registered closed form")
def test_a_part_lives_a_whole_life(name: str, tmp_path: Path) -> None:
    module = rows_for(name, tmp_path)
    model = Model(module, **{"latent_shape": 4, **PARTS[name]})
    keep, best = callbacks.BestCheckpoint(), model.objective.best
    trainer = fit(
        model,
        module,
        max_epochs=2,
        logger=CSVLogger(tmp_path),
        enable_checkpointing=True,
        gradient_clip_val=10.0,
        callbacks=[keep, callbacks.Pictures()],
    )
    assert (keep.monitor, keep.mode) == (f"val/{best[0]}", best[1])
    value = trainer.callback_metrics[f"val/{best[0]}"]
    assert torch.isfinite(value)
    assert ("val/bpd" in trainer.callback_metrics) is model.has_bits
    entries = len(model.info.entries())
    assert len(list(Path(trainer.log_dir).glob("*.png"))) == 2 * entries + 1
    base = baseline(model, module)
    assert base is None or base.isfinite().all()
    again = load(keep.best_model_path)
    writer = PredictionWriter(tmp_path)
    alone: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    pl.Trainer(callbacks=[writer], **alone).predict(VAEModule(again), module)
    test = next(module.rows("test"))
    with np.load(tmp_path / "predictions.npz") as found:
        assert found[best[0]].shape == (len(test),)
        assert len([key for key in found.files if key.startswith("reconstruction")]) == entries
    ways = [again.reconstruct(test.x, mask=test.mask) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*map(leaves, ways), strict=True))
    assert all(leaf.isfinite().all() for leaf in leaves(again.sample(3)))
    found = pl.Trainer(**alone).validate(VAEModule(again), module, verbose=False)
    assert found[0][f"val/{best[0]}"] == pytest.approx(keep.best_model_score.item(), rel=1e-5)


@pytest.mark.parametrize("objective", ["ELBO", "IWAE", "FactorVAE"])
def test_every_objective_of_the_elbo_family_adds_what_q_brings(objective: str) -> None:
    @register
    class Committed(DiagonalNormal):
        def forward(self, h: Any, context: Any = None, log_joint: Any = None) -> Any:
            q = super().forward(h, context, log_joint)
            q.losses = {"commitment": torch.full((len(h),), 1000.0)}
            return q

    model = Model(INFO, latent_shape=2, posterior="Committed", objective=objective)
    terms = model.objective(model.core, Batch(torch.ones(6, 3)), 0)
    assert torch.equal(terms["commitment"], torch.full((6,), 1000.0))
    assert (terms["loss"] > 900).all()


def test_the_codebook_moves_towards_what_it_encodes_and_unused_codes_stay() -> None:
    # pythae's unused EMA codes blow up.
    model = Model(INFO, latent_shape=2, posterior="VectorQuantised", objective="Reconstruction")
    part, batch = model.core.posterior, Batch(torch.ones(6, 3))
    with torch.no_grad():
        draw = model.core.draw(batch)
        before = part.total / part.count.unsqueeze(1)
        for _ in range(2000):
            part.after_step(draw)
        after = part.total / part.count.unsqueeze(1)
    used = draw.q.index.unique()
    assert torch.allclose(after[used], draw.q.encoded[0], atol=1e-3)
    idle = torch.ones(16, dtype=torch.bool)
    idle[used] = False
    assert torch.equal(after[idle], before[idle])


def test_two_levels_weigh_what_their_parts_say_and_rates_agree_with_them() -> None:
    core = Model(INFO, latent_shape=3, core="TwoLevel").double().core
    x = (torch.rand(4, 3) > 0.5).double()
    noise = (torch.randn(5, 4, 2).double(), torch.randn(5, 4, 3).double())
    draw = core.draw(Batch(x), 5, noise=noise)
    q1 = core.infer(x)
    z1 = q1.mean + q1.stddev * noise[1]
    assert torch.allclose(draw.z, z1)
    for k in range(5):
        q2 = core.top_posterior(core.top_encoder(z1[k]))
        z2 = q2.mean + q2.stddev * noise[0][k]
        joint = core.decode(z1[k : k + 1]).log_prob(x)[0] + core.prior(z2).log_prob(z1[k])
        wanted = joint + core.top_prior().log_prob(z2) - q1.log_prob(z1[k]) - q2.log_prob(z2)
        assert torch.allclose(draw.log_weight[k], wanted)
    assert [rate.shape for rate in draw.rates] == [(5, 4), (5, 4)]
    many = core.draw(Batch(x), 20_000)
    difference = (many.rate - (many.log_posterior - many.log_prior)).detach()
    assert (difference.mean(0).abs() < 4 * difference.std(0) / 20_000**0.5 + 1e-9).all()
    stopped = core.draw(Batch(x), 5, stop=True, noise=noise)
    assert torch.allclose(stopped.log_weight, draw.log_weight)


def test_a_logistic_mixture_is_a_probability_of_all_colours() -> None:
    levels = 5
    info = DataInfo((2, 1, 1), (0.0, 1.0), levels=levels)
    likelihood = LogisticMixture((2, 1, 1), info, components=3)
    grid = torch.arange(levels).double() / (levels - 1)
    x = torch.cartesian_prod(grid, grid).view(-1, 2, 1, 1)
    p = likelihood(torch.randn(1, 1, 15, 1, 1).double().expand(1, 25, -1, -1, -1))
    assert p.log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-9)
    one = torch.tensor([True, False]).view(1, 2, 1, 1).expand_as(x)
    hidden = torch.where(one, x, torch.nan)
    marginal = likelihood.log_prob(p, hidden, one).view(levels, levels)
    wanted = p.log_prob(x).view(levels, levels).logsumexp(1, keepdim=True)
    assert torch.allclose(marginal, wanted.expand(-1, levels))
    drawn = p.sample()
    assert drawn.isfinite().all()
    assert set((drawn * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
