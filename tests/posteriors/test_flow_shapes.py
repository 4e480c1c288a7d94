"""Densities of flow posteriors at z of any shape that broadcasts with the rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaekit.posteriors import IAF, MAF, RadialFlow, RealNVP, SplineFlow
from vaekit.priors import FlowPrior


@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 3), (2, 1, 3), (2, 5, 3), (2, 5, 1, 3)])
@pytest.mark.parametrize(
    ("posterior", "options"),
    [
        (IAF, {}),
        (MAF, {}),
        (RealNVP, {}),
        (SplineFlow, {}),
        (SplineFlow, {"conditioner": "coupling"}),
        (RadialFlow, {}),
    ],
)
@torch.no_grad()
def test_a_flow_broadcasts_z_over_its_rows_as_a_normal_does(
    posterior: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    q = posterior(features=8, latent_shape=(3,), **options).double()(torch.randn(5, 8).double())
    z = torch.randn(shape).double()
    whole = q.log_prob(z.expand(torch.broadcast_shapes(shape, (5, 3))))
    torch.testing.assert_close(q.log_prob(z), whole)


@pytest.mark.parametrize("flow", ["maf", "iaf", "realnvp", "spline"])
@torch.no_grad()
def test_a_conditional_flow_prior_broadcasts_z_over_its_rows(flow: Any) -> None:
    torch.manual_seed(0)
    p = FlowPrior((3,), flow, context_features=2).double()(torch.randn(5, 2).double())
    z = torch.randn(2, 1, 3).double()
    torch.testing.assert_close(p.log_prob(z), p.log_prob(z.expand(2, 5, 3)))
