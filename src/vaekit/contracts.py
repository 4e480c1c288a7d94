"""What a part is: the base of every kind of plugin, the batch and the draw that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import inf, log, prod
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

__all__ = [
    "Batch",
    "Build",
    "Core",
    "DataInfo",
    "Decoder",
    "Draw",
    "Encoder",
    "Infer",
    "Level",
    "Likelihood",
    "LogJoint",
    "Objective",
    "Part",
    "Posterior",
    "Prior",
    "at_least_float32",
    "full_precision",
    "once",
]

LogJoint = Callable[[Tensor], Tensor]
"""z (K, B, *Z) -> log p(x, z) (K, B), in nats."""

Infer = Callable[[Tensor, "Tensor | None"], Distribution]
"""(x, context) -> q(z|x), for a prior that looks through the encoder."""

Build = Callable[..., Any]
"""(kind, **given) -> a part of that kind, made from the name that the user chose."""


def full_precision(like: Tensor) -> torch.autocast:
    """The context in which densities and sums run: no autocast, whatever the precision."""
    return torch.autocast(like.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Half types raised to float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@dataclass
class Batch:
    """The rows that every part receives.

    Arguments:
        x: The data, with shape `(B, *event)`.
        context: What a conditional model conditions on, with shape `(B, C)`.
        mask: Like `x`, True where an element is observed.
        label: For metrics and semi-supervised objectives, with shape `(B,)` or `(B, *)`.
        weight: What the mean over these rows counts in the mean over all ranks: this rank's rows
            over the ranks' average. One but for a last batch that does not divide; zero for a
            stand-in row, which a rank without rows of its own receives so that all ranks take the
            same steps.
    """

    x: Tensor
    context: Tensor | None = None
    mask: Tensor | None = None
    label: Tensor | None = None
    weight: float = 1.0

    def __len__(self) -> int:
        return self.x.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=non_blocking)

        return Batch(
            self.x.to(device, non_blocking=non_blocking),
            move(self.context),
            move(self.mask),
            move(self.label),
            self.weight,
        )


@dataclass
class DataInfo:
    """What is known of the data before the first row is read; it is stored in every checkpoint.

    Arguments:
        event_shape: Shape of one row of `x`.
        data_range: Smallest and largest value that `x` may take.
        levels: Number of different values an element may take, None where it is continuous.
        bin_width: Width of the bin over which a dequantised value was spread, in units of `x`; a
            density in such bins gives bits per dimension of the discrete data. One where there is
            none.
        context_features: Number of context columns.
        data_size: Number of training rows.
    """

    event_shape: tuple[int, ...]
    data_range: tuple[float, float] = (-inf, inf)
    levels: int | None = None
    bin_width: float = 1.0
    context_features: int = 0
    data_size: int | None = None

    def __post_init__(self) -> None:
        self.event_shape = tuple(self.event_shape)
        self.data_range = (self.data_range[0], self.data_range[1])

    def as_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def bits_per_dimension(self, nats: float) -> float:
        """-log p(x) in bits per element of x, from `nats`, an (estimated) log p(x) of one row."""
        size = prod(self.event_shape)
        return -(nats + size * log(self.bin_width)) / (size * log(2))


class Part(nn.Module):
    """Base of all parts.

    `__init__` names the arguments that it wants from vaekit (`event_shape`, `features`,
    `latent_shape`, `output_shape`, `context_features`, `data_size`), then its own.
    """

    def start(self, data: Iterable[Batch]) -> None:
        """Looks at the training data once, before the first step (pseudo-inputs, an output bias).

        Every rank sees all rows, in the same order.
        """

    def after_step(self, draw: Draw) -> None:
        """Updates running state, once an optimizer step, in training only and without gradient.

        State changes here and never in forward. The draw is this rank's: sum what is taken from it
        with `vaekit.distributions.sum_over_ranks`, so that every rank ends with the same state.
        Under gradient accumulation it is the draw of the last of the accumulated batches.
        """


class _FullPrecision(Part):
    """A part whose parameters stay in float32 at least when the module is cast to a half type."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep(x: Tensor) -> Tensor:
            out = fn(x)
            return x.to(out.device) if at_least_float32(out) is not out else out

        super()._apply(keep, recurse)
        return self


class Encoder(Part):
    """Maps x (B, *event), context and mask to features (B, features)."""

    features: int

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError


class Posterior(_FullPrecision):
    """Builds q(z|x) from features (B, features): batch shape (B,), event shape `latent_shape`.

    In the place of `rsample` its distribution may have `rsample_and_log_prob(shape)`, which
    returns z and any l with E[exp(log p(x, z) - l)] = p(x); `log_prob` may then be missing.
    """

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        raise NotImplementedError


class Prior(_FullPrecision):
    """Builds p(z): batch shape () or (B,), event shape `latent_shape`."""

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        raise NotImplementedError


class Decoder(Part):
    """Maps z (N, *Z) and context (N, C) to what the likelihood needs, (N, *output_shape)."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class Likelihood(_FullPrecision):
    """Builds p(x|z) from the decoder's output y (K, B, *output_shape).

    Attributes:
        output_shape: Shape that the decoder must give.
        data_range: Smallest and largest value that x may take.
        couples_rows: Whether a row's density depends on the batch's other rows.
    """

    output_shape: tuple[int, ...]
    data_range: ClassVar[tuple[float, float]] = (-inf, inf)
    couples_rows = False

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        raise NotImplementedError

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) with shape (K, B), in nats, a sum over the observed elements of x.

        Raises:
            ValueError: With a mask, where p does not factorise over the elements of x.
        """
        if mask is None:
            return p.log_prob(x)
        if not isinstance(p, Independent):
            raise ValueError(
                "Expected a likelihood that factorises over elements, to leave out the masked "
                f"ones, but got {type(p).__name__} from {type(self).__name__}."
            )
        # Hidden elements may hold anything, NaN too, and a NaN would reach the gradient through
        # `where`.
        x = torch.where(mask, x, p.mean.detach())
        terms = torch.where(mask, p.base_dist.log_prob(x), 0.0)
        return terms.sum(dim=tuple(range(-p.reinterpreted_batch_ndims, 0)))

    def independent(self, mean: Tensor, variance: Tensor) -> Distribution | None:
        """p(x) of independent elements, from the training rows' mean and variance (*event).

        The baseline that a model has to beat. None where a likelihood knows none.
        """
        return None

    def check(self, data: DataInfo) -> None:
        """Refuses data that this likelihood has no density for.

        Raises:
            ValueError: If the data's range is not within this likelihood's.
        """
        (low, high), (least, most) = self.data_range, data.data_range
        if least < low or most > high:
            raise ValueError(
                f"{type(self).__name__} expected data in [{low:g}, {high:g}], but the data's "
                f"range is [{least:g}, {most:g}]. Rescale the data, or choose a likelihood for "
                "that range."
            )


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


class Level(NamedTuple):
    """One level of latents in a draw, the top first; a flat model has one.

    `z` (K, B, *Z) is the copy that the terms use, not the one that a hierarchy's chain goes on
    with. The terms are functions: nothing is computed that an objective does not ask for.
    """

    z: Tensor
    q: Distribution
    p: Distribution
    log_prior: Callable[[], Tensor]
    log_posterior: Callable[[], Tensor]
    rate: Callable[[], Tensor]


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
        features: Tensor,
        p: Distribution,
        log_likelihood: Callable[[], Tensor],
    ) -> None:
        self.batch, self.levels, self.features, self.p = batch, levels, features, p
        self._log_likelihood = log_likelihood

    @property
    def z(self) -> Tensor:
        """The last level's latents, with shape (K, B, *Z)."""
        return self.levels[-1].z

    @property
    def q(self) -> Distribution:
        return self.levels[-1].q

    @property
    def log_likelihood(self) -> Tensor:
        return self._log_likelihood()

    @property
    def log_prior(self) -> Tensor:
        return _sum([level.log_prior() for level in self.levels])

    @property
    def log_posterior(self) -> Tensor:
        return _sum([level.log_posterior() for level in self.levels])

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z|x), the log importance weight; no closed-form KL enters it."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def rates(self) -> tuple[Tensor, ...]:
        """A level each: KL(q || p) in closed form (1, B), else log q - log p (K, B)."""
        return tuple(level.rate() for level in self.levels)

    @property
    def rate(self) -> Tensor:
        """The sum of `rates`: an estimate of E_q[log q(z|x) - log p(z)]."""
        return _sum(self.rates)

    def scale_latent_grad(self, w: Tensor) -> None:
        """Multiplies by w (K, B) what the terms send back into every level's z.

        Call it before the terms are computed from z any further than they already are: it acts on
        backward, whenever that runs.
        """
        for level in self.levels:
            if level.z.requires_grad:
                shape = (*w.shape, *[1] * (level.z.dim() - 2))
                level.z.register_hook(lambda g, shape=shape: g * w.reshape(shape))


class Core(Part):
    """The model proper: the parts, and the data's way through them."""

    likelihood: Likelihood
    keep_draw = False
    last_draw: Draw | None = None

    def kept(self, draw: Draw) -> Draw:
        """The draw that `draw` returns; remembered where a part's `after_step` will want it."""
        if self.keep_draw and self.training:
            self.last_draw = draw
        return draw

    @classmethod
    def assemble(cls, build: Build, **init_args: Any) -> Core:
        """Makes the core out of the user's parts; `build(kind, **given)` makes one."""
        raise NotImplementedError

    def draw(
        self, batch: Batch, samples: int = 1, stop: bool = False, noise: Tensor | None = None
    ) -> Draw:
        """Draws K = `samples` latents a row.

        Arguments:
            stop: Detach q's parameters in log q(z|x), for path gradients.
            noise: Standard normal noise with shape (K, B, *Z) to draw with, in the place of fresh
                noise.
        """
        raise NotImplementedError

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x|z) for z (K, B, *Z), with batch shape (K, B)."""
        raise NotImplementedError

    def infer(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Distribution:
        """q(z|x), with batch shape (B,)."""
        raise NotImplementedError

    def generate(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tensor:
        """n rows x (n, *event) from the prior: the mean of p(x|z), or a sample of it."""
        raise NotImplementedError


class Objective(Part):
    """Maps a model and a batch to named terms in nats, each (B,) or a scalar; one is `loss`."""

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        raise NotImplementedError
