"""Grids over the support of distributions, dense where they have their mass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import pad, softplus

from vaekit.distributions.manifolds import Ball, Sphere
from vaekit.testing.subject import Excused


@dataclass
class Grid:
    """Points (N, F, d), for each of F distributions, and the log of the volume of each (N, F)."""

    points: Tensor
    log_volume: Tensor


class _Line(NamedTuple):
    """A map of the real line onto a support: there, back, and the logarithm of its slope."""

    onto: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    log_slope: Callable[[Tensor], Tensor]
    end: float


def support_of(p: Distribution) -> Any:
    """Where each element of p lies; the real line where it does not say."""
    support: Any
    try:
        support = p.support
    except NotImplementedError:
        support = None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return constraints.real if support is None else support


def grid_of(support: Any, draws: Tensor, fineness: int = 1) -> Grid:
    """The grid for densities on a support, of which there are draws (n, F, d).

    Its points lie as sinh does around the median of the draws, in units of the middle half of
    them, after the support is mapped onto the real line, or a ball onto R^n. On a sphere they lie
    evenly.

    Arguments:
        fineness: How many times as many points as usual each axis has.

    Raises:
        Excused: If the support is no product of intervals or of integers, no simplex, no sphere
            and no ball, or the draws lie at its ends, as close as numbers come.
    """
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    flat = draws.shape[2] == 1
    if support is constraints.simplex:
        return _of_simplex(draws, fineness)
    if support is constraints.one_hot:
        return _of_one_hot(draws)
    if support is constraints.boolean:
        return product_of(torch.tensor([0.0, 1.0]).double(), draws)
    if isinstance(support, Sphere):
        return _of_sphere(draws, fineness)
    if isinstance(support, Ball):
        return _of_ball(support.curvature, draws, fineness)
    if support.is_discrete and low is not None:
        last = _last(int(low), draws, flat) if high is None else int(high)
        return product_of(torch.arange(int(low), last + 1).double(), draws)
    if support.is_discrete or (low is None and high is None and support is not constraints.real):
        raise Excused("its support is no product of intervals")
    line = _line(low, high)
    y = line.back(draws)
    if (y.abs() >= line.end).double().mean() > 0.01:
        raise Excused("its draws lie at the ends of its support")
    y, log_volume = _axes(y.clamp(-line.end, line.end), fineness)
    log_volume = torch.where(y.abs() < line.end, log_volume + line.log_slope(y), -torch.inf)
    return _product(line.onto(y.clamp(-line.end, line.end)), log_volume)


def _axes(y: Tensor, fineness: int) -> tuple[Tensor, Tensor]:
    """Points (N, F, d) of the real line around draws (n, F, d), and the log of their lengths."""
    middle = y.median(0).values  # (F, d)
    first, third = y.quantile(torch.tensor([0.25, 0.75]).to(y), dim=0)
    width = (third - first).clamp(min=1e-6)
    u = torch.linspace(-11, 11, (2000 if y.shape[2] == 1 else 300) * fineness + 1).double()
    step, u = log(float(u[1] - u[0])), u[:, None, None]
    return middle + width * u.sinh(), width.log() + u.cosh().log() + step


def _of_sphere(draws: Tensor, fineness: int) -> Grid:
    """Even in the angle on the circle; in height and longitude on the sphere of R^3."""
    size, n = draws.shape[2], (2000 if draws.shape[2] == 2 else 300) * fineness
    if size > 3:
        raise Excused("its sphere is of more than three dimensions")
    angle = 2 * pi * (torch.arange(n).double() + 0.5) / n
    points, volume = torch.stack([angle.cos(), angle.sin()], 1), 2 * pi / n
    if size == 3:  # bands of one height have one area
        height = (2 * torch.arange(n).double() + 1) / n - 1
        at = torch.cartesian_prod(torch.arange(n), torch.arange(n))
        across = (1 - height.square()).sqrt()[at[:, :1]] * points[at[:, 1]]
        points, volume = torch.cat([height[at[:, :1]], across], 1), volume * 2 / n
    points = points[:, None].expand(-1, *draws.shape[1:])
    return Grid(points, torch.full(points.shape[:2], log(volume)).double())


def _of_ball(curvature: float, draws: Tensor, fineness: int) -> Grid:
    """That of R^n, mapped onto the ball by x = y / sqrt(c (1 + |y|²))."""
    n, root = draws.shape[2], sqrt(curvature)
    room = 1 - curvature * draws.square().sum(-1, keepdim=True)
    y, log_volume = _axes(root * draws / room.sqrt(), fineness)
    grid = _product(y, log_volume)
    square = grid.points.square().sum(-1, keepdim=True)
    slope = -(n / 2 + 1) * square.log1p() - n * log(root)
    # Nearer to the edge numbers cannot tell it.
    log_volume = torch.where(square < 1e10, grid.log_volume[..., None] + slope, -torch.inf)
    points = grid.points / (root * (1 + square.clamp(max=1e10)).sqrt())
    return Grid(torch.where(square < 1e10, points, 0.0), log_volume[..., 0])


def _of_simplex(draws: Tensor, fineness: int) -> Grid:
    """Volumes are those of all coordinates but the last, over whose log-ratios the points lie."""
    log_z = draws.log()
    ratios = grid_of(constraints.real, log_z[..., :-1] - log_z[..., -1:], fineness)
    log_z = pad(ratios.points, (0, 1)).log_softmax(-1)
    seen = (log_z > -600).all(-1)  # what lies nearer to the edge is no number, and next to nothing
    log_volume = torch.where(seen, ratios.log_volume + log_z.sum(-1), -torch.inf)
    return Grid(log_z.clamp(min=-600).exp(), log_volume)


def _of_one_hot(draws: Tensor) -> Grid:
    _, families, classes = draws.shape
    points = torch.eye(classes).double()[:, None].expand(-1, families, -1)
    return Grid(points, torch.zeros_like(points[..., 0]))


def _last(low: int, draws: Tensor, flat: bool) -> int:
    """The largest whole number of a grid, beyond which there is next to no mass."""
    reach = int(draws.max()) - low
    if reach > (10**5 if flat else 200):
        raise Excused("its draws reach further than a grid")
    return low + (max(3000, 4 * reach) if flat else 400)


def product_of(values: Tensor, draws: Tensor) -> Grid:
    """The grid of these values of each element, of draws (n, F, d)."""
    points = values[:, None, None].expand(-1, *draws.shape[1:])
    return _product(points, torch.zeros_like(points))


def _line(low: Any, high: Any) -> _Line:
    if low is None and high is None:
        return _Line(lambda y: y, lambda x: x, torch.zeros_like, 1e100)
    if low is not None and high is not None:
        width = torch.as_tensor(high - low).double()
        return _Line(
            lambda y: low + width * y.sigmoid(),
            lambda x: ((x - low) / width).clamp(0, 1).logit(),  # off by rounding at most
            lambda y: width.log() - softplus(y) - softplus(-y),
            33.0,
        )
    if high is None:
        return _Line(lambda y: low + y.exp(), lambda x: (x - low).log(), lambda y: y, 300.0)
    return _Line(lambda y: high - y.exp(), lambda x: (high - x).log(), lambda y: y, 300.0)


def _product(points: Tensor, log_volume: Tensor) -> Grid:
    """The product of d axes (n, F, d)."""
    n, _, d = points.shape
    at = torch.cartesian_prod(*[torch.arange(n)] * d).view(-1, d)
    columns = [points[at[:, k], :, k] for k in range(d)]
    volumes = [log_volume[at[:, k], :, k] for k in range(d)]
    return Grid(torch.stack(columns, 2), torch.stack(volumes).sum(0))
