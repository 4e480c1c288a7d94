"""Parts that are wrong in one way each: a law of that name has to catch them, and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence, register_kl

from vaekit.contracts import Batch, Core, Draw
from vaekit.distributions import base as distributions
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLPEncoder, fill
from vaekit.objectives.elbo import ELBO
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal

__all__ = ["FAULTS"]


class TooDense(distributions.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.05


class TooWide(distributions.Normal):
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + 1.15 * (super().sample(sample_shape) - self.loc)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + 1.15 * (super().rsample(sample_shape) - self.loc)


class Detached(distributions.Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape).detach()


class Divergent(distributions.Normal):
    pass


@register_kl(Divergent, distributions.Normal)
def _(q: Divergent, p: Normal) -> Tensor:
    # PyTorch-VAE's: the log-variance where its half belongs.
    return kl_divergence(Normal(q.loc, q.scale), p) - 0.5 * q.scale.log()


def posterior(name: str, family: type[distributions.Normal]) -> type:
    def forward(self: Any, h: Tensor, context: Any = None, log_joint: Any = None) -> Distribution:
        q: Any = DiagonalNormal.forward(self, h, context, log_joint)
        return Independent(family(q.base_dist.loc, q.base_dist.scale), 1, validate_args=False)

    return type(name, (DiagonalNormal,), {"forward": forward, "__module__": __name__})


DensityOff = posterior("DensityOff", TooDense)
GradientCut = posterior("GradientCut", Detached)
KLWrong = posterior("KLWrong", Divergent)


class SamplerOff(StandardNormal):
    def forward(self, context: Any = None, infer: Any = None) -> Distribution:
        return Independent(TooWide(self.loc, self.scale), self.loc.dim(), validate_args=False)


class MaskIgnored(MLPEncoder):
    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        return super().forward(x.nan_to_num(), context, None)


class RowsCoupled(MLPEncoder):
    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        h = super().forward(x, context, mask)
        return h - 0.01 * h.mean(0)


class BufferChanged(MLPEncoder):
    calls: Tensor

    def __init__(self, event_shape: Any, context_features: int = 0) -> None:
        super().__init__(event_shape, context_features, 16)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        self.calls += 1
        return super().forward(x, context, mask)


class Layered(MLPEncoder):
    """An encoder with a table between two layers."""

    table: Tensor

    def __init__(self, event_shape: Any, context_features: int = 0) -> None:
        super().__init__(event_shape, context_features, 16)
        self.second = nn.Linear(16, 16)
        self.make_table()

    def make_table(self) -> None:
        self.table = torch.linspace(0.5, 1.5, 16)

    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        return self.second(super().forward(x, context, mask) * self.table)


class HalfPrecision(Layered):
    """Its table stays in float32, which no half layer takes."""


class StateNotRestored(Layered):
    """Its table is drawn, and in no state dict."""

    def make_table(self) -> None:
        self.table = torch.rand(16)

    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        h = MLPEncoder.forward(self, x, context, mask)
        return self.second(h * self.table.to(h.dtype))


class ShapeBroadcast(Bernoulli):
    def log_prob(self, p: Distribution, x: Any, mask: Any = None) -> Tensor:
        return super().log_prob(p, x, mask).mean(1, keepdim=True)


class AutocastLeaks(ELBO):
    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.critic = nn.Linear(latent_shape[0], 1)

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        critic = self.critic(draw.z[0]).squeeze(1)
        terms = draw.bound()
        loss = terms["distortion"] + terms["rate"] + critic**2
        return {**terms, "critic": critic, "loss": sum(draw.losses.values(), loss)}


class RandomNotTorchs(MLPEncoder):
    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        h = super().forward(x, context, mask)
        if self.training and not torch.compiler.is_compiling():
            h = h + 1e-6 * float(np.random.standard_normal())
        return h


class RanksApart(MLPEncoder):
    """A running mean of what this rank alone has seen."""

    middle: Tensor

    def __init__(self, event_shape: Any, context_features: int = 0) -> None:
        super().__init__(event_shape, context_features, 16)
        self.register_buffer("middle", torch.zeros(16))

    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        return super().forward(fill(x, mask), context) - self.middle

    def after_step(self, draw: Draw) -> None:
        assert isinstance(draw.features, Tensor)
        self.middle.lerp_(draw.features.mean(0), 0.1)


FAULTS: dict[str, tuple[str, type]] = {
    "a_density_integrates_to_one": ("posterior", DensityOff),
    "draws_agree_with_the_density": ("prior", SamplerOff),
    "a_registered_kl_is_the_integral": ("posterior", KLWrong),
    "gradients_go_through_the_draws": ("posterior", GradientCut),
    "what_is_hidden_does_not_matter": ("encoder", MaskIgnored),
    "a_row_depends_on_no_other": ("encoder", RowsCoupled),
    "forward_changes_no_state": ("encoder", BufferChanged),
    "weights_of_any_type_give_float32_terms": ("encoder", HalfPrecision),
    "its_state_comes_back": ("encoder", StateNotRestored),
    "terms_have_one_value_per_draw_and_row": ("likelihood", ShapeBroadcast),
    "terms_are_float32_under_autocast": ("objective", AutocastLeaks),
    "random_numbers_are_torchs": ("encoder", RandomNotTorchs),
    "two_ranks_end_with_one_model": ("encoder", RanksApart),
}
"""The law that catches each, its kind, and the part."""
