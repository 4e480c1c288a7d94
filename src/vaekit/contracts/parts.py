"""Encoder, posterior, prior and decoder: what each is called with, and held to."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.batch import Shapes, Sizes, Tree, each, first
from vaekit.part import FullPrecisionPart, Infer, LogJoint, Part
from vaekit.precision import cast, first_parameter, full_precision

__all__ = ["Decoder", "Encoder", "FittedPrior", "OtherSupport", "Posterior", "Prior"]


class OtherSupport(ValueError):
    """A prior whose latents lie elsewhere than the posterior's.

    Attributes:
        support: Where the posterior's lie.
    """

    def __init__(self, told: str, support: Any) -> None:
        super().__init__(told)
        self.support = support


def same_support(one: Any, other: Any) -> bool:
    """Whether two constraints of torch.distributions are the same, however they are reshaped.

    Example:
        >>> same_support(constraints.real, constraints.real_vector)
        True
        >>> same_support(constraints.positive, constraints.greater_than(1.0))
        False
    """
    return of_one_kind(one, other) and vars(_element(one)) == vars(_element(other))


def of_one_kind(one: Any, other: Any) -> bool:
    """Whether two constraints differ in their numbers at most."""
    return type(_element(one)) is type(_element(other))


def _element(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _space(support: Any) -> str:
    """A constraint in words."""
    if same_support(support, constraints.positive):
        return "the positive numbers"
    element = _element(support)
    return _SPACES.get(type(element)) or str(getattr(element, "words", element))


_SPACES: dict[type, str] = {
    type(constraints.real): "the real numbers",
    type(constraints.simplex): "the simplex",
    type(constraints.boolean): "{0, 1}",
    type(constraints.one_hot): "one-hot vectors",
    type(constraints.unit_interval): "the unit interval",
}


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
        evaluates: Whether that is known of any z, and not of q's own draws alone.
        uses_log_joint: Whether q depends on log p(x, z), and so on prior, decoder and likelihood.
        support: Where z lies, a constraint of torch.distributions; in evaluation, where a part
            relaxes z in training.
        latent_shape: Shape of one z; set by whoever builds the part.
    """

    density: ClassVar[bool] = True
    evaluates: ClassVar[bool] = True
    uses_log_joint: ClassVar[bool] = False
    support: Any = constraints.real
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
        estimates: Whether log p(z) is estimated, with draws of its own each time, so that
            E[exp(log p(z))] is the density: in the mean it is then a lower bound.
        support: Where z lies, a constraint of torch.distributions; None for wherever the posterior
            has it.
        latent_shape: Shape of one z; set by whoever builds the part.
    """

    estimates: ClassVar[bool] = False
    support: Any = constraints.real
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

    def check(self, posterior: Posterior) -> None:
        """Refuses a posterior that this is no prior of; a core asks when it is built.

        Raises:
            OtherSupport: If its latents lie elsewhere; a ValueError.
        """
        if self.support is not None and not same_support(self.support, posterior.support):
            raise OtherSupport(
                f"Expected a prior and a posterior of one support, but the latents of the "
                f"posterior {type(posterior).__name__} lie in {_space(posterior.support)}, those "
                f"of the prior {type(self).__name__} in {_space(self.support)}.",
                posterior.support,
            )

    def _tensor(self) -> Tensor:
        own = first_parameter(self)
        own = own if own is not None else next(self.buffers(), None)
        return own if own is not None else torch.empty(0)


class FittedPrior(Prior):
    """A prior that can be fitted to codes after training."""

    def fit(self, z: Tensor, context: Tensor | None = None) -> None:
        """Fits p(z) to draws of q(z|x), one for each of n training rows.

        It fills parameters and buffers, whose shapes stay.

        Arguments:
            z: The draws, (n, *Z).
            context: Of the rows, (n, C).

        Raises:
            ValueError: If `check_codes` refuses them; nothing has changed then.
        """
        raise NotImplementedError

    def check_codes(
        self, z: Tensor, context: Tensor | None, context_features: int = 0, least: int = 2
    ) -> None:
        """Refuses codes that it cannot be fitted to; for `fit` to begin with.

        Arguments:
            z: The draws, (n, *Z).
            context: Of the rows, (n, C).
            context_features: The C that it was made for; 0 for no context.
            least: How many rows it takes.

        Raises:
            ValueError: If there are too few rows, z or the context is of another shape, or a
                number is not finite.
        """
        rows, shape = len(z), self.latent_shape
        if shape is not None and z.shape[1:] != torch.Size(shape):
            told = ", ".join(map(str, ("n", *shape)))
            raise ValueError(f"Expected codes ({told}) but got {tuple(z.shape)}.")
        if rows < least:
            raise ValueError(
                f"Expected at least {least} rows to fit {type(self).__name__} to but got {rows}."
            )
        wanted = (rows, context_features) if context_features else None
        got = None if context is None else tuple(context.shape)
        if got != wanted:
            raise ValueError(
                f"Expected {'no context' if wanted is None else f'a context of shape {wanted}'} "
                f"but got {'none' if got is None else f'one of shape {got}'}."
            )
        for what, given in (("codes", z), ("contexts", context)):
            if given is not None and not given.isfinite().all():
                raise ValueError(f"Expected finite {what} but some are NaN or infinite.")


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
