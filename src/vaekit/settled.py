"""Where a fit stands between two steps, and what a checkpoint of it has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaekit.finite import NonFiniteError, tensors

__all__ = ["Settled", "refuse_state", "rewind"]


@dataclass
class Settled:
    """Where a fit stands between two steps of the optimizer.

    Arguments:
        step: Steps of the optimizer that were taken.
        epochs: Epochs that are over.
        batches: Batches of this epoch that are done.
        total: Batches of all epochs that are done.
        logged: The number under which the next step is logged.
        noise: States of torch's generators.
        means: Names, sums and rows of the epoch's means so far.
    """

    step: int
    epochs: int
    batches: int
    total: int
    logged: int
    noise: dict[str, Tensor]
    means: tuple[tuple[str, ...], Tensor, Tensor] | None = None


def refuse_state(checkpoint: dict[str, Any], parameters: set[str]) -> None:
    """Refuses weights and optimizers that are not finite; a buffer may be infinite, as masks are.

    Raises:
        NonFiniteError: If a value is not.
    """
    for key in ("state_dict", "current_model_state"):
        for name, x in checkpoint.get(key, {}).items():
            bad = isinstance(x, Tensor) and x.is_floating_point()
            if bad and not (x.isfinite() if name in parameters else ~x.isnan()).all():
                raise NonFiniteError(f"{name} is not finite: no checkpoint is written.")
    for state in checkpoint.get("optimizer_states", ()):
        if any(x.is_floating_point() and not x.isfinite().all() for x in tensors(state["state"])):
            raise NonFiniteError(
                "The state of the optimizer is not finite: no checkpoint is written."
            )


def rewind(loops: dict[str, Any], at: Settled) -> None:
    """Lets Lightning's counters stand where a fit is settled."""

    def stand(progress: dict[str, Any], begun: int, done: int) -> None:
        counts = {"ready": begun, "started": begun, "processed": done, "completed": done}
        progress.update({k: v for k, v in counts.items() if k in progress})

    epochs = loops["epoch_progress"]
    before = epochs["total"]["completed"] - epochs["current"]["completed"]
    begun = at.epochs + (at.batches > 0)
    stand(epochs["current"], begun, at.epochs)
    stand(epochs["total"], before + begun, before + at.epochs)
    batches = loops["epoch_loop.batch_progress"]
    stand(batches["current"], at.batches, at.batches)
    stand(batches["total"], at.total, at.total)
    batches["is_last_batch"] = False
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = at.logged
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    for progress in steps.values():
        progress["ready"] = progress["completed"]
    for loader in loops["state_dict"].get("combined_loader", ()):
        if "batches" in loader:
            loader["batches"] = at.batches
