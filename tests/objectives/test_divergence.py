"""InfoVAE, WAE and their distances against double loops, closed forms, and two ranks."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from scipy.optimize import linear_sum_assignment
from test_correlation import TwoLevels
from torch import Tensor
from torch.nn.functional import normalize

from known_draws import (
    SPLITS,
    assert_same_gradients,
    by_hand,
    gradient,
    known,
    on_a_rank,
)
from vaekit import DataInfo, Model
from vaekit.contracts.batch import Batch
from vaekit.numerics.random import fixed_noise
from vaekit.objectives.correlation import DIPVAE
from vaekit.objectives.divergence import WAE, InfoVAE, mmd, sliced_wasserstein
from vaekit.schedules import Linear

SCALES = (0.1, 0.2, 0.5, 1, 2, 5, 10)  # Tolstikhin et al.'s


def normals(n: int, dims: int = 3, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn(n, dims, dtype=torch.float64)


def by_loops(x: Tensor, y: Tensor, kernel: str, scales: Any) -> Tensor:
    """The unbiased estimate, one pair after another."""

    def k(a: Tensor, b: Tensor) -> Any:
        squares = ((a - b) ** 2).sum()
        widths = [2 * len(a) * scale for scale in scales]
        if kernel == "imq":
            return sum(c / (c + squares) for c in widths)
        return sum((-squares / c).exp() for c in widths)

    n, m = len(x), len(y)
    of_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    of_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    both = sum(k(a, b) for a in x for b in y)
    return of_x / (n * (n - 1)) + of_y / (m * (m - 1)) - 2 * both / (n * m)


# The distances


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_is_what_double_loops_give(kernel: Any) -> None:
    x, y = normals(4), normals(5, mean=1.0, scale=0.7)
    for scales in ([1.0], SCALES):
        assert torch.allclose(mmd(x, y, kernel, scales), by_loops(x, y, kernel, scales))
    assert torch.allclose(mmd(x, x, kernel), by_loops(x, x, kernel, SCALES))
    apart = mmd(x.reshape(4, 3, 1), y.reshape(5, 1, 3), kernel)
    assert torch.allclose(apart, by_loops(x, y, kernel, SCALES))


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.4, 1.0), (0.0, 0.6), (-0.3, 1.5)])
def test_mmd_of_two_normals_has_its_closed_form_in_the_mean(mean: float, scale: float) -> None:
    # E exp(-d²/C) of d ~ N(m, v), in each of D dimensions: (1 + 2v/C)^(-1/2) exp(-m² / (C + 2v)).
    def expected(m: float, v: float) -> float:
        c = 2 * 3 * 0.5
        return ((1 + 2 * v / c) ** -0.5 * exp(-(m**2) / (c + 2 * v))) ** 3

    exact = expected(0, 2 * scale**2) + expected(0, 2) - 2 * expected(mean, scale**2 + 1)
    found = torch.stack(
        [mmd(normals(12, 3, mean, scale), normals(15), "rbf", [0.5]) for _ in range(1000)]
    )
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - exact) < 4 * error
    assert error < 0.004  # the estimate with the diagonal is 0.04 above, or more
    if (mean, scale) == (0.0, 1.0):
        assert exact == pytest.approx(0)


def test_mmd_of_one_draw_leaves_out_what_it_cannot_estimate() -> None:
    x, y = normals(1), normals(1)
    squares = ((x - y) ** 2).sum()
    assert torch.allclose(mmd(x, y, "imq", [1.0]), -2 * 6 / (6 + squares))


def test_mmd_is_right_in_float32_also_of_draws_that_nearly_agree() -> None:
    x = normals(40, 64)
    y = x + 1e-3 * normals(40, 64)
    assert abs(mmd(x.float(), y.float()) - mmd(x, y)) < 1e-5


def test_sliced_wasserstein_is_the_cheapest_assignment_along_each_direction() -> None:
    x, y = normals(7), normals(7, mean=1.0)
    directions = normalize(normals(4))
    costs = []
    for direction in directions:
        cost = np.subtract.outer((x @ direction).numpy(), (y @ direction).numpy()) ** 2
        costs.append(cost[linear_sum_assignment(cost)].mean())
    found = sliced_wasserstein(x, y, directions)
    assert found.item() == pytest.approx(np.mean(costs), rel=1e-12)
    shaped = sliced_wasserstein(x.reshape(7, 3, 1), y.reshape(7, 1, 3), directions)
    assert torch.equal(found, shaped)
    with pytest.raises(ValueError, match="as many draws of both but got 7 and 6"):
        sliced_wasserstein(x, y[:6], directions)


@pytest.mark.slow
def test_sliced_wasserstein_of_two_normals_has_its_closed_form() -> None:
    # Along a direction (m·θ)² + (s - 1)², whose mean over the sphere is |m|²/D + (s - 1)².
    x, y = normals(10_000, 3, 1.2, 0.5), normals(10_000)
    found = sliced_wasserstein(x, y, normalize(normals(300)))
    assert found.item() == pytest.approx(1.2**2 + 0.5**2, rel=0.05)


# The losses


@pytest.mark.parametrize(
    ("kernel", "posterior"),
    [("imq", "DiagonalNormal"), ("imq", "Delta"), ("rbf", "DiagonalNormal")],
)
def test_wae_has_the_gradient_of_the_papers_loss(kernel: Any, posterior: str) -> None:
    core, batch = known(posterior)
    terms = WAE(30.0, kernel=kernel)(core, batch, 0)
    hand = by_hand(core, batch)
    expected = by_loops(hand.z, hand.prior_draws, kernel, SCALES)
    assert torch.allclose(terms["mmd"], expected)
    assert_same_gradients(core, terms["loss"], hand.distortion + 30 * expected)


def test_sliced_wae_has_the_gradient_of_the_papers_loss() -> None:
    core, batch = known()
    with fixed_noise(4):
        terms = WAE(30.0, "sliced", directions=8)(core, batch, 0)
    with fixed_noise(4):
        directions = torch.randn(8, 2, dtype=torch.float64)
    hand, expected = by_hand(core, batch), torch.zeros(())
    for direction in directions / directions.norm(dim=1, keepdim=True):
        x, y = hand.z @ direction, hand.prior_draws @ direction
        cost = (x[:, None] - y) ** 2
        expected = expected + cost[linear_sum_assignment(cost.detach())].mean() / 8
    assert torch.allclose(terms["sliced"], expected)
    assert_same_gradients(core, terms["loss"], hand.distortion + 30 * expected)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_info_vae_has_the_gradient_of_the_papers_loss(kernel: Any) -> None:
    core, batch = known()
    terms = InfoVAE(0.3, 5.0, kernel, [0.5, 2.0])(core, batch, 0)
    hand = by_hand(core, batch)
    discrepancy = by_loops(hand.z, hand.prior_draws, kernel, [0.5, 2.0])
    expected = hand.distortion + (1 - 0.3) * hand.rate + (0.3 + 5.0 - 1) * discrepancy
    assert torch.allclose(terms["mmd"], discrepancy)
    assert_same_gradients(core, terms["loss"], expected)


def test_pythaes_default_weight_of_minus_0_999_of_the_discrepancy_is_not_here() -> None:
    core, batch = known()
    terms = InfoVAE()(core, batch, 0)
    assert torch.allclose(terms["loss"], 99 * terms["mmd"] - terms["elbo"])
    for wrong in (
        {"weight": 1e-3},
        {"alpha": 1.5},
        {"weight": Linear(9)},
        {"weight": float("nan")},
    ):
        with pytest.raises(
            ValueError, match=r"alpha to be at most 1, and alpha \+ weight at least"
        ):
            InfoVAE(**wrong)


def test_info_vae_at_alpha_0_and_weight_1_is_the_elbo_and_alpha_may_be_a_schedule() -> None:
    core, batch = known()
    terms = InfoVAE(weight=1.0)(core, batch, 0)
    assert torch.equal(terms["loss"], -terms["elbo"])
    terms = InfoVAE(alpha=Linear(10, start=1.0, end=0.0), weight=3.0)(core, batch, 5)
    expected = terms["distortion"] + 0.5 * terms["rate"] + 2.5 * terms["mmd"]
    assert torch.allclose(terms["loss"], expected)


def test_wae_weight_may_be_a_schedule() -> None:
    core, batch = known()
    terms = WAE(Linear(10, end=4.0))(core, batch, 5)
    assert torch.allclose(terms["loss"], terms["distortion"] + 2 * terms["mmd"])


@pytest.mark.parametrize("objective", [WAE(), WAE(penalty="sliced"), InfoVAE()], ids=str)
def test_the_order_of_rows_does_not_matter(objective: Any) -> None:
    core, batch = known()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    found = []
    for rows in (batch, batch[order]):
        with fixed_noise(4):
            found.append(objective(core, rows, 0)["loss"])
    assert torch.allclose(found[0][order], found[1], rtol=1e-12)


def test_wae_chosen_by_the_distortion_alone_is_not_here() -> None:
    # Validation reported no distance: a code far from the prior was the best.
    core, batch = known("Delta")
    of_all, of_one = (WAE().evaluate(core, rows) for rows in (batch, batch[2:3]))
    assert set(of_all) == {"distortion", "mmd", "loss"}
    assert torch.allclose(of_all["distortion"][2:3], of_one["distortion"])
    hand = by_hand(core, batch)
    assert torch.allclose(of_all["distortion"], hand.distortion)
    expected = by_loops(hand.z, hand.prior_draws, "imq", SCALES)
    assert torch.allclose(of_all["mmd"], expected)
    for weight in (7.0, Linear(10, end=7.0)):
        terms = WAE(weight).evaluate(core, batch)
        assert torch.allclose(terms["loss"], hand.distortion.mean() + 7 * expected)
    model = Model(DataInfo((3,), (0.0, 1.0)), posterior="Delta", objective="WAE")
    assert model.best == ("loss", "min")
    assert not model.has_bound
    assert set(model.predict(Batch(torch.rand(5, 3)))) == {"distortion", "z", "reconstruction"}


def test_info_vae_reports_the_elbo_and_is_chosen_by_its_loss() -> None:
    core, batch = known()
    terms = InfoVAE(Linear(10), 5.0).evaluate(core, batch)
    assert torch.allclose(terms["elbo"], core.draw(batch).bound()["elbo"])
    assert torch.allclose(terms["loss"], terms["distortion"].mean() + 5 * terms["mmd"])
    model = Model(DataInfo((3,), (0.0, 1.0), levels=2), objective="InfoVAE")
    assert (model.best, model.bound_name, model.has_bits) == (("loss", "min"), "elbo", True)


def test_mmd_of_validation_batches_has_one_mean_whatever_their_size() -> None:
    core, batch = known("Delta")
    found = {}
    for size in (2, 3, 6):
        values = []
        for seed in range(50):
            rows = batch[torch.randperm(6, generator=torch.Generator().manual_seed(seed))]
            parts = [rows[at : at + size] for at in range(0, 6, size)]
            values.append(sum(WAE().evaluate(core, part)["mmd"] for part in parts) / len(parts))
        found[size] = torch.stack(values)
    exact = found[6].mean()
    for values in found.values():
        error = values.std() / len(values) ** 0.5
        assert (values.mean() - exact).abs() < 4 * error + 1e-9


@pytest.mark.parametrize("objective", [WAE(), WAE(penalty="sliced"), InfoVAE()], ids=str)
def test_validation_by_one_rank_waits_for_no_other(
    objective: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(*args: Any) -> None:
        raise AssertionError("waits for the other ranks")

    monkeypatch.setattr("vaekit.objectives.divergence.gather_over_ranks", waits)
    assert objective.evaluate(*known())["loss"].isfinite()


def test_the_prior_is_drawn_from_once_for_each_row() -> None:
    info, x = DataInfo((3,), (0.0, 1.0), levels=2), torch.zeros(400, 3)
    objective = WAE()
    for prior in ("StandardNormal", "LearnedNormal", "GaussianMixturePrior"):
        core = Model(info, 2, posterior="Delta", prior=prior, objective="WAE").core
        z, drawn = objective.draws(core, core.draw(Batch(x)))
        assert z.shape == drawn.shape == (400, 2)
        assert (drawn.mean(0).abs() < 0.25).all()
        assert ((drawn.var(0) - 1).abs() < 0.35).all()
        assert len(drawn.unique(dim=0)) == 400
        assert drawn.requires_grad == (prior == "LearnedNormal")


def test_what_they_cannot_serve_is_refused() -> None:
    info, batch = DataInfo((3,), (0.0, 1.0), levels=2), Batch(torch.zeros(5, 3))
    for objective in ("WAE", "InfoVAE"):
        model = Model(info, 2, prior="NormalMixture", objective=objective)
        with pytest.raises(ValueError, match=r"prior without weights, or.*that gives a Mixture"):
            model.objective(model.core, batch, 0)
    with pytest.raises(ValueError, match="posterior with a density"):
        Model(info, 2, posterior="Delta", objective="InfoVAE")
    core = Model(info, 2).core
    core.__class__ = TwoLevels
    for objective in (WAE(), InfoVAE()):
        with pytest.raises(ValueError, match="Expected one level of latents"):
            objective(core, batch, 0)


def test_bad_arguments_say_what_was_expected() -> None:
    for wrong, told in (
        ({"weight": -1}, "weight to be a schedule or .* but got -1"),
        ({"penalty": "gan"}, "penalty to be mmd or sliced but got 'gan'"),
        ({"kernel": "cosine"}, "kernel to be imq or rbf but got 'cosine'"),
        ({"scales": []}, r"scales, one or more, above 0 but got \[\]"),
        ({"scales": [1.0, 0.0]}, r"scales, one or more, above 0 but got \[1.0, 0.0\]"),
        ({"directions": 0}, "directions to be at least 1 but got 0"),
    ):
        with pytest.raises(ValueError, match=told):
            WAE(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kernel to be imq or rbf"):
        InfoVAE(kernel="cosine")  # type: ignore[arg-type]


# Two ranks


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_process_with_all_rows(tmp_path: Path) -> None:
    objectives = [
        WAE(),
        WAE(penalty="sliced", directions=7),
        InfoVAE(0.3, 5.0),
        DIPVAE("I"),
        DIPVAE("II"),
    ]
    mp.spawn(on_a_rank, (str(tmp_path), objectives), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for number, objective in enumerate(objectives):
        expected = gradient(objective)
        for split in SPLITS:
            difference = (found[number, split] - expected).abs().max()
            assert difference < 1e-12, (type(objective).__name__, split)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_mmd_of_codes_far_from_0_is_that_of_float64(offset: float) -> None:
    x, y = offset + torch.randn(64, 16), torch.randn(64, 16)
    assert torch.allclose(mmd(x, y), mmd(x.double(), y.double()).float(), rtol=1e-3, atol=1e-5)
