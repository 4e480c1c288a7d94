"""Priors that are flows: a standard Normal, sent through invertible maps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts.part import Infer
from vaekit.contracts.prior import FittedPrior
from vaekit.distributions.base import normal
from vaekit.networks.blocks import widths
from vaekit.networks.flows import Autoregressive, Flow, Transform, Univariate, flow_size
from vaekit.priors.gradient_fit import fit_by_gradient

_MAPS: dict[str, tuple[Univariate, bool, bool]] = {
    "maf": ("affine", False, True),
    "iaf": ("affine", False, False),
    "realnvp": ("affine", True, True),
    "spline": ("spline", False, True),
}
"""By name: the map of each latent, whether it is a coupling, and whether evaluation is quick."""


class FlowPrior(FittedPrior):
    r"""A standard Normal sent through learned invertible maps.

    .. math:: \log p(z) = \log \mathcal{N}(z_0; 0, 1) - \sum_t \log \left| \det
        \frac{\partial f_t}{\partial z_{t - 1}} \right|

    It learns together with the model, or is fitted to codes after training, which are standardised
    first. It starts near the standard Normal.

    Arguments:
        flow: The maps: "maf", masked autoregressive, whose density takes one pass through each
            network and a draw one for each latent; "iaf", inverse autoregressive, the other way
            round, and slow to train with; "realnvp", affine couplings, quick both ways; "spline",
            masked autoregressive with rational-quadratic splines.
        transforms: Number of maps.
        hidden: Widths of the hidden layers of each map's network; a number is one layer.

    Raises:
        ValueError: If the latents are no vector, there is no map, a layer has no units, or the
            flow is another.

    References:
        Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731

        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou and Murray,
        2017), https://arxiv.org/abs/1705.07057

    Example:
        >>> prior = FlowPrior(latent_shape=(2,))
        >>> prior.fit(3 + torch.randn(100, 2))
        >>> prior().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        flow: Literal["maf", "iaf", "realnvp", "spline"] = "maf",
        transforms: int = 4,
        hidden: int | list[int] = [100],  # noqa: B006 - read only, and shown as it is by --help
        context_features: int = 0,
    ) -> None:
        super().__init__()
        hidden = widths(hidden)
        size = flow_size(latent_shape, transforms, hidden)
        if flow not in _MAPS:
            raise ValueError(f"Expected flow to be one of {tuple(_MAPS)} but got {flow!r}.")
        univariate, coupling, inverted = _MAPS[flow]
        self.latent_shape = tuple(latent_shape)
        self.context_features = context_features
        self.flow = nn.ModuleList(
            Autoregressive(
                size,
                context_features,
                hidden,
                univariate,
                coupling=coupling,
                reverse=step % 2 == 1,
                inverted=inverted,
            )
            for step in range(transforms)
        )
        self.register_buffer("loc", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        given = context if self.context_features else None
        batch = () if given is None else (len(given),)
        zero = torch.zeros_like(self.loc).expand(*batch, -1)
        base = normal(zero, torch.ones_like(zero), 1)
        h = None if given is None else given.to(zero.dtype)
        return Flow(base, [*(transform(h) for transform in self.flow), self._standard()])

    def _standard(self) -> Transform:
        """From standardised codes to codes."""
        loc, scale = self.loc, self.scale
        log_det = scale.log().sum()
        return Transform(
            lambda z: (torch.addcmul(loc, scale, z), log_det),
            lambda z: ((z - loc) / scale, -log_det),
        )

    def fit(self, z: Tensor, context: Tensor | None = None) -> None:
        """Fits p(z) to codes by maximum likelihood, from new weights.

        Arguments:
            z: The codes, (n, D).
            context: Of the rows, (n, C).

        Raises:
            ValueError: If `check_codes` refuses them; it takes ten.
        """
        self.check_codes(z, context, self.context_features, least=10)
        rows = [leaf.detach().clone().to(self.loc) for leaf in (z, context) if leaf is not None]
        scale, loc = torch.std_mean(rows[0], 0)
        self.loc.copy_(loc)
        self.scale.copy_(scale.clamp(min=1e-6))
        for transform in self.flow:
            transform.reset_parameters()  # type: ignore[operator]

        def loss(z: Tensor, context: Tensor | None = None) -> Tensor:
            return -self(context).log_prob(z)

        fit_by_gradient(self.parameters(), loss, *rows)
