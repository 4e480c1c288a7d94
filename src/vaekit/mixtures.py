"""Mixtures of distributions of any family."""

from __future__ import annotations

from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.distributions import Normal
from vaekit.precision import widest

__all__ = ["Mixture"]


class Mixture(Distribution):
    """A mixture of M components of any family.

    Arguments:
        components: Distributions of batch shape `(M,)`, or `(M * B,)` for B mixtures, the rows of
            the first component before those of the second.
        log_weights: Logarithms of the weights, `(M,)` or `(M, B)`, which need not sum to one.
        rows: B; None for one mixture, of batch shape `()`.

    Example:
        >>> from vaekit.distributions import normal
        >>> p = Mixture(normal(torch.zeros(3, 2), torch.ones(3, 2), 1), torch.zeros(3))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(2))
        (torch.Size([]), torch.Size([2]), tensor(-1.8379))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, components: Distribution, log_weights: Tensor, rows: int | None = None
    ) -> None:
        batch = torch.Size(() if rows is None else (rows,))
        super().__init__(batch, components.event_shape, validate_args=False)
        self.components = components
        log_weights = log_weights.log_softmax(0)
        if rows is not None and log_weights.dim() == 1:
            log_weights = log_weights.unsqueeze(1).expand(-1, rows)
        self.log_weights = log_weights  # (M,) or (M, B)

    @property
    def support(self) -> Any:
        return self.components.support

    @property
    def mean(self) -> Tensor:
        means = self.components.mean.unflatten(0, self.log_weights.shape)
        weights = self.log_weights.exp().reshape(*self.log_weights.shape, *[1] * self._dims)
        return (weights * means).sum(0)

    @property
    def _dims(self) -> int:
        return len(self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        q = self.components
        normals = isinstance(q, Independent) and type(q.base_dist) is Normal and self._dims
        terms = self._of_normals(value) if normals else self._of_any(value)
        return (terms + self.log_weights.movedim(0, -1)).logsumexp(-1)

    def _of_any(self, value: Tensor) -> Tensor:
        """log p of each component, (*, M)."""
        rows = len(self.batch_shape)
        place = value.dim() - self._dims - rows  # where the components stand
        size = (*value.shape[:place], len(self.log_weights), *value.shape[place:])
        z = value.unsqueeze(place).expand(size)
        if rows:  # (*, M, B, *Z)
            z = z.flatten(place, place + 1)
        terms = self.components.log_prob(z).unflatten(-1, self.log_weights.shape)
        return terms.movedim(-1 - rows, -1)

    def _of_normals(self, value: Tensor) -> Tensor:
        """The same by products of matrices, without all differences (*, M, Z).

        The square of a difference is taken apart, which loses digits: hence in float64.
        """
        base: Any = self.components.base_dist  # type: ignore[attr-defined]
        loc, scale = (widest(x).flatten(1) for x in (base.loc, base.scale))
        z = widest(value).flatten(-self._dims)
        precision = scale.square().reciprocal()
        own = (loc.square() * precision / 2 + scale.log() + log(2 * pi) / 2).sum(1)

        def product(a: Tensor, b: Tensor) -> Tensor:
            if not self.batch_shape:
                return a @ b.T
            return torch.einsum("...bz,mbz->...bm", a, b.unflatten(0, self.log_weights.shape))

        shift = own.unflatten(0, self.log_weights.shape).movedim(0, -1)
        terms = product(z, loc * precision) - product(z.square(), precision) / 2 - shift
        return terms.to(value.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape, at = torch.Size(sample_shape), len(sample_shape)
        every = self.components.sample(shape).unflatten(at, self.log_weights.shape)
        weights = self.log_weights.movedim(0, -1).exp()  # (M,) or (B, M)
        which = torch.multinomial(weights.reshape(-1, weights.shape[-1]), shape.numel(), True)
        which = which.T.reshape(*shape, 1, *self.batch_shape, *[1] * self._dims)
        return every.take_along_dim(which, at).squeeze(at)
