"""The posterior of autoencoders, which draws nothing."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vaekit.contracts.part import LogJoint
from vaekit.contracts.posterior import Posterior
from vaekit.distributions.base import transport
from vaekit.networks.blocks import with_context


class PointMass(Distribution):
    """All mass on one point: its draws are that point, with its gradient. It has no density.

    Arguments:
        point: With shape `(*batch, *event)`.
        event_dims: How many dimensions an event has.

    Example:
        >>> import torch
        >>> p = PointMass(torch.tensor([1.0, 2.0]), event_dims=1)
        >>> p.sample((2,))
        tensor([[1., 2.],
                [1., 2.]])
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, point: Tensor, event_dims: int) -> None:
        at = point.dim() - event_dims
        super().__init__(point.shape[:at], point.shape[at:], validate_args=False)
        self.point = point

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.point

    @property
    def mode(self) -> Tensor:
        """The point."""
        return self.point

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.point)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape).detach()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.point.expand(*sample_shape, *self.point.shape)


@transport.register
def _(q: PointMass, noise: Tensor) -> Tensor:
    return q.point.expand_as(noise)


class Delta(Posterior):
    r"""All mass on one point, linear in the features: the code of an autoencoder.

    .. math:: q(z|x) = \delta(z - \mu(x))

    It has no density, so there is no bound: it needs an objective that reports none.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020),
        https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch
        >>> q = Delta(features=32, latent_shape=(4,))(torch.randn(5, 32))
        >>> torch.equal(q.rsample((3,))[2], q.mean)
        True
    """

    density = False

    def __init__(
        self, features: int, latent_shape: tuple[int, ...], context_features: int = 0
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.linear = nn.Linear(features + context_features, prod(latent_shape))

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        z = self.linear(with_context(h, context)).unflatten(1, self.latent_shape)
        return PointMass(z, len(self.latent_shape))
