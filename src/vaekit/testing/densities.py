"""The laws of distributions, by quadrature: densities in one and two dimensions, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.trees import each, shapes_of
from vaekit.distributions.base import normal, sample_and_log_prob
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins
from vaekit.testing.grids import Grid, grid_of, product_of, support_of
from vaekit.testing.subject import Excused, Law, Subject, few, require, retyped

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

    def log_density(self, grid: Grid | None = None) -> Tensor:
        """At each point of a grid, by default its own, (N, F).

        Raises:
            Excused: If there is no density but that of the draws themselves.
        """
        points = (grid or self.grid).points.unflatten(2, self.event)
        try:
            return self.log_prob(points)
        except NotImplementedError as error:
            raise Excused("it has no log_prob") from error

    def terms(self) -> Tensor:
        """The logarithm of density times volume at each point, (N, F)."""
        return self.log_density() + self.grid.log_volume

    @classmethod
    def of(cls, p: Distribution, size: int, grid: Grid | None = None, fineness: int = 1) -> Family:
        """The distributions of p, of batch shape (F,) or (), which counts as one."""
        own: Any = p
        ways = [lambda n: p.sample(torch.Size((n,)))]
        if hasattr(p, "rsample_and_log_prob"):
            ways = [lambda n: own.rsample_and_log_prob(torch.Size((n,)))[0]]
        elif p.has_rsample:
            ways.append(lambda n: p.rsample(torch.Size((n,))))

        def drawn(way: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
            @torch.no_grad()
            def sample(n: int) -> Tensor:
                return way(n) if p.batch_shape else way(n).unsqueeze(1)

            return sample

        def log_prob(points: Tensor) -> Tensor:
            if p.batch_shape:
                return p.log_prob(points)
            return torch.stack([p.log_prob(column) for column in points.unbind(1)], 1)

        samples = [drawn(way) for way in ways]
        if grid is None:
            grid = grid_of(support_of(p), samples[0](2000), fineness)
        return cls(log_prob, samples, (size,), grid)


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
            middle, width = _position(drawn)
            # Bounded, and smooth in the tails too, which may reach far.
            at, of = (((z - middle) / width).tanh() for z in (family.grid.points, drawn))
            for name, f in _FUNCTIONS.items():
                wanted, values = (weights * f(at)).sum(0), f(of)  # (F, *)
                error = values.std(0) / _SAMPLES**0.5
                close = ((values.mean(0) - wanted).abs() < 5 * error + 1e-3).all()
                told = f"{few(values.mean(0))} over draws but {few(wanted)} by the density"
                require(close, f"the mean of {name} is {told}")


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "u = tanh of where z is": lambda u: u,
    "cos 2u": lambda u: torch.cos(2 * u),
    "sin 3u": lambda u: torch.sin(3 * u),
    "u1 u2": lambda u: u.prod(-1, keepdim=True),
}


def _position(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The median of draws (n, F, d), and half the width of the middle half of them."""
    first, middle, third = drawn.quantile(torch.tensor([0.25, 0.5, 0.75]).to(drawn), dim=0)
    return middle, torch.where(third > first, third - first, 1.0) / 2


def a_draw_s_own_density_is_right(s: Subject) -> None:
    """Where a q draws z together with l: E[r(z) exp(-l)] = 1 for every density r."""
    for model, batch, _ in _latent_models(s):
        q: Any = _q(model, _features(model, batch), batch)
        if not hasattr(q, "rsample_and_log_prob"):
            raise Excused("its draws bring no density")
        if support_of(q) is not constraints.real:
            raise Excused("its support is not the real line")
        with torch.no_grad():
            z, log_q = q.rsample_and_log_prob(torch.Size((_SAMPLES,)))
            r = normal(z.mean(0), 0.6 * z.std(0), z.dim() - 2)
            ratio = (r.log_prob(z) - log_q).exp()
        error = ratio.std(0) / _SAMPLES**0.5
        close = ((ratio.mean(0) - 1).abs() < 5 * error + 1e-6).all()
        require(close, f"E[r(z) exp(-l)] is {few(ratio.mean(0))}")


def gradients_go_through_the_draws(s: Subject) -> None:
    """The gradient of E f(z) in the features is that of the integral of f(z) q(z|x).

    Of a q that knows the density of its own draws alone it is that of f(z) for the same random
    numbers.
    """
    for model, batch, size in _latent_models(s):
        h = _features(model, batch)
        q = _q(model, h, batch)
        if not isinstance(h, Tensor):
            raise Excused("its features are a dict")
        if not (q.has_rsample or hasattr(q, "rsample_and_log_prob")):
            raise Excused("its draws have no gradient")
        if not s.evaluates(model.core):
            _differences_agree(model, h, batch)
            continue
        grid = _settled(q, size).grid
        h.requires_grad_()
        terms = Family.of(_q(model, h, batch), size, grid).terms()
        (wanted,) = torch.autograd.grad((terms.softmax(0) * _smooth(grid.points)).sum(), h)
        found = torch.stack([_gradient_of_draws(_q(model, h, batch), h) for _ in range(24)])
        error = found.std(0) / len(found) ** 0.5
        away = (found.mean(0) - wanted).abs()
        told = f"{few(found.mean(0))} over draws but {few(wanted)} by quadrature"
        require((away < 6 * error + 1e-3 * wanted.abs().max()).all(), f"it is {told}")


def _differences_agree(model: Model, h: Tensor, batch: Batch) -> None:
    """The gradient in the features, along some direction, is what differences say."""

    def value(h: Tensor) -> Tensor:
        with fixed_noise(1):
            z, _ = sample_and_log_prob(_q(model, h, batch), 10)
        return _smooth(z.flatten(2)).sum()

    way, h = torch.randn_like(h), h.requires_grad_()
    found = (torch.autograd.grad(value(h), h)[0] * way).sum()
    with torch.no_grad():
        wanted = (value(h + 1e-5 * way) - value(h - 1e-5 * way)) / 2e-5
    told = f"{few(found)} along the draws but {few(wanted)} by differences"
    require(torch.allclose(found, wanted, rtol=1e-5, atol=1e-6), f"it is {told}")


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
    for model, batch, size in _latent_models(s):
        q, p = _q(model, _features(model, batch), batch), _p(model, batch)
        try:
            closed = kl_divergence(q, p)
        except NotImplementedError:
            continue
        tried = True
        own, whole = _settled(q, size), _settled(p, size)
        # Each is divided by its own integral, so that a factor of either is told by its own law.
        log_p = whole.log_density(own.grid) - whole.terms().logsumexp(0)
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
    for model, batch, size in _latent_models(s):
        prior = s.kind == "prior"
        if prior and s.estimates(model.core):
            raise Excused("its density is estimated, which has a law of its own")
        yield _settled(
            _p(model, batch) if prior else _q(model, _features(model, batch), batch), size
        )


@torch.no_grad()
def _settled(p: Distribution, size: int) -> Family:
    """The distributions of p on a grid so fine that a finer one gives the same integral.

    Raises:
        Excused: If there is none of a size that memory holds.
    """
    family = Family.of(p, size)
    before = family.terms().logsumexp(0)
    for fineness in (2, 4):
        finer = Family.of(p, size, fineness=fineness)
        now = finer.terms().logsumexp(0)
        if torch.allclose(before, now, rtol=0, atol=5e-4):
            return family
        family, before = finer, now
    raise Excused("its density is too narrow for a grid")


def _of_rows(s: Subject) -> Iterator[Family]:
    if s.is_instance:
        raise Excused("it was made for rows of one shape")
    found = False
    for info in [s.data] if s.data else [DataInfo((n,), (0.0, 1.0), levels=2) for n in (1, 2)]:
        event = info.event_shape
        if not isinstance(event, dict) and torch.Size(event).numel() < 3 and s.accepts(event):
            found = True
            with torch.no_grad():
                yield _of_likelihood(s.model(info).double().eval().core.likelihood, s, info)
    if not found:
        raise Excused("it accepts no rows of one or two elements")


def _of_likelihood(likelihood: Any, s: Subject, info: DataInfo) -> Family:
    if likelihood.discrete is None:
        raise Excused("it says that it is no probability of its rows")
    shapes = shapes_of(likelihood.output_shape)
    y = each(lambda shape: torch.randn(_FAMILIES, *shape).double(), shapes)
    context = retyped(s.batch(info, _FAMILIES), torch.float64).context

    def at(rows: slice, n: int) -> Distribution:  # batch (F, n)
        def wide(leaf: Tensor) -> Tensor:
            return leaf[rows, None].expand(-1, n, *leaf.shape[1:])

        return likelihood(each(wide, y), None if context is None else wide(context))

    def sample(n: int) -> Tensor:
        return at(slice(None), n).sample().transpose(0, 1)

    def log_prob(points: Tensor) -> Tensor:
        found = [
            likelihood.log_prob(at(slice(f, f + 1), len(points)), points[:, f])[0]
            for f in range(_FAMILIES)
        ]
        return torch.stack(found, 1)

    drawn = sample(2000).flatten(2)
    support = support_of(at(slice(None), 1))
    if likelihood.discrete and isinstance(info.levels, int) and not support.is_discrete:
        low, high = info.data_range
        grid = product_of(torch.linspace(low, high, info.levels).double(), drawn)
    else:
        grid = grid_of(support, drawn, fineness=2)
    return Family(log_prob, [sample], tuple(info.event_shape), grid)


def _latent_models(s: Subject) -> Iterator[tuple[Model, Batch, int]]:
    """Models of one latent and of two, of three where it is built for no one, in float64; rows,
    one for each distribution; and the number of latents."""
    if s.is_instance or s.kind == "model" or "latent_shape" in s.around:
        raise Excused("its latents are of one size alone")
    found = 0
    for size in (1, 2, 3):
        try:
            model = s.model(latent_shape=size).double().eval()
        except plugins.RegistryError as error:
            refused = error
            continue
        if not s.dense(model.core):
            raise Excused("q declares that it has no density")
        found += 1
        yield model, retyped(s.batch(model.info, _FAMILIES), torch.float64), size
        if found == 2:
            return
    if not found:
        raise Excused("it is not built for 1, 2 or 3 latents") from refused


@torch.no_grad()
def _features(model: Model, batch: Batch) -> Any:
    encoder: Any = model.core.encoder
    return encoder(batch.x, batch.context)


def _p(model: Model, batch: Batch) -> Distribution:
    prior: Any = model.core.prior
    return prior(model.core.prior_context(batch.context), model.core.infer)


def _q(model: Model, h: Any, batch: Batch) -> Distribution:
    def log_joint(z: Tensor) -> Tensor:
        return -z.flatten(2).square().sum(-1) / 2

    return model.core.posterior(h, batch.context, log_joint)


OF_DENSITIES: tuple[Law, ...] = (a_density_integrates_to_one, draws_agree_with_the_density)
OF_PRIORS: tuple[Law, ...] = (*OF_DENSITIES, a_registered_kl_is_the_integral)
OF_POSTERIORS: tuple[Law, ...] = (
    *OF_PRIORS,
    a_draw_s_own_density_is_right,
    gradients_go_through_the_draws,
)
