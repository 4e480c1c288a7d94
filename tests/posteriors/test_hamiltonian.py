"""Posteriors on Hamiltonian dynamics: their bounds, and their use in models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from test_leapfrog import BOTH, LATENTS, begin, bent, moving, quartic
from test_vae import linear_gaussian
from torch import Tensor, nn

from vaekit import Model, log_likelihood
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.distributions.base import normal
from vaekit.posteriors import DiagonalNormal, Hamiltonian, RiemannianHamiltonian

BINARY = DataInfo((1, 12, 9), (0.0, 1.0), levels=2, context_features=2)


def exactly(core: Any, w: Tensor, offset: Tensor, x: Tensor, scale: float) -> Tensor:
    covariance = w @ w.T + scale**2 * torch.eye(len(w), dtype=torch.float64)
    found = stats.multivariate_normal.logpdf(x.numpy(), offset.numpy(), covariance.numpy())
    return torch.from_numpy(found)


def refined(kind: type[Hamiltonian], **own: Any) -> tuple[Any, Tensor, Tensor]:
    """A linear VAE whose q0 is off, moved; rows and their log p(x)."""
    core, w, offset = linear_gaussian(d=6, k=2, scale=0.6)
    linear = core.posterior.linear
    with torch.no_grad():
        linear.bias.add_(torch.tensor([0.4, -0.3, 0.7, 0.9], dtype=torch.float64))
    core.posterior = bent(kind(features=6, latent_shape=(2,), **own))
    core.posterior.linear.load_state_dict(linear.state_dict())
    x = torch.randn(3, 6, dtype=torch.float64) * 1.5
    return core, x, exactly(core, w, offset, x, 0.6)


# The bound


@pytest.mark.slow
@pytest.mark.parametrize(
    "own", [{}, {"beta0": 1.0, "steps": 1}, {"step_size": 0.15, "beta0": 0.4}]
)
@BOTH
def test_the_weights_are_log_p_x_in_the_mean_and_below_it_in_the_logarithm(
    kind: type[Hamiltonian], own: dict[str, Any]
) -> None:
    core, x, exact = refined(kind, **own)
    with torch.no_grad():
        weight = core.draw(Batch(x), 20_000).log_weight - exact
    error = weight.exp().std(0) / 20_000**0.5
    assert (error < 0.03).all()
    assert ((weight.exp().mean(0) - 1).abs() < 5 * error).all()
    assert (weight.mean(0) < -0.01).all()


def test_the_weights_of_plain_leapfrog_steps_are_log_p_x_in_the_mean() -> None:
    core, x, exact = refined(Hamiltonian)
    with torch.no_grad():
        weight = (core.draw(Batch(x), 10_000).log_weight - exact).exp()
    assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / 100).all()


@pytest.mark.slow
def test_few_iterations_do_not_bias_the_bound() -> None:
    # With one iteration volume changes much; it is counted.
    core, x, exact = refined(RiemannianHamiltonian, iterations=1, step_size=0.15)
    with torch.no_grad():
        q = core.infer(x)
        z, rho = begin(q, 500)
        assert q.moved(q.at(z), rho)[2].abs().max() > 0.05
        weight = core.draw(Batch(x), 20_000).log_weight - exact
    error = weight.exp().std(0) / 20_000**0.5
    assert (error < 0.03).all()
    assert ((weight.exp().mean(0) - 1).abs() < 5 * error).all()


@pytest.mark.slow
@BOTH
def test_more_steps_bring_a_bad_q0_s_bound_closer(kind: type[Hamiltonian]) -> None:
    """Where what moves its draws is learned."""
    own = {"step_size": 0.1, **({} if kind is Hamiltonian else {"centroids": 4})}
    gaps = []
    for steps in (1, 4):
        torch.manual_seed(0)
        core, x, exact = refined(kind, steps=steps, **own)
        core.posterior.linear.requires_grad_(False)
        learned = [p for p in core.posterior.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=0.1)
        for _ in range(40):
            optimizer.zero_grad()
            (-core.draw(Batch(x), 60).log_weight.mean()).backward()
            optimizer.step()
        with torch.no_grad():
            gaps.append((exact - core.draw(Batch(x), 5000).log_weight).mean().item())
    with torch.no_grad():
        q0, log_joint = core.infer(x).start, core.infer(x).log_joint
        z = q0.sample(torch.Size([5000]))
        plain = (exact - log_joint(z) + q0.log_prob(z)).mean().item()
    told = f"{plain:.3f} without steps, {gaps[0]:.3f} with one, {gaps[1]:.3f} with four"
    assert plain > gaps[0] + 0.01 > gaps[1] + 0.02 > 0.02, told


@pytest.mark.slow
@BOTH
def test_importance_sampling_with_it_is_log_p_x(kind: type[Hamiltonian]) -> None:
    core, x, exact = refined(kind)
    found = log_likelihood(core, Batch(x), 5000, budget=100_000)
    error = (1 / found.effective_samples - 1 / 5000).sqrt()
    assert ((found.log_likelihood - exact).abs() < 5 * error).all()


# Use


def small(kind: type[Hamiltonian], **changes: Any) -> Model:
    own = {"class_path": kind.__name__, "init_args": {"steps": 2}}
    hidden = {"init_args": {"hidden": [16]}}
    parts = {
        "encoder": {"class_path": "MLPEncoder", **hidden},
        "decoder": {"class_path": "MLPDecoder", **hidden},
    }
    return Model(BINARY, **{"latent_shape": 3, "posterior": own, **parts, **changes})


@pytest.mark.parametrize("latent_shape", [1, [2, 3], [2, 2, 2]])
@BOTH
def test_pythaes_28_by_28_is_any_shape(kind: type[Hamiltonian], latent_shape: Any) -> None:
    conv = {"channels": [4], "hidden": 8}
    model = small(
        kind,
        latent_shape=latent_shape,
        encoder={"class_path": "ConvEncoder", "init_args": conv},
        decoder={"class_path": "ConvDecoder", "init_args": conv},
    )
    x, context = torch.rand(3, 1, 12, 9).round(), torch.randn(3, 2)
    model.objective(model.core, Batch(x, context), 0)["loss"].sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.encode(x, context).shape == (3, *model.latent_shape)
    assert model.reconstruct(x, context).shape == x.shape


@BOTH
def test_a_model_is_used_in_inference_mode(kind: type[Hamiltonian]) -> None:
    model, x, context = small(kind), torch.rand(4, 1, 12, 9).round(), torch.randn(4, 2)
    mask = torch.rand_like(x) > 0.3
    with torch.inference_mode():
        z = model.encode(x, context, mask)
        again = model.encode(torch.where(mask, x, 1.0), context, mask)
        found = model.predict(Batch(x, context, mask=mask))
        shapes = [
            model.encode(x, context, sample=True).shape,
            model.reconstruct(x, context).shape,
            model.sample(4, context, sample=True).shape,
        ]
    assert torch.equal(z, again)
    assert torch.equal(z, found["z"])
    assert found["elbo"].isfinite().all()
    assert shapes == [(4, 3), x.shape, x.shape]
    assert torch.equal(z, model.encode(x, context, mask))
    assert not torch.equal(z, model.encode(x, context))
    assert not torch.equal(z, model.encode(x, context + 1, mask))


@BOTH
def test_where_nothing_is_drawn_the_mean_goes_uphill(kind: type[Hamiltonian]) -> None:
    q = moving(kind, beta0=0.5)
    assert (quartic(q.mean[None]) > quartic(q.start.mean[None])).all()
    assert torch.equal(q.mean, q.mean)


@BOTH
def test_a_row_goes_its_own_way(kind: type[Hamiltonian]) -> None:
    q = moving(kind, rows=4)
    z, noise = (torch.randn(3, 4, LATENTS).double() for _ in range(2))
    whole = q.refined(z, noise)
    for row in range(4):
        alone = q.refined(z[:, row : row + 1], noise[:, row : row + 1])
        for of_all, of_one in zip(whole, alone, strict=True):
            assert torch.allclose(of_all[:, row : row + 1], of_one, rtol=1e-12)


@BOTH
def test_draws_have_the_shape_that_is_asked_for(kind: type[Hamiltonian]) -> None:
    q = moving(kind, rows=4)
    for shape in ((), (5,), (2, 3)):
        z, log_q = q.rsample_and_log_prob(shape)
        assert z.shape == q.sample(shape).shape == (*shape, 4, LATENTS)
        assert log_q.shape == (*shape, 4)
    assert z.requires_grad
    assert not q.sample().requires_grad
    with pytest.raises(NotImplementedError):
        q.log_prob(z)


@BOTH
def test_heads_far_out_give_no_nan(kind: type[Hamiltonian]) -> None:
    posterior = kind(features=2, latent_shape=(2,))
    for scale, steep in ((1.0, 1e3), (1e2, 1.0), (1e4, 1.0)):
        h = scale * torch.randn(50, 2)
        q = posterior(h, None, lambda z: -steep * z.square().sum(-1) / 2)  # noqa: B023
        z, log_q = q.rsample_and_log_prob((3,))
        (log_q.sum() + z.sum()).backward()
        grads = [p.grad for p in posterior.parameters()]
        assert all(x is not None and x.isfinite().all() for x in [z, log_q, *grads])


@BOTH
def test_it_is_moved_in_full_precision_under_autocast(kind: type[Hamiltonian]) -> None:
    model, x, context = small(kind), torch.rand(4, 1, 12, 9).round(), torch.randn(4, 2)
    plain = model.encode(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.encode(x, context)
    assert z.dtype == torch.float32
    assert torch.allclose(z, plain, atol=0.05)


def test_batch_norm_in_the_decoder_sees_the_last_draws_alone() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 108))

        def forward(self, z: Tensor, context: Tensor) -> Tensor:
            return self.net(torch.cat([z, context], 1)).view(-1, 1, 12, 9)

    model = small(Hamiltonian, decoder=Normed()).train()
    batch = Batch(torch.rand(4, 1, 12, 9).round(), torch.randn(4, 2))
    model.objective(model.core, batch, 0)["loss"].sum().backward()
    (norm,) = (m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    assert norm.num_batches_tracked == 1


# What is refused


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Hamiltonian, {"steps": 0}, "steps to be at least 1 but got 0"),
        (Hamiltonian, {"step_size": 0.5}, "below max_step_size but got 0.5 and 0.5"),
        (Hamiltonian, {"step_size": -1.0}, "step_size to be positive"),
        (Hamiltonian, {"beta0": 0.0}, r"beta0 to be in \(0, 1\] but got 0"),
        (Hamiltonian, {"beta0": 1.5}, r"beta0 to be in \(0, 1\] but got 1.5"),
        (RiemannianHamiltonian, {"centroids": 0}, "centroids to be positive but got 0"),
        (RiemannianHamiltonian, {"temperature": -1.0}, "temperature to be positive"),
        (RiemannianHamiltonian, {"regularization": 0.0}, "regularization to be positive"),
        (RiemannianHamiltonian, {"iterations": 0}, "iterations to be positive but got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(
    kind: type[Hamiltonian], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        kind(features=2, latent_shape=(2,), **given)


@BOTH
def test_without_a_log_joint_there_is_nothing_to_move_on(kind: type[Hamiltonian]) -> None:
    with pytest.raises(ValueError, match="log_joint"):
        kind(features=2, latent_shape=(2,))(torch.randn(3, 2))


@BOTH
def test_no_mixture_is_made_of_it(kind: type[Hamiltonian]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} knows that of its own draws alone"):
        small(kind, prior="VampPrior")


def test_the_sizes_of_steps_begin_as_given_and_stay_below_their_bound() -> None:
    posterior = Hamiltonian(features=2, latent_shape=(2, 2), step_size=0.1, max_step_size=0.3)
    q = posterior(torch.randn(3, 2), None, quartic)
    assert torch.allclose(q.step, torch.full((4,), 0.1))
    assert q.beta.item() == pytest.approx(2 / 3)
    with torch.no_grad():
        posterior.step_logit.fill_(100.0)
    assert (posterior(torch.randn(3, 2), None, quartic).step <= 0.3).all()


def test_its_start_is_the_diagonal_normal_of_the_same_head() -> None:
    posterior = Hamiltonian(features=2, latent_shape=(2,))
    plain = DiagonalNormal(features=2, latent_shape=(2,))
    plain.load_state_dict(posterior.state_dict(), strict=False)
    h, z = torch.randn(3, 2), torch.randn(3, 2)
    q0 = plain(h)
    wanted = normal(q0.mean, q0.stddev, 1).log_prob(z)
    assert torch.allclose(posterior(h, None, quartic).start.log_prob(z), wanted)
