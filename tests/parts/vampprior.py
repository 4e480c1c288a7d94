"""The prior that is a mixture of posteriors of learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Batch, DataInfo
from vaekit.contracts import Prior
from vaekit.part import Infer


class Mixture(Distribution):
    """Evenly weighted components: `q` has batch shape (M,), or (M * B,) for B mixtures."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, q: Distribution, components: int, rows: int | None) -> None:
        super().__init__(torch.Size([rows] if rows else []), q.event_shape, validate_args=False)
        self.q, self.components = q, components

    def log_prob(self, z: Tensor) -> Tensor:
        place = -1 - len(self.event_shape) - len(self.batch_shape)
        z = z.unsqueeze(place)
        z = z.expand(*z.shape[:place], self.components, *z.shape[z.dim() + place + 1 :])
        if self.batch_shape:  # (*, M, B, *Z)
            z = z.flatten(place, place + 1)
        terms = self.q.log_prob(z).unflatten(-1, (self.components, *self.batch_shape))
        return terms.logsumexp(-1 - len(self.batch_shape)) - log(self.components)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        at = len(sample_shape)
        every = self.q.sample(torch.Size(sample_shape))  # (*, M or M * B, *Z)
        every = every.unflatten(at, (self.components, *self.batch_shape))
        shape = (*sample_shape, 1, *self.batch_shape, *[1] * len(self.event_shape))
        which = torch.randint(self.components, shape, device=every.device)
        return every.take_along_dim(which, at).squeeze(at)


class VampPrior(Prior):
    """An even mixture of q(z|u) over learned pseudo-inputs u, which start as training rows.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), https://arxiv.org/abs/1705.07120
    """

    def __init__(self, data: DataInfo, components: int = 10) -> None:
        super().__init__()
        self.low, self.high = data.data_range
        self.inputs = nn.Parameter(torch.zeros(components, *data.event_shape))

    def start(self, data: Iterable[Batch]) -> None:
        rows = torch.cat([batch.x for batch in data])
        self.inputs.copy_(rows[torch.randperm(len(rows))[: len(self.inputs)]])

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        assert infer is not None
        u, m = self.inputs.clamp(self.low, self.high), len(self.inputs)
        if context is None:
            return Mixture(infer(u), m, None)
        n = len(context)
        return Mixture(infer(u.repeat_interleave(n, 0), context.repeat(m, 1)), m, n)
