"""A core of two levels of latents, with a second encoder and a conditional prior by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts import (
    Batch,
    Build,
    Draw,
    Infer,
    Level,
    Noise,
    Prior,
    Shape,
    Spec,
    frozen,
    normal,
    sample_and_log_prob,
    soft_clamp,
)
from vaekit.cores import VAE


class ConditionalNormal(Prior):
    """A Normal whose mean and log-variance are linear in the context."""

    def __init__(self, latent_shape: Shape, context_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_features, 2 * latent_shape[0])

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        loc, log_variance = self.linear(context).chunk(2, dim=1)
        return normal(loc, (soft_clamp(log_variance) / 2).exp(), 1)


class TwoLevel(VAE):
    r"""Two levels of latents, the upper inferred from the lower.

    .. math:: p(x|z_1)\,p(z_1|z_2)\,p(z_2), \qquad q(z_1|x)\,q(z_2|z_1)
    """

    def __init__(
        self,
        build: Build,
        top: int = 2,
        top_encoder: Spec = "MLPEncoder",
        lower_prior: Spec = "ConditionalNormal",
    ) -> None:
        super().__init__(build)
        self.top_encoder = build("encoder", top_encoder, event_shape=self.posterior.latent_shape)
        features = self.top_encoder.features
        self.top_posterior = build("posterior", features=features, latent_shape=(top,))
        self.top_prior = build("prior", latent_shape=(top,))
        self.prior = build("prior", lower_prior, context_features=top)

    def draw(
        self, batch: Batch, samples: int = 1, stop: bool = False, noise: Noise | None = None
    ) -> Draw:
        upper, lower = noise if isinstance(noise, tuple) else (None, None)
        h = self.encoder(batch.x, None, batch.mask)
        q1 = self.posterior(h)
        chain, _ = sample_and_log_prob(q1, samples, lower)  # (K, B, *Z)
        z1 = chain.clone()
        rows = chain.shape[:2]
        q2 = self.top_posterior(self.top_encoder(chain.flatten(0, 1)))  # batch (K * B,)
        flat = None if upper is None else upper.flatten(0, 1).unsqueeze(0)
        drawn, _ = sample_and_log_prob(q2, 1, flat)
        z2 = drawn[0].unflatten(0, rows)
        stopped = (None, None)
        if stop:
            up = frozen(self.top_encoder)(z1.flatten(0, 1))
            stopped = (frozen(self.top_posterior)(up), frozen(self.posterior)(h.detach()))
        levels = (
            Level.of(z2, q2, self.top_prior(), density=stopped[0]),
            Level.of(z1, q1, self.prior(z2.flatten(0, 1)), density=stopped[1], closed=False),
        )
        p = self.decode(z1)
        return self.kept(
            Draw(batch, levels, h, p, lambda: self.likelihood.log_prob(p, batch.x, batch.mask))
        )

    def generate(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tensor:
        z1 = self.prior(self.top_prior().sample(torch.Size([n]))).sample()
        return self.reading(self.decode(z1.unsqueeze(0)), sample)
