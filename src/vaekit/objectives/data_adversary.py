"""Adversaries on data: a learned similarity, and patches of images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import relu, softplus

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.part import Build, Spec, frozen, learns
from vaekit.contracts.schedule import Schedule, check_weights, weight_at
from vaekit.contracts.trees import Shapes, shapes_of
from vaekit.networks.blocks import beside, count, fill
from vaekit.numerics.precision import at_least_float32, full_precision
from vaekit.objectives.adversary import WithCritic, from_prior
from vaekit.schedules import Step


class OnData(WithCritic):
    """Base of objectives whose critic looks at rows: those of the data, and the points of p(x|z).

    What a mask hides is 0 in both.
    """

    bound = False

    def read(self, model: Core, p: Distribution, batch: Batch, z: Tensor) -> Tensor:
        """The points of p(x|z) for z (K, B, *Z), as rows (K * B, *event).

        Raises:
            ValueError: If no gradient leads from them to z.
        """
        x = model.likelihood.point(p)
        if z.requires_grad and not x.requires_grad:
            raise self.refuse(
                "a likelihood whose point can be differentiated, which the critic looks at",
                model.likelihood.title or type(model.likelihood).__name__,
            )
        return fill(x, batch.mask).flatten(0, 1)


class Discriminator(nn.Module):
    """Features of rows, and a logit that is linear in them.

    Arguments:
        encoder: Makes the features.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(count(shapes_of(encoder.features)), 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (N, F) and logits (N,) of rows (N, *event)."""
        h = beside(self.encoder(x, context))
        with full_precision(h):
            return h, self.head(h).squeeze(1)


class VAEGAN(OnData):
    r"""A VAE whose distortion is a distance in the features of a discriminator of its rows.

    With x~ decoded from z of q(z|x), x_p from z_p of the prior, and f a layer of the discriminator
    D, encoder and prior, decoder, and discriminator minimise

    .. math:: KL(q(z|x)\,||\,p(z)) + d, \qquad \gamma d - \mathcal{L}_D, \qquad \mathcal{L}_D

    .. math:: d = \tfrac12 \lVert f(x) - f(\tilde x) \rVert^2, \qquad
        \mathcal{L}_D = -\log D(x) - \log(1 - D(\tilde x)) - \log(1 - D(x_p))

    each the gradient of its own sum alone, in one loss. (The paper's L_GAN is minus this L_D by
    its equation, but the two signs of its algorithm are those that stand here.) The rows that D
    sees are the points of p(x|z): data that are 0 or 1 it tells from these at once, and teaches
    little. The features change in training; so the likelihood, in whose place they stand, is what
    evaluation reports, and its distortion chooses the best checkpoint.

    Arguments:
        gamma: Weight of the distance for the decoder, without unit; the encoder's is 1. Where
            reconstructions are far from their rows it has to be larger.
        discriminator: An encoder, by name or spec: its features are f, and D is linear in them.
        lr: The discriminator's learning rate; None for the model's.
        clip: The largest norm of its gradient; None for the trainer's.
        betas: Its decay rates, for an optimizer with betas, such as Adam; None for the model's.

    Raises:
        ValueError: If gamma is negative, the learning rate or the norm not positive, betas are not
            two numbers from 0 to below 1, or rows have several entries; when the model is built,
            if the posterior has no density, or if the likelihood has weights, or takes numbers
            beside the point, which nothing would train; when called, if its point cannot be
            differentiated.

    References:
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016),
        https://arxiv.org/abs/1512.09300
    """

    best = ("distortion", "min")

    def __init__(
        self,
        event_shape: Shapes,
        build: Build,
        gamma: float | Schedule = 10.0,
        discriminator: Spec = "MLPEncoder",
        lr: float | None = None,
        clip: float | None = None,
        betas: list[float] | None = None,
    ) -> None:
        super().__init__(lr, clip, betas)
        if isinstance(event_shape, dict):
            raise ValueError(f"Expected rows of one entry but got {', '.join(event_shape)}.")
        check_weights(gamma=gamma)
        self.gamma = gamma
        self.critic = Discriminator(build("encoder", discriminator))

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw, context = model.draw(batch), batch.context
        x, own = fill(batch.x, batch.mask), self.read(model, draw.p, batch, draw.z)
        z = torch.stack([draw.z[0].detach(), from_prior(draw)])  # (2, B, *Z)
        made = self.read(model, model.decode(z, context), batch, z)
        twice = None if context is None else context.repeat(2, 1)
        judge = frozen(self.critic)
        h, (h_own, _), (h_made, logit) = (
            judge(x, context)[0],
            judge(own, context),
            judge(made, twice),
        )
        (_, real), (_, fake) = self.critic(x, context), self.critic(made.detach(), twice)
        rows = len(batch)
        with full_precision(h):
            distance, of_decoder = (
                (h - other).square().sum(1) / 2 for other in (h_own, h_made[:rows])
            )
            generator = -softplus(logit).unflatten(0, (2, rows)).sum(0)
            critic = softplus(-real) + softplus(fake).unflatten(0, (2, rows)).sum(0)
        terms = {**draw.bound(), "distance": distance, "generator": generator, "critic": critic}
        # The decoder has the distance once with the encoder, and the rest of gamma without it.
        rest = (weight_at(self.gamma, step) - 1) * of_decoder
        loss = terms["rate"] + distance + rest + generator + critic
        return {**terms, "loss": sum(draw.losses.values(), loss)}

    def check(self, model: Core) -> None:
        super().check(model)
        self.check_density(model, "rate")
        likelihood = model.likelihood
        if learns(likelihood) or shapes_of(likelihood.output_shape) != likelihood.event_shape:
            raise self.refuse(
                "a likelihood without weights, whose decoder gives one number for each element: "
                "of another the critic sees the point alone, and nothing trains the rest",
                likelihood.title or type(likelihood).__name__,
            )


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions to a logit for each patch, of 70x70 pixels with three layers.

    The norm is over each image: batch norm would let rows see one another, and its running
    averages would mix data and reconstructions.

    Arguments:
        channels: Of the images.
        width: Channels after the first layer, doubled by each, at most three times.
        layers: How many halve the image.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        sizes = [width * 2 ** min(layer, 3) for layer in range(layers + 1)]
        found: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for layer, (before, after) in enumerate(pairwise(sizes), start=2):
            stride = 2 if layer <= layers else 1
            found += [nn.Conv2d(before, after, 4, stride, 1, bias=False)]
            found += [nn.GroupNorm(1, after), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*found, nn.Conv2d(sizes[-1], 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, P) of the patches of images (N, C, H, W)."""
        return at_least_float32(self.net(x)).flatten(1)


class PatchGAN(OnData):
    r"""Distortion, perceptual distance and a little rate, and a discriminator of patches.

    .. math:: \mathcal{L} = \mathcal{L}_{rec} + \beta\, KL(q(z|x)\,||\,p(z))
        - \lambda w\, D(\tilde x), \qquad \mathcal{L}_{rec} = -\log p(x|z) + v\, d(x, \tilde x)

    .. math:: \mathcal{L}_D = \tfrac12 \max(0, 1 - D(x)) + \tfrac12 \max(0, 1 + D(\tilde x))

    x~ is the point of p(x|z), and D the mean of the patches' logits, each in its own hinge. So
    that neither drowns the other, :math:`\lambda` is the ratio of the two gradients at the last
    weight W of the decoder (of the matrices it has, the one it made last), on the rows at hand; on
    several devices each has its own.

    .. math:: \lambda = \min\left(10^4, \frac{\lVert \nabla_W \mathcal{L}_{rec} \rVert}
        {\lVert \nabla_W D(\tilde x) \rVert + 10^{-4}}\right)

    With the absolute error (`Laplace`, whose scale may be learned) and a little rate it is how
    latent diffusion's autoencoder is trained; with a quantised posterior and beta 0, VQGAN.
    Evaluation reports what does not change with the adversary: `loss` is there the first two
    terms.

    Arguments:
        network: Of the perceptual distance: an encoder by name or spec, one that brings trained
            weights, as `FeatureSpace` has it, half the squared distance of whose features is d.
            None for no such distance.
        perceptual: v, in nats for one unit of d.
        kl_weight: beta, without unit; at 0 the posterior needs no density.
        disc_weight: w, without unit.
        start: From how many optimizer steps on there is a discriminator, trained and heard.
        width: Channels after its first layer.
        layers: How many of them halve the image; None for three, or as many as it allows.
        lr: Its learning rate; None for the model's.
        clip: The largest norm of its gradient; None for the trainer's.
        betas: Its decay rates, for an optimizer with betas, such as Adam; None for the model's.

    Raises:
        ValueError: If a weight or start is negative, the learning rate or the norm not positive,
            betas are not two numbers from 0 to below 1, or the event no image (C, H, W), or too
            small for so many layers; when the model is built, if its core has no decoder to train,
            or the posterior has no density and beta is not 0; when called, if the likelihood's
            point cannot be differentiated.

    References:
        Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021),
        https://arxiv.org/abs/2012.09841; High-Resolution Image Synthesis with Latent Diffusion
        Models (Rombach et al., 2022), https://arxiv.org/abs/2112.10752; the discriminator is of
        Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2017),
        https://arxiv.org/abs/1611.07004
    """

    best = ("loss", "min")

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) == 3

    def __init__(
        self,
        event_shape: Shapes,
        build: Build,
        network: Spec | None = None,
        perceptual: float = 1.0,
        kl_weight: float = 1e-6,
        disc_weight: float | Schedule = 0.5,
        start: int = 0,
        width: int = 64,
        layers: int | None = None,
        lr: float | None = None,
        clip: float | None = None,
        betas: list[float] | None = None,
    ) -> None:
        super().__init__(lr, clip, betas)
        if not self.accepts(event_shape):
            raise ValueError(f"Expected images of shape (C, H, W) but got {event_shape}.")
        for name, value in (
            ("perceptual", perceptual),
            ("kl_weight", kl_weight),
            ("start", start),
        ):
            if not 0 <= value < inf:
                raise ValueError(f"Expected {name} to be at least 0 but got {value!r}.")
        if width < 1:
            raise ValueError(f"Expected width to be at least 1 but got {width}.")
        self.perceptual, self.kl_weight = perceptual, kl_weight
        check_weights(disc_weight=disc_weight)
        self.disc_weight, self.on = disc_weight, Step(start)
        # Each layer halves the image, and the last two convolutions take a pixel each.
        most = (min(event_shape[1:]) // 3).bit_length() - 1
        layers = min(3, most) if layers is None else layers
        if not 1 <= layers <= most:
            raise ValueError(
                "Expected at least one layer, and images of 3 * 2**layers pixels or more, but got "
                f"{layers} for {min(event_shape[1:])} pixels."
            )
        self.critic = PatchDiscriminator(event_shape[0], width, layers)
        self.network = None
        if network is not None:
            spec = {"class_path": "FeatureSpace", "init_args": {"network": network}}
            self.network = build("likelihood", spec)

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        x, own = fill(batch.x, batch.mask), self.read(model, draw.p, batch, draw.z)
        terms = self._rebuilt(draw, x, own)
        generator = -frozen(self.critic)(own).mean(1)
        real, fake = self.critic(x), self.critic(own.detach())
        critic = (relu(1 - real) + relu(1 + fake)).mean(1) / 2
        ratio, on = self._ratio(model, draw, x), weight_at(self.on, step)
        heard = on * weight_at(self.disc_weight, step) * ratio
        loss = terms.pop("loss") + heard * generator + on * critic
        told = {"generator": generator, "critic": critic, "ratio": ratio}
        return {**terms, **told, "loss": loss}

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        draw = model.draw(batch)
        own = self.read(model, draw.p, batch, draw.z)
        return self._rebuilt(draw, fill(batch.x, batch.mask), own)

    def resting(self, model: Core, step: int) -> Iterable[nn.Parameter]:
        return () if self.on(step) else self.critic.parameters()

    def _rebuilt(self, draw: Draw, x: Tensor, own: Tensor) -> dict[str, Tensor]:
        """The terms without an adversary, each (B,), and their sum as `loss`."""
        terms = {**draw.losses, "distortion": draw.distortion}
        loss = sum(draw.losses.values(), terms["distortion"])
        if self.network is not None:
            terms["perceptual"] = self._distance(x, own)
            loss = loss + self.perceptual * terms["perceptual"]
        if self.kl_weight:
            terms["rate"] = draw.rate.mean(0)
            loss = loss + self.kl_weight * terms["rate"]
        return {**terms, "loss": loss}

    def _distance(self, x: Tensor, own: Tensor) -> Tensor:
        assert self.network is not None
        with full_precision(x):
            return self.network.distance(x, own)

    def _ratio(self, model: Core, draw: Draw, x: Tensor) -> Tensor:
        """The adversary's adaptive weight, without gradient."""
        # By torch.func, which torch.compile can follow, where it cannot torch.autograd.grad; so
        # the decoder runs once more, as a function of its last weight.
        batch, z = draw.batch, draw.z.detach()
        name, matrix = last_matrix(model)
        buffers = {n: b.clone() for n, b in model.named_buffers()}

        def losses(w: Tensor) -> tuple[Tensor, Tensor]:
            args = model.decode, z, batch.context
            p = torch.func.functional_call(model, {**buffers, name: w}, args)
            own = self.read(model, p, batch, z)
            rebuilt = -model.likelihood.log_prob(p, batch.x, batch.mask).mean()
            if self.network is not None:
                rebuilt = rebuilt + self.perceptual * self._distance(x, own).mean()
            return rebuilt, frozen(self.critic)(own).mean()

        with torch.no_grad(), full_precision(z):
            (found, _), pull = torch.func.vjp(losses, matrix.detach())  # type: ignore[misc]
            one, zero = torch.ones_like(found), torch.zeros_like(found)
            of_rebuilt, of_critic = (
                at_least_float32(pull(at)[0]).norm() for at in ((one, zero), (zero, one))
            )
            return (of_rebuilt / (of_critic + 1e-4)).clamp(max=1e4)

    def check(self, model: Core) -> None:
        super().check(model)
        if self.kl_weight:
            self.check_density(model, "rate")
        if last_matrix(model) is None:
            raise self.refuse("a core whose decoder has a matrix to train", type(model).__name__)


def last_matrix(model: Core) -> Any:
    """Name and value of the decoder's last weight that is trained and no bias; None without."""
    found = None
    for name, p in model.named_parameters():
        if name.startswith("decoder.") and p.requires_grad and p.dim() > 1:
            found = name, p
    return found
