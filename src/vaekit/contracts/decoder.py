"""Decoder: the contract of networks from z to the parameters of p(x|z)."""

from __future__ import annotations

from torch import Tensor

from vaekit.contracts.part import Part
from vaekit.contracts.trees import Shapes, Tree
from vaekit.numerics.precision import cast


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
