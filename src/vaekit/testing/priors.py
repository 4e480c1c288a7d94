"""The laws of priors that are fitted after training, or that estimate their density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.prior import FittedPrior
from vaekit.distributions.base import normal
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise
from vaekit.testing.subject import Excused, Law, Subject, few, require

_SAMPLES, _ROWS = 20_000, 400


def an_estimated_density_is_that_of_the_draws(s: Subject) -> None:
    """Of a prior that estimates log p(z): E[exp(log p(z))] integrates to one, and means of bounded
    functions under it are those over draws."""
    model = s.model().double().eval()
    if not s.estimates(model.core):
        raise Excused("it estimates no density")
    own: Any = model.core.prior
    p = own(model.core.prior_context(s.batch(model.info, 1).context))
    with torch.no_grad():
        drawn = p.sample(torch.Size((_SAMPLES,)))
        r = normal(drawn.mean(0), 1.5 * drawn.std(0), len(model.latent_shape))
        z = r.sample(torch.Size((_SAMPLES,)))
        ratio = (p.log_prob(z) - r.log_prob(z)).exp()
    scale = drawn.std(0)
    at, of = (((x - drawn.mean(0)) / scale).flatten(1).tanh() for x in (z, drawn))
    ratio = ratio.unsqueeze(1)
    for name, under, over in (
        ("1", ratio, torch.ones_like(of[:, :1])),
        ("u = tanh of where z is", ratio * at, of),
        ("cos 2u", ratio * torch.cos(2 * at), torch.cos(2 * of)),
        ("u1 u2", ratio * at * at.roll(1, 1), of * of.roll(1, 1)),
    ):
        error = ((under.var(0) + over.var(0)) / _SAMPLES).sqrt()
        close = ((under.mean(0) - over.mean(0)).abs() < 5 * error + 1e-3).all()
        told = f"{few(under.mean(0))} by the density but {few(over.mean(0))} over draws"
        require(close, f"the mean of {name} is {told}")


def a_fit_brings_it_to_the_codes(s: Subject) -> None:
    """After `fit` other codes of the same kind are likelier than under the standard Normal, and
    draws have about their means and spreads; the shapes of its state stay, and the same seed fits
    the same again."""
    model, again = s.model(), s.model()
    both = [_fitted_prior(m) for m in (model, again)]
    prior = both[0]
    z = s.codes(model, 2 * _ROWS)
    before = {name: x.shape for name, x in prior.state_dict().items()}
    trained = [name for name, p in prior.named_parameters() if p.requires_grad]
    context = model.core.prior_context(s.batch(model.info, _ROWS).context)
    for one in both:
        with fixed_noise(1):
            one.fit(z[:_ROWS], context)
    after = prior.state_dict()
    changed = [name for name, x in after.items() if x.shape != before.get(name)]
    require(before.keys() == after.keys() and not changed, f"fit changes shapes: {changed}")
    now = [name for name, p in prior.named_parameters() if p.requires_grad]
    require(now == trained, f"fit changes which parameters are trained: {trained}, then {now}")
    other = both[1].state_dict()
    apart = [name for name, x in after.items() if not torch.equal(x, other[name])]
    require(not apart, f"the same seed of torch fits {', '.join(apart)} otherwise")
    _holds_codes(model, prior, z[_ROWS:], context)


def _fitted_prior(model: Model) -> FittedPrior:
    prior = model.core.prior
    if not isinstance(prior, FittedPrior):
        raise Excused("it is not fitted after training")
    return prior


@torch.no_grad()
def _holds_codes(model: Model, prior: FittedPrior, z: Tensor, context: Tensor | None) -> None:
    p = prior(context)
    standard = normal(torch.zeros_like(z), torch.ones_like(z), z.dim() - 1)
    log_p, before = p.log_prob(z).mean(), standard.log_prob(z).mean()
    told = f"{float(log_p):.4g} nats but {float(before):.4g} under the standard Normal"
    require(log_p > before, f"log p(z) of codes is {told}")
    shape = torch.Size((20_000,) if not p.batch_shape else (100,))
    drawn = p.sample(shape).reshape(-1, *model.latent_shape)
    away = ((drawn.mean(0) - z.mean(0)) / z.std(0)).abs().max()
    require(away < 0.3, f"the mean of draws is {few(drawn.mean(0))}, of codes {few(z.mean(0))}")
    ratio = (drawn.std(0) / z.std(0)).log().abs().max()
    require(ratio < 0.7, f"the spread of draws is {few(drawn.std(0))}, of codes {few(z.std(0))}")


def too_few_codes_are_refused(s: Subject) -> None:
    """`fit` refuses what it cannot be fitted to with a ValueError, and stays what it was."""
    model = s.model()
    prior = _fitted_prior(model)
    before = {name: x.clone() for name, x in prior.state_dict().items()}
    context = model.core.prior_context(s.batch(model.info, 1).context)
    try:
        prior.fit(s.codes(model, 1), context)
    except ValueError:
        after = prior.state_dict()
        same = all(torch.equal(x, after[name]) for name, x in before.items())
        require(same, "one row is refused, but its state is another")
        return
    raise AssertionError("one row is not refused")


OF_FITTED: tuple[Law, ...] = (
    an_estimated_density_is_that_of_the_draws,
    a_fit_brings_it_to_the_codes,
    too_few_codes_are_refused,
)
