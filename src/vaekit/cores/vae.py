"""The flat core: the data's whole way from x through z to log p(x|z), in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw, Level
from vaekit.contracts.part import Build, LogJoint, Noise, frozen, still
from vaekit.contracts.trees import Tree, each, first
from vaekit.distributions.base import sample_and_log_prob
from vaekit.numerics.precision import as_now, first_parameter, full_precision


class VAE(Core):
    r"""A variational autoencoder with one level of latents.

    .. math:: p(x, z) = p(x|z)\,p(z), \qquad q(z|x)

    It asks `build` for a likelihood, p(x|z); an encoder, x (B, *event) -> features; a posterior,
    features -> q(z|x); a decoder, z (N, *Z) -> what the likelihood needs; and a prior, p(z).

    A prior that gets a batch effect as its context moves with the batch, and then so do the
    latents: the batch can be read from them.

    Arguments:
        prior_context: The context columns that the prior gets: "all", "none", a list of column
            numbers, or "auto" for all columns except batch effects. Batch effects are one-hot
            columns, and all columns of counts (library size and covariates). Encoder, posterior,
            decoder and likelihood always get all columns.

    Raises:
        ValueError: If `prior_context` names a column that the context does not have.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114

        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), doi
        10.1038/s41592-018-0229-2, whose p(z) does not depend on the batch
    """

    def __init__(
        self,
        build: Build,
        data: DataInfo | None = None,
        prior_context: str | list[int] = "auto",
    ) -> None:
        super().__init__()
        self.likelihood = build("likelihood")
        self.encoder = build("encoder")
        self.posterior = build("posterior", features=self.encoder.features)
        self.prior_columns = _prior_columns(prior_context, data)
        self.prior = build("prior", **self.given_to_prior())
        self.prior.check(self.posterior)
        self.decoder = build("decoder", output_shape=self.likelihood.output_shape)

    def infer(
        self, x: Tree, context: Tensor | None = None, mask: Tree | None = None
    ) -> Distribution:
        h = self.encoder(x, context, mask)
        return self.posterior(h, context, self._log_joint(x, context, mask))

    def _p(self, context: Tensor | None) -> Distribution:
        """p(z). The prior runs without autocast, but what it infers from rows does not."""
        own = first_parameter(self)
        again = as_now(torch.device("cpu") if own is None else own.device)

        def infer(*args: Any, **kwargs: Any) -> Distribution:
            with again():
                return self.infer(*args, **kwargs)

        return self.prior(self.prior_context(context), infer)

    def _log_joint(self, x: Tree, context: Tensor | None, mask: Tree | None) -> LogJoint:
        def log_joint(z: Tensor) -> Tensor:
            prior = self._p(context)
            p = self._decode(still(self.decoder), z, context)
            return self.likelihood.log_prob(p, x, mask) + prior.log_prob(z)

        return log_joint

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        return self._decode(self.decoder, z, context)

    def _decode(
        self, decoder: Callable[..., Tree], z: Tensor, context: Tensor | None
    ) -> Distribution:
        samples = z.shape[:2]  # (K, B)
        if context is not None:
            context = context.expand(*samples, -1)
        flat = None if context is None else context.flatten(0, 1)
        y = decoder(z.flatten(0, 1), flat)  # (K * B, *output_shape)
        return self.likelihood(each(lambda leaf: leaf.unflatten(0, samples), y), context)

    def draw(
        self,
        batch: Batch,
        samples: int = 1,
        stop: bool = False,
        noise: Noise | None = None,
        features: Tree | None = None,
    ) -> Draw:
        x, context, mask = batch.x, batch.context, batch.mask
        assert not isinstance(noise, tuple)
        h = self.encoder(x, context, mask) if features is None else features
        log_joint = self._log_joint(x, context, mask)
        q = self.posterior(h, context, log_joint)
        density = None
        if stop:
            detached = each(Tensor.detach, h)
            density = frozen(self.posterior)(detached, context, log_joint)
        with full_precision(first(h)):
            z, log_q = sample_and_log_prob(q, samples, noise, batch.keys)  # (K, B, *Z)
        level = Level.of(z, q, self._p(context), log_q, density)
        p = self.decode(z, context)
        return self.kept(Draw(batch, (level,), h, p, lambda: self.likelihood.log_prob(p, x, mask)))

    def generate(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tree:
        prior = self._p(context)
        z = prior.sample(torch.Size((n,) if not prior.batch_shape else ()))
        return self.reading(self.decode(z.unsqueeze(0), context), sample)


def _prior_columns(chosen: str | Sequence[int], data: DataInfo | None) -> tuple[int, ...] | None:
    """Returns the context columns that the prior gets; None for all.

    Raises:
        ValueError: If there is no such column, or a column is named twice.
    """
    effects = () if data is None else data.batch_effects or ()
    known = range(0 if data is None else data.context_features)
    if chosen == "all" or (chosen == "auto" and not effects):
        return None
    if chosen in ("auto", "none"):
        return tuple(at for at in known if chosen == "auto" and at not in effects)
    columns = () if isinstance(chosen, str) else tuple(chosen)
    if not columns or len(set(columns)) < len(columns) or any(at not in known for at in columns):
        raise ValueError(
            'Expected prior_context to be "auto", "all", "none" or a list of different context '
            f"columns, of which the data have {len(known)}, counted from 0, but got {chosen!r}."
        )
    return columns
