"""Semi-supervised learning with M2: labels where there are any, else a sum over the classes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from vaekit.contracts import (
    Batch,
    Core,
    DataInfo,
    Infer,
    LogJoint,
    Objective,
    Posterior,
    Prior,
    Shape,
    normal,
    soft_clamp,
)
from vaekit.cores import VAE


class Labelled(Distribution):
    """A class y and, given it, a Normal z; a draw is z followed by y as a one-hot vector.

    Arguments:
        logits: Of the classes, (*, C).
        loc: Means of z given each class, (*, C, Z); `scale` likewise.
    """

    has_rsample = True  # of z; y has no gradient, so that an objective sums over the classes
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.label = OneHotCategorical(logits=logits, validate_args=False)
        self.given_label = normal(loc, scale, 1)  # batch (*, C)
        self.classes = logits.shape[-1]
        event = torch.Size([loc.shape[-1] + self.classes])
        super().__init__(logits.shape[:-1], event, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        y = self.label.sample(torch.Size(sample_shape))
        z = self.given_label.rsample(torch.Size(sample_shape))
        return torch.cat([(z * y.unsqueeze(-1)).sum(-2), y], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        z, y = value[..., : -self.classes], value[..., -self.classes :]
        every = self.given_label.log_prob(z.unsqueeze(-2))  # (*, C)
        return self.label.log_prob(y) + (every * y).sum(-1)


class LabelledNormal(Posterior):
    """q(y|x) q(z|x, y), where the last latents are the label as a one-hot vector."""

    def __init__(self, features: int, latent_shape: Shape, data: DataInfo) -> None:
        super().__init__()
        if data.classes is None or len(latent_shape) != 1 or latent_shape[0] <= data.classes:
            raise ValueError(
                f"Expected labels and a latent_shape above their {data.classes} classes but got "
                f"{latent_shape}."
            )
        self.classes, self.size = data.classes, latent_shape[0] - data.classes
        self.label = nn.Linear(features, self.classes)
        self.given_label = nn.Linear(features, 2 * self.classes * self.size)

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        loc, log_variance = self.given_label(h).unflatten(1, (2, self.classes, -1)).unbind(1)
        return Labelled(self.label(h), loc, (soft_clamp(log_variance) / 2).exp())

    def point(self, q: Distribution) -> Tensor:
        """The likeliest class and its mean of z."""
        assert isinstance(q, Labelled)
        y = one_hot(q.label.logits.argmax(-1), q.classes).to(q.label.logits)
        return torch.cat([(q.given_label.mean * y.unsqueeze(-1)).sum(-2), y], -1)


class UniformLabel(Prior):
    """p(y) p(z): an even class and a standard Normal."""

    zeros: Tensor

    def __init__(self, latent_shape: Shape, data: DataInfo) -> None:
        super().__init__()
        assert data.classes is not None
        self.classes = data.classes
        self.register_buffer("zeros", torch.zeros(prod(latent_shape) - data.classes))

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        each = self.zeros.expand(self.classes, -1)
        return Labelled(self.zeros.new_zeros(self.classes), each, torch.ones_like(each))


class M2(Objective):
    r"""The bound of log p(x, y) where the label is known, else that of log p(x), summed over y.

    .. math:: \mathcal{U}(x) = \sum_y q(y|x) (\mathcal{L}(x, y) - \log q(y|x)) \qquad
        \mathcal{J} = -\mathcal{U}(x) \ \text{or}\ -\mathcal{L}(x, y) - \alpha \log q(y|x)

    Arguments:
        alpha: Weight of the classification of rows with a label, without unit.

    References:
        Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298
    """

    def __init__(self, alpha: float = 10.0) -> None:
        super().__init__()
        self.alpha = alpha

    def check(self, model: Core) -> None:
        super().check(model)
        if not isinstance(model, VAE):
            raise self.refuse("the core VAE", type(model).__name__)
        if not isinstance(model.posterior, LabelledNormal):
            raise self.refuse("the posterior LabelledNormal", type(model.posterior).__name__)

    def _bounds(self, model: Core, batch: Batch) -> tuple[Tensor, Tensor]:
        """log q(y|x) and, of each class, the bound of log p(x, y), both (C, B)."""
        assert isinstance(model, VAE)
        q = model.infer(batch.x, batch.context, batch.mask)
        assert isinstance(q, Labelled)
        z = q.given_label.rsample()  # (B, C, Z)
        y = torch.eye(q.classes).to(z).expand(len(z), -1, -1)
        draws = torch.cat([z, y], -1).transpose(0, 1)  # (C, B, Z + C): a draw for each class
        p = model.decode(draws, batch.context)
        joint = model.likelihood.log_prob(p, batch.x, batch.mask)
        joint = joint + model.prior(batch.context, model.infer).log_prob(draws)
        return q.label.logits.T, joint - q.given_label.log_prob(z).T

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        assert batch.label is not None
        log_q, bounds = self._bounds(model, batch)
        unknown = (log_q.exp() * (bounds - log_q)).sum(0)
        known, label = batch.label >= 0, batch.label.clamp(min=0).unsqueeze(0)
        given, guess = bounds.gather(0, label)[0], log_q.gather(0, label)[0]
        loss = torch.where(known, -given - self.alpha * guess, -unknown)
        return {"loss": loss, "elbo": unknown}

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        log_q, bounds = self._bounds(model, batch)
        terms = {"elbo": (log_q.exp() * (bounds - log_q)).sum(0)}
        if batch.label is not None:  # the share of rows whose class is known, and guessed
            terms["accuracy"] = (log_q.argmax(0) == batch.label).to(log_q)
        return terms
