"""A mixture of discretised logistics over the channels of each pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.nn.functional import logsigmoid

from vaekit.contracts import DataInfo, Likelihood, Shape


class Mixture(Distribution):
    """Mixtures of logistics (*, M, C, H, W), each value's mass that of the bin around it."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int) -> None:
        super().__init__(loc.shape[:-4], loc.shape[-3:], validate_args=False)
        self.logits, self.loc, self.log_scale, self.levels = logits, loc, log_scale, levels

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-3).unsqueeze(-3) * self.loc.clamp(0, 1)).sum(-4)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        which = Categorical(logits=self.logits.movedim(-3, -1)).sample()  # (*, H, W)
        at = which.unsqueeze(-3).unsqueeze(-3)  # (*, 1, 1, H, W)
        loc, scale = (x.take_along_dim(at, -4).squeeze(-4) for x in (self.loc, self.log_scale))
        u = torch.rand_like(loc).clamp(1e-6, 1 - 1e-6)
        x = loc + scale.exp() * (u.log() - (-u).log1p())
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        half, x = 0.5 / (self.levels - 1), x.unsqueeze(-4)  # (*, 1, C, H, W)
        high = (x + half - self.loc) / self.log_scale.exp()
        low = (x - half - self.loc) / self.log_scale.exp()
        # log(sigmoid(high) - sigmoid(low)), where high - low is at least the bin's own width
        width = (-torch.expm1(-2 * half / self.log_scale.exp())).clamp(min=1e-30).log()
        mass = logsigmoid(high) + logsigmoid(-low) + width
        mass = torch.where(x < half, logsigmoid(high), mass)
        mass = torch.where(x > 1 - half, logsigmoid(-low), mass)
        if mask is not None:  # given its component, a pixel's channels are independent
            mass = torch.where(mask.unsqueeze(-4), mass, 0.0)
        return (self.logits.log_softmax(-3) + mass.sum(-3)).logsumexp(-3).sum((-2, -1))


class LogisticMixture(Likelihood):
    """Each pixel's channels share a mixture of discretised logistics.

    References:
        PixelCNN++ (Salimans et al., 2017), https://arxiv.org/abs/1701.05517, without its
        regression of one channel on another.
    """

    data_range = (0.0, 1.0)
    discrete = True

    def __init__(self, event_shape: Shape, data: DataInfo, components: int = 5) -> None:
        super().__init__()
        if not isinstance(data.levels, int):
            raise ValueError(f"Expected data of a known number of levels but got {data.levels}.")
        channels, *image = event_shape
        self.levels, self.components = data.levels, components
        self.output_shape = (components * (1 + 2 * channels), *image)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        m = self.components
        logits, rest = y[:, :, :m], y[:, :, m:].unflatten(2, (2, m, -1))
        loc, log_scale = rest.unbind(2)  # (K, B, M, C, H, W)
        return Mixture(logits, 0.5 + loc, log_scale.clamp(min=-5) - 1, self.levels)

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else torch.where(mask, x, 0.5)
        return p.log_prob(x, mask)
