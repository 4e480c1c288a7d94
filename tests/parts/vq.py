"""A vector-quantised posterior whose codebook is a moving average, and its objective."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts import Batch, Core, Draw, LogJoint, Objective, Posterior, sum_over_ranks


class Quantised(Distribution):
    """All mass on one code; its draws send their gradient straight to what was quantised."""

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, encoded: Tensor, code: Tensor, index: Tensor, commitment: float) -> None:
        super().__init__(code.shape[:1], code.shape[1:], validate_args=False)
        self.encoded, self.code, self.index = encoded, code, index
        square = (encoded - code.detach()).square()
        self.losses = {"commitment": commitment * square.flatten(1).sum(1)}

    @property
    def mean(self) -> Tensor:
        return self.code

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = self.encoded + (self.code - self.encoded).detach()
        return z.expand(*sample_shape, *z.shape)


class VectorQuantised(Posterior):
    """The code nearest to a linear function of the features.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017),
        https://arxiv.org/abs/1711.00937
    """

    density = False
    count: Tensor
    total: Tensor

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        codes: int = 16,
        commitment: float = 0.25,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.shape, self.commitment, self.decay = tuple(latent_shape), commitment, decay
        self.linear = nn.Linear(features, prod(latent_shape))
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("total", torch.randn(codes, latent_shape[-1]))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        encoded = self.linear(h).unflatten(1, self.shape)
        codebook = self.total / self.count.unsqueeze(1)  # a mean: unused codes do not blow up
        index = torch.cdist(encoded.flatten(0, -2), codebook).argmin(1)
        return Quantised(encoded, codebook[index].view_as(encoded), index, self.commitment)

    def after_step(self, draw: Draw) -> None:
        q: Any = draw.q
        chosen = nn.functional.one_hot(q.index, len(self.count)).to(self.total.dtype)
        count = sum_over_ranks(chosen.sum(0))
        total = sum_over_ranks(chosen.T @ q.encoded.flatten(0, -2))
        used = count > 0
        self.count[used] = self.count[used].lerp(count[used], 1 - self.decay)
        self.total[used] = self.total[used].lerp(total[used], 1 - self.decay)


class Reconstruction(Objective):
    """The distortion and what q brings: for a q without a density. It is no bound."""

    best = ("loss", "min")
    bound = False

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        distortion = -draw.log_likelihood.mean(0)
        loss = sum(draw.losses.values(), distortion)
        return {"loss": loss, "distortion": distortion, **draw.losses}

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        return self(model, batch, 0)
