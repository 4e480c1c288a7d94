"""The contracts: the base of every kind of plugin, and what its calls are held to."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit import distributions
from vaekit.batch import Batch, DataInfo, Shapes, Sizes, Tree, each, first, leaves
from vaekit.draw import Draw
from vaekit.part import FullPrecisionPart, Infer, LogJoint, Noise, Part
from vaekit.precision import cast, first_parameter, full_precision

__all__ = [
    "Core",
    "Decoder",
    "Encoder",
    "Likelihood",
    "Objective",
    "Posterior",
    "Prior",
]


class Encoder(Part):
    """Maps rows to features.

    Attributes:
        features: Their number, or their shape; a dict of these where forward returns a dict.
    """

    features: Sizes

    def forward(self, x: Tree, context: Tensor | None = None, mask: Tree | None = None) -> Tree:
        """Features of the rows.

        Arguments:
            x: The rows, (B, *event), in the type of the encoder's parameters.
            context: What a conditional model conditions on, (B, C).
            mask: Like x, True where an element is observed; the others may hold anything, NaN too.

        Returns:
            The features, (B, *features).

        Raises:
            ValueError: When called, if the features have another shape than was declared.
        """
        raise NotImplementedError

    def __call__(self, x: Tree, context: Tensor | None = None, mask: Tree | None = None) -> Tree:
        if context is not None:
            context = cast(context, self)
        h = super().__call__(each(lambda leaf: cast(leaf, self), x), context, mask)
        return self.hold(self.widened(h, "features"), self.features, len(first(x)), "features")


class Posterior(FullPrecisionPart):
    """Builds q(z|x) from the encoder's features.

    Its distribution may have, in the place of `rsample`, `rsample_and_log_prob(shape)`, which
    returns z and any l with E[exp(log p(x, z) - l)] = p(x); and `losses`, a dict of terms (B,) in
    nats that every objective of the ELBO family adds to the loss (a commitment).

    Attributes:
        density: Whether q has a log-density, without which there is no bound.
        latent_shape: Shape of one z; set by whoever builds the part.
    """

    density: ClassVar[bool] = True
    latent_shape: Shapes = None

    def forward(
        self, h: Tree, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        """q(z|x).

        Arguments:
            h: The encoder's features, (B, *features), in float32 at least.
            context: What a conditional model conditions on, (B, C).
            log_joint: z (K, B, *Z) -> log p(x, z) (K, B) in nats, for a q that refines its draws.

        Returns:
            A distribution of batch shape (B,) and event shape `latent_shape`.

        Raises:
            ValueError: When called, if it is no distribution of these shapes.
        """
        raise NotImplementedError

    def __call__(
        self, h: Tree, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        with full_precision(first(h)):
            q = super().__call__(h, context, log_joint)
        return self.hold_distribution(q, (len(first(h)),), self.latent_shape)

    def point(self, q: Distribution) -> Tensor:
        """The one z (B, *Z) that stands for q where nothing is drawn; by default its mean."""
        return q.mean


class Prior(FullPrecisionPart):
    """Builds p(z).

    Attributes:
        latent_shape: Shape of one z; set by whoever builds the part.
    """

    latent_shape: Shapes = None

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        """p(z), or p(z|context).

        Arguments:
            context: What a conditional model conditions on, (B, C); in a hierarchy the latents
                above.
            infer: (x, context=None, mask=None) -> q(z|x) of rows of the prior's own.

        Returns:
            A distribution of batch shape (), or (B,) given a context, and event shape
            `latent_shape`.

        Raises:
            ValueError: When called, if it is no distribution of these shapes.
        """
        raise NotImplementedError

    def __call__(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        with full_precision(context if context is not None else self._tensor()):
            p = super().__call__(context, infer)
        batch: tuple[int, ...] = ()
        if context is not None and getattr(p, "batch_shape", None):
            batch = (len(context),)
        return self.hold_distribution(p, batch, self.latent_shape)

    def _tensor(self) -> Tensor:
        own = first_parameter(self)
        own = own if own is not None else next(self.buffers(), None)
        return own if own is not None else torch.empty(0)


class Decoder(Part):
    """Maps latents to what the likelihood needs.

    Attributes:
        output_shape: The shape that is needed; set by whoever builds the part.
    """

    output_shape: Shapes = None

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tree:
        """What the likelihood needs.

        Arguments:
            z: Latents of N = K * B draws, (N, *Z), in the type of the decoder's parameters.
            context: What a conditional model conditions on, (N, C).

        Returns:
            The parameters of p(x|z), (N, *output_shape).

        Raises:
            ValueError: When called, if they have another shape.
        """
        raise NotImplementedError

    def __call__(self, z: Tensor, context: Tensor | None = None) -> Tree:
        if context is not None:
            context = cast(context, self)
        y = self.widened(super().__call__(cast(z, self), context), "output")
        if self.output_shape is None:
            return y
        return self.hold(y, self.output_shape, len(z), "output")


class Likelihood(FullPrecisionPart):
    """Builds p(x|z) from the decoder's output.

    Attributes:
        output_shape: Shape that the decoder must give.
        data_range: Smallest and largest value that x may take.
        discrete: True where p gives a probability to each value of x, False where it is a density,
            None where its sum is neither (Bernoulli on grey values).
        couples_rows: Whether a row's density depends on the batch's other rows.
        event_shape: Shape of one row; set by whoever builds the part.
    """

    output_shape: Shapes
    data_range: ClassVar[tuple[float, float]] = (-inf, inf)
    discrete: bool | None = False
    couples_rows = False
    event_shape: Shapes = None

    def forward(self, y: Tree, context: Tensor | None = None) -> Distribution:
        """p(x|z).

        Arguments:
            y: The decoder's output, (K, B, *output_shape), in float32 at least.
            context: What a conditional model conditions on, (K, B, C).

        Returns:
            A distribution of batch shape (K, B) and event shape `event_shape`; a
            `vaekit.distributions.Joint` where x is a dict.

        Raises:
            ValueError: When called, if it is no distribution of these shapes.
        """
        raise NotImplementedError

    def __call__(self, y: Tree, context: Tensor | None = None) -> Distribution:
        with full_precision(first(y)):
            p = super().__call__(y, context)
        return self.hold_distribution(p, tuple(first(y).shape[:2]), self.event_shape)

    def point(self, p: Distribution) -> Tree:
        """The one x that stands for p where nothing is drawn; by default its mean."""
        return p.mean

    def elements(self, p: Distribution, x: Tree) -> Tree:
        """log p of each element of x, (K, B, *event) in nats; x is within the support throughout.

        Raises:
            ValueError: If p does not factorise over the elements of x.
        """
        return distributions.elements(p, x)

    def log_prob(self, p: Distribution, x: Tree, mask: Tree | None = None) -> Tensor:
        """log p(x|z) with shape (K, B), in nats, a sum over the observed elements of x.

        Raises:
            ValueError: With a mask, where p does not factorise over the elements of x.
        """
        if mask is None:
            return p.log_prob(x)

        def observed(terms: Tensor, mask: Tensor) -> Tensor:
            if terms.shape[terms.dim() - mask.dim() + 1 :] != mask.shape[1:]:
                raise self.refuse(f"elements of shape {tuple(mask.shape[1:])}", terms.shape)
            return torch.where(mask, terms, 0.0).sum(tuple(range(1 - mask.dim(), 0)))

        terms = each(observed, self.elements(p, distributions.filled(p, x, mask)), mask)
        return sum(leaves(terms)[1:], leaves(terms)[0])

    def independent(self, mean: Tree, variance: Tree) -> Distribution | None:
        """p(x) of independent elements, from the training rows' mean and variance (*event).

        The baseline that a model has to beat. None where a likelihood knows none.
        """
        return None

    def check(self, data: DataInfo) -> None:
        """Refuses data that this likelihood has no density for.

        Raises:
            ValueError: If the data's range is not within this likelihood's.
        """
        low, high = self.data_range
        for least, most in leaves(data.data_range):
            if least < low or most > high:
                raise ValueError(
                    f"{type(self).__name__} expected data in [{low:g}, {high:g}], but the data's "
                    f"range is [{least:g}, {most:g}]. Rescale the data, or choose a likelihood "
                    "for that range."
                )

    def gives_bits(self, data: DataInfo) -> bool:
        """Whether log p(x|z) counts bits: of discrete data, or of data that were dequantised."""
        spread = all(width is not None for width in leaves(data.bin_width))
        return self.discrete or (self.discrete is False and spread)


class Core(Part):
    """The model proper: the parts, which it makes with `build`, and the data's way through them.

    Attributes:
        posterior: Makes the q that `infer` returns.
        likelihood: Makes the p(x|z) that `decode` returns.
    """

    posterior: Posterior
    likelihood: Likelihood
    keep_draw = False
    last_draw: Draw | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last_draw": None}  # which no copy can carry: it has a graph

    def kept(self, draw: Draw) -> Draw:
        """The draw that `draw` returns; remembered where a part's `after_step` will want it."""
        if self.keep_draw and self.training:
            self.last_draw = draw
        return draw

    def draw(
        self, batch: Batch, samples: int = 1, stop: bool = False, noise: Noise | None = None
    ) -> Draw:
        """Draws K = `samples` latents for each row. Also takes, if it likes, `features`, what the
        encoder made of these rows in a draw before.

        Arguments:
            stop: Detach q's parameters in log q(z|x), for path gradients.
            noise: What to draw with, in the place of fresh noise.
        """
        raise NotImplementedError

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x|z) for z (K, B, *Z) and context (B, C), with batch shape (K, B)."""
        raise NotImplementedError

    def reading(self, p: Distribution, sample: bool = False) -> Tree:
        """x (B, *event) of a p(x|z) of one draw per row: its point, or a sample of it."""
        x = p.sample() if sample else self.likelihood.point(p)
        return each(lambda leaf: leaf.squeeze(0), x)

    def infer(
        self, x: Tree, context: Tensor | None = None, mask: Tree | None = None
    ) -> Distribution:
        """q(z|x) of rows x (B, *event), with batch shape (B,)."""
        raise NotImplementedError

    def generate(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tree:
        """n rows x (n, *event) from the prior: the point of p(x|z), or a sample of it."""
        raise NotImplementedError


class Objective(Part):
    """Maps a model and a batch to named terms, of which `loss` is minimised.

    Attributes:
        best: The number of `evaluate` that chooses the best checkpoint, and whether "max" or "min"
            is best.
        bound: Whether that number is a lower bound of log p(x), in nats.
    """

    best: ClassVar[tuple[str, str]] = ("elbo", "max")
    bound: ClassVar[bool] = True

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        """The terms of a training step, in nats.

        Arguments:
            model: The core.
            batch: The rows.
            step: How many optimizer steps were taken, for schedules.

        Returns:
            Terms by name, each (B,), or a scalar that stands for all rows; `loss` among them.

        Raises:
            ValueError: When called, if a term has another shape or `loss` is missing.
        """
        raise NotImplementedError

    def __call__(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        return self.hold_terms(super().__call__(model, batch, step), "loss", len(batch))

    def hold_terms(self, terms: dict[str, Tensor], wanted: str, rows: int) -> dict[str, Tensor]:
        """The terms, each (B,) or a scalar, `wanted` among them.

        Raises:
            ValueError: If a term has another shape, or the wanted one is missing.
        """
        if wanted not in terms:
            raise self.refuse(f"a term named {wanted}", ", ".join(terms) or "none")
        for name, term in terms.items():
            if term.shape not in ((), (rows,)):
                raise self.refuse(
                    f"the term {name} of shape {(rows,)}, one value per row, or a scalar",
                    tuple(term.shape),
                )
        return terms

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        """What validation and test report of rows, each (B,): by default the ELBO, beta 1."""
        return model.draw(batch).bound()

    def check(self, model: Core) -> None:
        """Refuses a core that this objective cannot serve, when the model is built.

        Raises:
            ValueError: If it reports a bound, and a posterior has no density.
        """
        for part in model.modules():
            if self.bound and isinstance(part, Posterior) and not part.density:
                raise self.refuse(
                    "a posterior with a density, without which there is no bound",
                    f"{part.title or type(part).__name__}: choose an objective that needs none",
                )

    def adversary(self) -> dict[str, Any] | None:
        """Parameters that are trained against the model, as a group of torch's optimizers.

        `{"params": ..., "lr": ..., "clip": ...}`: what it leaves out is as for the others; `clip`
        is the largest norm of these parameters' gradient, by default the trainer's.
        """
        return None
