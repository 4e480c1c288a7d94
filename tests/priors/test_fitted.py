"""Priors that are fitted to codes: densities, fits, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vaekit import DataInfo, Model
from vaekit.contracts import FittedPrior
from vaekit.distributions.base import normal
from vaekit.priors import FittedNormal, FlowPrior, GaussianMixturePrior, TwoStagePrior

SMALL: dict[str, Any] = {"hidden": [128], "draws": 4000, "epochs": 100}
EVERY: list[tuple[type[FittedPrior], dict[str, Any]]] = [
    (FittedNormal, {}),
    (GaussianMixturePrior, {"components": 3}),
    (GaussianMixturePrior, {"components": 3, "covariance": "diag"}),
    (TwoStagePrior, {"hidden": [32], "draws": 50, "epochs": 60, "lr": 5e-3}),
]


def codes(n: int = 600, size: int = 3) -> Tensor:
    """Correlated codes around 2, of which the last hardly varies."""
    torch.manual_seed(0)
    a = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.6, 0.0], [0.3, 0.0, 1e-3]])[:size, :size]
    return 2 + torch.randn(n, size) @ a


@pytest.mark.parametrize(("cls", "init_args"), EVERY)
def test_until_it_is_fitted_it_is_the_standard_normal(
    cls: type[FittedPrior], init_args: dict[str, Any]
) -> None:
    prior = cls(latent_shape=(3,), **init_args).double()  # type: ignore[call-arg]
    z = 3 * torch.randn(5, 3).double()
    wanted = stats.norm.logpdf(z.numpy()).sum(1)
    assert np.allclose(prior().log_prob(z), wanted, atol=1e-6)
    assert not [p for p in prior.parameters() if p.requires_grad]
    drawn = prior().sample(torch.Size((4000,)))
    assert (drawn.mean(0).abs() < 0.1).all()
    assert (drawn.std(0) - 1).abs().max() < 0.1


def test_a_fitted_normal_has_the_codes_mean_and_covariance() -> None:
    z = codes().double()
    prior = FittedNormal((3,)).double()
    prior.fit(z)
    wanted = stats.multivariate_normal(z.mean(0).numpy(), np.cov(z.T.numpy()))
    at = codes(9).double()
    assert np.allclose(prior().log_prob(at), wanted.logpdf(at.numpy()), atol=1e-3)
    drawn = prior().sample(torch.Size((100_000,)))
    assert np.allclose(drawn.T.cov(), np.cov(z.T.numpy()), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("init_args", [{}, {"jitter": 0.01}])
def test_a_code_that_is_always_the_same_leaves_a_density(init_args: dict[str, Any]) -> None:
    z = codes()
    z[:, 1], z[:, 2] = z[:, 0], 7.0  # one repeats another, one never varies
    for prior in (FittedNormal((3,), **init_args), GaussianMixturePrior((3,), **init_args)):
        prior.fit(z)
        assert prior().log_prob(z).isfinite().all()
        assert (prior().sample(torch.Size((99,)))[:, 2] - 7).abs().max() < 0.05


def test_the_kl_to_a_fitted_normal_is_that_of_two_full_normals() -> None:
    torch.manual_seed(0)
    loc, scale, tril = torch.randn(4, 3), torch.rand(4, 3) + 0.1, torch.randn(3, 3).tril()
    tril.diagonal().abs_().add_(0.3)
    loc, scale, tril = loc.double(), scale.double(), tril.double()
    q = MultivariateNormal(loc, scale_tril=scale.diag_embed())
    for p in (
        MultivariateNormal(loc[0] + 1, scale_tril=tril),
        MultivariateNormal(loc + 1, scale_tril=tril),
    ):
        assert torch.allclose(kl_divergence(normal(loc, scale, 1), p), kl_divergence(q, p))
    with pytest.raises(NotImplementedError):
        kl_divergence(normal(loc, scale, 0), p)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_a_mixture_finds_its_clusters_and_is_their_density(covariance: Any) -> None:
    torch.manual_seed(1)
    centres = torch.tensor([[-6.0, 0.0], [6.0, 1.0], [0.0, 9.0]])
    z = centres[torch.arange(900) % 3] + torch.randn(900, 2) * torch.tensor([0.5, 2.0])
    prior = GaussianMixturePrior((2,), components=3, covariance=covariance).double()
    prior.fit(z)
    found = prior.loc[prior.loc[:, 0].argsort()]
    assert torch.allclose(found, centres[[0, 2, 1]].double(), atol=0.4)
    at = z[:7].double()
    covariances = prior.scale @ prior.scale.mT if covariance == "full" else prior.scale.square()
    wanted = np.log(
        sum(
            w * stats.multivariate_normal(m, c if covariance == "full" else np.diag(c)).pdf(at)
            for w, m, c in zip(
                prior.log_weights.exp().numpy(),
                prior.loc.numpy(),
                covariances.numpy(),
                strict=True,
            )
        )
    )
    assert np.allclose(prior().log_prob(at), wanted, atol=1e-9)
    drawn = prior().sample(torch.Size((30_000,)))
    assert torch.allclose(drawn.T.cov(), z.double().T.cov(), rtol=0.05, atol=0.1)


def exact(prior: TwoStagePrior, z: Tensor) -> Tensor:
    """log p(z) of one latent, by quadrature over u."""
    u = torch.linspace(-8, 8, 4001).double().unsqueeze(1)
    y = (z.unsqueeze(1) - prior.loc) / prior.scale_tril[0, 0]
    log_p = prior.decode(u).log_prob(y) - u[:, 0].square() / 2 - np.log(2 * np.pi) / 2
    return log_p.logsumexp(1) + np.log(16 / 4000) - prior.scale_tril.log().sum()


@pytest.mark.slow
def test_a_second_vae_estimates_its_density_from_below_and_draws_from_it() -> None:
    torch.manual_seed(0)
    z = torch.cat([torch.randn(1000, 1) - 4, 0.5 * torch.randn(1000, 1) + 3])
    prior = TwoStagePrior((1,), **SMALL).double()
    prior.fit(z)
    grid = torch.linspace(-12, 12, 2401).double().unsqueeze(1)
    with torch.no_grad():
        wanted = exact(prior, grid)
        assert wanted.exp().sum() * 0.01 == pytest.approx(1, abs=1e-3)
        at = grid[600:1900:100]
        many = prior().log_prob(at)
        assert torch.allclose(many, exact(prior, at), atol=0.25)
        prior.draws = 3
        few = prior().log_prob(at.expand(20_000, -1, -1))
        error = few.exp().std(0) / len(few) ** 0.5
        close = (few.exp().mean(0) - exact(prior, at).exp()).abs() < 5 * error + 1e-6
        assert close.all()  # an estimate without bias
        assert (few.mean(0) <= exact(prior, at) + 1e-3).all()  # in the mean from below
        drawn = prior().sample(torch.Size((40_000,)))
    shares = [float((drawn < x).double().mean()) for x in (-4, 0, 3)]
    mass = [float(wanted[grid[:, 0] < x].exp().sum() * 0.01) for x in (-4, 0, 3)]
    assert shares == pytest.approx(mass, abs=0.02)
    left, valley, right = exact(prior, torch.tensor([[-4.0], [0.0], [3.0]]).double()).tolist()
    assert valley < min(left, right) - 0.5  # it is two heaps


def test_codes_are_whitened_without_a_copy_of_the_factor_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior, solve, seen = TwoStagePrior((3,)), torch.linalg.solve_triangular, []
    prior.scale_tril.copy_(torch.randn(3, 3).tril() + 2 * torch.eye(3))

    def noted(factor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(tuple(factor.shape))
        return solve(factor, *args, **kwargs)

    monkeypatch.setattr(torch.linalg, "solve_triangular", noted)
    for shape in ((3,), (5, 3), (7, 5, 3)):
        away = torch.randn(shape)
        y = prior.whitened(away)
        assert torch.allclose(y @ prior.scale_tril.mT, away, atol=1e-5)
    assert seen == [(3, 3)] * 3


def test_it_fits_what_a_normal_cannot() -> None:
    torch.manual_seed(0)
    z = torch.where(torch.rand(800, 2) > 0.5, 2.0, -2.0) + 0.3 * torch.randn(800, 2)
    held = []
    for prior in (FittedNormal((2,)), GaussianMixturePrior((2,), components=4)):
        prior.fit(z[:600])
        held.append(float(prior().log_prob(z[600:]).mean()))
    assert held[1] > held[0] + 1


@pytest.mark.slow
def test_a_second_vae_fits_what_a_normal_cannot() -> None:
    torch.manual_seed(0)
    z = torch.where(torch.rand(2000, 2) > 0.5, 2.0, -2.0) + 0.3 * torch.randn(2000, 2)
    held = []
    for prior in (FittedNormal((2,)), TwoStagePrior((2,))):
        prior.fit(z[:1500])
        held.append(float(prior().log_prob(z[1500:]).mean()))
    assert held[1] > held[0] + 1


@pytest.mark.parametrize(("cls", "init_args"), EVERY)
def test_given_a_context_it_follows_it(cls: type[FittedPrior], init_args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    label = torch.arange(600) % 2
    context = torch.nn.functional.one_hot(label).float()  # whose columns sum to one
    z = torch.randn(600, 2) + torch.where(label == 1, 10.0, -10.0)[:, None]
    prior = cls((2,), context_features=2, **init_args)  # type: ignore[call-arg]
    prior.fit(z, context)
    p = prior(torch.eye(2))
    assert p.batch_shape == (2,)
    with torch.no_grad():
        drawn = p.sample(torch.Size((500,)))  # (n, B, Z)
        assert torch.allclose(drawn.mean(0), torch.tensor([[-10.0] * 2, [10.0] * 2]), atol=0.4)
        assert (drawn.std(0) - 1).abs().max() < 0.3
        here, there = p.log_prob(drawn).mean(0), p.log_prob(drawn.flip(1)).mean(0)
        assert (here > there + 20).all()
        for row in (0, 1):  # as of each row alone
            with torch.random.fork_rng():
                alone = prior(torch.eye(2)[row : row + 1]).log_prob(drawn[:, row : row + 1])
            if not prior.estimates:
                assert torch.allclose(alone[:, 0], p.log_prob(drawn)[:, row], atol=1e-4)


@pytest.mark.parametrize(
    ("cls", "init_args"), [*EVERY, (FlowPrior, {"transforms": 1, "hidden": [8]})]
)
def test_what_it_cannot_be_fitted_to_is_refused_and_it_stays_what_it_was(
    cls: type[FittedPrior], init_args: dict[str, Any]
) -> None:
    prior: Any = cls((3,), **init_args)  # type: ignore[call-arg]
    conditional: Any = cls((3,), context_features=2, **init_args)  # type: ignore[call-arg]
    least, ones = getattr(prior, "least", 10), torch.ones(600, 3)
    wanted = r"Expected a context of shape \(600, 2\) but got"
    for of, z, context, words in (
        (prior, codes(1), None, rf"Expected at least {least} rows to fit {cls.__name__} to but"),
        (prior, codes()[:, :2], None, r"Expected codes \(n, 3\) but got \(600, 2\)"),
        (prior, codes()[:, :1], None, r"Expected codes \(n, 3\) but got \(600, 1\)"),
        (prior, codes(), ones, r"Expected no context but got one of shape"),
        (prior, torch.full((50, 3), torch.nan), None, "Expected finite codes"),
        (conditional, codes(), None, f"{wanted} none"),
        (conditional, codes(), ones, rf"{wanted} one of shape \(600, 3\)"),
        (conditional, codes(), ones[:500, :2], rf"{wanted} one of shape \(500, 2\)"),
        (conditional, codes(), ones[:, :2] / 0, "Expected finite contexts"),
    ):
        before = {name: x.clone() for name, x in of.state_dict().items()}
        with pytest.raises(ValueError, match=words):
            of.fit(z, context)
        assert all(torch.equal(x, before[name]) for name, x in of.state_dict().items())
    with pytest.raises(ValueError, match=r"a vector of 1 or more but got latent_shape \(2, 3\)"):
        cls((2, 3), **init_args)  # type: ignore[call-arg]


def test_fewer_rows_than_components_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 rows to fit GaussianMixturePrior to but"):
        GaussianMixturePrior((3,)).fit(codes(9))


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (FittedNormal, "jitter", 0.0),
        (GaussianMixturePrior, "jitter", -1.0),
        (GaussianMixturePrior, "components", 0),
        (GaussianMixturePrior, "covariance", "tied"),
        (TwoStagePrior, "draws", 0),
        (TwoStagePrior, "epochs", 0),
        (TwoStagePrior, "lr", float("nan")),
    ],
)
def test_arguments_are_checked(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Expected {name} to be .* but got {value!r}"):
        cls((3,), **{name: value})


def test_a_mixture_s_fit_follows_torch_s_seed_alone() -> None:
    z, found = torch.randn(300, 2), []
    for seed in (0, 0, 1):
        prior = GaussianMixturePrior((2,), components=8)
        torch.manual_seed(seed)
        np.random.seed(len(found))
        prior.fit(z)
        found.append(prior.loc)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_codes_of_a_device_without_float64_are_fitted_to() -> None:
    class OnMPS(Tensor):
        def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
            return self.as_subclass(Tensor)

        def double(self) -> Tensor:
            raise TypeError("The MPS framework has no float64.")

    prior = FittedNormal((3,), context_features=1)
    prior.fit(codes().as_subclass(OnMPS), torch.randn(600, 1).as_subclass(OnMPS))
    assert prior.loc.isfinite().all()


def test_a_model_may_be_trained_with_one_and_then_fit_it() -> None:
    model = Model(DataInfo((3,), (0, 1), levels=2), latent_shape=3, prior="FittedNormal")
    prior: Any = model.core.prior
    prior.fit(codes())
    again = Model(**model.spec)
    again.load_state_dict(model.state_dict())
    found: Any = again.core.prior
    assert torch.equal(found().mean, prior().mean)


def test_the_density_of_a_two_stage_prior_integrates_to_one() -> None:
    torch.manual_seed(0)
    prior = TwoStagePrior((1,), epochs=3).double()
    prior.fit(3 + 5 * torch.randn(400, 1).double())
    prior.draws = 400
    z = torch.linspace(-60, 66, 800).double().unsqueeze(1)
    with torch.no_grad():
        density = prior().log_prob(z).exp()
    assert float(torch.trapezoid(density, z[:, 0])) == pytest.approx(1.0, abs=0.03)
