"""Densities of angles and distances against scipy's quadrature and differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from vaekit.distributions.quadrature import Angle, Distance, RadialDensity


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CASES: list[tuple[type[RadialDensity], int, float]] = [
    *[(Angle, m, k) for m, k in ((0, 0.0), (0, 3.0), (1, 0.5), (8, 100.0), (48, 1e4), (498, 9.0))],
    *[(Distance, m, k) for m, k in ((0, 2.0), (1, 0.1), (4, 50.0), (49, 3.0))],
]


@pytest.mark.parametrize(("family", "m", "kappa"), CASES)
def test_quantiles_are_those_of_the_integrated_density(
    family: type[RadialDensity], m: int, kappa: float
) -> None:
    p = family(m, f64(kappa)[0])

    def density(t: float) -> float:
        if family is Angle:
            log_p = m * np.log(np.sin(t)) - 2 * kappa * np.sin(t / 2) ** 2
        else:
            log_p = m * (t + np.log(-np.expm1(-2 * t) / 2)) - kappa * t * t / 2
        return float(np.exp(log_p - float(p.log_normalizer)))

    low, high = float(p.low) + 1e-300, float(p.low + 256 * p.step)
    for u in (1e-4, 0.03, 0.5, 0.9, 1 - 1e-5):
        t = float(p.quantile(f64(u))[0])
        below, above = (
            quad(density, *ends, limit=400, epsabs=0, epsrel=1e-9)[0]
            for ends in ((low, t), (t, high))
        )
        assert below == pytest.approx(u, rel=1e-4)
        assert above == pytest.approx(1 - u, rel=1e-4)


@pytest.mark.parametrize(("family", "m", "kappa"), CASES)
def test_gradients_are_those_of_differences(
    family: type[RadialDensity], m: int, kappa: float
) -> None:
    u = f64(1e-3, 0.2, 0.7, 0.999)

    def terms(at: Tensor) -> Tensor:
        p = family(m, at)
        return torch.cat([p.quantile(u), p.mean[None], p.log_normalizer[None]])

    rate = f64(kappa + 0.01)[0]
    found = torch.autograd.functional.jacobian(terms, rate)
    step = 1e-3 * float(rate)
    wanted = (terms(rate + step) - terms(rate - step)) / (2 * step)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_the_log_normalizer_has_a_second_derivative() -> None:
    rate = f64(3.0)[0].requires_grad_()
    (first,) = torch.autograd.grad(Angle(1, rate).log_normalizer, rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    variance = 1 / 9 - 1 / np.sinh(3) ** 2  # of the cosine on the sphere of R^3
    assert float(second) == pytest.approx(variance, rel=1e-6)
