"""Normal posteriors and priors and their like, against scipy, quadrature and torch's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, kl_divergence
from torch.distributions import MultivariateNormal as TorchMultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from vaekit import DataInfo, Model, testing
from vaekit.contracts import Prior
from vaekit.contracts.batch import Batch
from vaekit.distributions import base as distributions
from vaekit.distributions.base import normal, takes_noise, transport
from vaekit.posteriors import (
    Delta,
    DiagonalNormal,
    FullNormal,
    LaplacePosterior,
    LowRankNormal,
    StudentTPosterior,
)
from vaekit.priors import LaplacePrior, LearnedNormal, NormalMixture, StandardNormal
from vaekit.testing.subject import Subject

INFO = DataInfo((3,), (0.0, 1.0), levels=2)
SINGLE = {
    "DiagonalNormal": (DiagonalNormal, {}, stats.norm),
    "LaplacePosterior": (LaplacePosterior, {}, stats.laplace),
    "StudentTPosterior": (StudentTPosterior, {"df": 3.5}, partial(stats.t, 3.5)),
}
JOINT = {"FullNormal": (FullNormal, {}), "LowRankNormal": (LowRankNormal, {"rank": 2})}


def posterior(name: str, shape: tuple[int, ...] = (3,), rows: int = 4, **init_args: Any) -> Any:
    cls, own, *_ = {**SINGLE, **JOINT}[name]
    part = cls(5, shape, **{**own, **init_args}).double()
    with torch.no_grad():  # off where it starts, since a FullNormal starts all but diagonal
        for weight in part.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return part(2 * torch.randn(rows, 5).double())


def prior(part: Prior, *context: Tensor) -> Any:
    """The prior, off where it starts."""
    part = part.double()
    with torch.no_grad():
        for weight in part.parameters():
            weight += 0.5 * torch.randn_like(weight)
    return part(*context)


# Densities


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_a_density_of_independent_latents_is_scipys(name: str, shape: tuple[int, ...]) -> None:
    q = posterior(name, shape)
    z = 3 * torch.randn(6, 4, *shape).double()
    with torch.no_grad():
        scipys = SINGLE[name][2](q.base_dist.loc, q.base_dist.scale)
        wanted = scipys.logpdf(z.numpy()).reshape(6, 4, -1).sum(-1)
        assert np.allclose(q.log_prob(z).numpy(), wanted, rtol=1e-10)


@pytest.mark.parametrize("name", JOINT)
def test_a_density_of_dependent_latents_is_scipys(name: str) -> None:
    q, z = posterior(name), 3 * torch.randn(6, 4, 3).double()
    covariance = q.covariance_matrix.detach().numpy()
    assert np.abs(covariance - np.stack([np.diag(np.diag(c)) for c in covariance])).max() > 0.1
    for row in range(4):
        scipys = stats.multivariate_normal(q.mean[row].detach().numpy(), covariance[row])
        found = q.log_prob(z)[:, row].detach().numpy()
        assert np.allclose(found, scipys.logpdf(z[:, row].numpy()), rtol=1e-9)


# KLs


def _quadrature(q: Any, p: Any, loc: float, scale: float) -> float:
    """The integral of q (log q - log p), piece by piece, with ends where either has a kink."""
    reach = scale * 2.0 ** np.arange(-4, 31)
    ends = np.sort(np.concatenate([loc - reach, loc + reach, [loc, p.mean()]]))[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(30)
    half = np.diff(ends, axis=0) / 2
    z = ends[:-1] + half * (1 + nodes)
    log_q = q.logpdf(z)
    near = np.exp(log_q) > 0  # elsewhere both logarithms may be infinite
    terms = np.exp(log_q[near]) * (log_q[near] - p.logpdf(z[near]))
    return float(((half * weights)[near] * terms).sum())


PRIORS = {
    "StandardNormal": (StandardNormal, stats.norm),
    "LearnedNormal": (LearnedNormal, stats.norm),
    "LaplacePrior": (lambda shape: LaplacePrior(shape, 0.7), partial(stats.gennorm, 1.0)),
}


@pytest.mark.parametrize("of", PRIORS)
@pytest.mark.parametrize("name", SINGLE)
def test_bolts_kl_averaged_over_the_latents_is_not_here(name: str, of: str) -> None:
    """Each KL is the sum over all latents of integrals, whatever the latents' shape."""
    q, p = posterior(name, (2, 2), rows=2), prior(PRIORS[of][0]((2, 2)))
    if (name, of) == ("StudentTPosterior", "LaplacePrior"):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        return
    wanted, (base, own) = np.zeros(2), (q.base_dist, p.base_dist)
    for row, i, j in np.ndindex(2, 2, 2):
        at = [x[row, i, j].item() for x in (base.loc, base.scale)]
        of_prior = PRIORS[of][1](*(x[i, j].item() for x in (own.loc, own.scale)))
        wanted[row] += _quadrature(SINGLE[name][2](*at), of_prior, *at)
    assert np.allclose(kl_divergence(q, p).detach().numpy(), wanted, rtol=1e-9)


@pytest.mark.parametrize("rows", [(), (4,)])
@pytest.mark.parametrize("name", JOINT)
def test_bolts_kl_of_dependent_latents_is_summed_too(name: str, rows: tuple[int, ...]) -> None:
    q = posterior(name)
    p = normal(torch.randn(*rows, 3).double(), torch.rand(*rows, 3).double() + 0.3, 1)
    whole = TorchMultivariateNormal(p.mean, torch.diag_embed(p.variance))
    own = TorchMultivariateNormal(q.mean, q.covariance_matrix)
    assert kl_divergence(q, p).shape == (4,)
    assert torch.allclose(kl_divergence(q, p), kl_divergence(own, whole), rtol=1e-9)
    assert torch.allclose(kl_divergence(q, whole), kl_divergence(own, whole), rtol=1e-9)


def test_a_kl_of_many_latents_in_a_few_directions_makes_no_matrix_of_them() -> None:
    q = LowRankNormal(5, (5000,), rank=1)(torch.randn(2, 5))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "diag_embed", None)
        assert kl_divergence(q, StandardNormal((5000,))()).shape == (2,)
    assert not {"covariance_matrix", "scale_tril", "precision_matrix"} & vars(q).keys()


def test_the_kl_of_a_t_without_a_variance_is_infinite() -> None:
    q = torch.distributions.StudentT(torch.tensor([1.5, 2.0, 2.5]), torch.zeros(3))
    found = kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    assert found.isinf().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("FullNormal", "NormalMixture"),
        ("LowRankNormal", "LaplacePrior"),
        ("StudentTPosterior", "LaplacePrior"),
        ("LaplacePosterior", "NormalMixture"),
    ],
)
def test_a_rate_without_a_closed_form_is_estimated_and_said_once(
    name: str, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "_estimated", set())
    core = Model(INFO, latent_shape=2, posterior=name, prior=of).core
    draws = [core.draw(Batch(torch.ones(6, 3)), 3) for _ in range(2)]
    with pytest.warns(UserWarning, match=r"KL\(\w+ \|\| \w+\) has no registered"):
        first = draws[0].rate
    assert torch.equal(first, draws[0].log_posterior - draws[0].log_prior)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draws[1].rate.shape == (3, 6)


# Draws


@pytest.mark.parametrize("name", JOINT)
def test_noise_is_mapped_to_the_covariance(name: str) -> None:
    q = posterior(name, rows=1)
    assert takes_noise(q)
    noise = torch.randn(3).double()
    root = torch.autograd.functional.jacobian(lambda e: transport(q, e[None])[0], noise)
    assert torch.allclose(root @ root.mT, q.covariance_matrix[0], rtol=1e-10)
    at_zero = transport(q, torch.zeros(7, 1, 3).double())
    assert torch.equal(at_zero, q.mean.expand(7, 1, 3))


def test_noise_is_mapped_to_the_quantile_far_out_too() -> None:
    q = posterior("LaplacePosterior", (7,), rows=1)
    noise = torch.tensor([-35.0, -9.0, -0.3, 1e-9, 0.5, 8.5, 30.0]).double()
    with torch.no_grad():
        z = ((transport(q, noise[None]) - q.base_dist.loc) / q.base_dist.scale)[0]
    assert np.allclose(stats.laplace.logcdf(z), stats.norm.logcdf(noise), rtol=1e-12)
    assert np.allclose(stats.laplace.logsf(z), stats.norm.logsf(noise), rtol=1e-12)


@pytest.mark.parametrize("name", ["FullNormal", "LowRankNormal", "LaplacePosterior"])
def test_gradients_of_draws_densities_and_kls_are_those_of_differences(name: str) -> None:
    cls, own, *_ = {**SINGLE, **JOINT}[name]
    part = cls(2, (3,), **own).double()
    noise, p = torch.randn(2, 1, 3).double(), StandardNormal((3,)).double()()

    def terms(h: Tensor) -> tuple[Tensor, ...]:
        q = part(h)
        z = transport(q, noise)
        return z, q.log_prob(z), q.log_prob(noise), kl_divergence(q, p)

    assert torch.autograd.gradcheck(terms, (torch.randn(1, 2).double().requires_grad_(),))


def test_draws_of_full_covariance_make_no_copies_of_it() -> None:
    q = FullNormal(5, (16,))(torch.randn(4, 5))
    torchs = TorchMultivariateNormal(q.loc.detach(), scale_tril=q.scale_tril.detach())
    torchs.loc.requires_grad_()
    assert largest_made(lambda: q.rsample(torch.Size([50]))) == 50 * 4 * 16
    assert largest_made(lambda: torchs.rsample(torch.Size([50]))) == 50 * 4 * 16**2


class _Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.made = max(self.made, x.untyped_storage().nbytes() // x.element_size())
        return out


def largest_made(compute: Callable[[], Tensor]) -> int:
    """The number of elements of the largest tensor that is made, on the way back too."""
    with _Largest() as mode:
        compute().sum().backward()
    return mode.made


@pytest.mark.parametrize("size", [0.0, 3.0, 30.0, 1e4, 1e18])
@pytest.mark.parametrize("name", [*SINGLE, *JOINT])
def test_values_and_gradients_are_numbers_whatever_the_head_says(name: str, size: float) -> None:
    cls, own, *_ = {**SINGLE, **JOINT}[name]
    part = cls(1, (4,), **own)
    with torch.no_grad():
        part.linear.weight.copy_(torch.randn_like(part.linear.weight))
        part.linear.bias.zero_()
    h = torch.tensor([[size], [-size]], requires_grad=True)
    for part_of in (StandardNormal((4,)), LearnedNormal((4,)), NormalMixture((4,))):
        q, p = part(h), part_of()
        z = q.rsample(torch.Size([20]))
        terms = [q.log_prob(z), p.log_prob(z)]
        if not isinstance(part_of, NormalMixture):
            terms.append(kl_divergence(q, p))
        for term in terms:
            assert not term.isnan().any()
            (gradient,) = torch.autograd.grad(term.sum(), h, retain_graph=True)
            assert not gradient.isnan().any()
            assert size > 1e5 or (term.isfinite().all() and gradient.isfinite().all())


# A point


def test_a_point_is_its_draws_and_gives_them_its_gradient() -> None:
    part = Delta(5, (2, 3))
    h = torch.randn(4, 5, requires_grad=True)
    q = part(h)
    assert (q.batch_shape, q.event_shape) == ((4,), (2, 3))
    assert q.support.check(q.mean).all()
    assert (q.variance == 0).all()
    drawn = transport(q, torch.randn(6, 4, 2, 3))
    for z in (q.rsample((6,)), drawn):
        assert torch.equal(z, part.linear(h).view(4, 2, 3).expand(6, 4, 2, 3))
        (gradient,) = torch.autograd.grad(z.sum(), h, retain_graph=True)
        assert torch.allclose(gradient, 6 * part.linear.weight.sum(0).expand(4, 5))
    assert not q.sample((2,)).requires_grad
    with pytest.raises(NotImplementedError):
        q.log_prob(q.mean)


def test_a_point_has_no_bound() -> None:
    with pytest.raises(ValueError, match=r"a posterior with a density.*Delta"):
        Model(INFO, latent_shape=2, posterior="Delta")


@pytest.mark.slow
def test_a_point_obeys_the_laws() -> None:
    excused = testing.check_posterior("Delta", objective="AE")
    assert set(excused.values()) == {
        "q declares that it has no density",
        "its density is known of its own draws alone, if at all",
    }


# Given a context


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("posterior", name) for name in (*SINGLE, *JOINT)),
        *(("prior", name) for name in ("LearnedNormal", "NormalMixture")),
    ],
)
def test_given_a_context_it_obeys_the_laws(kind: str, name: str) -> None:
    data, ranks = DataInfo((2,), (0.0, 1.0), 2, context_features=2), "two_ranks_end_with_one_model"
    excused = testing.check(Subject(kind, name, data=data), without=[ranks])
    assert set(excused.values()) <= {
        "its draws bring no density",
        "none is registered",
        "it is not fitted after training",
        "it estimates no density",
    }


# Priors


def by_start(cls: type[Prior], rows: int | None) -> Distribution:
    if rows is None:
        return cls((2, 2)).double()()
    return cls((2, 2), context_features=3).double()(torch.randn(rows, 3).double())


@pytest.mark.parametrize("rows", [None, 4])
def test_a_learned_normal_starts_as_the_standard_one(rows: int | None) -> None:
    p, z = by_start(LearnedNormal, rows), torch.randn(6, 4, 2, 2).double()
    assert p.batch_shape == (() if rows is None else (4,))
    assert torch.allclose(p.log_prob(z), StandardNormal((2, 2)).double()().log_prob(z))


@pytest.mark.parametrize("rows", [None, 4])
def test_a_mixture_starts_even_with_unit_scales_and_means_apart(rows: int | None) -> None:
    p: Any = by_start(NormalMixture, rows)
    assert p.batch_shape == (() if rows is None else (4,))
    assert torch.allclose(p.log_weights.exp(), torch.tensor(0.1).double())
    assert (p.components.base_dist.scale == 1).all()
    assert 0.5 < p.components.mean.std() < 1.5


@pytest.mark.parametrize("cls", [LearnedNormal, NormalMixture])
def test_a_prior_given_a_context_is_each_rows_own(cls: type[Prior]) -> None:
    part, context = cls((2,), context_features=3), torch.randn(4, 3).double()
    p, z = prior(part, context), torch.randn(5, 4, 2).double()
    for row in range(4):
        alone = part(context[row : row + 1])
        found = alone.log_prob(z[:, row : row + 1])[:, 0]
        assert torch.allclose(p.log_prob(z)[:, row], found, rtol=1e-12)
        assert torch.allclose(p.mean[row], alone.mean[0], rtol=1e-12)
    assert (p.log_prob(z[:, :1].expand_as(z)).std(1) > 1e-3).all()


@pytest.mark.parametrize(
    ("name", "init_args"),
    [("LearnedNormal", {}), ("NormalMixture", {}), ("LaplacePrior", {"scale": 100.0})],
)
def test_pytorch_vae_samples_from_a_standard_normal_whatever_the_prior_are_not_here(
    name: str, init_args: dict[str, Any]
) -> None:
    spec = {"class_path": name, "init_args": init_args}
    model, seen = Model(INFO, latent_shape=2, prior=spec), []
    with torch.no_grad():
        for weight in model.core.prior.parameters():
            weight += 100.0 * (weight.dim() > 1)
    model.core.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.sample(200)
    assert seen[0].abs().mean() > 20


# What is refused


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FullNormal(5, (2, 3)), r"a vector.*got latent_shape \(2, 3\)"),
        (lambda: LowRankNormal(5, (2, 3)), r"a vector.*got latent_shape \(2, 3\)"),
        (lambda: LowRankNormal(5, (2,), rank=0), "rank to be at least 1 but got 0"),
        (lambda: StudentTPosterior(5, (2,), df=2.0), "to be above 2 but got 2.0"),
        (lambda: StudentTPosterior(5, (2,), df=inf), "to be above 2 but got inf"),
        (lambda: NormalMixture((2,), components=0), "components to be at least 1 but got 0"),
        (lambda: LaplacePrior((2,), scale=0.0), r"scale to be positive but got 0\.0"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_shapes_of_several_dimensions_stand_in_models() -> None:
    for name in (*SINGLE, "LaplacePrior", "LearnedNormal", "NormalMixture"):
        kind = "posterior" if name in SINGLE else "prior"
        core = Model(INFO, latent_shape=[2, 3], **{kind: name}).core
        draw = core.draw(Batch(torch.ones(6, 3)), 4)
        assert draw.z.shape == (4, 6, 2, 3)
        assert draw.log_weight.shape == (4, 6)
