"""A posterior that is a masked autoregressive flow of zuko's."""

from __future__ import annotations

import torch
import zuko
from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts import LogJoint, Posterior


class OutsideMAF(Posterior):
    """A masked autoregressive flow, conditioned on the features.

    References:
        Masked Autoregressive Flow (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057
    """

    def __init__(self, features: int, latent_shape: tuple[int, ...], transforms: int = 2) -> None:
        super().__init__()
        self.flow = zuko.flows.MAF(latent_shape[0], features, transforms, hidden_features=(32,))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        return self.flow(h)

    def point(self, q: Distribution) -> Tensor:
        middle = torch.zeros(*q.batch_shape, *q.event_shape)  # the base's mean
        return q.transform.inv(middle.to(next(self.parameters())))
