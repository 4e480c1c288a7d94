"""Adversaries on latents: of their total correlation, and of their distance from the prior."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.part import frozen
from vaekit.contracts.schedule import Schedule, check_weights, final_weight, weight_at
from vaekit.networks.blocks import mlp, widths, with_context
from vaekit.numerics.precision import full_precision
from vaekit.objectives.adversary import WithCritic, from_prior


class FactorVAE(WithCritic):
    r"""Minus the ELBO, and gamma times the total correlation of q(z) as a critic estimates it.

    .. math:: \mathcal{L} = -\mathrm{ELBO} + \gamma\, E_{q(z)}[\log D(z) - \log(1 - D(z))]

    D tells draws of q(z), the mean of q(z|x) over the rows, from draws of the product of its
    marginals: the same draws, each latent of them permuted over the batch. At its best their
    log-odds are those of the two densities, whose mean over q(z) is the total correlation.

    .. math:: \mathcal{L}_D = -\tfrac12 E_{q(z)}[\log D(z)]
        - \tfrac12 E_{\prod_j q(z_j)}[\log(1 - D(z))]

    On several devices each permutes the rows of its own.

    Arguments:
        gamma: Weight of the total correlation, without unit.
        hidden: Widths of the critic's hidden layers, a number for one; the paper has six of 1000.
        lr: The critic's learning rate; None for the model's.
        clip: The largest norm of the critic's gradient; None for the trainer's.
        betas: The critic's decay rates, for an optimizer that has betas, such as Adam; None for
            the model's.

    Raises:
        ValueError: If gamma is negative, the learning rate or the norm not positive, or betas are
            not two numbers from 0 to below 1.

    References:
        Disentangling by Factorising (Kim and Mnih, 2018), https://arxiv.org/abs/1802.05983, which
        permutes the draws of a second batch.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        gamma: float | Schedule = 6.0,
        hidden: int | list[int] = [256, 256, 256],  # noqa: B006 - read only
        lr: float | None = 1e-4,
        clip: float | None = None,
        betas: list[float] | None = [0.5, 0.9],  # noqa: B006 - read only
    ) -> None:
        super().__init__(lr, clip, betas)
        check_weights(gamma=gamma)
        self.gamma = gamma
        self.critic = mlp([prod(latent_shape), *widths(hidden), 2], "LeakyReLU")

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        terms, z = draw.bound(), draw.only_level.z[0].flatten(1)
        with full_precision(z):
            joint, product = frozen(self.critic)(z).unbind(1)
            critic = self._taught(z.detach())
        tc = joint - product  # (B,), the log-odds
        loss = terms["distortion"] + terms["rate"] + weight_at(self.gamma, step) * tc + critic
        return {**terms, "tc": tc, "critic": critic, "loss": sum(draw.losses.values(), loss)}

    def _taught(self, z: Tensor) -> Tensor:
        """The critic's own loss, in nats."""
        permuted = z.gather(0, torch.rand_like(z).argsort(0))
        kinds = torch.arange(2, device=z.device).repeat_interleave(len(z))
        return cross_entropy(self.critic(torch.cat([z, permuted])), kinds)


class AdversarialAE(WithCritic):
    r"""The distortion, and an adversary that tells draws of q(z) from draws of the prior.

    .. math:: \mathcal{L} = -E_{q(z|x)}[\log p(x|z)] - w\, E_{q(z)}[\log D(z)]

    .. math:: \mathcal{L}_D = -E_{p(z)}[\log D(z)] - E_{q(z)}[\log(1 - D(z))]

    D, given the context too where there is one, is the probability that z came from the prior. q
    needs no density: `Delta` gives the paper's deterministic encoder, `DiagonalNormal` its
    Gaussian one.

    Validation reports the distortion, the `adversary` term of the model, which is log 2 when D
    cannot tell q(z) from the prior, and their weighted sum, `loss`, which chooses the best
    checkpoint and is no bound. All are of each row, whatever the batch. D changes in training, so
    `adversary` is too small as long as D has not learned.

    Arguments:
        weight: w, without unit.
        saturating: Let the model minimise the paper's log(1 - D(z)) in the place of -log D(z);
            its gradient vanishes where D is sure.
        hidden: Widths of D's hidden layers, a number for one.
        lr: D's learning rate; None for the model's. A D that falls behind lets the codes drift.
        clip: The largest norm of D's gradient; None for the trainer's.
        betas: D's decay rates, for an optimizer with betas, such as Adam; None for the model's.

    Raises:
        ValueError: If the weight is negative, the learning rate or the norm not positive, or betas
            are not two numbers from 0 to below 1; when the model is built, if its prior has
            weights to learn, which draws do not train.

    References:
        Adversarial Autoencoders (Makhzani et al., 2015), https://arxiv.org/abs/1511.05644
    """

    best = ("loss", "min")
    bound = False

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        weight: float | Schedule = 1.0,
        saturating: bool = False,
        hidden: int | list[int] = [256, 256],  # noqa: B006 - read only
        lr: float | None = 5e-3,
        clip: float | None = None,
        betas: list[float] | None = None,
    ) -> None:
        super().__init__(lr, clip, betas)
        check_weights(weight=weight)
        self.weight, self.saturating = weight, saturating
        self.critic = mlp([prod(latent_shape) + context_features, *widths(hidden), 1], "ReLU")

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        distortion, z = draw.distortion, draw.z[0].flatten(1)
        with full_precision(z):
            drawn, free = (
                with_context(rows, batch.context)
                for rows in (from_prior(draw).flatten(1), z.detach())
            )
            adversary = self._heard(z, batch)
            critic = softplus(-self.critic(drawn)) + softplus(self.critic(free))  # (B, 1)
        terms = {"distortion": distortion, "adversary": adversary, "critic": critic.squeeze(1)}
        loss = distortion + weight_at(self.weight, step) * adversary + terms["critic"]
        return {**draw.losses, **terms, "loss": sum(draw.losses.values(), loss)}

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        draw = model.draw(batch)
        z = draw.z[0].flatten(1)
        with full_precision(z):
            adversary = self._heard(z, batch)
        loss = draw.distortion + final_weight(self.weight) * adversary
        terms = {**draw.losses, "distortion": draw.distortion, "adversary": adversary}
        return {**terms, "loss": sum(draw.losses.values(), loss)}

    def _heard(self, z: Tensor, batch: Batch) -> Tensor:
        """The term of the model (B,) for codes z (B, Z), which leaves D as it is."""
        logit = frozen(self.critic)(with_context(z, batch.context)).squeeze(1)
        return -softplus(logit) if self.saturating else softplus(-logit)

    def check(self, model: Core) -> None:
        super().check(model)
        prior = model.learned_prior
        if prior is not None:
            raise self.refuse(
                "a prior with nothing to learn, since its draws train nothing",
                prior.title or type(prior).__name__,
            )
