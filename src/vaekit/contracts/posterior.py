"""Posterior: the contract of modules that build q(z|x)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.contracts.part import FullPrecisionPart, LogJoint
from vaekit.contracts.trees import Shapes, Tree, first
from vaekit.numerics.precision import cast, full_precision


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
        if context is not None:
            context = cast(context, self)
        with full_precision(first(h)):
            q = super().__call__(h, context, log_joint)
        return self.hold_distribution(q, (len(first(h)),), self.latent_shape)

    def point(self, q: Distribution) -> Tensor:
        """The one z (B, *Z) that stands for q where nothing is drawn; by default its mean."""
        return q.mean
