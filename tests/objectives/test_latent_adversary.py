"""Adversaries on latents against the papers' losses, written out one by one."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_objectives import Fixed, small
from torch import Tensor, nn

from adversaries import Encoded, decoded, holds_a_step, holds_gradients, own, trained
from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import Model, VAEModule, data
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.evaluation.baseline import baseline
from vaekit.objectives.latent_adversary import AdversarialAE, FactorVAE
from vaekit.registry import plugins
from vaekit.schedules import Linear
from vaekit.training import optimizers

INFO = DataInfo((3,), (0.0, 1.0), levels=2)
DIGITS = data.Digits(binarize="static")


def distortion_of(core: Fixed, x: Tensor, z: Tensor) -> Tensor:
    pi = torch.sigmoid(decoded(core, z))
    return -(x * pi.log() + (1 - x) * (1 - pi).log()).sum(1).mean()


def leaky(layers: Any, z: Tensor) -> Tensor:
    h = z @ layers[0].weight.T + layers[0].bias
    return torch.where(h > 0, h, 0.01 * h) @ layers[2].weight.T + layers[2].bias


# FactorVAE


def factor_losses(core: Fixed, objective: FactorVAE, batch: Batch) -> Iterator[Any]:
    """Algorithm 2 of Kim and Mnih, gamma 3."""
    x = batch.x
    found = Encoded.by_hand(core, x)
    z = found.z
    d = leaky(objective.critic, z).softmax(1)[:, 0]
    tc = (d.log() - (1 - d).log()).mean()
    yield own(core), distortion_of(core, x, z) + found.rate.mean() + 3 * tc
    order = torch.rand(len(x), 2, dtype=torch.float64).argsort(0)
    permuted = torch.stack([z.detach()[order[:, j], j] for j in (0, 1)], 1)
    of_joint = leaky(objective.critic, z.detach()).softmax(1)[:, 0].log()
    of_product = (1 - leaky(objective.critic, permuted).softmax(1)[:, 0]).log()
    yield own(objective), -(of_joint.sum() + of_product.sum()) / (2 * len(x))


def test_factorvae_gives_each_group_the_papers_gradient() -> None:
    core, x = small()
    objective = FactorVAE((2,), gamma=3.0, hidden=[7]).double()
    holds_gradients(factor_losses, core, objective, Batch(x))


def test_factorvaes_groups_accumulate_and_step_by_themselves() -> None:
    core, x = small()
    objective = FactorVAE((2,), gamma=3.0, hidden=[7], lr=0.7, clip=1e-3).double()
    holds_a_step(factor_losses, core, objective, Batch(x))


def test_pythaes_factorvae_whose_discriminator_loss_leaks_into_the_encoder_is_not_here() -> None:
    core, x = small()
    objective = FactorVAE((2,), hidden=[7]).double()
    terms = objective(core, Batch(x), 0)
    critic, model = own(objective), own(core)
    for term, others in ((terms["critic"], model), (terms["tc"].sum(), critic)):
        leaked = torch.autograd.grad(term, others, retain_graph=True, allow_unused=True)
        assert all(g is None for g in leaked)
    told = torch.autograd.grad(terms["tc"].sum(), model, allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in told)


def test_each_latent_is_permuted_over_the_rows_by_itself() -> None:
    core, x = small()
    objective, seen = FactorVAE((2,), hidden=[7]).double(), []
    objective.critic.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    objective(core, Batch(x), 0)
    joint, product = seen[-1].chunk(2)
    assert torch.equal(joint, seen[0])
    assert torch.equal(joint.sort(0).values, product.sort(0).values)
    rows = {tuple(row) for row in joint.tolist()}
    assert not {tuple(row) for row in product.tolist()} <= rows


def test_factorvae_is_chosen_by_the_bound_whatever_gamma_is() -> None:
    assert (FactorVAE.best, FactorVAE.bound) == (("elbo", "max"), True)
    core, x = small()
    objective = FactorVAE((2,), gamma=Linear(steps=10, end=8.0), hidden=[7]).double()
    for step, gamma in ((0, 0.0), (5, 4.0), (20, 8.0)):
        terms = objective(core, Batch(x), step)
        rest = terms["loss"] + terms["elbo"] - terms["critic"]
        assert torch.allclose(rest, gamma * terms["tc"])
    assert torch.equal(objective.evaluate(core, Batch(x))["elbo"], terms["elbo"])


class Correlated(nn.Module):
    """In the place of a core: latents of a Normal of two, whatever the rows."""

    likelihood = SimpleNamespace(normalized=True)

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.factor = torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]]))

    def draw(self, batch: Batch) -> Any:
        z = torch.randn(1, len(batch), 2) @ self.factor.T
        nothing = torch.zeros(len(batch))
        terms = {"elbo": nothing, "distortion": nothing, "rate": nothing}
        level = SimpleNamespace(z=z)
        return SimpleNamespace(only_level=level, losses={}, bound=lambda: terms)


@pytest.mark.slow
def test_a_trained_critic_tells_the_total_correlation_of_a_normal() -> None:
    rho = 0.8
    core: Any = Correlated(rho)
    objective = FactorVAE((2,), hidden=[64, 64], lr=3e-3)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
    for step in range(2000):
        optimizer.zero_grad()
        objective(core, Batch(torch.zeros(512, 1)), step)["critic"].backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        tc = objective(core, Batch(torch.zeros(200_000, 1)), 0)["tc"].mean()
    assert float(tc) == pytest.approx(-0.5 * log(1 - rho**2), abs=0.03)  # 0.511 nats


# AdversarialAE


def aae_losses(core: Fixed, objective: AdversarialAE, batch: Batch) -> Iterator[Any]:
    """Both phases of Makhzani et al., weight 2."""
    x, z = batch.x, Encoded.by_hand(core, batch.x).z
    critic = objective.critic
    drawn = core.prior().sample((len(x),))

    def d(z: Tensor) -> Tensor:
        h = (z @ critic[0].weight.T + critic[0].bias).clamp(min=0)
        return 1 / (1 + (-(h @ critic[2].weight.T + critic[2].bias)).exp())

    fooled = (1 - d(z)).log() if objective.saturating else -d(z).log()
    yield own(core), distortion_of(core, x, z) + 2 * fooled.mean()
    yield own(objective), -(d(drawn).log() + (1 - d(z.detach())).log()).mean()


@pytest.mark.parametrize("saturating", [False, True])
def test_the_adversarial_autoencoder_gives_each_group_the_papers_gradient(
    saturating: bool,
) -> None:
    core, x = small()
    objective = AdversarialAE((2,), weight=2.0, saturating=saturating, hidden=[7]).double()
    holds_gradients(aae_losses, core, objective, Batch(x))


def test_the_adversarial_autoencoders_groups_accumulate_and_step_by_themselves() -> None:
    core, x = small()
    objective = AdversarialAE((2,), weight=2.0, hidden=[7], lr=0.7, clip=1e-3).double()
    holds_a_step(aae_losses, core, objective, Batch(x))


def test_an_adversary_given_a_context_sees_it_beside_z() -> None:
    info = DataInfo((3,), (0.0, 1.0), levels=2, context_features=2)
    model = Model(info, latent_shape=4, posterior="Delta", objective="AdversarialAE")
    context, seen = torch.randn(5, 2), []
    objective: Any = model.objective
    objective.critic.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    objective(model.core, Batch(torch.ones(5, 3), context), 0)
    assert len(seen) == 3
    assert all(torch.equal(rows[:, 4:], context) for rows in seen)


@pytest.mark.parametrize("saturating", [False, True])
def test_the_adversarial_autoencoder_chosen_by_the_distortion_alone_is_not_here(
    saturating: bool,
) -> None:
    # Validation did not report the penalty: codes far from the prior were the best.
    init_args = {"weight": 3.0, "saturating": saturating}
    objective = {"class_path": "AdversarialAE", "init_args": init_args}
    model = Model(INFO, latent_shape=2, posterior="Delta", objective=objective)
    batch = Batch((torch.rand(6, 3) > 0.5).float())
    terms = model.evaluate(batch)
    assert (model.best, model.has_bound) == (("loss", "min"), False)
    assert set(terms) == {"distortion", "adversary", "loss"}
    z = model.encode(batch.x)
    p = model.core.decode(z[None])
    assert torch.allclose(terms["distortion"], -p.log_prob(batch.x)[0])
    critic: Any = model.objective.critic
    d = torch.sigmoid(critic(z).squeeze(1))
    assert torch.allclose(terms["adversary"], (1 - d).log() if saturating else -d.log())
    assert torch.allclose(terms["loss"], terms["distortion"] + 3 * terms["adversary"])
    one = model.evaluate(batch[2:3])
    assert all(torch.allclose(one[name], term[2:3]) for name, term in terms.items())


def test_a_prior_that_draws_would_not_train_is_refused() -> None:
    for prior in ("LearnedNormal", "VampPrior"):
        with pytest.raises(ValueError, match=f"with nothing to learn.*{prior}"):
            Model(INFO, latent_shape=2, prior=prior, objective="AdversarialAE")


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["Delta", "DiagonalNormal"])
def test_an_adversary_brings_the_codes_of_digits_to_the_prior(posterior: str) -> None:
    far, model, terms = {}, None, {}
    for weight in (0.0, 1.0):
        objective = {"class_path": "AdversarialAE", "init_args": {"weight": weight}}
        model = Model(DIGITS, latent_shape=2, posterior=posterior, objective=objective)
        terms = trained(model, DIGITS, 300)
        z = model.encode(next(DIGITS.rows("val", batch_size=200)).x, sample=True)
        far[weight] = float((z.mean(0).square() + z.std(0).log().square()).sum())
    assert model is not None
    assert far[1.0] < min(0.3, far[0.0])
    assert -terms["distortion"] > baseline(model, DIGITS).mean()


@pytest.mark.slow
def test_a_factorvae_of_digits_beats_the_baseline() -> None:
    model = Model(DIGITS, latent_shape=8, objective="FactorVAE")
    terms = trained(model, DIGITS, 300)
    assert terms["elbo"] > baseline(model, DIGITS).mean()


# Arguments


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"gamma to be a schedule or .* but got -1"):
        FactorVAE((2,), gamma=-1)
    with pytest.raises(ValueError, match=r"weight to be a schedule or .* but got -1"):
        AdversarialAE((2,), weight=-1)
    with pytest.raises(ValueError, match=r"lr to be positive or None but got 0"):
        FactorVAE((2,), lr=0)
    with pytest.raises(ValueError, match=r"clip to be positive or None but got -1"):
        AdversarialAE((2,), clip=-1)
    with pytest.raises(ValueError, match=r"betas to be two numbers from 0 to below 1, .* \[0.5\]"):
        FactorVAE((2,), betas=[0.5])


def test_what_is_not_said_of_the_critics_group_is_the_models() -> None:
    group = AdversarialAE((2,), lr=None).adversary()
    assert set(group) == {"params"}
    group = FactorVAE((2,), lr=0.5, clip=2.0, betas=None).adversary()
    assert group.keys() == {"params", "lr", "clip"}


def test_a_critic_whose_adam_has_the_models_betas_is_not_here() -> None:
    # Kim and Mnih's discriminator has Adam with .5 and .9, their VAE .9 and .999.
    for betas, expected in ((None, (0.9, 0.999)), ([0.3, 0.8], (0.3, 0.8))):
        init_args = {} if betas is None else {"betas": betas}
        for name in ("AdversarialAE", "VAEGAN"):
            objective = {"class_path": name, "init_args": init_args}
            model = Model(INFO, latent_shape=2, objective=objective)
            optimizer = VAEModule(model).configure_optimizers()
            assert [g["betas"] for g in optimizer.param_groups] == [(0.9, 0.999), expected]
    model = Model(INFO, latent_shape=2, objective="FactorVAE")
    optimizer = VAEModule(model).configure_optimizers()
    assert [g["betas"] for g in optimizer.param_groups] == [(0.9, 0.999), (0.5, 0.9)]
    plain = VAEModule(model, {"class_path": "SGD", "init_args": {"lr": 0.1}})
    plain.configure_optimizers().step()


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_a_scheduler_that_takes_an_adversarys_own_rate_is_refused(name: str) -> None:
    args = {"max_lr": 0.1, "total_steps": 9} if name[0] == "O" else {"base_lr": 0.1, "max_lr": 1.0}
    scheduler = {"class_path": name, "init_args": args}
    optimizer = {"class_path": "SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    for lr, refused in ((1e-4, True), (None, False)):
        objective = {"class_path": "FactorVAE", "init_args": {"lr": lr}}
        model = Model(DataInfo((3,), (0, 1), levels=2), latent_shape=2, objective=objective)
        module = VAEModule(model, optimizer, scheduler)
        if refused:
            with pytest.raises(ValueError, match=f"each group's own rate but got {name}"):
                module.configure_optimizers()
        else:
            module.configure_optimizers()


@pytest.mark.parametrize("objective", ["AdversarialAE", "FactorVAE", "VAEGAN"])
def test_a_hierarchy_is_refused(objective: str) -> None:
    with plugins.known(ConditionalNormal), plugins.known(TwoLevel):
        info = DataInfo((3,), (0, 1), levels=2)
        parts = {"core": "TwoLevel", "objective": objective}
        if objective == "AdversarialAE":
            top = {"class_path": "TwoLevel", "init_args": {"lower_prior": "StandardNormal"}}
            parts["core"] = top  # type: ignore[assignment]
        model = Model(info, latent_shape=2, **parts)
        with pytest.raises(ValueError, match=r"Expected one level of latents.* but got 2"):
            model.objective(model.core, Batch(torch.ones(4, 3)), 0)


def test_gradients_that_are_still_scaled_are_not_clipped() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 1e4)
    plain, own = (torch.optim.SGD([{"params": [p], **more}], 0.1) for more in ({}, {"clip": 1.0}))
    optimizers.clip_groups(plain, None, None, scaled=True)
    for optimizer, value in ((plain, 1.0), (own, None)):
        with pytest.raises(ValueError, match="got a fused one, which undoes their scale"):
            optimizers.clip_groups(optimizer, value, None, scaled=True)
    optimizers.clip_groups(own, None, None)
    assert p.grad.norm() < 1.01
