"""Posteriors that are flows: a Normal, sent through invertible maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vaekit.contracts.part import Build, LogJoint, Spec
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.support import same_support
from vaekit.networks.blocks import widths, with_context
from vaekit.networks.flows import Autoregressive, Flow, flow_size
from vaekit.posteriors.normal import DiagonalNormal


class FlowPosterior(Posterior):
    """Another posterior, the base, sent through maps that depend on the features.

    What stands for q where nothing is drawn is what stands for the base, sent through the maps.

    Arguments:
        make: (features with context, which map) -> the module whose forward gives the map.
        transforms: Their number.
        base: A posterior of real latents, whose density is known of any z.
        build: What makes it; without it the base is a DiagonalNormal.

    Raises:
        ValueError: If the base is another.
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int,
        make: Callable[[int, int], nn.Module],
        transforms: int,
        base: Spec,
        build: Build | None,
    ) -> None:
        super().__init__()
        self.base: Posterior = (
            DiagonalNormal(features, latent_shape, context_features)
            if build is None
            else build("posterior", base, features=features, latent_shape=latent_shape)
        )
        real = same_support(self.base.support, constraints.real)
        if not (real and self.base.density and self.base.evaluates):
            raise ValueError(
                "Expected a base of real latents whose density is known of any z, such as "
                f"DiagonalNormal or FullNormal, but got {type(self.base).__name__}."
            )
        given = features + context_features
        self.flow = nn.ModuleList(make(given, step) for step in range(transforms))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        given = with_context(h, context)
        return Flow(self.base(h, context), [transform(given) for transform in self.flow])

    def point(self, q: Distribution) -> Tensor:
        assert isinstance(q, Flow)
        return q.push(self.base.point(q.base))[0]


class IAF(FlowPosterior):
    r"""A base sent through inverse autoregressive maps: quick to draw from.

    .. math:: z'_i = s_i z_i + (1 - s_i) m_i, \qquad s_i = \sigma(2 + a_i), \qquad
        m_i, a_i = \mathrm{MADE}_i(z_{<i}, h)

    It starts as the base, shrunk by 0.88 in each map. The order of the latents is reversed from
    map to map. A draw brings its density with it; that of another z takes a pass through each
    network for each latent.

    Arguments:
        transforms: Number of maps.
        hidden: Widths of the hidden layers of each map's MADE; a number is one layer.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, there is no map, or a layer has no units.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> q = IAF(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> z, log_prob = q.rsample_and_log_prob((3,))
        >>> torch.allclose(log_prob, q.log_prob(z), atol=1e-4)
        True
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 4,
        hidden: int | list[int] = [320],  # noqa: B006 - read only, and shown as it is by --help
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        hidden = widths(hidden)
        size = flow_size(latent_shape, transforms, hidden)

        def make(given: int, step: int) -> nn.Module:
            return Autoregressive(size, given, hidden, "gated", reverse=step % 2 == 1)

        super().__init__(features, latent_shape, context_features, make, transforms, base, build)


class MAF(FlowPosterior):
    r"""A base sent through masked autoregressive maps: quick to evaluate.

    .. math:: z'_i = z_i \exp(a_i) + m_i, \qquad m_i, a_i = \mathrm{MADE}_i(z'_{<i}, h)

    The order of the latents is reversed from map to map. A draw takes a pass through each network
    for each latent, in training too; `IAF` is the same the other way round.

    Arguments:
        transforms: Number of maps.
        hidden: Widths of the hidden layers of each map's MADE; a number is one layer.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, there is no map, or a layer has no units.

    References:
        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou and Murray,
        2017), https://arxiv.org/abs/1705.07057

    Example:
        >>> import torch
        >>> q = MAF(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 5,
        hidden: int | list[int] = [100],  # noqa: B006
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        hidden = widths(hidden)
        size = flow_size(latent_shape, transforms, hidden)

        def make(given: int, step: int) -> nn.Module:
            odd = step % 2 == 1
            return Autoregressive(size, given, hidden, "affine", reverse=odd, inverted=True)

        super().__init__(features, latent_shape, context_features, make, transforms, base, build)


class RealNVP(FlowPosterior):
    r"""A base sent through affine couplings: quick to draw from and to evaluate.

    .. math:: z'_b = z_b \exp(a(z_a, h)) + m(z_a, h)

    The two halves of the latents take turns. Beyond the paper, the half that the other depends on
    is scaled and shifted too, by the features alone.

    Arguments:
        transforms: Number of maps.
        hidden: Widths of the hidden layers of each map's network; a number is one layer.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, there is no map, or a layer has no units.

    References:
        Density Estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio, 2017),
        https://arxiv.org/abs/1605.08803

    Example:
        >>> import torch
        >>> q = RealNVP(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 6,
        hidden: int | list[int] = [100],  # noqa: B006
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        hidden = widths(hidden)
        size = flow_size(latent_shape, transforms, hidden)

        def make(given: int, step: int) -> nn.Module:
            odd = step % 2 == 1
            return Autoregressive(size, given, hidden, "affine", coupling=True, reverse=odd)

        super().__init__(features, latent_shape, context_features, make, transforms, base, build)


class SplineFlow(FlowPosterior):
    r"""A base sent through monotone rational-quadratic splines: a neural spline flow.

    .. math:: z'_i = \mathrm{spline}(z_i; \phi_i(z_{<i}, h))

    A latent outside [-5, 5] stays as it is. The order of the latents is reversed from map to map.
    As in `IAF`, a draw brings its density with it; that of another z takes a pass for each latent,
    or two passes with couplings.

    Arguments:
        transforms: Number of maps.
        hidden: Widths of the hidden layers of each map's network; a number is one layer.
        bins: Of each spline.
        conditioner: What a latent's spline depends on: "autoregressive", on all latents before it;
            or "coupling", one half of them on the other.
        base: The posterior that is sent through the maps.

    Raises:
        ValueError: If the latents are no vector, there is no map, a layer has no units, there are
            fewer than two bins, or the conditioner is another.

    References:
        Neural Spline Flows (Durkan, Bekasov, Murray and Papamakarios, 2019),
        https://arxiv.org/abs/1906.04032

    Example:
        >>> import torch
        >>> q = SplineFlow(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        transforms: int = 3,
        hidden: int | list[int] = [100],  # noqa: B006
        bins: int = 8,
        conditioner: Literal["autoregressive", "coupling"] = "autoregressive",
        context_features: int = 0,
        base: Spec = "DiagonalNormal",
        build: Build | None = None,
    ) -> None:
        hidden = widths(hidden)
        size = flow_size(latent_shape, transforms, hidden)
        if bins < 2:
            raise ValueError(f"Expected bins to be at least 2 but got {bins}.")
        if conditioner not in ("autoregressive", "coupling"):
            raise ValueError(
                f"Expected conditioner to be autoregressive or coupling but got {conditioner!r}."
            )

        def make(given: int, step: int) -> nn.Module:
            half, odd = conditioner == "coupling", step % 2 == 1
            return Autoregressive(size, given, hidden, "spline", bins, half, odd)

        super().__init__(features, latent_shape, context_features, make, transforms, base, build)
