"""Parts from a package of its own."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace

from vaekit.contracts import Encoder, Infer, Likelihood, Prior, normal
from vaekit.networks import fill


class DemoEncoder(Encoder):
    """One linear layer and a sine.

    Arguments:
        width: Number of features.
    """

    def __init__(self, event_shape: tuple[int, ...], width: int = 24) -> None:
        super().__init__()
        self.features = width
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(width))
        self.net(torch.zeros(1, *event_shape))

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return torch.sin(self.net(fill(x, mask)))


class DemoLaplace(Likelihood):
    """Independent Laplace elements of one scale."""

    def __init__(self, event_shape: tuple[int, ...], scale: float = 0.5) -> None:
        super().__init__()
        self.output_shape = tuple(event_shape)
        self.scale = scale

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        base = Laplace(y, torch.full_like(y, self.scale), validate_args=False)
        return Independent(base, len(self.output_shape), validate_args=False)


class DemoPrior(Prior):
    """A Normal with a learned mean."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_shape))

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return normal(self.loc, torch.ones_like(self.loc), self.loc.dim())
