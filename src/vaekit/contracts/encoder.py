"""Encoder: the contract of networks from x to features."""

from __future__ import annotations

from torch import Tensor

from vaekit.contracts.part import Part
from vaekit.contracts.trees import Sizes, Tree, each, first
from vaekit.numerics.precision import cast


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
