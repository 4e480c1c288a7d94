"""Objective: the contract of modules that compute the loss and what validation reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.part import Part
from vaekit.contracts.posterior import Posterior


class Objective(Part):
    """Maps a model and a batch to named terms, of which `loss` is minimised.

    Attributes:
        best: The number of `evaluate` that chooses the best checkpoint, and whether "max" or "min"
            is best. An objective whose schedules end in the ELBO keeps the ELBO. Every other one
            names a number that has the objective's final form, usually `loss` with schedules at
            their end. Otherwise a target that moves past the model would choose the checkpoint.
        bound: Whether `evaluate` reports a lower bound of log p(x), in nats: the number that
            `best` names if "max" is best, otherwise `elbo`.
        keeps_newest: Whether no number of `evaluate` compares two checkpoints, since a target
            moves until the fit ends. The newest model is then the best one.
    """

    best: tuple[str, str] = ("elbo", "max")
    bound: ClassVar[bool] = True
    keeps_newest: ClassVar[bool] = False

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
        """Computes what validation and test report of rows, by default the ELBO, beta 1.

        It must not wait for other ranks, since one rank may call it alone.

        Arguments:
            model: The core.
            batch: The rows.

        Returns:
            Terms by name, each (B,), or a scalar if the term depends on all rows of the batch.
        """
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

        `{"params": ..., "lr": ..., "betas": ..., "clip": ...}`: what it leaves out is as for the
        others; `clip` is the largest norm of these parameters' gradient, by default the trainer's.
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
