"""Core and objective: what they are called with, and held to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Batch, Tree, each
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.parts import Posterior, Prior
from vaekit.draw import Draw
from vaekit.part import Noise, Part, learns

__all__ = ["Core", "Objective", "name_of", "named"]


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

    @property
    def learned_prior(self) -> Prior | None:
        """A prior in it that has weights which training changes; None where there is none."""
        priors = (part for part in self.modules() if isinstance(part, Prior))
        return next((prior for prior in priors if learns(prior)), None)

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
        terms = self.hold_terms(super().__call__(model, batch, step), "loss", len(batch))
        return named(terms, model.likelihood)

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
        if self.bound:
            self.check_density(model, "bound")

    def check_density(self, model: Core, of: str) -> None:
        """Refuses posteriors without a density.

        Arguments:
            of: What there is not without it, a "bound" or a "rate".

        Raises:
            ValueError: If there is one.
        """
        for part in model.modules():
            if isinstance(part, Posterior) and not part.density:
                raise self.refuse(
                    f"a posterior with a density, without which there is no {of}",
                    f"{part.title or type(part).__name__}: choose an objective that needs none",
                )

    def adversary(self) -> dict[str, Any] | None:
        """Parameters that are trained against the model, as a group of torch's optimizers.

        `{"params": ..., "lr": ..., "clip": ...}`: what it leaves out is as for the others; `clip`
        is the largest norm of these parameters' gradient, by default the trainer's.
        """
        return None

    def resting(self, model: Core, step: int) -> Iterable[nn.Parameter]:
        """Parameters that an optimizer step leaves as they are; by default none.

        Their gradient is dropped once, after the last backward pass of the step and before
        gradients are clipped. An optimizer of torch does nothing to a parameter without gradient,
        but for LBFGS, which takes all of them for one vector: its momentum and weight decay rest
        too. What they rest on has to be the same on all ranks and when training goes on from a
        checkpoint: take it from the step alone.

        Arguments:
            model: The core.
            step: How many optimizer steps were taken, as in `forward`.
        """
        return ()


def named(terms: dict[str, Any], likelihood: Likelihood) -> dict[str, Any]:
    """Terms by the names that they deserve: the ELBO of what is no likelihood is a score."""
    if likelihood.normalized:
        return terms
    return {name_of(name, likelihood): term for name, term in terms.items()}


def name_of(name: str, likelihood: Likelihood) -> str:
    """The name of a term where p(x|z) is this."""
    return "score" if name == "elbo" and not likelihood.normalized else name
