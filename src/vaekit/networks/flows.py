"""Invertible maps of vectors, and the distributions that they make of simple ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import linear
from zuko.nn import MaskedMLP
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

from vaekit.distributions.base import transport
from vaekit.networks.blocks import vector_size

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
"""z (*, D) -> its image (*, D), and the logarithm of |det Jacobian| there, (*,)."""

SLOPE = 1e-3
"""What bounds the slopes of maps from below, as in zuko."""


class Transform(NamedTuple):
    """An invertible map of vectors, there and back."""

    forward: Map
    inverse: Map


class Flow(Distribution):
    r"""What transforms make of a base distribution of vectors.

    .. math:: z = f_T(\cdots f_1(z_0)), \qquad \log q(z) = \log q_0(z_0) - \sum_t
        \log \left| \det \frac{\partial f_t}{\partial z_{t - 1}} \right|

    Arguments:
        base: The distribution of z_0, whose events are vectors.
        transforms: f_1, ..., f_T.

    References:
        Normalizing Flows for Probabilistic Modeling and Inference (Papamakarios et al., 2021),
        https://arxiv.org/abs/1912.02762

    Example:
        >>> from math import log
        >>> from vaekit.distributions import normal
        >>> twice = Transform(lambda z: (2 * z, log(2)), lambda z: (z / 2, -log(2)))
        >>> q = Flow(normal(torch.zeros(1), torch.ones(1), 1), [twice, twice])
        >>> q.log_prob(torch.zeros(1)), normal(q.base.mean, torch.tensor([4.0]), 1).log_prob(0.0)
        (tensor(-2.3052), tensor(-2.3052))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Distribution, transforms: Sequence[Transform]) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.transforms = base, tuple(transforms)

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z_0 (*, *batch, D) sent through all transforms, and the log-determinant of that."""
        return _through([t.forward for t in self.transforms], z)

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z sent back through all transforms, and the log-determinant of that."""
        return _through([t.inverse for t in reversed(self.transforms)], z)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.push(self.base.rsample(sample_shape))[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draws, and their log-densities in nats, for which nothing is inverted."""
        return self._of(self.base.rsample(sample_shape))

    def transport_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same from standard normal noise (*, *batch, D)."""
        return self._of(transport(self.base, noise))

    def _of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        image, log_det = self.push(z)
        return image, self.base.log_prob(z) - log_det

    def log_prob(self, value: Tensor) -> Tensor:
        # Before the maps, since some of them expand what they add to the shape of z.
        whole = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        z, log_det = self.pull(value.expand(whole))
        return self.base.log_prob(z) + log_det


@transport.register
def _(q: Flow, noise: Tensor) -> Tensor:
    return q.push(transport(q.base, noise))[0]


def _through(maps: Sequence[Map], z: Tensor) -> tuple[Tensor, Tensor]:
    total = z.new_zeros(z.shape[:-1])
    for f in maps:
        z, log_det = f(z)
        total = total + log_det
    return z, total


def one_way(z: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError(
        "Expected draws of its own, together with which this flow gives their density: it has no "
        "inverse in closed form."
    )


def flow_size(latent_shape: tuple[int, ...], transforms: int, hidden: list[int] = []) -> int:  # noqa: B006
    """D of latents that a flow of vectors is for.

    Raises:
        ValueError: If they are no vector; if there are no transforms, or layers of no units.
    """
    size = vector_size(latent_shape)
    if transforms < 1:
        raise ValueError(f"Expected transforms to be at least 1 but got {transforms}.")
    if any(width < 1 for width in hidden):
        raise ValueError(f"Expected hidden layers of at least one unit but got {hidden}.")
    return size


# Autoregressive maps, in which an element depends on those before it


class _Gated(MonotonicAffineTransform):  # type: ignore[misc]
    """x -> s x + (1 - s) m, with s the sigmoid of a gate, which starts at 2."""

    def __init__(self, mean: Tensor, gate: Tensor) -> None:
        super(MonotonicAffineTransform, self).__init__()
        gate = gate + 2
        self.scale = SLOPE + (1 - SLOPE) * gate.sigmoid()
        self.log_scale, self.shift = self.scale.log(), (1 - SLOPE) * (-gate).sigmoid() * mean


def _gated(phi: Tensor) -> Any:
    return _Gated(*phi.unbind(-1))


def _affine(phi: Tensor) -> Any:
    return MonotonicAffineTransform(*phi.unbind(-1), slope=SLOPE)


class _Spline(MonotonicRQSTransform):  # type: ignore[misc]
    """zuko's spline, whose inverse is finite where rounding leaves no root, as of steep ones."""

    def _inverse(self, y: Tensor) -> Tensor:
        inside, x0, x1, y0, y1, d0, d1, s = self.bin(self.searchsorted(self.vertical, y) - 1)
        height, above = y1 - y0, inside * (y - y0)
        bend = above * (d0 + d1 - 2 * s)
        a, b, c = height * (s - d0) + bend, height * d0 - bend, -s * above
        square = (b.square() - 4 * a * c).clamp(min=torch.finfo(y.dtype).tiny)
        share = (2 * c / (-b - square.sqrt())).clamp(0, 1)
        return torch.where(inside, x0 + share * (x1 - x0), y)


def _spline(phi: Tensor) -> Any:
    bins = (phi.shape[-1] + 1) // 3
    return _Spline(*phi.split([bins, bins, bins - 1], -1), slope=SLOPE)


Univariate = Literal["gated", "affine", "spline"]

_UNIVARIATE: dict[str, Callable[[Tensor], Any]] = {
    "gated": _gated,
    "affine": _affine,
    "spline": _spline,
}


class Autoregressive(nn.Module):
    r"""A monotone map of each element, whose parameters are a network's of the elements before it.

    .. math:: z'_i = g(z_i; \phi_i(z_{<i}, h))

    The network is a MADE, which gives the parameters of all elements at once: there takes one
    pass through it, and back one for each element. It starts near the identity, or for the gated
    map near the multiplication by the sigmoid of 2.

    Arguments:
        size: D, of z.
        context: Number of features h that it is conditioned on; 0 for none.
        hidden: Widths of the network's hidden layers.
        univariate: g: "gated", s z + (1 - s) m with s in (0, 1); "affine"; or "spline", monotone
            and rational-quadratic within [-5, 5], the identity outside.
        bins: Of a spline.
        coupling: Whether elements come in two halves, of which the second depends on the whole
            first and the first on the context alone: back takes two passes.
        reverse: Whether the last element comes first.
        inverted: Whether the map is the other way: there takes a pass for each element.

    References:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
        https://arxiv.org/abs/1502.03509

    Example:
        >>> import torch
        >>> forward, inverse = Autoregressive(3, 5, [16], "affine")(torch.randn(2, 5))
        >>> z, log_det = forward(torch.ones(4, 2, 3))
        >>> torch.allclose(inverse(z)[0], torch.ones(4, 2, 3), atol=1e-5), log_det.shape
        (True, torch.Size([4, 2]))
    """

    def __init__(
        self,
        size: int,
        context: int,
        hidden: list[int],
        univariate: Univariate,
        bins: int = 8,
        coupling: bool = False,
        reverse: bool = False,
        inverted: bool = False,
    ) -> None:
        super().__init__()
        self.inverted = inverted
        self.size, self.univariate = size, _UNIVARIATE[univariate]
        self.count = 3 * bins - 1 if univariate == "spline" else 2
        place = torch.arange(size) * 2 // size if coupling else torch.arange(size)
        place = place.flip(0) if reverse else place
        self.passes = int(place.max()) + 1
        # Without a context it is conditioned on a constant, for elements that have none before.
        sees = torch.cat([place[:, None] > place, torch.ones(size, max(context, 1)).bool()], 1)
        self.net = MaskedMLP(sees.repeat_interleave(self.count, 0), hidden, nn.ELU)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights anew."""
        for layer in list(self.net)[::2]:
            layer.reset_parameters()
        nearly_zero(self.net[-1])

    def forward(self, h: Tensor | None = None) -> Transform:
        """The map given h (B, context), of z (*, B, D); without a context of z (*, D)."""
        maps = self._maps(h)

        def there(z: Tensor) -> tuple[Tensor, Tensor]:
            image, log_det = maps(z).call_and_ladj(z)
            return image, log_det.sum(-1)

        def back(image: Tensor) -> tuple[Tensor, Tensor]:
            z = torch.zeros_like(image)
            for _ in range(self.passes):  # each finds the elements that come next
                g = maps(z)
                z = g.inv(image)
            return z, -g.log_abs_det_jacobian(z, image).sum(-1)

        return Transform(back, there) if self.inverted else Transform(there, back)

    def _maps(self, h: Tensor | None) -> Callable[[Tensor], Any]:
        """z -> g of each element. It keeps the weights as they are now, which may be frozen, and
        computes once what does not depend on z."""
        first, *rest = self.net
        weight = first.mask * first.weight
        h = weight.new_ones(1) if h is None else h
        given = linear(h, weight[:, self.size :], first.bias)
        own = weight[:, : self.size]
        bound = [
            partial(linear, weight=f.mask * f.weight, bias=f.bias) if hasattr(f, "mask") else f
            for f in rest
        ]

        def maps(z: Tensor) -> Any:
            y = linear(z, own) + given
            for f in bound:
                y = f(y)
            return self.univariate(y.unflatten(-1, (self.size, self.count)))

        return maps


def nearly_zero(layer: nn.Linear) -> nn.Linear:
    """The layer with small weights and no bias, so that what depends on it starts near 0."""
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.bias.zero_()
    return layer
