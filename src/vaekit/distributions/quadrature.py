"""Densities of an angle or a distance, by quadrature: normaliser, mean and quantiles."""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from vaekit.numerics.precision import widest

_CELLS, _REACH, _TINY = 256, 10.0, 1e-30


class _Integral(NamedTuple):
    """The integral of the cubics through values and slopes at points that lie one apart.

    Arguments:
        y: The values, (*batch, N).
        slope: The slopes, (*batch, N).
        until: The integral up to each point, (*batch, N).
    """

    y: Tensor
    slope: Tensor
    until: Tensor

    @classmethod
    def of(cls, y: Tensor, slope: Tensor) -> _Integral:
        cells = (y[..., :-1] + y[..., 1:]) / 2 + (slope[..., :-1] - slope[..., 1:]) / 12
        return cls(y, slope, pad(cells.cumsum(-1), (1, 0)))

    @property
    def total(self) -> Tensor:
        return self.until[..., -1:]

    def polynomial(self, cell: Tensor) -> list[Tensor]:
        """Its coefficients from the start of each cell on, the constant first, (*batch, S)."""
        start, y, slope = (x.gather(-1, cell) for x in (self.until, self.y, self.slope))
        rise, end = self.y.gather(-1, cell + 1) - y, self.slope.gather(-1, cell + 1)
        third, fourth = rise - (2 * slope + end) / 3, (slope + end) / 4 - rise / 2
        return [start, y, slope / 2, third, fourth]


def _value(polynomial: list[Tensor], x: Tensor) -> Tensor:
    *rest, value = polynomial
    for coefficient in reversed(rest):
        value = torch.addcmul(coefficient, value, x)
    return value


class RadialDensity:
    r"""A density of one number t, on a grid of its own for each element of the batch.

    .. math:: p(t) = \frac{J(t)^m \exp(\kappa\, T(t))}{Z(\kappa)}

    Integrals are those of the cubics through the density's values and slopes at 257 points around
    the mode, in float64 where the device has that.

    Arguments:
        power: m, at least 0.
        rate: kappa, with shape `(*batch)`.

    Attributes:
        log_normalizer: log Z, with its first two derivatives in kappa, `(*batch)`.
        mean: E[T(t)], with its first derivative in kappa, `(*batch)`.
    """

    def __init__(self, power: int, rate: Tensor) -> None:
        self.power, self.rate = power, widest(rate)
        fixed = self.rate.detach()
        with torch.no_grad():
            low, high = self.ends(fixed)
            self.low, self.step = low[..., None], ((high - low) / _CELLS)[..., None]
            log_z, mean, variance = (x[..., 0] for x in self._integrate(fixed[..., None]))
        change = self.rate - fixed  # zero: it carries the derivatives
        self.log_normalizer = log_z + change * (mean + change * variance / 2)
        self.mean = mean + change * variance

    def _integrate(self, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log Z, and mean and variance of T, (*batch, 1)."""
        places = torch.arange(_CELLS + 1, dtype=rate.dtype, device=rate.device)
        t = self.low + self.step * places
        (log_j, slope_j), (stat, slope) = self.measure(t), self.statistic(t)
        log_y = self.power * log_j + rate * stat
        top = log_y.amax(-1, keepdim=True)
        y = (log_y - top).exp()
        dy, slope = self.step * y * (self.power * slope_j + rate * slope), self.step * slope
        self.mass = _Integral.of(y, dy)
        total = self.mass.total
        mean = _Integral.of(y * stat, dy * stat + y * slope).total / total
        stat = stat - mean
        self.moment = _Integral.of(y * stat, dy * stat + y * slope)
        square = _Integral.of(y * stat * stat, (dy * stat + 2 * y * slope) * stat)
        return top + (total * self.step).log(), mean, square.total / total

    def ends(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """From where to where there is any mass."""
        raise NotImplementedError

    def measure(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """log J, and its slope."""
        raise NotImplementedError

    def statistic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """T, and its slope."""
        raise NotImplementedError

    def quantile(self, u: Tensor) -> Tensor:
        r"""The t below which there is a share u of the mass, differentiable in kappa.

        .. math:: \frac{dt}{d\kappa} = -\frac{1}{p(t)} \frac{\partial}{\partial\kappa}
            \int_{-\infty}^t p(s)\,ds

        Arguments:
            u: Shares with shape `(*, *batch)`; no gradient flows to them.

        References:
            Implicit Reparameterization Gradients (Figurnov, Mohamed and Mnih, 2018),
            https://arxiv.org/abs/1805.08498
        """
        with torch.no_grad():
            flat = u.to(self.rate).reshape(-1, *self.rate.shape).movedim(0, -1)
            wanted = (flat * self.mass.total).contiguous()  # (*batch, S)
            cell = torch.searchsorted(self.mass.until, wanted, right=True) - 1
            cell = cell.clamp(0, _CELLS - 1)
            mass = self.mass.polynomial(cell)
            density = [power * part for power, part in enumerate(mass)][1:]
            x = torch.full_like(wanted, 0.5)
            for _ in range(6):  # Newton's method
                excess = _value(mass, x) - wanted
                x = (x - excess / _value(density, x).clamp(min=_TINY)).clamp(0, 1)
            t = self.low + self.step * (cell + x)
            moved = _value(self.moment.polynomial(cell), x)
            slope = -self.step * moved / _value(density, x).clamp(min=_TINY)
        t = t + slope * (self.rate - self.rate.detach())[..., None]
        return t.movedim(-1, 0).reshape(u.shape)


class Angle(RadialDensity):
    r"""The angle between a vector of a von Mises-Fisher distribution and its mean direction.

    .. math:: p(t) \propto \sin^m(t) \exp(\kappa (\cos t - 1)), \qquad 0 < t < \pi

    Example:
        >>> import torch
        >>> 1 + Angle(1, torch.tensor(2.0)).mean  # E[cos t] = coth 2 - 1/2
        tensor(0.5373, dtype=torch.float64)
    """

    def ends(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        m = self.power
        curvature = (m + (m * m + 4 * rate * rate).sqrt()) / 2  # at the mode, within a factor of 2
        mode, reach = torch.atan2((m * curvature).sqrt(), rate), _REACH / curvature.sqrt()
        return (mode - reach).clamp(min=0), (mode + reach).clamp(max=pi)

    def measure(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sine = t.sin().clamp(min=_TINY)
        return sine.log(), t.cos() / sine

    def statistic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -2 * (t / 2).sin().square(), -t.sin()


class Distance(RadialDensity):
    r"""The distance from the mean of a Normal in a space of curvature -1.

    .. math:: p(t) \propto \sinh^m(t) \exp(-\kappa\, t^2 / 2), \qquad t > 0

    Example:
        >>> import torch
        >>> Distance(0, torch.tensor(4.0)).quantile(torch.tensor(0.6827))
        tensor(0.5000, dtype=torch.float64)
    """

    def ends(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        a = self.power / rate  # t tanh t = a at the mode
        mode, reach = (a + (a * a + 4 * a).sqrt()) / 2, _REACH / rate.sqrt()
        for _ in range(6):  # Newton's method
            tanh = mode.tanh()
            slope = tanh + mode * (1 - tanh * tanh)
            mode = mode - (mode * tanh - a) / slope.clamp(min=_TINY)
        return (mode - reach).clamp(min=0), mode + reach

    def measure(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.clamp(min=_TINY)
        return t + (-(-2 * t).expm1()).log() - log(2), 1 / t.tanh()

    def statistic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -t * t / 2, -t
