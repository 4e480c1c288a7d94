"""Adversaries on data against the papers' losses, written out one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_objectives import Fixed
from torch import Tensor, nn
from torch.nn.functional import conv2d

from adversaries import Encoded, decoded, holds_a_step, holds_gradients, own, trained
from vaekit import Model, data
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.evaluation.baseline import baseline
from vaekit.objectives.data_adversary import PatchDiscriminator
from vaekit.training import optimizers

INFO = DataInfo((3,), (0.0, 1.0), levels=2)
IMAGE = DataInfo((2, 7, 6), (0.0, 1.0))


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


SMOOTH = {"hidden": [5], "activation": "Tanh"}


def small(info: DataInfo, **chosen: Any) -> tuple[Any, Any]:
    model = Model(
        info,
        latent_shape=2,
        encoder=part("MLPEncoder", **SMOOTH),
        decoder=part("MLPDecoder", **SMOOTH),
        **chosen,
    ).double()
    model.core.__class__ = Fixed
    return model.core, model.objective


def rows(info: DataInfo, masked: bool = False) -> Batch:
    x = torch.rand(6, *info.event_shape, dtype=torch.float64)
    x = x.round() if info.levels else x
    return Batch(x, mask=torch.rand(x.shape) > 0.3 if masked else None)


# VAEGAN


GAMMA = 0.3


def vaegan(**chosen: Any) -> tuple[Any, Any]:
    critic = part("MLPEncoder", **{**SMOOTH, "hidden": [7]})
    gan = {"gamma": GAMMA, "discriminator": critic, "lr": 0.7, "clip": 1e-3, **chosen}
    return small(INFO, prior="LearnedNormal", objective=part("VAEGAN", **gan))


def vaegan_losses(core: Fixed, objective: Any, batch: Batch) -> Iterator[Any]:
    """Algorithm 1 of Larsen et al., where L_GAN is the cross-entropy of Dis."""
    shown = 1.0 if batch.mask is None else batch.mask.double()
    x, layer, head = batch.x * shown, objective.critic.encoder.net[0], objective.critic.head

    def dis_l(x: Tensor) -> Tensor:
        return torch.tanh(x @ layer.weight.T + layer.bias)

    def dis(x: Tensor) -> Tensor:
        return torch.sigmoid(dis_l(x) @ head.weight[0] + head.bias)

    def dec(z: Tensor) -> Tensor:
        return torch.sigmoid(decoded(core, z)) * shown

    found = Encoded.by_hand(core, batch.x * shown)
    z, z_p = found.z, core.prior().sample((len(x),))
    like = 0.5 * (dis_l(x) - dis_l(dec(z))).square().sum(1).mean()
    gan = -(dis(x).log() + (1 - dis(dec(z))).log() + (1 - dis(dec(z_p))).log()).mean()
    yield own(core.encoder, core.posterior, core.prior), found.rate.mean() + like
    yield own(core.decoder), objective.gamma * like - gan
    yield own(objective), gan


@pytest.mark.parametrize("gamma", [GAMMA, 0.0, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_vaegan_gives_each_group_the_papers_gradient(gamma: float, masked: bool) -> None:
    core, objective = vaegan(gamma=gamma)
    holds_gradients(vaegan_losses, core, objective, rows(INFO, masked))


def test_vaegans_groups_accumulate_and_step_by_themselves() -> None:
    core, objective = vaegan()
    holds_a_step(vaegan_losses, core, objective, rows(INFO))


def test_pythaes_vaegan_whose_decoder_helps_the_discriminator_is_not_here() -> None:
    # Its discriminator's gradients were added to the decoder's before the step.
    core, objective = vaegan(gamma=0.0)
    batch, decoder = rows(INFO), own(core.decoder)
    torch.manual_seed(0)
    before = objective(core, batch, 0)
    gradients = torch.autograd.grad(before["loss"].mean(), decoder)
    with torch.no_grad():
        for p, g in zip(decoder, gradients, strict=True):
            p -= 0.1 * g
    torch.manual_seed(0)
    assert objective(core, batch, 0)["critic"].mean() > before["critic"].mean()


def test_vaegan_refuses_what_its_loss_would_not_train() -> None:
    for likelihood in (part("Gaussian", scale="learned"), part("Gaussian", scale="elementwise")):
        with pytest.raises(ValueError, match=r"one number for each element.*Gaussian"):
            Model(INFO, objective="VAEGAN", likelihood=likelihood)
    with pytest.raises(ValueError, match=r"a density, without which there is no rate.*Delta"):
        Model(INFO, objective="VAEGAN", posterior="Delta")
    info = DataInfo({"a": (2,), "b": (1,)}, {"a": (0, 1), "b": (0, 1)}, {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="rows of one entry but got a, b"):
        Model(info, objective="VAEGAN", likelihood=part("Mixed", others="Bernoulli"))


def test_a_point_without_a_gradient_is_refused() -> None:
    core, objective = vaegan()
    core.likelihood.point = lambda p: p.mean.round().detach()
    with pytest.raises(ValueError, match="whose point can be differentiated"):
        objective(core, rows(INFO), 0)


def test_vaegan_is_chosen_by_what_its_critic_does_not_move() -> None:
    core, objective = vaegan()
    batch = rows(INFO)
    before = objective.evaluate(core, batch)
    with torch.no_grad():
        for p in objective.parameters():
            p += 1
    assert (objective.best, objective.bound) == (("distortion", "min"), False)
    assert torch.equal(before["distortion"], objective.evaluate(core, batch)["distortion"])


# PatchGAN


def patchgan(**chosen: Any) -> tuple[Any, Any]:
    """Whose network, of the perceptual distance, has its features after one layer."""
    gan = {
        "network": part("MLPEncoder", **SMOOTH),
        "perceptual": 0.7,
        "kl_weight": 0.2,
        "disc_weight": 0.4,
        "width": 4,
        "lr": 0.7,
        "clip": 1e-3,
        **chosen,
    }
    laplace = part("Laplace", scale="learned", mean="sigmoid")
    return small(IMAGE, likelihood=laplace, objective=part("PatchGAN", **gan))


def patches(net: Any, x: Tensor) -> Tensor:
    """Logits of two strided layers' discriminator, by plain arithmetic."""

    def leaky(h: Tensor) -> Tensor:
        return torch.where(h > 0, h, 0.2 * h)

    h = leaky(conv2d(x, net[0].weight, net[0].bias, stride=2, padding=1))
    h = conv2d(h, net[2].weight, stride=1, padding=1)
    variance, mean = torch.var_mean(h.flatten(1), 1, correction=0)
    h = (h - mean.view(-1, 1, 1, 1)) / (variance.view(-1, 1, 1, 1) + 1e-5).sqrt()
    h = leaky(h * net[3].weight.view(-1, 1, 1) + net[3].bias.view(-1, 1, 1))
    return conv2d(h, net[5].weight, net[5].bias, padding=1)


def rebuilt(core: Fixed, objective: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L_rec and the rate of rows, x, and x~."""
    shown = torch.ones_like(batch.x) if batch.mask is None else batch.mask.double()
    x = batch.x * shown
    found = Encoded.by_hand(core, x)
    mu = torch.sigmoid(decoded(core, found.z)).view_as(x)
    scale = 1e-3 + core.likelihood.log_scale.exp()
    nats = ((x - mu).abs() / scale + (2 * scale).log()) * shown
    network = objective.network.network.net[0]

    def phi(x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ network.weight.T + network.bias)

    perceptual = 0.5 * (phi(x) - phi(mu * shown)).square().sum(1)
    return nats.flatten(1).sum(1) + 0.7 * perceptual, found.rate, x, mu * shown


def patchgan_losses(core: Fixed, objective: Any, batch: Batch) -> Iterator[Any]:
    """Esser et al., equations 4 to 7, with the rate of Rombach et al."""
    rec, rate, x, made = rebuilt(core, objective, batch)
    net, last = objective.critic.net, core.decoder.net[2].weight
    generator = -patches(net, made).mean()
    up, down = (
        torch.autograd.grad(of, last, retain_graph=True)[0].norm()
        for of in (rec.mean(), generator)
    )
    heard = 0.4 * (up / (down + 1e-4)).clamp(0, 1e4).detach()
    yield own(core), rec.mean() + 0.2 * rate.mean() + heard * generator
    real, fake = patches(net, x), patches(net, made.detach())
    yield own(objective), 0.5 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())


@pytest.mark.parametrize("masked", [False, True])
def test_patchgan_gives_each_group_the_papers_gradient(masked: bool) -> None:
    core, objective = patchgan()
    holds_gradients(patchgan_losses, core, objective, rows(IMAGE, masked))


def test_patchgans_groups_accumulate_and_step_by_themselves() -> None:
    core, objective = patchgan()
    holds_a_step(patchgan_losses, core, objective, rows(IMAGE))


def test_before_its_start_a_discriminator_is_neither_trained_nor_heard() -> None:
    def without(core: Fixed, objective: Any, batch: Batch) -> Iterator[Any]:
        rec, rate, _, _ = rebuilt(core, objective, batch)
        yield own(core), rec.mean() + 0.2 * rate.mean()
        yield own(objective), 0.0 * sum(p.sum() for p in own(objective))

    core, objective = patchgan(start=5)
    batch = rows(IMAGE)
    for step in (0, 4):
        holds_gradients(without, core, objective, batch, step)
    for step in (5, 6):
        holds_gradients(patchgan_losses, core, objective, batch, step)


def test_diffusers_lpips_without_a_gradient_is_not_here() -> None:
    core, objective = patchgan()
    terms = objective(core, rows(IMAGE), 0)
    model = own(core.encoder, core.decoder)
    gradients = torch.autograd.grad(terms["perceptual"].sum(), model)
    assert all(g.abs().max() > 0 for g in gradients)
    assert not any(p.requires_grad for p in objective.network.parameters())
    assert not objective.train().network.network.training


def test_diffusers_generator_gradients_in_the_discriminator_are_not_here() -> None:
    core, objective = patchgan()
    terms = objective(core, rows(IMAGE), 0)
    leaked = torch.autograd.grad(
        terms["generator"].sum(), own(objective), retain_graph=True, allow_unused=True
    )
    assert all(g is None for g in leaked)
    leaked = torch.autograd.grad(terms["critic"].sum(), own(core), allow_unused=True)
    assert all(g is None for g in leaked)


def test_latent_diffusions_log_variance_that_is_never_optimised_is_not_here() -> None:
    core, objective = patchgan(disc_weight=0.0)
    batch, scale = rows(IMAGE), core.likelihood.log_scale
    groups = optimizers.groups(nn.ModuleList([core, objective]), objective)
    assert any(p is scale for p in groups[0]["params"])
    error = (batch.x - core.draw(batch).p.mean[0]).abs().mean().detach()
    for factor, sign in ((0.5, -1), (1.0, 0), (2.0, 1)):  # around its optimum, the mean error
        with torch.no_grad():
            scale.copy_((factor * error - 1e-3).log())
        loss = objective(core, batch, 0)["loss"].mean()
        (g,) = torch.autograd.grad(loss, scale)
        assert torch.sign(g.round(decimals=9)) == sign


def test_patchgan_is_chosen_by_what_its_critic_does_not_move_row_by_row() -> None:
    core, objective = patchgan()
    batch = rows(IMAGE)
    before = objective.evaluate(core, batch)
    rec, rate, _, _ = rebuilt(core, objective, batch)
    assert torch.allclose(before["loss"], rec + 0.2 * rate, rtol=1e-12)
    alone = objective.evaluate(core, batch[slice(0, 1)])["loss"]
    assert torch.allclose(alone, before["loss"][:1], rtol=1e-12)
    with torch.no_grad():
        for p in own(objective):
            p += 1
    assert (objective.best, objective.bound) == (("loss", "min"), False)
    assert torch.equal(before["loss"], objective.evaluate(core, batch)["loss"])


def test_patchgan_refuses_what_it_cannot_serve() -> None:
    image = {"data": IMAGE, "likelihood": "Gaussian"}
    with pytest.raises(ValueError, match=r"a density, without which there is no rate.*Delta"):
        Model(**image, posterior="Delta", objective="PatchGAN")
    quantised = part("PatchGAN", kl_weight=0.0)
    assert Model(**image, posterior="Delta", objective=quantised).best == ("loss", "min")
    with pytest.raises(
        ValueError, match=r"images of 3 \* 2\*\*layers pixels or more, but got 2 for 6"
    ):
        Model(**image, objective=part("PatchGAN", layers=2))
    with pytest.raises(ValueError, match=r"images of shape \(C, H, W\) but got \(3,\)"):
        Model(INFO, objective="PatchGAN")
    with pytest.raises(ValueError, match="start to be at least 0 but got -1"):
        Model(**image, objective=part("PatchGAN", start=-1))


def test_a_patch_of_three_layers_is_70_pixels_wide() -> None:
    critic = PatchDiscriminator(1, width=2)
    net = nn.Sequential(*(m for m in critic.net if not isinstance(m, nn.GroupNorm)))
    x = torch.rand(1, 1, 256, 256, requires_grad=True)
    y = net(x)
    assert y.shape[2:] == (30, 30)
    (g,) = torch.autograd.grad(y[0, 0, 15, 15], x)
    seen = g[0, 0].abs().sum(0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 70


def test_images_do_not_see_one_another_in_the_discriminator() -> None:
    critic, x = PatchDiscriminator(2, width=4, layers=1), torch.rand(5, 2, 7, 6)
    assert torch.allclose(critic(x)[:1], critic(x[:1]), atol=1e-6)


# Digits


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [part("VAEGAN", gamma=10.0), part("PatchGAN", start=100, width=16)],
    ids=["VAEGAN", "PatchGAN"],
)
def test_reconstructions_of_digits_beat_the_baseline(objective: Any) -> None:
    digits = data.Digits(binarize="none")
    model = Model(
        digits,
        latent_shape=8,
        objective=objective,
        likelihood=part("Gaussian", scale=0.3, mean="sigmoid"),
    )
    terms = trained(model, digits, 400)
    assert -terms["distortion"] > baseline(model, digits).mean()


def test_a_discriminator_that_is_not_heard_yet_rests_from_weight_decay_too() -> None:
    info = DataInfo((1, 8, 8), (0.0, 1.0), levels=2)
    spec = {"class_path": "PatchGAN", "init_args": {"start": 2, "width": 4}}
    model = Model(info, latent_shape=2, objective=spec)
    resting = [len(list(model.objective.resting(model.core, step))) for step in range(4)]
    many = len(list(model.objective.critic.parameters()))
    assert resting == [many, many, 0, 0]
