"""Posteriors that are flows of maps whose parameters are linear in the features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import expm1, log

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from vaekit.contracts.part import Build, Spec
from vaekit.distributions.base import soft_clamp
from vaekit.networks.flows import SLOPE, Transform, flow_size, nearly_zero, one_way
from vaekit.posteriors.flows import FlowPosterior


def _positive(x: Tensor) -> Tensor:
    """A positive slope: 1 at 0."""
    return SLOPE + softplus(x + log(expm1(1 - SLOPE)))


def planar(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""z + u tanh(w'z + b), and the logarithm of its Jacobian's determinant.

    u is first moved along w, so that w'u > -1, as in the paper's appendix; a u of 0 stays, since
    the softplus there is shifted.

    Arguments:
        z: With shape `(*, D)`.
        w: With shape `(*, D)`.
        u: With shape `(*, D)`.
        b: With shape `(*, 1)`.
    """
    dot = (w * u).sum(-1, keepdim=True)
    slope = _positive(dot)  # 1 + w'u
    square = w.square().sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
    u = u + (slope - 1 - dot) / square * w
    bend = ((w * z).sum(-1, keepdim=True) + b).tanh()
    flat = bend.square()
    return z + u * bend, (flat + (1 - flat) * slope).log().squeeze(-1)


def radial(z: Tensor, centre: Tensor, log_alpha: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""z + beta (z - c) / (alpha + |z - c|), and the logarithm of its Jacobian's determinant.

    beta / alpha > -1 is the softplus of b, shifted to 0 at 0, less one.

    Arguments:
        z: With shape `(*, D)`.
        centre: c, with shape `(*, D)`.
        log_alpha: With shape `(*, 1)`.
        b: With shape `(*, 1)`.
    """
    alpha, ratio = log_alpha.exp(), _positive(b) - 1
    away = z - centre
    near = alpha / (alpha + torch.linalg.vector_norm(away, dim=-1, keepdim=True))
    log_det = (z.shape[-1] - 1) * (ratio * near).log1p() + (ratio * near.square()).log1p()
    return torch.addcmul(z, ratio * near, away), log_det.squeeze(-1)


def radial_inverse(
    z: Tensor, centre: Tensor, log_alpha: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """The reverse of `radial`, and the logarithm of its Jacobian's determinant."""
    alpha, slope = log_alpha.exp(), _positive(b)
    away = z - centre
    length = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
    # The distance r before solves r^2 + (alpha + beta - length) r = alpha length.
    half = (alpha * slope - length) / 2
    root = half.abs() + (half.square() + alpha * length).sqrt()
    r = torch.where(half > 0, alpha * length / root, root)
    origin = centre + away / (1 + (slope - 1) * alpha / (alpha + r))
    return origin, -radial(origin, centre, log_alpha, b)[1]


def sylvester(
    z: Tensor, vectors: Tensor, matrix: Tensor, diagonals: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    r"""z + Q R tanh(S Q'z + b), and the logarithm of its Jacobian's determinant.

    R and S are upper triangular, and Q is a product of Householder reflections.

    Arguments:
        z: With shape `(*, D)`.
        vectors: What is reflected along, with shape `(*, H, D)`.
        matrix: R above the diagonal and S below it, transposed, with shape `(*, D, D)`.
        diagonals: Their diagonals, before a tanh, with shape `(*, 2, D)`.
        b: With shape `(*, D)`.
    """
    mirrors = normalize(vectors, dim=-1).unbind(-2)
    outer, inner = ((1 - SLOPE) * diagonals.tanh()).unbind(-2)
    r = matrix.triu(1) + outer.diag_embed()
    s = matrix.tril(-1).mT + inner.diag_embed()
    bend = (_times(s, _reflected(z, mirrors)) + b).tanh()
    log_det = ((1 - bend.square()) * outer * inner).log1p().sum(-1)
    return z + _reflected(_times(r, bend), mirrors[::-1]), log_det


def _times(matrix: Tensor, z: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", matrix, z)


def _reflected(z: Tensor, mirrors: Sequence[Tensor]) -> Tensor:
    for v in mirrors:
        z = z - 2 * (v * z).sum(-1, keepdim=True) * v
    return z


class _Amortised(nn.Module):
    """A map with parameters linear in features; where the outer ones are 0 it is the identity."""

    def __init__(self, context: int, inner: int, outer: int) -> None:
        super().__init__()
        self.inner = nn.Linear(context, inner)
        self.outer = nearly_zero(nn.Linear(context, outer))

    def given(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return soft_clamp(self.inner(h)), soft_clamp(self.outer(h))


class Planar(_Amortised):
    """`planar`, with parameters linear in features h (B, context)."""

    def __init__(self, size: int, context: int) -> None:
        super().__init__(context, size + 1, size)

    def forward(self, h: Tensor) -> Transform:
        inner, u = self.given(h)
        return Transform(partial(planar, w=inner[:, 1:], u=u, b=inner[:, :1]), one_way)


class RadialMap(_Amortised):
    """`radial`, with parameters linear in features h (B, context)."""

    def __init__(self, size: int, context: int) -> None:
        super().__init__(context, size + 1, 1)

    def forward(self, h: Tensor) -> Transform:
        inner, b = self.given(h)
        given = {"centre": inner[:, 1:], "log_alpha": inner[:, :1], "b": b}
        return Transform(partial(radial, **given), partial(radial_inverse, **given))


class Sylvester(_Amortised):
    """`sylvester`, with parameters linear in features h (B, context)."""

    def __init__(self, size: int, context: int, reflections: int) -> None:
        self.size = size
        super().__init__(context, (2 + reflections) * size, size * size + size)

    def forward(self, h: Tensor) -> Transform:
        inner, outer = (x.unflatten(-1, (-1, self.size)) for x in self.given(h))
        diagonals = torch.stack([outer[:, 0], inner[:, 0]], -2)
        given = {"vectors": inner[:, 2:], "matrix": outer[:, 1:], "diagonals": diagonals}
        return Transform(partial(sylvester, **given, b=inner[:, 1]), one_way)


# Posteriors


class PlanarFlow(FlowPosterior):
    r"""A base sent through maps that bend it along one direction each.

    .. math:: f(z) = z + u \tanh(w^\top z + b), \qquad w^\top u > -1

    u, w and b are linear in the features. The density is known of q's own draws alone.

    Arguments:
        transforms: Number of maps.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, or there is no map.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015),
        https://arxiv.org/abs/1505.05770

    Example:
        >>> q = PlanarFlow(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> z, log_prob = q.rsample_and_log_prob((3,))
        >>> z.shape, log_prob.shape
        (torch.Size([3, 5, 4]), torch.Size([3, 5]))
    """

    evaluates = False

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 10,
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        size = flow_size(latent_shape, transforms)
        super().__init__(
            features,
            latent_shape,
            context_features,
            lambda given, step: Planar(size, given),
            transforms,
            base,
            build,
        )


class RadialFlow(FlowPosterior):
    r"""A base sent through maps that draw it towards a point each, or push it away.

    .. math:: f(z) = z + \frac{\beta (z - c)}{\alpha + |z - c|}, \qquad \beta > -\alpha

    alpha, beta and c depend on the features. The inverse is the root of a quadratic equation, so
    that, beyond the paper, the density of any z is known.

    Arguments:
        transforms: Number of maps.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, or there is no map.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015),
        https://arxiv.org/abs/1505.05770

    Example:
        >>> q = RadialFlow(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.log_prob(torch.zeros(5, 4)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 10,
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        size = flow_size(latent_shape, transforms)
        super().__init__(
            features,
            latent_shape,
            context_features,
            lambda given, step: RadialMap(size, given),
            transforms,
            base,
            build,
        )


class SylvesterFlow(FlowPosterior):
    r"""A base sent through maps that bend it along all directions at once.

    .. math:: f(z) = z + Q R \tanh(S Q^\top z + b), \qquad R_{ii} S_{ii} > -1

    R and S are upper triangular, and Q is a product of Householder reflections, of which D - 1
    give every Q that makes a difference. All are linear in the features, before a tanh on the
    diagonals. The density is known of q's own draws alone.

    Arguments:
        transforms: Number of maps.
        reflections: Of each Q; more than D - 1 are not made.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, there is no map, or reflections are negative.

    References:
        Sylvester Normalizing Flows for Variational Inference (van den Berg, Hasenclever, Tomczak
        and Welling, 2018), https://arxiv.org/abs/1803.05649

    Example:
        >>> q = SylvesterFlow(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> z, log_prob = q.rsample_and_log_prob((3,))
        >>> z.shape, log_prob.shape
        (torch.Size([3, 5, 4]), torch.Size([3, 5]))
    """

    evaluates = False

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 4,
        reflections: int = 8,
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        size = flow_size(latent_shape, transforms)
        if reflections < 0:
            raise ValueError(f"Expected reflections to be at least 0 but got {reflections}.")
        mirrors = min(reflections, size - 1)
        super().__init__(
            features,
            latent_shape,
            context_features,
            lambda given, step: Sylvester(size, given, mirrors),
            transforms,
            base,
            build,
        )
