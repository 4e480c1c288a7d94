"""Encoder, posterior, prior and decoder: what each is called with, and held to."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.batch import Shapes, Sizes, Tree, each, first
from vaekit.part import FullPrecisionPart, Infer, LogJoint, Part
from vaekit.precision import cast, first_parameter, full_precision

__all__ = ["Decoder", "Encoder", "Posterior", "Prior"]


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
