"""Autoencoders: plain, regularised, denoising and contractive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.objective import Objective
from vaekit.contracts.part import learns, still
from vaekit.contracts.schedule import Schedule, check_weights, final_weight, weight_at
from vaekit.contracts.trees import Tree, each, leaves
from vaekit.numerics.precision import at_least_float32


class AE(Objective):
    r"""The distortion of a code, without a rate: autoencoders, usually with the posterior `Delta`.

    .. math:: \mathcal{L} = -\log p(x|z) + \frac{w_z}{2} \|z\|^2 + w_\theta \|\theta\|^2
        + w_D \Big\|\frac{\partial D(z)}{\partial z}\Big\|_F^2
        + w_E \Big\|\frac{\partial E(x)}{\partial x}\Big\|_F^2, \qquad z = E(\tilde x)

    D(z) is the point of p(x|z), E(x) that of q(z|x). With the weights 0 this is the plain
    autoencoder; with `latent`, and `decoder_l2` or `decoder_gradient`, the regularised one
    (RAE-L2, RAE-GP); with `noise` or `drop`, where the encoder sees :math:`\tilde x` and the
    distortion is that of x, the denoising one; with `contractive` the contractive one. Both
    Jacobians' norms are estimated by one random probe of each row, without bias. That of the
    decoder trains the encoder too, through z, as in the paper; that of the encoder is taken at x.
    With batch norm they are those of the batch.

    No term trains a prior: `vaekit fit-prior` fits one to the codes afterwards. Validation reports
    what is minimised once schedules have ended, with the same noise in each epoch; it is no bound.

    Arguments:
        latent: Weight of half the code's squared norm, without unit.
        decoder_l2: Weight of the squared norm of the decoder's parameters.
        decoder_gradient: Weight of the squared Frobenius norm of the decoder's Jacobian. Where the
            point is a mode, as of Categorical, that is 0.
        contractive: Weight of the squared Frobenius norm of the encoder's Jacobian.
        noise: Standard deviation of the Gaussian noise on what the encoder sees, in units of x.
        drop: Probability that the encoder sees 0 in the place of an element.

    Raises:
        ValueError: If a weight or the noise is negative, or `drop` not from 0 to below 1; with
            `noise`, `drop` or `contractive`, if x holds whole numbers, such as tokens; when the
            model is built, if its prior has parameters to learn.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020),
        https://arxiv.org/abs/1903.12436; Stacked Denoising Autoencoders (Vincent et al., 2010),
        https://www.jmlr.org/papers/v11/vincent10a.html; Contractive Auto-Encoders (Rifai et al.,
        2011), https://icml.cc/2011/papers/455_icmlpaper.pdf

    Example:
        >>> from vaekit import Model
        >>> data = DataInfo((3,), (0, 1), levels=2)
        >>> model = Model(data, 2, posterior="Delta", objective=AE(latent=0.1))
        >>> sorted(model.evaluate(Batch(torch.ones(5, 3))))
        ['distortion', 'latent', 'loss']
    """

    best = ("loss", "min")
    bound = False

    def __init__(
        self,
        latent: float | Schedule = 0.0,
        decoder_l2: float | Schedule = 0.0,
        decoder_gradient: float | Schedule = 0.0,
        contractive: float | Schedule = 0.0,
        noise: float = 0.0,
        drop: float = 0.0,
        data: DataInfo | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.decoder_l2 = latent, decoder_l2
        self.decoder_gradient, self.contractive = decoder_gradient, contractive
        self.noise, self.drop = noise, drop
        check_weights(**{name: getattr(self, name) for name in _PENALTIES})
        if not 0 <= noise < inf:
            raise ValueError(f"Expected noise to be at least 0 but got {noise!r}.")
        if not 0 <= drop < 1:
            raise ValueError(f"Expected drop to be from 0 to below 1 but got {drop!r}.")
        self.penalties = tuple(name for name in _PENALTIES if getattr(self, name) != 0)
        self.corrupts = noise > 0 or drop > 0
        if data is not None and (self.corrupts or "contractive" in self.penalties):
            _refuse_categories(data)

    def check(self, model: Core) -> None:
        super().check(model)
        prior = model.learned_prior
        if prior is not None:
            raise self.refuse(
                "a prior without parameters to learn, since no term of an autoencoder trains "
                "one: StandardNormal, or one that vaekit fit-prior fits after training "
                "(FittedNormal, GaussianMixturePrior, TwoStagePrior)",
                prior.title or type(prior).__name__,
            )
        decoder = getattr(model, "decoder", None)
        if "decoder_l2" in self.penalties and (decoder is None or not learns(decoder)):
            raise self.refuse(
                "a core with a decoder that has weights, such as VAE, for decoder_l2",
                type(decoder or model).__name__,
            )

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        weights = []
        for weight in self._weights():  # no comprehension, which torch.compile would not follow
            weights.append(weight_at(weight, step))
        return self._terms(model, batch, weights)

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        terms = self._terms(model, batch, list(map(final_weight, self._weights())))
        return {name: term.expand(len(batch)) for name, term in terms.items()}

    def _weights(self) -> list[float | Schedule]:
        return [getattr(self, name) for name in self.penalties]

    def _terms(self, model: Core, batch: Batch, weights: list[Any]) -> dict[str, Tensor]:
        """The terms with these weights of the penalties."""
        draw = self._draw(model, batch)
        found = {name: _PENALTIES[name](model, draw) for name in self.penalties}
        distortion = loss = draw.distortion  # (B,)
        for weight, term in zip(weights, found.values(), strict=True):
            loss = loss + weight * term
        loss = sum(draw.losses.values(), loss)
        return {**draw.losses, **found, "distortion": distortion, "loss": loss}

    def _draw(self, model: Core, batch: Batch) -> Draw:
        """A draw of the codes of corrupted rows, with log p(x|z) of the rows themselves."""
        if not self.corrupts:
            return model.draw(batch)
        seen = model.draw(replace(batch, x=each(self._corrupted, batch.x)))
        likelihood, p = model.likelihood, seen.p
        clean = Draw(
            batch,
            seen.levels,
            seen.features,
            p,
            lambda: likelihood.log_prob(p, batch.x, batch.mask),
        )
        return model.kept(clean)

    def _corrupted(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise self.refuse("rows of real numbers to corrupt", x.dtype)
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        return torch.where(torch.rand_like(x) < self.drop, 0.0, x) if self.drop else x


def _refuse_categories(data: DataInfo) -> None:
    for name, info in data.entries().items():
        (low, high), levels = info.data_range, info.levels
        if isinstance(levels, int) and levels > 2 and high - low == levels - 1:
            raise ValueError(
                "Expected real numbers, to which noise can be added and by which a code has a "
                f"derivative, but {name} holds whole numbers from {low:g} to {high:g}, such as "
                "tokens: leave out noise, drop and contractive."
            )


# Penalties, by the names of their weights: each (B,), or a scalar


def _latent(core: Any, draw: Draw) -> Tensor:
    return draw.z.square().flatten(2).sum(2).mean(0) / 2


def _decoder_l2(core: Any, draw: Draw) -> Tensor:
    weights = [at_least_float32(p) for p in core.decoder.parameters()]
    return torch.stack([p.square().sum() for p in weights]).sum()


def _decoder_gradient(core: Any, draw: Draw) -> Tensor:
    def decoded(z: Tensor) -> Tree:
        return core.likelihood.point(core.decode(z.unsqueeze(0), draw.batch.context))

    return _square_norm(core, decoded, draw.z[0])


def _contractive(core: Any, draw: Draw) -> Tensor:
    batch = draw.batch
    if not all(leaf.is_floating_point() for leaf in leaves(batch.x)):
        raise ValueError("Expected rows of real numbers, by which a code has a derivative.")

    def code(x: Tree) -> Tensor:
        return core.posterior.point(core.infer(x, batch.context, batch.mask))

    return _square_norm(core, code, batch.x)


_PENALTIES: dict[str, Callable[[Any, Draw], Tensor]] = {
    "latent": _latent,
    "decoder_l2": _decoder_l2,
    "decoder_gradient": _decoder_gradient,
    "contractive": _contractive,
}


def _square_norm(core: Core, function: Callable[[Tree], Tree], rows: Tree) -> Tensor:
    """The squared Frobenius norm of a function's Jacobian at each of the rows (B, ...), (B,).

    By Hutchinson's estimator: E |v'J|^2 = |J|^2 for v of random signs.
    """
    with sdpa_kernel(SDPBackend.MATH):  # attention with a second derivative
        found: Any = torch.func.vjp(lambda x: still(core)(function, x), rows)
        y, pulled_back = found
        (product,) = pulled_back(each(_signs, y))
    norms = leaves(each(lambda leaf: leaf.square().flatten(1).sum(1), product))
    return sum(norms[1:], norms[0])


def _signs(x: Tensor) -> Tensor:
    """-1 or 1, as likely, in the shape and type of x."""
    return 2 * torch.randint_like(x, 2) - 1
