"""Whether the posterior collapses: how many latents a model uses, watched in a fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import Prior
from vaekit.contracts.support import same_support
from vaekit.distributions.factors import factor_rates, factorises
from vaekit.model.model import Model
from vaekit.numerics.precision import widest
from vaekit.numerics.random import fixed_noise

_ACTIVE = 0.01  # of the prior's variance, above which Burda et al. call a latent active
_DRAWS = 1000  # of a prior whose variance has no closed form
_SILENT = 0.05  # nats, below which a latent says next to nothing
_MOST = 256  # latents whose rates are logged
_HELPS = (
    "What helps: with the objective ELBO free bits (--model.objective.free_bits 0.1; for flows "
    "with free_bits_per level) or a warm-up of beta (--model.objective.beta Linear "
    "--model.objective.beta.steps 10000), the objective GECO, or, where the likelihood's scale is "
    "learned, a floor under it (--model.likelihood.min_scale 0.1)."
)


class PosteriorCollapseWarning(UserWarning):
    """Hardly a latent says anything of the rows: q(z|x) has become the prior."""


class CollapseWatch(Callback):
    """Counts the latents that a model uses, in each validation of a fit; a fit has one by default.

    It encodes validation rows of a vaekit data module and logs `val/active_units`: how many
    latents have a point (by default the mean) whose variance over the rows is above 0.01 times the
    prior's variance of that latent. Under a standard Normal prior that is the definition of Burda
    et al. The prior's variance is estimated from 1000 draws if it has no closed form, and is taken
    as 1 if it is not finite or the model has several priors. Where q and p factorise, and there
    are at most 256 latents, it logs the KL of each, in nats, as a mean over the rows: `val/kl/0`
    and so on. Of a hierarchy it looks at what `infer` returns, without
    KLs. It warns once, of a posterior of real numbers with a density: when in two successive
    validations at most a tenth of the latents was active, and none varies more than before, as
    they do while a model begins to learn. A latent with a KL of .05 nats or more is not called
    off; where the KLs are not known and the prior learns, whose scale may be any, nothing is.

    Arguments:
        rows: How many rows to encode at most, the first; 0 for no watch.
        patience: After how many optimizer steps it may warn; before, a model has hardly begun.

    Raises:
        ValueError: If `rows` or `patience` is negative.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519,
        for active units
    """

    def __init__(self, rows: int = 2000, patience: int = 1000) -> None:
        for name, value in (("rows", rows), ("patience", patience)):
            if value < 0:
                raise ValueError(f"Expected {name} to be at least 0 but got {value}.")
        self.rows, self.patience = rows, patience
        self.low = 0
        """In how many validations in a row hardly a latent was active."""
        self.most = 0.0
        """The largest variance of a latent in the newest."""
        self.told = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.low, self.told = 0, False

    def state_dict(self) -> dict[str, Any]:
        return {"low": self.low, "most": self.most, "told": self.told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.low, self.told = state_dict["low"], state_dict["told"]
        self.most = state_dict["most"]

    def names(self, model: Model, data: Any) -> set[str]:
        """Of the numbers that it logs of a data module's validation rows."""
        seen = look(model, data.rows("val", 2)) if self.rows else None
        return {f"val/{name}" for name in (seen.numbers() if seen else ())}

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Not when the epoch starts or ends: there other callbacks, such as EMA, change weights.
        first = batch_idx == dataloader_idx == 0
        if not first or trainer.state.fn != "fit" or trainer.sanity_checking or not self.rows:
            return
        data = pl_module.data
        if "val" not in getattr(data, "splits", ()):
            return
        seen = look(pl_module.model, data.rows("val", self.rows))
        if seen is None:
            return
        for name, value in seen.numbers().items():
            # The same on all ranks, as the rows are: the mean over them is itself.
            pl_module.log(
                f"val/{name}",
                value,
                prog_bar=name == "active_units",
                sync_dist=True,
                batch_size=1,
                add_dataloader_idx=False,
            )
        begun = trainer.global_step >= self.patience
        known = seen.rates is not None or pl_module.model.core.learned_prior is None
        news = self.is_news(pl_module.model.core.posterior, seen, begun and known)
        if news and trainer.is_global_zero:
            warnings.warn(
                f"The posterior has collapsed: {seen.units} of {len(seen.variances)} latents vary "
                f"over the validation rows (val/active_units). {_HELPS}",
                PosteriorCollapseWarning,
                stacklevel=2,
            )

    def is_news(self, posterior: Posterior, seen: Activity, begun: bool = True) -> bool:
        """Whether this validation is the first to show that a posterior has collapsed.

        Arguments:
            begun: Whether it counts, training having gone on for long enough.
        """
        may = posterior.density and same_support(posterior.support, constraints.real)
        off = seen.speaking <= len(seen.variances) // 10
        before, self.most = self.most, float(seen.variances.max())
        self.low = self.low + 1 if begun and may and off else 0
        news = self.low > 1 and self.most <= before and not self.told
        self.told |= news
        return news


class Activity(NamedTuple):
    """How the latents vary over rows.

    Attributes:
        variances: Variances of the latents' points over rows, (Z,).
        rates: The latents' KLs in nats, (Z,), if they are known.
        prior_variances: The latents' variances under the prior, (Z,).
    """

    variances: Tensor
    rates: Tensor | None
    prior_variances: Tensor | float = 1.0

    @property
    def active(self) -> Tensor:
        """Whether each latent is active, (Z,)."""
        return self.variances > _ACTIVE * self.prior_variances

    @property
    def units(self) -> int:
        """How many latents are active."""
        return int(self.active.sum())

    @property
    def speaking(self) -> int:
        """How many are active, or are known to carry some nats."""
        known = torch.zeros_like(self.variances) if self.rates is None else self.rates
        return int((self.active | (known >= _SILENT)).sum())

    def numbers(self) -> dict[str, float]:
        """What is logged: `active_units`, and `kl/0` and so on."""
        rates = [] if self.rates is None else self.rates.tolist()
        return {
            "active_units": float(self.units),
            **{f"kl/{latent}": rate for latent, rate in enumerate(rates)},
        }


def look(model: Model, data: Iterable[Batch]) -> Activity | None:
    """How a model's latents vary over rows; None of fewer than two, or where it infers nothing."""
    core = model.core
    if type(core).infer is Core.infer:
        return None
    points: list[Tensor] = []
    rates: list[Tensor] = []
    moments: list[Tensor] = []
    prior = _only_prior(core)
    with model.using(), fixed_noise(0, model.device):
        for batch in (rows.to(model.device) for rows in data):
            q = core.infer(batch.x, batch.context, batch.mask)
            points.append(core.posterior.point(q))
            if prior is None:
                continue
            p = prior(core.prior_context(batch.context), core.infer)
            known = _each_known(q, p)
            if known:
                z = q.sample(torch.Size((1,)))  # (1, B, *Z)
                rates.append(factor_rates(q, p, z)[0])
            if not moments or p.batch_shape:
                moments.append(_moments(p, len(batch)))
            if not (known or p.batch_shape):
                prior = None  # it says no more of the other rows
    if sum(map(len, points)) < 2:
        return None
    variances = _flat(points).var(0, correction=0)
    mean = _flat(rates).mean(0) if rates else None
    return Activity(variances, mean, _variances(moments) if moments else 1.0)


def _moments(p: Distribution, rows: int) -> Tensor:
    """E[z] and E[z^2] of each latent under p, of each row, (rows, 2, Z)."""
    try:
        mean = widest(p.mean)
        square = widest(p.variance) + mean.square()
    except NotImplementedError:
        draws = max(2, _DRAWS // rows) if p.batch_shape else _DRAWS
        z = widest(p.sample(torch.Size((draws,))))
        mean, square = z.mean(0), z.square().mean(0)
    whole = (rows, *p.event_shape)
    return torch.stack([x.expand(whole).flatten(1) for x in (mean, square)], 1)


def _variances(moments: list[Tensor]) -> Tensor:
    """The variance of each latent under the prior, over all rows, (Z,)."""
    mean, square = torch.cat(moments).mean(0)
    found = square - mean.square()
    return torch.where(found.isfinite() & (found > 0), found, torch.ones_like(found))


def _flat(parts: list[Tensor]) -> Tensor:
    return widest(torch.cat(parts).flatten(1))  # (N, Z)


def _each_known(q: Distribution, p: Distribution) -> bool:
    """Whether each latent has a KL, and there are not too many."""
    return factorises(q) and factorises(p) and prod(q.event_shape) <= _MOST


def _only_prior(core: Any) -> Prior | None:
    """The prior of a core with one; those of a hierarchy want other latents."""
    own = getattr(core, "prior", None)
    inside = set(own.modules()) if isinstance(own, Prior) else set()
    others = [part for part in core.modules() if isinstance(part, Prior) and part not in inside]
    return None if others else own
