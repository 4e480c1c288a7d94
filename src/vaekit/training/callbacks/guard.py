"""What is watched in a fit: signals, numbers that are not finite, and what going on needs."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from vaekit.metrics.means import RowMeans
from vaekit.numerics.random import other_states, restore, states
from vaekit.storage.files import CheckpointFiles
from vaekit.storage.runs import RunLogger
from vaekit.training import optimizers
from vaekit.training.non_finite import (
    Cause,
    NonFiniteError,
    bad_data,
    cause,
    gradients_are_finite,
    tensors,
)

_HELPS = (
    "What usually helps: a smaller learning rate (--model.optimizer.lr), clipping "
    "(--trainer.gradient_clip_val 1), a floor for a scale that is learned, data that are scaled; "
    "--guard.skip N leaves up to N such steps in a row out."
)
_OVERFLOWS = 40  # in a row: a gradient scaler that halves so often scales by nothing more


class Interrupted(SystemExit):
    """A signal ended the fit after a whole step; `last.ckpt` is where it goes on."""


def exit_code(trainer: Trainer, code: int) -> int:
    """The code with which a rank ends: Lightning kills all where one that it started has one."""
    return code if trainer.is_global_zero else 0


def guard_of(trainer: Trainer) -> Guard:
    """The trainer's guard; every fit of a VAEModule has one."""
    return next(c for c in trainer.callbacks if isinstance(c, Guard))  # type: ignore[attr-defined]


class Guard(Callback):
    """Watches a fit, so that nothing is lost.

    A step whose loss or gradient is NaN or infinite is not taken. SIGTERM and the first Ctrl-C end
    the fit after a whole step. Every checkpoint holds what an exact continuation needs.

    Arguments:
        skip: How many steps in a row may be left out since their numbers are not finite, in place
            of ending the fit at the first. Rows of data that are not finite always end it.

    Raises:
        NonFiniteError: In a fit, where a number is NaN or infinite.
        Interrupted: In a fit, after a signal.
    """

    def __init__(self, skip: int = 0) -> None:
        if skip < 0:
            raise ValueError(f"Expected skip to be 0 or a number of steps but got {skip}.")
        self.skip = skip
        self.skipped = 0
        """Steps that were left out."""
        self.signal = 0
        """The number of the newest signal to this process, 0 for none."""
        self.settled: Settled | None = None
        self.exact = False
        """Whether a fit can go on exactly from the newest settled place."""
        self._agreed = 0  # the signal that all ranks know of
        self.left_out = False
        """Whether the newest step was left out, here or by the gradient scaler."""
        self._failures = self._overflows = 0  # in a row
        self._window: list[tuple[int, Any, dict[str, Tensor]]] = []  # batches since the last step
        self._losses: list[Tensor] = []
        self._run: dict[str, Any] | None = None  # of the checkpoint that this fit goes on from
        self._before: dict[str, Any] = {}  # how it was trained
        self._requeue: Any = None  # Lightning's handler of SLURM's signal

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    # Where a fit stands

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._forget()
        self._catch_signals(trainer)
        run = self._run
        if run:
            self._take_up(run, trainer, pl_module)
        elif trainer.world_size > 1:
            # seed_everything gives all ranks one seed, and with it all ranks' rows the same noise.
            fresh = int(torch.randint(2**62, ()))  # on every rank the same
            torch.manual_seed(fresh + trainer.global_rank)
        self._settle(trainer, pl_module, batches=run.get("batches", 0) if run else 0)
        if run and "logged" in run and self.settled:
            self.settled.logged = run["logged"]
        self.exact = True

    def _forget(self) -> None:
        """Forgets what ended another fit of this trainer, such as a signal."""
        self.signal = self._agreed = self._failures = self._overflows = 0
        self.left_out = False
        self._window.clear()
        self._losses.clear()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.exact = True
        self._obey(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            # What Lightning counts once more, or leaves out, where it goes on within an epoch.
            loop = trainer.fit_loop
            loop.epoch_loop._batches_that_stepped = self._run.get(
                "logged", loop.epoch_loop._batches_that_stepped
            )
            loop._restarting = False
            self._run = None
        if not self._window:
            self._obey(trainer)
        self._refuse_data(trainer, pl_module, batch, batch_idx)
        self._window.append((batch_idx, batch, states(pl_module.device)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.settled is None or trainer.global_step != self.settled.step or self.left_out:
            self.left_out = False
            self._window.clear()
            self._losses.clear()
            self._settle(trainer, pl_module, batch_idx + 1, logged=1)
            self.exact = not _is_last(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.exact = False

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.settled is not None and not trainer.sanity_checking:
            self.settled.noise = states(pl_module.device)
            self.exact = not _is_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if _is_last(trainer):
            self._settle(trainer, pl_module, batches=0)
            self.exact = False  # until what is done at an epoch's end is done

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.exact = _is_last(trainer)

    def _settle(self, trainer: Trainer, pl_module: Any, batches: int, logged: int = 0) -> None:
        loop: Any = trainer.fit_loop.epoch_loop
        ended = _is_last(trainer) and batches == 0
        means = pl_module.means.get("train") if batches else None
        self.settled = Settled(
            step=trainer.global_step,
            epochs=trainer.current_epoch + ended,
            batches=batches,
            total=loop.batch_progress.total.ready,
            logged=loop._batches_that_stepped + logged,
            noise=states(pl_module.device),
            means=None if means is None else (means.names, means.totals, means.rows),
        )

    @property
    def cut(self) -> bool:
        """Whether an epoch ends before its last batch, by max_steps or max_time."""
        return self.settled is not None and self.settled.batches > 0 and self.exact

    # Checkpoints

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        refuse_state(checkpoint, {name for name, _ in pl_module.named_parameters()})
        settled = self.settled
        at = settled if self.exact and settled and settled.step == trainer.global_step else None
        noise = at.noise if at else states(pl_module.device)
        own = {"noise": {**noise, **other_states()}, "means": at.means if at else None}
        ranks = [own]
        if trainer.world_size > 1:
            ranks = [own] * trainer.world_size
            dist.all_gather_object(ranks, own)
        loggers = [x for x in trainer.loggers if isinstance(x, RunLogger)]
        run: dict[str, Any] = {"ranks": ranks, "skipped": self.skipped}
        run["rows"] = loggers[0].rows if loggers and trainer.is_global_zero else 0
        if at is not None:
            run |= {"batches": at.batches, "logged": at.logged}
            rewind(checkpoint["loops"]["fit_loop"], at)
            checkpoint["epoch"] = at.epochs if at.batches else at.epochs - 1  # of the last step
        checkpoint["run"] = run

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit" or "run" not in checkpoint:
            return
        if any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "Expected no StochasticWeightAveraging in a fit that goes on from a checkpoint, "
                "since Lightning does not restore its average and its learning rate. Train from "
                "the start, or average with -c ema (vaekit.callbacks.EMA), which goes on exactly."
            )
        self._run = checkpoint["run"]
        if len(self._run["ranks"]) != trainer.world_size:
            raise ValueError(
                f"The checkpoint is of {len(self._run['ranks'])} ranks but this fit has "
                f"{trainer.world_size}: use as many (--trainer.devices)."
            )
        self._before = checkpoint["vaekit"]["training"]
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and trainer.is_global_zero:
                logger.go_on(self._run["rows"])

    def _take_up(self, run: dict[str, Any], trainer: Trainer, pl_module: Any) -> None:
        """Random numbers, means and learning rate of a fit that goes on."""
        own = run["ranks"][trainer.global_rank]
        self.skipped = run["skipped"]
        restore(own["noise"], pl_module.device)
        if own["means"] is not None:
            names, totals, rows = own["means"]
            means = RowMeans(totals.dtype).to(pl_module.device)
            means.names, means.totals = tuple(names), totals.to(pl_module.device)
            means.rows = rows.to(pl_module.device)
            pl_module.means["train"] = means
        for optimizer in trainer.optimizers:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            before, now = self._before["optimizer"], pl_module.optimizer
            optimizers.change_rate(optimizer, schedulers, before, now)

    # Numbers that are not finite

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        losses = all(isfinite(loss.item()) for loss in self._losses)
        groups = [p.grad for group in optimizer.param_groups for p in group["params"]]
        finite = losses and gradients_are_finite([g for g in groups if g is not None])
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self._overflows = self._overflows + 1 if scaled and losses and not finite else 0
        overflows = 0 < self._overflows < _OVERFLOWS
        failed, self._agreed = self._agree(trainer, pl_module, not (finite or overflows))
        self.left_out = failed or overflows
        if self.left_out:
            self._forget_step(pl_module)
        if not failed:  # in an overflow the scaler leaves the step out, and scales by less
            self._failures = 0
            return
        self._failures += 1
        if self._failures > self.skip:
            raise NonFiniteError(self._explain(trainer, pl_module))
        self.skipped += 1
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = None  # for a parameter without gradient the optimizer does nothing

    def _agree(self, trainer: Trainer, pl_module: Any, failed: bool) -> tuple[bool, int]:
        """Whether a rank's step failed, and a signal to a rank, the same on all ranks."""
        if trainer.world_size == 1:
            return failed, self.signal
        flags = torch.tensor([int(failed), self.signal], device=pl_module.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags[0]), int(flags[1])

    def _forget_step(self, pl_module: Any) -> None:
        """Forgets what a step that is left out has computed: its draw, and its terms."""
        pl_module.model.core.last_draw = None
        means, before = pl_module.means["train"], self.settled
        if before is not None and before.means is not None:
            means.names, means.totals, means.rows = before.means
        else:
            means.reset()

    def _refuse_data(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Refuses rows that no data module has looked at."""
        if getattr(getattr(trainer, "datamodule", None), "looked_at", False):
            return
        x = getattr(batch, "x", batch[0] if isinstance(batch, list | tuple) else batch)
        if isinstance(x, Tensor | dict) and (found := bad_data(x, getattr(batch, "mask", None))):
            raise NonFiniteError(_told(trainer, found, batch, batch_idx, ""))

    def _explain(self, trainer: Trainer, pl_module: Any) -> str:
        """What failed, from one replay of the batches since the last step, for all ranks."""
        own = ""
        for batch_idx, batch, noise in self._window:
            restore(noise, pl_module.device)
            model: Any = pl_module.model
            batch = pl_module.as_batch(batch)
            with trainer.precision_plugin.train_step_context():
                found = cause(model, batch, trainer.global_step)
            if found is not None:
                rank = f" on rank {trainer.global_rank}" if trainer.world_size > 1 else ""
                own = _told(trainer, found, batch, batch_idx, rank)
                break
        texts = [own]
        if trainer.world_size > 1:
            texts = [own] * trainer.world_size
            dist.all_gather_object(texts, own)
        nothing = (
            f"The loss or the gradient of step {trainer.global_step + 1} is not finite, or its "
            f"square is not; taken again, the step was finite. {_HELPS}"
        )
        return next((text for text in texts if text), nothing)

    # Signals

    def _catch_signals(self, trainer: Trainer) -> None:
        """Takes the place of Lightning's handlers until it puts back those before it."""
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.received_sigterm:
            self.signal = signal.SIGTERM
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        if SLURMEnvironment.detect():
            self._requeue = signal.getsignal(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT == self.signal:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self.signal = number

    def _obey(self, trainer: Trainer) -> None:
        """Ends the fit, or lets SLURM requeue it, where a signal wants that."""
        number, self._agreed = self._agreed, 0
        if number == signal.SIGUSR1 and callable(self._requeue):
            self.signal = 0
            self._requeue(number, None)
        elif number:
            raise Interrupted(exit_code(trainer, 128 + number))


def _is_last(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def _told(trainer: Trainer, found: Cause, batch: Any, batch_idx: int, rank: str) -> str:
    """What a user is told of a step."""
    step, epoch = trainer.global_step + 1, trainer.current_epoch
    text = f"Step {step} (epoch {epoch}, batch {batch_idx}{rank}): {found.what} is not finite"
    if found.rows:
        places = torch.tensor(found.rows)
        loader: Any = trainer.train_dataloader
        data: Any = getattr(trainer, "datamodule", None)
        whose = "the batch"
        if getattr(batch, "start", None) is not None and hasattr(loader, "numbers"):
            places, whose = loader.numbers(batch.start + places), "the training rows"
            if hasattr(data, "numbers"):
                places, whose = data.numbers("train")[places], "the data"
        shown = ", ".join(map(str, places[:10].tolist()))
        more = f" and {len(places) - 10} more" if len(places) > 10 else ""
        text += f" in row{'s' * (len(places) > 1)} {shown}{more} of {whose}"
    if found.module:
        text += f"; first in {found.module}"
    return f"{text}. {_HELPS}"


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
