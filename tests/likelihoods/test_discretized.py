"""Discretised logistics, their mixture, and probabilities of each value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, data
from vaekit.contracts.batch import Batch
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.likelihoods import Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from vaekit.likelihoods.discrete import LogisticBins
from vaekit.likelihoods.logistic_mixture import LogisticMixture

RGB = DataInfo((3, 2, 2), (0.0, 1.0), levels=4)


def test_bins_sum_to_one_and_have_the_mean_and_mode_that_they_say() -> None:
    levels = ValueGrid(-1.0, 1.0, 256)
    loc = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.99, 2.0]).double()
    scale = torch.tensor([1e-4, 1e-3, 0.02, 0.5, 5.0, 0.3]).double()
    p = LogisticBins(loc, scale, levels)
    values = torch.linspace(-1, 1, 256).double()[:, None]
    mass = p.log_prob(values.expand(-1, 6)).exp()
    assert torch.allclose(mass.sum(0), torch.ones(6).double(), atol=1e-10)
    assert torch.allclose(p.mean, (mass * values).sum(0), atol=1e-10)
    assert torch.allclose(p.mode, values[mass.argmax(0), 0], atol=1e-9)


def test_probabilities_of_values_sum_to_one_and_have_the_mean_and_mode_that_they_say() -> None:
    info = DataInfo((2,), (0.0, 1.0), levels=256)
    likelihood = Categorical((2,), info)
    p = likelihood(torch.randn(1, 1, 256, 2).double())
    values = torch.linspace(0, 1, 256).double()[:, None, None, None]
    mass = p.base_dist.log_prob(values).exp()
    assert torch.allclose(mass.sum(0), torch.ones(1, 1, 2).double())
    assert torch.allclose(p.mean, (mass * values).sum(0))
    assert torch.allclose(likelihood.point(p), values[mass.argmax(0)].reshape(1, 1, 2))


def test_tokens_are_never_blended() -> None:
    info = DataInfo((5,), (0.0, 9.0), levels=10)
    model = Model(info, likelihood="Categorical")
    x = model.sample(50)
    assert torch.equal(x, x.round())


def _all_pixels() -> Tensor:
    """Each of the 64 colours, (64, 3)."""
    return torch.cartesian_prod(*[torch.arange(4.0).double() / 3] * 3)


def _mixture(batch: int = 1) -> tuple[DiscretizedLogisticMixture, LogisticMixture]:
    likelihood = DiscretizedLogisticMixture((3, 1, 1), DataInfo((3, 1, 1), (0, 1), 4), 3)
    y = 2 * torch.randn(1, batch, *likelihood.output_shape).double()
    y[:, :, -9:] += 1.0  # strong couplings
    p = likelihood(y)
    assert isinstance(p, LogisticMixture)
    return likelihood, p


def test_the_coupled_mixture_sums_to_one_over_all_colours() -> None:
    likelihood, p = _mixture()
    colours = _all_pixels().view(64, 1, 3, 1, 1)
    mass = torch.stack([likelihood.log_prob(p, x) for x in colours]).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-10)


def test_a_channel_s_location_is_linear_in_the_channels_before_it() -> None:
    """By hand, for one component: red; green around red; blue around both."""
    levels = ValueGrid(-1.0, 1.0, 5)
    loc, scale = (
        torch.randn(1, 1, 1, 3, 1, 1).double(),
        torch.rand(1, 1, 1, 3, 1, 1).double() + 0.2,
    )
    a = torch.tensor([0.7, -0.4, 0.9]).double()
    p = LogisticMixture(
        torch.zeros(1, 1, 1, 1, 1).double(),
        loc,
        scale,
        a.view(1, 1, 1, 3, 1, 1),
        levels,
        (3, 1, 1),
    )
    x = torch.tensor([0.5, -0.5, 1.0]).double()
    red, green, blue = loc.flatten()
    centres = torch.stack(
        [red, green + a[0] * (x[0] + 1), blue + a[1] * (x[0] + 1) + a[2] * (x[1] + 1)]
    )
    expected = LogisticBins(centres, scale.flatten(), levels).log_prob(x).sum()
    assert torch.allclose(p.log_prob(x.view(1, 3, 1, 1)), expected)


def test_samples_of_the_coupled_mixture_have_its_probabilities() -> None:
    likelihood, p = _mixture()
    wide = LogisticMixture(
        *(t.expand(-1, 40_000, *t.shape[2:]) for t in (p.log_pi, p.loc, p.scale, p.coefficients)),
        p.levels,
        (3, 1, 1),
    )
    drawn = (wide.sample()[0].flatten(1) * 3).round().long()  # (n, 3)
    counts = torch.bincount(drawn @ torch.tensor([16, 4, 1]), minlength=64).double() / len(drawn)
    colours = _all_pixels().view(64, 1, 3, 1, 1)
    mass = torch.stack([likelihood.log_prob(p, x) for x in colours]).exp().flatten()
    error = (mass * (1 - mass) / len(drawn)).sqrt()
    assert ((counts - mass).abs() < 5 * error + 1e-4).all()


@pytest.mark.slow
def test_what_the_mixture_says_of_its_mean_mode_and_samples() -> None:
    likelihood, p = _mixture(5)
    colours = _all_pixels().view(64, 3, 1, 1)
    mass = torch.stack(
        [likelihood.log_prob(p, x.expand(5, 3, 1, 1)) for x in colours]
    )  # (64, 1, 5)
    assert (p.log_prob(p.mode) >= mass.max(0).values - 0.7).all()
    drawn = p.sample((7, 2))
    assert drawn.shape == (7, 2, 1, 5, 3, 1, 1)
    assert torch.equal(p.log_prob(drawn)[3, 1], p.log_prob(drawn[3, 1]))
    with pytest.raises(NotImplementedError, match="no closed form"):
        p.mean  # noqa: B018
    single = DiscretizedLogisticMixture((2,), DataInfo((2,), (0, 1), 16), 3)
    q = single(torch.randn(1, 4, *single.output_shape).double())
    assert torch.allclose(q.mean, q.sample((20_000,)).mean(0), atol=0.02)


def test_without_couplings_the_mixture_is_that_of_products() -> None:
    _, p = _mixture()
    free = LogisticMixture(p.log_pi, p.loc, p.scale, 0 * p.coefficients, p.levels, (3, 1, 1))
    x = _all_pixels()[27].view(1, 3, 1, 1)
    each = LogisticBins(p.loc, p.scale, p.levels).log_prob(x.unsqueeze(1))  # (1, 1, M, 3, 1, 1)
    by_hand = (p.log_pi[..., 0, 0] + each.sum((3, 4, 5))).logsumexp(2)
    assert torch.allclose(free.log_prob(x), by_hand)


def test_a_mask_hides_whole_pixels_of_the_coupled_mixture_and_nothing_less() -> None:
    likelihood = DiscretizedLogisticMixture(RGB.event_shape, RGB, 3)
    p = likelihood(torch.randn(2, 5, *likelihood.output_shape).double())
    x = torch.randint(4, (5, 3, 2, 2)).double() / 3
    seen = (torch.rand(5, 1, 2, 2) > 0.5).expand(-1, 3, -1, -1)
    parts = [likelihood.log_prob(p, x, mask) for mask in (seen, ~seen)]
    assert torch.allclose(sum(parts), likelihood.log_prob(p, x))
    torn = seen.clone()
    torn[0, 0, 0, 0] ^= True
    with pytest.raises(ValueError, match="hides whole pixels"):
        likelihood.log_prob(p, x, torn)


def test_it_begins_at_the_moments_of_the_training_rows() -> None:
    x = (0.3 + 0.1 * torch.randn(2000, 3, 2, 2)).clamp(0, 1)
    info = DataInfo((3, 2, 2), (0.0, 1.0), levels=256)
    x = ValueGrid.of(info).nearest(x)
    for likelihood in (
        DiscretizedLogistic(info.event_shape, info),
        DiscretizedLogisticMixture(info.event_shape, info),
    ):
        with torch.no_grad():
            likelihood.start([Batch(x)])
        p = likelihood(torch.zeros(1, 2000, *likelihood.output_shape))
        base = p.sample()
        assert float(base.mean()) == pytest.approx(0.3, abs=0.01)
        assert float(base.std()) == pytest.approx(0.1, abs=0.01)


def _correlated(rows: int) -> Tensor:
    """Images whose green follows red, and whose blue follows both, by construction."""
    red = torch.randint(40, 216, (rows, 1, 4, 4)).double()
    green = red / 2 + 60 + 4 * torch.randn(rows, 1, 4, 4)
    blue = 0.4 * red + 0.4 * green + 4 * torch.randn(rows, 1, 4, 4)
    return torch.cat([red, green, blue], 1).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.slow
def test_the_coupled_mixture_beats_independent_channels_where_channels_are_correlated() -> None:
    found = {}
    rows = data.Arrays(_correlated(2000), channels="first", batch_size=100)
    for name in ("DiscretizedLogisticMixture", "DiscretizedLogistic"):
        model = Model(rows, latent_shape=4, likelihood=name)
        trainer = fit(
            VAEModule(model, {"class_path": "Adam", "init_args": {"lr": 0.003}}),
            rows,
            max_epochs=25,
        )
        found[name] = float(trainer.callback_metrics["val/elbo"])
    # Red is uniform noise, which no latents can tell. Given it, each of green and blue keeps a
    # noise of 4 grey values of a spread of some 25: log(25 / 4) nats, 16 pixels, two channels.
    assert found["DiscretizedLogisticMixture"] - found["DiscretizedLogistic"] > 40
