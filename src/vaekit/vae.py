"""The flat core: the data's whole way from x through z to log p(x|z), in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts import (
    Batch,
    Build,
    Core,
    Decoder,
    Draw,
    Encoder,
    Level,
    Likelihood,
    Posterior,
    Prior,
    at_least_float32,
    full_precision,
    once,
)
from vaekit.distributions import rate, sample_and_log_prob

__all__ = ["VAE", "frozen"]


def _cast(x: Tensor, module: nn.Module) -> Tensor:
    """x in the floating type of the module's parameters; as it is where there are none."""
    dtypes = (p.dtype for p in module.parameters() if p.is_floating_point())
    return x.to(next(dtypes, x.dtype))


def _shaped(term: Tensor, samples: int, rows: int, part: nn.Module) -> Tensor:
    """The term, which would broadcast to a wrong number if it had another shape."""
    if term.shape not in ((samples, rows), (1, rows)):
        raise ValueError(
            f"Expected a log-term of shape {(samples, rows)}, a value a draw and row, but "
            f"{type(part).__name__}'s has {tuple(term.shape)}: all dimensions of an event must be "
            f"summed, by torch.distributions.Independent for example."
        )
    return term


def frozen(module: nn.Module, *args: Any) -> Any:
    """The module's forward with detached parameters and copied buffers."""
    state = {name: p.detach() for name, p in module.named_parameters()}
    state |= {name: b.clone() for name, b in module.named_buffers()}
    return torch.func.functional_call(module, state, args)


class VAE(Core):
    r"""A variational autoencoder with one level of latents.

    .. math:: p(x, z) = p(x|z)\,p(z), \qquad q(z|x)

    Arguments:
        encoder: x (B, *event) -> features (B, features).
        posterior: features -> q(z|x).
        prior: p(z).
        decoder: z (N, *Z) -> what the likelihood needs (N, *output_shape).
        likelihood: the decoder's output -> p(x|z).

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        encoder: Encoder,
        posterior: Posterior,
        prior: Prior,
        decoder: Decoder,
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.encoder, self.posterior, self.prior = encoder, posterior, prior
        self.decoder, self.likelihood = decoder, likelihood

    @classmethod
    def assemble(cls, build: Build, **init_args: Any) -> VAE:
        likelihood = build("likelihood")
        encoder = build("encoder")
        posterior = build("posterior", features=encoder.features)
        decoder = build("decoder", output_shape=likelihood.output_shape)
        return cls(encoder, posterior, build("prior"), decoder, likelihood, **init_args)

    def features(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if context is not None:
            context = _cast(context, self.encoder)
        return at_least_float32(self.encoder(_cast(x, self.encoder), context, mask))

    def infer(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Distribution:
        h = self.features(x, context, mask)
        with full_precision(x):
            return self.posterior(h, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        samples, rows = z.shape[:2]
        if context is not None:
            context = context.expand(samples, *context.shape)
        flat = None if context is None else _cast(context.flatten(0, 1), self.decoder)
        y = at_least_float32(self.decoder(_cast(z.flatten(0, 1), self.decoder), flat))
        with full_precision(y):
            return self.likelihood(y.unflatten(0, (samples, rows)), context)

    def draw(
        self, batch: Batch, samples: int = 1, stop: bool = False, noise: Tensor | None = None
    ) -> Draw:
        x, context = batch.x, batch.context
        h = self.features(x, context, batch.mask)

        def log_joint(z: Tensor) -> Tensor:
            prior = self.prior(context, self.infer)
            p = self.decode(z, context)
            return self.likelihood.log_prob(p, x, batch.mask) + prior.log_prob(z)

        with full_precision(x):
            q = self.posterior(h, context, log_joint)
            prior = self.prior(context, self.infer)
            z, log_q = sample_and_log_prob(q, samples, noise)  # (K, B, *Z)
        p = self.decode(z, context)

        def density() -> Tensor:
            if stop:
                return frozen(self.posterior, h.detach(), context, log_joint).log_prob(z)
            return q.log_prob(z) if log_q is None else log_q

        def term(compute: Callable[[], Tensor], part: nn.Module) -> Callable[[], Tensor]:
            return once(lambda: _shaped(compute(), samples, len(x), part), x)

        log_prior = term(lambda: prior.log_prob(z), self.prior)
        log_posterior = term(density, self.posterior)
        kl = term(lambda: rate(q, prior, log_posterior, log_prior), self.posterior)
        log_likelihood = term(lambda: self.likelihood.log_prob(p, x, batch.mask), self.likelihood)
        level = Level(z, q, prior, log_prior, log_posterior, kl)
        return self.kept(Draw(batch, (level,), h, p, log_likelihood))

    def generate(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tensor:
        prior = self.prior(context, self.infer)
        z = prior.sample(torch.Size((n,) if not prior.batch_shape else ()))
        p = self.decode(z.unsqueeze(0), context)
        return (p.sample() if sample else p.mean).squeeze(0)
