"""A draw of the latents of some rows, and its log-terms, made when they are first read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch
from vaekit.contracts.trees import Tree, first
from vaekit.distributions.base import Joint
from vaekit.distributions.base import rate as rate_of
from vaekit.numerics.precision import full_precision


def once(compute: Callable[[], Tensor], like: Tensor) -> Callable[[], Tensor]:
    """`compute`, run at the first call only, in full precision."""
    # Not functools.cached_property, which torch.compile cannot follow on Python 3.11.
    value: list[Tensor] = []

    def get() -> Tensor:
        if not value:
            with full_precision(like):
                value.append(compute())
        return value[0]

    return get


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *rest = terms
    return sum(rest, first)


def _per_draw(term: Tensor, z: Tensor, what: str) -> Tensor:
    """A log-term with shape (K, B) or (1, B); of another shape it would broadcast, and train.

    Raises:
        ValueError: If it has another shape.
    """
    samples, rows = z.shape[:2]
    if term.shape not in ((samples, rows), (1, rows)):
        raise ValueError(
            f"Expected {what} of shape {(samples, rows)}, one value per draw and row, but got "
            f"{tuple(term.shape)}: all dimensions of an event must be summed, by "
            "torch.distributions.Independent for example."
        )
    return term


def _over_draws(term: Tensor) -> Tensor:
    """The mean (B,) of a term (K, B) or (1, B) over the draws."""
    return term.squeeze(0) if len(term) == 1 else term.mean(0)


def _by_rows(term: Tensor, z: Tensor) -> Tensor:
    """A term of q's batch shape, (B,) or (K * B,) from flat draws, as (1, B) or (K, B)."""
    samples, rows = z.shape[:2]
    if term.shape == (rows,):
        return term.unsqueeze(0)
    return term.unflatten(0, (samples, rows)) if term.shape == (samples * rows,) else term


def _log_prob_by_rows(p: Distribution, z: Tensor) -> Tensor:
    """log p(z) of z (K, B, *Z), for p of batch (), (B,), (K, B), or (K * B,) from flat draws."""
    samples, rows = z.shape[:2]
    if samples > 1 and p.batch_shape == (samples * rows,):
        return _by_rows(p.log_prob(z.flatten(0, 1)), z)
    return p.log_prob(z)


def _own(name: str) -> str:
    """A name that a loss of q may have: those of the bound's own terms are taken."""
    if name in ("loss", "elbo", "distortion", "rate"):
        raise ValueError(f"Expected q's losses by names of their own, but one is called {name}.")
    return name


class Level(NamedTuple):
    """One level of latents in a draw, the top first; a flat model has one.

    `z` (K, B, *Z) is the copy that the terms use, not the one that a hierarchy's chain goes on
    with: with the wrong one DReG's gradient is off, silently. The terms are functions: nothing is
    computed that an objective does not ask for. `losses` are terms (B,) that q brings. `closed` is
    False where the rate is estimated whatever forms q and p have.
    """

    z: Tensor
    q: Distribution
    p: Distribution
    log_prior: Callable[[], Tensor]
    log_posterior: Callable[[], Tensor]
    rate: Callable[[], Tensor]
    losses: dict[str, Tensor]
    closed: bool

    @classmethod
    def of(
        cls,
        z: Tensor,
        q: Distribution,
        p: Distribution,
        log_q: Tensor | None = None,
        density: Distribution | None = None,
        closed: bool = True,
    ) -> Level:
        """The level of draws z from q.

        Arguments:
            z: The draws, with shape `(K, B, *Z)`.
            q: What they were drawn from, with batch shape (B,), or (K * B,) where it depends on
                draws of another level that were flattened.
            p: The prior, with batch shape (), (B,) or (K * B,). Where that is neither () nor q's,
                the rate is estimated: log q - log p.
            log_q: log q(z), (K, B) in nats, where the draw brought it: then the rate is
                log q - log p, since a closed form would not know what the draw did.
            density: What log q(z) is taken of in the place of q: q with its parameters stopped,
                for path gradients.
            closed: Whether a closed form may give the rate. Say False where the prior depends on
                these z, through what levels above inferred from them.
        """
        closed = closed and log_q is None and p.batch_shape in ((), q.batch_shape)

        def log_posterior() -> Tensor:
            if log_q is not None and density is None:
                return _per_draw(log_q, z, "log q(z|x)")
            return _per_draw(_log_prob_by_rows(density or q, z), z, "log q(z|x)")

        log_post = once(log_posterior, z)
        log_prior = once(lambda: _per_draw(_log_prob_by_rows(p, z), z, "log p(z)"), z)

        def kl() -> Tensor:
            if not closed:
                return log_post() - log_prior()
            return _per_draw(_by_rows(rate_of(q, p, log_post, log_prior), z), z, "a rate")

        losses = {
            _own(name): _over_draws(_per_draw(_by_rows(term, z), z, f"the loss {name}"))
            for name, term in getattr(q, "losses", {}).items()
        }
        return cls(z, q, p, log_prior, log_post, once(kl, z), losses, closed)

    def log_posterior_at(self, z: Tensor) -> Tensor:
        """log q(z|x) (K, B), in nats, of any z (K, B, *Z), by q's density and not by its draw."""
        with full_precision(z):
            return _per_draw(_log_prob_by_rows(self.q, z), z, "log q(z|x)")


class Draw:
    """K draws of the latents of B rows, and their log-terms (K, B) in nats, made when first read.

    Arguments:
        batch: The rows.
        levels: The levels of latents, the top first.
        features: What the encoder made of the rows.
        p: p(x|z), with batch shape (K, B).
        log_likelihood: Computes log p(x|z), once.
    """

    def __init__(
        self,
        batch: Batch,
        levels: tuple[Level, ...],
        features: Tree,
        p: Distribution,
        log_likelihood: Callable[[], Tensor],
    ) -> None:
        self.batch, self.levels, self.features, self.p = batch, levels, features, p
        # Without self in it: a cycle would keep the graph's memory until the collector finds it.
        self._log_likelihood = once(
            lambda: _per_draw(log_likelihood(), levels[-1].z, "log p(x|z)"), first(features)
        )

    def entry(self, name: str) -> Draw:
        """The draw as the likelihood of one entry of a dict-valued x sees it.

        Its `log_likelihood` stays that of all entries.
        """
        batch, p = self.batch, self.p
        assert isinstance(p, Joint)
        mask = None if batch.mask is None else batch.mask[name]
        own = replace(batch, x=batch.x[name], mask=mask)
        return Draw(own, self.levels, self.features, p.parts[name], self._log_likelihood)

    @property
    def only_level(self) -> Level:
        """The one level of a flat model.

        Raises:
            ValueError: If there are several.
        """
        if len(self.levels) > 1:
            raise ValueError(
                f"Expected one level of latents, as the core VAE has, but got {len(self.levels)}."
            )
        return self.levels[0]

    @property
    def z(self) -> Tensor:
        """The last level's latents, with shape (K, B, *Z)."""
        return self.levels[-1].z

    @property
    def q(self) -> Distribution:
        """The last level's q."""
        return self.levels[-1].q

    @property
    def log_likelihood(self) -> Tensor:
        """log p(x|z), (K, B)."""
        return self._log_likelihood()

    @property
    def log_prior(self) -> Tensor:
        """log p(z), (K, B), of all levels."""
        return _sum([level.log_prior() for level in self.levels])

    @property
    def log_posterior(self) -> Tensor:
        """log q(z|x), (K, B), of all levels."""
        return _sum([level.log_posterior() for level in self.levels])

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z|x), the log importance weight; no closed-form KL enters it."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def rates(self) -> tuple[Tensor, ...]:
        """One per level: KL(q || p) in closed form (1, B), else log q - log p (K, B)."""
        return tuple(level.rate() for level in self.levels)

    @property
    def rate(self) -> Tensor:
        """The sum of `rates`: an estimate of E_q[log q(z|x) - log p(z)]."""
        return _sum(self.rates)

    @property
    def distortion(self) -> Tensor:
        """Minus log p(x|z), the mean over the draws, (B,) in nats."""
        return -_over_draws(self.log_likelihood)

    @property
    def losses(self) -> dict[str, Tensor]:
        """Terms (B,) by name that q brings beside its density: a commitment, an entropy."""
        found: dict[str, Tensor] = {}
        for level in self.levels:
            for name, term in level.losses.items():
                found[name] = found[name] + term if name in found else term
        return found

    def bound(self) -> dict[str, Tensor]:
        """The ELBO, distortion and rate of each row, (B,) in nats; beside them q's own losses."""
        distortion, rate = self.distortion, _over_draws(self.rate)
        return {
            **self.losses,
            "elbo": -(distortion + rate),
            "distortion": distortion,
            "rate": rate,
        }

    def scale_latent_grad(self, w: Tensor) -> None:
        """Multiplies by w (K, B) what the terms send back into every level's z.

        Call it before the terms are computed from z any further than they already are: it acts on
        backward, whenever that runs.
        """
        for level in self.levels:
            if level.z.requires_grad:
                shape = (*w.shape, *[1] * (level.z.dim() - 2))
                level.z.register_hook(lambda g, shape=shape: g * w.reshape(shape))
