"""BetaTCVAE and DIPVAE against plain arithmetic, brute force over all batches, and numpy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations
from math import log, pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from known_draws import ROWS, ByHand, assert_same_gradients, by_hand, known
from vaekit import DataInfo, Model
from vaekit.contracts.batch import Batch
from vaekit.contracts.draw import Draw
from vaekit.cores.vae import VAE
from vaekit.objectives.correlation import DIPVAE, BetaTCVAE
from vaekit.registry.plugins import RegistryError
from vaekit.schedules import Linear


def density(hand: ByHand, i: int, j: int, latent: int) -> Tensor:
    """q of one latent of row i's draw, given row j."""
    variance = hand.variance[j, latent]
    distance = (hand.z[i, latent] - hand.mean[j, latent]) ** 2
    return (-distance / (2 * variance)).exp() / (2 * pi * variance).sqrt()


def expected_loss(hand: ByHand, n: int, weights: tuple[float, ...], stratified: bool) -> Tensor:
    """Chen et al.'s equation 4 and their estimators, row by row."""
    (alpha, beta, gamma), losses, rows = weights, [], len(hand.z)
    for i in range(rows):
        own = other = 1 / (n * rows)
        if stratified:
            own, other = 1 / n, (n - 1) / n / (rows - 1)
        w = [own if j == i else other for j in range(rows)]
        given = density(hand, i, i, 0) * density(hand, i, i, 1)
        whole = sum(w[j] * density(hand, i, j, 0) * density(hand, i, j, 1) for j in range(rows))
        apart = [sum(w[j] * density(hand, i, j, k) for j in range(rows)) for k in (0, 1)]
        distance = ((hand.z - hand.prior_mean) / hand.prior_scale)[i]
        prior = ((-(distance**2) / 2).exp() / hand.prior_scale[i] / (2 * pi) ** 0.5).prod()
        mi, tc = (given / whole).log(), (whole / apart[0] / apart[1]).log()
        kl = (apart[0] * apart[1] / prior).log()
        losses.append(hand.distortion[i] + alpha * mi + beta * tc + gamma * kl)
    return torch.stack(losses)


@pytest.mark.parametrize("estimator", ["mss", "mws"])
def test_beta_tc_has_the_gradient_of_the_papers_loss(estimator: Any) -> None:
    core, batch = known()
    weights = (0.5, 6.0, 2.0)
    terms = BetaTCVAE(40, *weights, estimator)(core, batch, 0)
    expected = expected_loss(by_hand(core, batch), 40, weights, estimator == "mss")
    assert torch.allclose(terms["loss"], expected, rtol=1e-10)
    assert_same_gradients(core, terms["loss"], expected)


@pytest.mark.parametrize("estimator", ["mss", "mws"])
@torch.no_grad()
def test_beta_tc_tells_bounds_next_to_its_biased_estimates(estimator: Any) -> None:
    # q(z|x) = N(m(x), 1/4) of means from N(0, S), in closed form: A = S + 1/4.
    torch.manual_seed(0)
    rows, size, noise = 20_000, 100, 0.25
    s = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    a = s + noise * torch.eye(2)
    mi = float(a.logdet() - 2 * log(noise)) / 2
    tc = float(a.diagonal().log().sum() - a.logdet()) / 2
    kl_of_aggregate = tc + float((a.diagonal() - 1 - a.diagonal().log()).sum()) / 2
    model = Model(
        DataInfo((2,), data_size=rows),
        latent_shape=2,
        encoder={"class_path": "MLPEncoder", "init_args": {"hidden": [2]}},
        likelihood="Gaussian",
        objective={"class_path": "BetaTCVAE", "init_args": {"estimator": estimator}},
    ).double()
    posterior: Any = model.core.posterior
    model.core.encoder = _Identity()  # type: ignore[assignment]
    posterior.linear.weight.copy_(torch.cat([torch.eye(2), torch.zeros(2, 2)]))
    posterior.linear.bias.copy_(torch.tensor([0.0, 0.0, log(noise), log(noise)]))
    x = torch.randn(rows, 2, dtype=torch.float64) @ torch.linalg.cholesky(s).T
    found = [model.objective(model.core, Batch(part), 0) for part in x.split(size)]
    mean = {name: float(torch.stack([t[name] for t in found]).mean()) for name in found[0]}
    assert mean["rate"] == pytest.approx(mi + kl_of_aggregate, abs=0.05)
    assert mi - 0.1 < mean["mi_lower"] < mi + 0.01
    assert tc < kl_of_aggregate - 0.01 < mean["tc_upper"] < kl_of_aggregate + 0.15
    assert all(float(t["mi_lower"].max()) <= log(size) for t in found)


class _Identity(torch.nn.Module):
    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return x


@pytest.mark.parametrize("estimator", ["mss", "mws"])
def test_beta_tc_with_weights_of_one_is_the_elbo_of_one_draw(estimator: Any) -> None:
    core, batch = known()
    terms = BetaTCVAE(40, 1.0, 1.0, 1.0, estimator)(core, batch, 0)
    expected = -core.draw(batch).log_weight[0]
    assert torch.allclose(terms["loss"], expected, rtol=1e-13)
    assert_same_gradients(core, terms["loss"], expected)
    rate = terms["mi"] + terms["tc"] + terms["dimension_kl"]
    assert torch.allclose(terms["distortion"] + rate, expected, rtol=1e-13)
    assert torch.allclose(terms["elbo"], -(terms["distortion"] + terms["rate"]))


def estimates(estimator: Any, size: int) -> dict[tuple[int, ...], Tensor]:
    """q(z) of the draws of each batch of so many of all rows, as the term `mi` has it."""
    core, batch = known()
    found = {}
    for rows in combinations(range(ROWS), size):
        own = batch[torch.tensor(rows)]
        terms = BetaTCVAE(ROWS, estimator=estimator)(core, own, 0)
        found[rows] = (core.draw(own).log_posterior[0] - terms["mi"]).exp().detach()
    return found


def densities() -> Tensor:
    """q(z_i|x_j) of all rows, (i, j)."""
    hand, every = by_hand(*known()), range(ROWS)
    rows = [[density(hand, i, j, 0) * density(hand, i, j, 1) for j in every] for i in every]
    return torch.stack([torch.stack(row) for row in rows]).detach()


@pytest.mark.parametrize("size", [2, 5])
def test_stratified_sampling_gives_q_of_z_in_the_mean_over_all_batches(size: int) -> None:
    q, found = densities(), estimates("mss", size)
    for i in range(ROWS):
        own = [value[rows.index(i)] for rows, value in found.items() if i in rows]
        assert torch.allclose(torch.stack(own).mean(), q[i].mean(), rtol=1e-10)


def test_weighted_sampling_gives_less_than_q_of_z_by_what_the_docstring_says() -> None:
    q, found, size = densities(), estimates("mws", 3), 3
    for i in range(ROWS):
        own = [value[rows.index(i)] for rows, value in found.items() if i in rows]
        others = q[i].sum() - q[i, i]
        expected = (q[i, i] + (size - 1) / (ROWS - 1) * others) / (ROWS * size)
        assert torch.allclose(torch.stack(own).mean(), expected, rtol=1e-10)
        assert expected < q[i].mean()


@pytest.mark.slow
def test_the_papers_stratified_weights_have_the_same_mean_and_more_variance() -> None:
    # Theirs: 1/N for the row itself, (N - M) / (N M) for one other, 1/M for the rest, M + 1 = B.
    q, found, m = densities(), estimates("mss", 4), 3
    for i in range(ROWS):
        others = [j for j in range(ROWS) if j != i]
        theirs = torch.stack(
            [
                q[i, i] / ROWS + q[i, list(rest)].sum() / m + q[i, one] * (ROWS - m) / (ROWS * m)
                for one, *rest in permutations(others, m)
            ]
        )
        ours = torch.stack([value[rows.index(i)] for rows, value in found.items() if i in rows])
        assert torch.allclose(theirs.mean(), ours.mean(), rtol=1e-10)
        assert theirs.var(correction=0) > ours.var(correction=0)


def test_pythaes_stratified_weights_that_go_to_a_column_are_not_here() -> None:
    # There a row's own weight was that of the batch's first rows, so that their order counted.
    core, batch = known()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for objective in (BetaTCVAE(40), BetaTCVAE(40, estimator="mws")):
        terms, other = objective(core, batch, 0), objective(core, batch[order], 0)
        for name, term in terms.items():
            assert torch.allclose(term[order], other[name], rtol=1e-10), name
    # Of rows that are far apart each has its own share of q(z) alone, 1/N.
    far = replace(batch, context=1000 * torch.arange(6.0).double().unsqueeze(1))
    terms = BetaTCVAE(40)(core, far, 0)
    assert torch.allclose(terms["mi"], torch.full((ROWS,), log(40)).double())


def test_beta_tc_of_one_row_knows_of_no_other() -> None:
    core, batch = known()
    for objective in (BetaTCVAE(40), BetaTCVAE(40, estimator="mws"), BetaTCVAE(1)):
        terms = objective(core, batch[:1], 0)
        n = torch.tensor(float(objective.data_size)).double()
        assert torch.allclose(terms["mi"], n.log())
        assert torch.allclose(terms["tc"], n.log())  # of two latents: log 1/N - 2 log 1/N


def test_beta_tc_weights_may_be_schedules() -> None:
    core, batch = known()
    terms = BetaTCVAE(40, beta=Linear(steps=10, start=1.0, end=5.0))(core, batch, 5)
    expected = terms["distortion"] + terms["mi"] + 3 * terms["tc"] + terms["dimension_kl"]
    assert torch.allclose(terms["loss"], expected)


# DIPVAE


def covariance(hand: ByHand, variant: str) -> Tensor:
    rows = len(hand.mean)
    centred = hand.mean - hand.mean.sum(0) / rows
    found = sum(torch.outer(row, row) for row in centred) / rows
    return found + torch.diag(hand.variance.sum(0) / rows) if variant == "II" else found


@pytest.mark.parametrize("variant", ["I", "II"])
def test_dip_has_the_gradient_of_the_papers_loss(variant: Any) -> None:
    core, batch = known()
    terms = DIPVAE(variant, off_diagonal=3.0, diagonal=7.0)(core, batch, 0)
    hand = by_hand(core, batch)
    c = covariance(hand, variant)
    penalty = 3 * 2 * c[0, 1] ** 2 + 7 * ((c[0, 0] - 1) ** 2 + (c[1, 1] - 1) ** 2)
    assert_same_gradients(core, terms["loss"], hand.distortion + hand.rate + penalty)


def test_pytorch_vaes_dip_vae_that_centres_over_latents_is_not_here() -> None:
    core, batch = known()
    terms = DIPVAE("I")(core, batch, 0)
    c = np.cov(by_hand(core, batch).mean.detach().numpy(), rowvar=False, bias=True)
    assert terms["off_diagonal"].item() == pytest.approx(2 * c[0, 1] ** 2)
    assert terms["diagonal"].item() == pytest.approx(((np.diag(c) - 1) ** 2).sum())


def test_pytorch_vaes_sigma_to_the_fourth_power_is_not_here() -> None:
    # Where q is the same for all rows C is q's own variance.
    core, batch = known()
    with torch.no_grad():
        core.posterior.linear.weight.zero_()
        core.posterior.linear.bias[2:] = torch.tensor([0.5, 3.0]).log()
    terms = DIPVAE("II")(core, batch, 0)
    assert terms["diagonal"].item() == pytest.approx(0.5**2 + 2.0**2)
    assert terms["off_diagonal"].item() == pytest.approx(0)


def test_dip_of_one_row_or_of_other_order_is_finite_and_the_same() -> None:
    core, batch = known()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    terms, other = DIPVAE()(core, batch, 0), DIPVAE()(core, batch[order], 0)
    assert torch.allclose(terms["loss"][order], other["loss"])
    assert DIPVAE("I")(core, batch[:1], 0)["diagonal"] == 2  # no covariance


def test_dip_weights_may_be_schedules() -> None:
    core, batch = known()
    terms = DIPVAE(off_diagonal=Linear(steps=10), diagonal=0.0)(core, batch, 5)
    expected = terms["distortion"] + terms["rate"] + 0.5 * terms["off_diagonal"]
    assert torch.allclose(terms["loss"], expected)


# Both


def test_a_latent_may_have_any_shape() -> None:
    info = DataInfo((3,), (0.0, 1.0), levels=2, data_size=40)
    x = torch.rand(5, 3).round()
    for objective in ("BetaTCVAE", "DIPVAE"):
        found = []
        for shape in ([6], [2, 3]):
            torch.manual_seed(3)
            model = Model(info, latent_shape=shape, objective=objective)
            found.append(model.objective(model.core, Batch(x), 0)["loss"])
        assert torch.allclose(*found)


class TwoLevels(VAE):
    """Says of its latents that they are two levels."""

    def draw(self, batch: Batch, *args: Any, **kwargs: Any) -> Draw:
        draw = super().draw(batch, *args, **kwargs)
        return Draw(batch, draw.levels * 2, draw.features, draw.p, lambda: draw.log_likelihood)


def test_what_they_cannot_serve_is_refused() -> None:
    core, batch = known()
    info = DataInfo((3,), (0.0, 1.0), levels=2, data_size=40)
    for objective in ("BetaTCVAE", "DIPVAE"):
        model = Model(info, 2, posterior="FullNormal", objective=objective)
        with pytest.raises(ValueError, match=f"{objective}.*a posterior of independent latents"):
            model.objective(model.core, Batch(torch.zeros(5, 3)), 0)
        with pytest.raises(ValueError, match="posterior with a density"):
            Model(info, 2, posterior="Delta", objective=objective)
    model = Model(info, 2, prior="NormalMixture", objective="BetaTCVAE")
    with pytest.raises(ValueError, match="prior of independent latents but got a Mixture"):
        model.objective(model.core, Batch(torch.zeros(5, 3)), 0)
    core.__class__ = TwoLevels
    for objective in (BetaTCVAE(40), DIPVAE()):
        with pytest.raises(ValueError, match="one level of latents, as the core VAE has, but got"):
            objective(core, batch, 0)
    with pytest.raises(RegistryError, match=r"number of training rows.*DataInfo\(..., data_size"):
        Model(replace(info, data_size=None), objective="BetaTCVAE")


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"beta to be a schedule or .* but got -1"):
        BetaTCVAE(40, beta=-1)
    with pytest.raises(ValueError, match="estimator to be mss or mws but got 'mcs'"):
        BetaTCVAE(40, estimator="mcs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"diagonal to be a schedule or .* but got -1"):
        DIPVAE(diagonal=-1)
    with pytest.raises(ValueError, match="variant to be I or II but got 'i'"):
        DIPVAE("i")  # type: ignore[arg-type]
