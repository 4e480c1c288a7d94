"""The laws of distributions, by quadrature: p of one and of two dimensions, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from vaekit import plugins
from vaekit.batch import DataInfo, each, shapes_of
from vaekit.distributions import normal
from vaekit.model import Model
from vaekit.testing.grids import Grid, grid_of, product_of, support_of
from vaekit.testing.subject import Excused, Subject, few, require, retyped

__all__ = ["DENSITY", "POSTERIOR", "PRIOR"]

_FAMILIES = 3  # distributions of a part that are looked at
_SAMPLES = 20_000


@dataclass
class Family:
    """F distributions of one part, over events of one dimension or two.

    Arguments:
        log_prob: points (N, F, *event) -> (N, F) in nats.
        samples: Ways to draw, n -> (n, F, *event).
        event: The event's shape.
        grid: What is summed over.
    """

    log_prob: Callable[[Tensor], Tensor]
    samples: list[Callable[[int], Tensor]]
    event: tuple[int, ...]
    grid: Grid

    def log_density(self) -> Tensor:
        """At each point of the grid, (N, F)."""
        return self.log_prob(self.grid.points.unflatten(2, self.event))

    def terms(self) -> Tensor:
        """The logarithm of density times volume at each point, (N, F)."""
        return self.log_density() + self.grid.log_volume


def a_density_integrates_to_one(s: Subject) -> None:
    """Over its support; probabilities of discrete values sum to one."""
    for family in _families(s):
        total = family.terms().logsumexp(0).exp()
        close = ((total - 1).abs() < 2e-3).all()
        require(close, f"over {family.event} it integrates to {few(total)}")


def draws_agree_with_the_density(s: Subject) -> None:
    """Means of bounded functions over draws are those under the density, up to its factor."""
    for family in _families(s):
        weights = family.terms().softmax(0).unsqueeze(2)  # (N, F, 1)
        for sample in family.samples:
            drawn = sample(_SAMPLES).flatten(2)  # (n, F, d)
            for name, f in _FUNCTIONS.items():
                wanted, values = (weights * f(family.grid.points)).sum(0), f(drawn)  # (F, *)
                error = values.std(0) / _SAMPLES**0.5
                close = ((values.mean(0) - wanted).abs() < 5 * error + 1e-3).all()
                told = f"{few(values.mean(0))} over draws but {few(wanted)} by the density"
                require(close, f"the mean of {name} is {told}")


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh z": torch.tanh,
    "cos z": torch.cos,
    "sin 3z": lambda z: torch.sin(3 * z),
    "tanh z1 tanh z2": lambda z: torch.tanh(z).prod(-1, keepdim=True),
}


def a_draw_s_own_density_is_right(s: Subject) -> None:
    """Where a q draws z together with l: E[r(z) exp(-l)] = 1 for every density r."""
    for size in (1, 2):
        model = _latent_model(s, size)
        q: Any = _q(model, _features(s, model))
        if not hasattr(q, "rsample_and_log_prob"):
            raise Excused("its draws bring no density")
        with torch.no_grad():
            z, log_q = q.rsample_and_log_prob(torch.Size((_SAMPLES,)))
            r = normal(z.mean(0), 0.6 * z.std(0), z.dim() - 2)
            ratio = (r.log_prob(z) - log_q).exp()
        error = ratio.std(0) / _SAMPLES**0.5
        close = ((ratio.mean(0) - 1).abs() < 5 * error + 1e-6).all()
        require(close, f"E[r(z) exp(-l)] is {few(ratio.mean(0))}")


def gradients_go_through_the_draws(s: Subject) -> None:
    """The gradient of E f(z) in the features is that of the integral of f(z) q(z|x)."""
    for size in (1, 2):
        model = _latent_model(s, size)
        h = _features(s, model)
        q = _q(model, h)
        if not isinstance(h, Tensor):
            raise Excused("its features are a dict")
        if not (q.has_rsample or hasattr(q, "rsample_and_log_prob")):
            raise Excused("its draws have no gradient")
        family = _family_of(q, size)
        h.requires_grad_()
        weights = _family_of(_q(model, h), size, family.grid).terms().softmax(0)  # (N, F)
        (wanted,) = torch.autograd.grad((weights * _smooth(family.grid.points)).sum(), h)
        found = torch.stack([_gradient_of_draws(_q(model, h), h) for _ in range(24)])
        error = found.std(0) / len(found) ** 0.5
        away = (found.mean(0) - wanted).abs()
        told = f"{few(found.mean(0))} over draws but {few(wanted)} by quadrature"
        require((away < 6 * error + 1e-3 * wanted.abs().max()).all(), f"it is {told}")


def _gradient_of_draws(q: Any, h: Tensor) -> Tensor:
    shape = torch.Size((1000,))
    z = q.rsample(shape) if q.has_rsample else q.rsample_and_log_prob(shape)[0]
    if not z.requires_grad:
        return torch.zeros_like(h)
    mean = _smooth(z.flatten(2)).mean(0).sum()
    (g,) = torch.autograd.grad(mean, h, allow_unused=True)
    return torch.zeros_like(h) if g is None else g


def _smooth(z: Tensor) -> Tensor:
    return (torch.tanh(z) + 0.3 * torch.cos(2 * z)).sum(-1)


def a_registered_kl_is_the_integral(s: Subject) -> None:
    """KL(q || p) in closed form is the integral of q (log q - log p), where one is registered."""
    tried = False
    for size in (1, 2):
        model = _latent_model(s, size)
        q, p = _q(model, _features(s, model)), _p(model)
        try:
            closed = kl_divergence(q, p)
        except NotImplementedError:
            continue
        tried, own = True, _family_of(q, size)
        whole = _family_of(p, size)  # each over its own grid, to be free of a factor
        log_p = _family_of(p, size, own.grid).log_density() - whole.terms().logsumexp(0)
        log_q = own.log_density() - own.terms().logsumexp(0)
        weight = (log_q + own.grid.log_volume).exp()
        wanted = torch.where(weight > 0, weight * (log_q - log_p), 0.0).sum(0)
        close = torch.allclose(closed, wanted, rtol=2e-3, atol=1e-3)
        require(close, f"it says {few(closed)} but the integral is {few(wanted)}")
    if not tried:
        raise Excused("none is registered")


# What is integrated


def _families(s: Subject) -> Iterator[Family]:
    if s.kind == "likelihood":
        yield from _of_rows(s)
        return
    for size in (1, 2):
        model = _latent_model(s, size)
        p = _p(model) if s.kind == "prior" else _q(model, _features(s, model))
        with torch.no_grad():
            yield _family_of(p, size)


def _family_of(p: Distribution, size: int, grid: Grid | None = None) -> Family:
    """The distributions of p, of batch shape (F,) or (), which counts as one."""

    def drawn(way: Any) -> Callable[[int], Tensor]:
        def sample(n: int) -> Tensor:
            with torch.no_grad():
                z: Tensor = way(torch.Size((n,)))
            return z if p.batch_shape else z.unsqueeze(1)

        return sample

    def log_prob(points: Tensor) -> Tensor:
        if p.batch_shape:
            return p.log_prob(points)
        return torch.stack([p.log_prob(column) for column in points.unbind(1)], 1)

    samples = [drawn(way) for way in [p.sample, *([p.rsample] if p.has_rsample else [])]]
    grid = grid or grid_of(support_of(p), samples[0](2000))
    return Family(log_prob, samples, (size,), grid)


def _of_rows(s: Subject) -> Iterator[Family]:
    if s.given:
        raise Excused("it was made for rows of one shape")
    found = False
    for info in [s.data] if s.data else [DataInfo((n,), (0.0, 1.0), levels=2) for n in (1, 2)]:
        event = info.event_shape
        if not isinstance(event, dict) and torch.Size(event).numel() < 3 and s.cls.accepts(event):
            found = True
            with torch.no_grad():
                yield _of_likelihood(s.model(info).double().eval().core.likelihood, info)
    if not found:
        raise Excused("it accepts no rows of one or two elements")


def _of_likelihood(likelihood: Any, info: DataInfo) -> Family:
    if likelihood.discrete is None:
        raise Excused("it says that it is no probability of its rows")
    shapes = shapes_of(likelihood.output_shape)
    y = each(lambda shape: torch.randn(_FAMILIES, *shape).double(), shapes)

    def at(rows: slice, n: int) -> Distribution:  # batch (F, n)
        return likelihood(each(lambda leaf: leaf[rows, None].expand(-1, n, *leaf.shape[1:]), y))

    def sample(n: int) -> Tensor:
        return at(slice(None), n).sample().transpose(0, 1)

    def log_prob(points: Tensor) -> Tensor:
        found = [
            likelihood.log_prob(at(slice(f, f + 1), len(points)), points[:, f])[0]
            for f in range(_FAMILIES)
        ]
        return torch.stack(found, 1)

    drawn = sample(2000).flatten(2)
    if likelihood.discrete and isinstance(info.levels, int):
        low, high = info.data_range
        grid = product_of(torch.linspace(low, high, info.levels).double(), drawn)
    else:
        grid = grid_of(support_of(at(slice(None), 1)), drawn)
    return Family(log_prob, [sample], tuple(info.event_shape), grid)


def _latent_model(s: Subject, size: int) -> Model:
    if s.given or s.kind == "model" or "latent_shape" in s.around:
        raise Excused("its latents are of one size alone")
    try:
        model = s.model(latent_shape=size).double().eval()
    except plugins.RegistryError as error:
        raise Excused(f"it is not built for {size} latents") from error
    if not s.dense(model.core):
        raise Excused("q declares that it has no density")
    return model


def _features(s: Subject, model: Model) -> Any:
    """What the encoder makes of some rows."""
    encoder: Any = model.core.encoder
    batch = retyped(s.batch(model.info, rows=_FAMILIES), torch.float64)
    with torch.no_grad():
        return encoder(batch.x, batch.context)


def _p(model: Model) -> Distribution:
    prior: Any = model.core.prior
    return prior(None, model.core.infer)


def _q(model: Model, h: Any) -> Distribution:
    def log_joint(z: Tensor) -> Tensor:
        return -z.flatten(2).square().sum(-1) / 2

    return model.core.posterior(h, None, log_joint)


DENSITY = (a_density_integrates_to_one, draws_agree_with_the_density)
PRIOR = (*DENSITY, a_registered_kl_is_the_integral)
POSTERIOR = (*PRIOR, a_draw_s_own_density_is_right, gradients_go_through_the_draws)
