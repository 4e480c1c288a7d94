"""Two modalities: a product of experts over dict-valued rows, any of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts import (
    Build,
    DataInfo,
    Decoder,
    Draw,
    Encoder,
    Joint,
    Likelihood,
    LogJoint,
    Posterior,
    Shape,
    Shapes,
    Spec,
    each,
    first,
    normal,
    soft_clamp,
)


class EncoderPerEntry(Encoder):
    """An encoder for each entry of x, and which entries each row shows.

    An entry counts as missing where its mask is False throughout.
    """

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return isinstance(event_shape, dict)

    def __init__(self, data: DataInfo, build: Build, encoder: Spec = "MLPEncoder") -> None:
        super().__init__()
        self.experts = nn.ModuleDict(
            {
                name: build("encoder", encoder, data=info, event_shape=info.event_shape)
                for name, info in data.entries().items()
            }
        )
        sizes: dict[str, Any] = {name: expert.features for name, expert in self.experts.items()}
        self.features = {**sizes, "shown": len(sizes)}

    def forward(
        self, x: Any, context: Tensor | None = None, mask: Any = None
    ) -> dict[str, Tensor]:
        hidden = dict.fromkeys(x) if mask is None else mask
        h = {name: part(x[name], context, hidden[name]) for name, part in self.experts.items()}
        if mask is None:
            mask = each(lambda leaf: torch.ones_like(leaf, dtype=torch.bool), x)
        shown = torch.stack([mask[name].flatten(1).any(1) for name in self.experts], 1)
        return {**h, "shown": shown.to(first(h))}


class ProductOfExperts(Posterior):
    r"""The normalised product of a standard Normal and a Normal for each entry that a row shows.

    .. math:: q(z|x) \propto N(z; 0, 1) \prod_{m\ \mathrm{shown}} N(z; \mu_m(x_m), \sigma_m(x_m))

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman,
        2018), https://arxiv.org/abs/1802.05335
    """

    def __init__(self, features: Mapping[str, int], latent_shape: Shape) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(size, 2 * latent_shape[0])
                for name, size in features.items()
                if name != "shown"
            }
        )

    def forward(
        self, h: Any, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        experts = torch.stack([head(h[name]) for name, head in self.heads.items()])  # (M, B, 2 Z)
        loc, log_variance = experts.chunk(2, dim=2)
        precision = h["shown"].T.unsqueeze(2) * (-soft_clamp(log_variance)).exp()
        total = 1 + precision.sum(0)
        return normal((precision * loc).sum(0) / total, total.rsqrt(), 1)


class DecoderPerEntry(Decoder):
    """A decoder for each entry of what the likelihood needs."""

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return isinstance(event_shape, dict)

    def __init__(
        self, output_shape: Mapping[str, Shape], build: Build, decoder: Spec = "MLPDecoder"
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                name: build("decoder", decoder, output_shape=shape)
                for name, shape in output_shape.items()
            }
        )

    def forward(self, z: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        return {name: part(z, context) for name, part in self.parts.items()}


class LikelihoodPerEntry(Likelihood):
    """A likelihood for each entry, independent given z.

    Arguments:
        of: The likelihood of each entry, by name.
    """

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return isinstance(event_shape, dict)

    def __init__(self, data: DataInfo, build: Build, of: Mapping[str, Spec]) -> None:
        super().__init__()
        parts = {
            name: build("likelihood", of[name], data=info, event_shape=info.event_shape)
            for name, info in data.entries().items()
        }
        self.parts = nn.ModuleDict(parts)
        self.output_shape = {name: part.output_shape for name, part in parts.items()}
        self.couples_rows = any(part.couples_rows for part in parts.values())

    def forward(self, y: Any, context: Tensor | None = None) -> Distribution:
        return Joint({name: part(y[name], context) for name, part in self.parts.items()})

    def point(self, p: Distribution) -> Any:
        assert isinstance(p, Joint)
        return {name: part.point(p.parts[name]) for name, part in self.parts.items()}

    def log_prob(self, p: Distribution, x: Any, mask: Any = None) -> Tensor:
        assert isinstance(p, Joint)
        seen = dict.fromkeys(x) if mask is None else mask
        terms = [
            part.log_prob(p.parts[name], x[name], seen[name]) for name, part in self.parts.items()
        ]
        return torch.stack(terms).sum(0)

    def after_step(self, draw: Draw) -> None:
        for name, part in self.parts.items():
            part.after_step(draw.entry(name))

    def gives_bits(self, data: DataInfo) -> bool:
        infos = data.entries()
        return all(part.gives_bits(infos[name]) for name, part in self.parts.items())

    def output_of(self, mean: Any, variance: Any) -> Any:
        found = {
            name: part.output_of(mean[name], variance[name]) for name, part in self.parts.items()
        }
        return None if any(y is None for y in found.values()) else found

    def check(self, data: DataInfo) -> None:
        each(lambda part, info: part.check(info), dict(self.parts), data.entries())
