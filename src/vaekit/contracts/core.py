"""Core: the contract of the module that holds the parts of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch
from vaekit.contracts.draw import Draw
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.part import Noise, Part, learns
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import Prior
from vaekit.contracts.trees import Tree, each


class Core(Part):
    """The model proper: the parts, which it makes with `build`, and the data's way through them.

    Attributes:
        posterior: Makes the q that `infer` returns.
        likelihood: Makes the p(x|z) that `decode` returns.
        prior_columns: The context columns, by number, that the prior gets; None for all.
    """

    posterior: Posterior
    likelihood: Likelihood
    prior_columns: tuple[int, ...] | None = None
    keep_draw = False
    last_draw: Draw | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last_draw": None}  # which no copy can carry: it has a graph

    @property
    def learned_prior(self) -> Prior | None:
        """A prior in it that has weights which training changes; None where there is none."""
        priors = (part for part in self.modules() if isinstance(part, Prior))
        return next((prior for prior in priors if learns(prior)), None)

    def prior_context(self, context: Tensor | None) -> Tensor | None:
        """Returns the columns of a context (B, C) that the prior gets; None if there are none."""
        if context is None or self.prior_columns is None:
            return context
        return context[:, list(self.prior_columns)] if self.prior_columns else None

    def given_to_prior(self) -> dict[str, Any]:
        """Returns what `build("prior", ...)` needs to build a prior of `prior_columns`."""
        columns = self.prior_columns
        given = {"context_features": len(columns or ()), "context_columns": columns}
        return {} if columns is None else given

    def kept(self, draw: Draw) -> Draw:
        """The draw that `draw` returns; remembered where a part's `after_step` will want it."""
        if self.keep_draw and self.training:
            self.last_draw = draw
        return draw

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """A function of the core, such as one of its methods, called with these arguments.

        So `still(core)(core.decode, z)` decodes and changes no state, and
        `torch.func.functional_call(core, weights, (core.decode, z))` does so with other weights.
        """
        return function(*args)

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
