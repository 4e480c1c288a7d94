"""Prior and FittedPrior: the contracts of modules that build p(z)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.contracts.part import FullPrecisionPart, Infer
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.support import _space, same_support
from vaekit.contracts.trees import Shapes
from vaekit.numerics.precision import cast, first_parameter, full_precision


class OtherSupport(ValueError):
    """A prior whose latents lie elsewhere than the posterior's.

    Attributes:
        support: Where the posterior's lie.
    """

    def __init__(self, told: str, support: Any) -> None:
        super().__init__(told)
        self.support = support


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
            context: The context columns that the core gives to a prior, (B, C); in a hierarchy
                the latents above. None if the core gives it none.
            infer: (x, context=None, mask=None) -> q(z|x) of rows of the prior's own.

        Returns:
            A distribution of batch shape (), or (B,) given a context, and event shape
            `latent_shape`.

        Raises:
            ValueError: When called, if it is no distribution of these shapes.
        """
        raise NotImplementedError

    def __call__(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        if context is not None:
            context = cast(context, self)
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
