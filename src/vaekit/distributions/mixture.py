"""Mixtures of distributions of any family."""

from __future__ import annotations

from math import log, pi, prod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions import Normal as _TorchNormal

from vaekit.distributions.base import Normal
from vaekit.numerics.precision import exact, widest

_HELD = 2**22  # numbers of all components' draws, at a time


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
        terms = self._of_normals(value) if self._is_quick(value) else self._of_each(value)
        return (terms + self.log_weights).logsumexp(-1 - len(self.batch_shape)).to(value.dtype)

    def _of_each(self, value: Tensor) -> Tensor:
        """log p of each component, (*, M) or (*, M, B)."""
        rows = len(self.batch_shape)
        place = value.dim() - self._dims - rows  # where the components stand
        size = (*value.shape[:place], len(self.log_weights), *value.shape[place:])
        z = value.unsqueeze(place).expand(size)
        if rows:  # (*, M, B, *Z)
            z = z.flatten(place, place + 1)
        return self.components.log_prob(z).unflatten(-1, self.log_weights.shape)

    @property
    def _is_normal(self) -> bool:
        p = self.components
        return isinstance(p, Independent) and type(p.base_dist) in (Normal, _TorchNormal)

    def _is_quick(self, value: Tensor) -> bool:
        # Components of a row's own are as large as what its first few draws need.
        draws = value.numel() // prod((*self.batch_shape, *self.event_shape))
        pays = draws > 4 or not self.batch_shape
        return self._is_normal and pays and self._dims > 0 and exact(value.device) == torch.float64

    def _of_normals(self, value: Tensor) -> Tensor:
        # The squared distances are one matrix product, and no (*, M, B, *Z) is held. Its terms are
        # large where a scale is small, and cancel: hence float64.
        base: Any = self.components.base_dist  # type: ignore[attr-defined]
        loc, scale = (
            widest(x).flatten(1).unflatten(0, self.log_weights.shape)
            for x in (base.loc, base.scale)
        )  # (M, D) or (M, B, D)
        x, weight = widest(value).flatten(-self._dims), scale.square().reciprocal()
        ways = "...bd,mbd->...mb" if self.batch_shape else "...d,md->...m"
        left, right = torch.cat([x * x, x], -1), torch.cat([weight, -2 * loc * weight], -1)
        squares = torch.einsum(ways, left, right) + (loc * loc * weight).sum(-1)
        return -(squares / 2 + (scale.log() + log(2 * pi) / 2).sum(-1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        which = self._chosen(shape.numel())
        with torch.no_grad():
            z = self._normals_at(which) if self._is_normal else self._each_at(which)
        return z.reshape(*shape, *self.batch_shape, *self.event_shape)

    def _chosen(self, draws: int) -> Tensor:
        """The component of each draw, (S,) or (S, B)."""
        weights = self.log_weights.movedim(0, -1).exp()  # (M,) or (B, M)
        which = torch.multinomial(weights.reshape(-1, weights.shape[-1]), draws, True)
        return which.T.reshape(draws, *self.batch_shape)

    def _normals_at(self, which: Tensor) -> Tensor:
        if self.batch_shape:
            rows = self.batch_shape[0]
            which = which * rows + torch.arange(rows, device=which.device)
        base: Any = self.components.base_dist  # type: ignore[attr-defined]
        loc, scale = base.loc[which], base.scale[which]  # (S, *Z) or (S, B, *Z)
        return torch.addcmul(loc, scale, torch.randn_like(loc))

    def _each_at(self, which: Tensor) -> Tensor:
        # Every component is drawn from, for want of a way to draw from one: a few draws at a time.
        ones, kept = [1] * self._dims, []
        few = max(1, _HELD // prod((*self.log_weights.shape, *self.event_shape)))
        for at in which.split(few):
            every = self.components.sample(torch.Size((len(at),)))
            every = every.unflatten(1, self.log_weights.shape)  # (S, M, *Z) or (S, M, B, *Z)
            at = at.reshape(len(at), 1, *self.batch_shape, *ones)
            kept.append(every.take_along_dim(at, 1).squeeze(1))
        return torch.cat(kept)
