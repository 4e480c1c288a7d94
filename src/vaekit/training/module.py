"""The one LightningModule: what happens to a model in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from math import sqrt
from pathlib import Path
from typing import IO, Any, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

from vaekit.contracts.batch import Batch, batch_of
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.part import Part
from vaekit.contracts.trees import each
from vaekit.evaluation.importance_sampling import log_likelihood
from vaekit.evaluation.summary import in_place_of
from vaekit.metrics.means import RowMeans
from vaekit.model import checkpoints
from vaekit.model.model import Model
from vaekit.numerics.precision import exact
from vaekit.numerics.random import fixed_noise
from vaekit.training import compile as compiled
from vaekit.training import optimizers
from vaekit.training.callbacks.collapse import CollapseWatch
from vaekit.training.callbacks.directions import set_modes
from vaekit.training.callbacks.guard import Guard, guard_of
from vaekit.training.lightning_messages import Unwatched, quieten

quieten()


class VAEModule(LightningModule):
    """Trains and evaluates a model.

    Losses are in nats: sums over dimensions, means over rows. Validation and test report the bound
    itself (beta 1, full KL), whatever is minimised in training, and what else the objective says.

    Arguments:
        model: The model.
        optimizer: A class of torch.optim; None is Adam with its own defaults.
        lr_scheduler: A class of torch.optim.lr_scheduler; ReduceLROnPlateau watches what chooses
            the best checkpoint, by default the validation ELBO: its `mode` is that number's, and
            its `threshold` is absolute, in nats.
        lr_interval: Whether the scheduler steps each "epoch" or each "step".
        compile: Whether core and objective are compiled as one region, in training and in
            evaluation; or arguments of torch.compile. The weights keep their names, and a
            checkpoint loads with and without it.

    Raises:
        RegistryError: If torch has no such optimizer or scheduler, or it refuses its arguments.
        ValueError: If `lr_interval` is another, or "step" for ReduceLROnPlateau; if torch.compile
            has no such argument; when training begins, if there are no validation rows to watch
            for it; at the first step, if the model cannot be compiled.

    Example:
        >>> from vaekit import Model, data
        >>> module = VAEModule(Model(data.Digits(), latent_shape=2), optimizer="AdamW")
        >>> type(module.configure_optimizers()).__name__
        'AdamW'
    """

    def __init__(
        self,
        model: Model,
        optimizer: str | Mapping[str, Any] | None = None,
        lr_scheduler: str | Mapping[str, Any] | None = None,
        lr_interval: str = "epoch",
        compile: bool | Mapping[str, Any] = False,
    ) -> None:
        super().__init__()
        if lr_interval not in ("epoch", "step"):
            raise ValueError(f"Expected lr_interval to be epoch or step but got {lr_interval!r}.")
        self.model = model
        direction = model.best[1]
        self.optimizer, self.lr_scheduler = optimizers.accepted(optimizer, lr_scheduler, direction)
        if optimizers.watches(self.lr_scheduler) and lr_interval == "step":
            raise ValueError(
                "Expected lr_interval epoch, since ReduceLROnPlateau watches a number of each "
                "validation, but got step."
            )
        self.lr_interval = lr_interval
        arguments = compiled.accepted(compile)
        self.compiled = None if arguments is None else compiled.Compiled(model, arguments)
        self.means: dict[str, RowMeans] = {}
        """Those of each split's epoch that is under way; no submodules."""
        self.samples = 0
        """In a test, of how many draws log p(x) is estimated; 0 for none."""
        self._looked = False
        self._masked: dict[str, bool] = {}
        self._bits = model.has_bits
        self._stepped: list[Part] = []

    # Training

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            # Lightning sets it fifty times in a step, and a torch Module's own way is a long one.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def configure_callbacks(self) -> list[Callback]:
        if type(self.trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
            self.trainer.profiler = Unwatched()  # type: ignore[attr-defined]
        if isinstance(self.trainer.precision_plugin, DoublePrecision):
            # Before a callback copies the weights, and before those of a checkpoint are loaded:
            # Lightning does it after that, when they have been rounded.
            self.double()
        present: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        watching = (Guard, CollapseWatch)
        missing = [c() for c in watching if not any(isinstance(own, c) for own in present)]
        shown = (c for c in present if isinstance(c, ModelSummary))
        return [*(in_place_of(summary, self.model) for summary in shown), *missing]

    def setup(self, stage: str) -> None:
        self._look_for_parts()
        if stage == "fit":
            set_modes(self.trainer.callbacks, self.model)  # type: ignore[attr-defined]
        if isinstance(self.trainer.precision_plugin, HalfPrecision):
            # It would round rows, tokens above 256 for instance, before any part sees them; parts
            # bring them to their own type.
            self.trainer.precision_plugin.convert_input = _as_it_is  # type: ignore[method-assign]
        if hasattr(self.data, "info"):
            known, info = self.model.info, self.data.info
            self.model.check_data(info)
            same = (info.levels, info.bin_width) == (known.levels, known.bin_width)
            self._bits = self.model.has_bits and same

    def _look_for_parts(self) -> None:
        """Notes the parts that act in a step, when a fit begins: until then they may change."""
        self._stepped = self.model.overriding("after_step")
        self.model.core.keep_draw = bool(self._stepped)
        if self.compiled:
            self.compiled.look_for_schedules()

    def configure_optimizers(self) -> Any:
        groups = optimizers.groups(self, self.model.objective)
        optimizers.check_rates(self.lr_scheduler, groups)
        optimizer = optimizers.make(self.optimizer, groups, fused=self._may_fuse())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = {
            "scheduler": optimizers.make(self.lr_scheduler, optimizer),
            "interval": self.lr_interval,
        }
        if optimizers.watches(self.lr_scheduler):
            every = getattr(self._trainer, "check_val_every_n_epoch", None)
            scheduler["monitor"] = f"val/{self.model.best[0]}"
            scheduler |= {"frequency": every or 1, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _may_fuse(self) -> bool:
        trainer: Any = self._trainer
        precision = getattr(trainer, "precision_plugin", None)
        if isinstance(precision, MixedPrecision) and (
            precision.scaler is not None or trainer.gradient_clip_val
        ):
            # Lightning refuses to clip gradients of a fused optimizer then, and scaled ones are
            # unscaled by it where nobody can look.
            return False
        return all(p.device.type in ("cpu", "cuda") for p in self.parameters())

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if len(optimizer.param_groups) == 1:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            plugin = getattr(self._trainer, "precision_plugin", None)
            scaled = getattr(plugin, "scaler", None) is not None and getattr(
                optimizer, "_step_supports_amp_scaling", False
            )
            optimizers.clip_groups(optimizer, gradient_clip_val, gradient_clip_algorithm, scaled)

    @property
    def validates(self) -> bool:
        """Whether a fit has validation rows, and looks at them."""
        own = getattr(self.data, "splits", ("val",))
        return bool(self.trainer.enable_validation) and "val" in own

    def on_train_start(self) -> None:
        if optimizers.watches(self.lr_scheduler) and not self.validates:
            raise ValueError(
                "Expected validation rows, whose number ReduceLROnPlateau watches, but there are "
                "none: hold rows out, or choose another lr_scheduler."
            )
        if self.global_step == 0 and not self.model.started:
            self._look_at_rows("train", "val")
            self._let_parts_look()
        self.model.started = True

    def _look_at_rows(self, *splits: str) -> None:
        """Lets the likelihood refuse rows of a data module that it has no density for."""
        likelihood = self.model.core.likelihood
        if type(likelihood).check_rows is Likelihood.check_rows:
            return
        own = getattr(self.data, "splits", ())
        for split in (split for split in splits if split in own):
            for batch in self.data.rows(split):
                likelihood.check_rows(batch.x, batch.mask)

    def _let_parts_look(self) -> None:
        """Lets the parts that want to look at the training rows, the same on all ranks."""
        looking = [part for part in self.model.overriding("start") if part.looks]
        if not looking:
            return
        ours = hasattr(self.data, "rows")
        if not ours and self.trainer.world_size > 1:
            names = ", ".join(type(part).__name__ for part in looking)
            raise ValueError(
                f"Expected a vaekit data module, for {names} to look at all rows on every rank."
            )
        with torch.no_grad(), fixed_noise(0, self.device):
            for part in looking:
                part.start(_Again(self._training_rows))

    def _training_rows(self) -> Iterator[Batch]:
        if hasattr(self.data, "rows"):
            rows: Iterable[Batch] = self.data.rows("train")
        else:
            loader: Any = self.trainer.train_dataloader
            rows = map(self.as_batch, loader)
        return (batch.to(self.device) for batch in rows)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch = self.as_batch(batch, "train")
        if self.compiled:
            terms = self.compiled.terms(batch, self.global_step)
        else:
            terms = self.model.objective(self.model.core, batch, self.global_step)
        terms = self.model.in_units(terms, batch)
        self._count("train", terms, batch)
        every = int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            shown = {f"step/{name}": term.detach().mean() for name, term in terms.items()}
            self.log_dict(shown, batch_size=len(batch))
        loss = terms["loss"].mean()
        return loss if batch.weight == 1 else loss * batch.weight

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for p in self.model.objective.resting(self.model.core, self.global_step):
            p.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self._left_out:
            # Lightning counts the step once this returns.
            loop: Any = self.trainer.fit_loop.epoch_loop
            progress = loop.automatic_optimization.optim_progress.optimizer.step
            for counted in (progress.total, progress.current):
                counted.ready -= 1
                counted.completed -= 1
            return
        optimizers.flush(self.trainer.optimizers[0], self.global_step)
        core = self.model.core
        draw, core.last_draw = core.last_draw, None
        if draw is not None:
            with torch.no_grad():
                for part in self._stepped:
                    part.after_step(draw)

    @property
    def _left_out(self) -> bool:
        """Whether the newest step was left out, since its numbers are not finite."""
        return guard_of(self.trainer).left_out

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.lr_interval == "epoch" or not self._left_out:
            super().lr_scheduler_step(scheduler, metric)

    def on_train_batch_end(self, *args: Any) -> None:
        if self.compiled:
            self.compiled.tell()

    def on_train_epoch_start(self) -> None:
        self.means.pop("train", None)  # of an epoch that an exception ended

    def on_train_epoch_end(self) -> None:
        self._log_means("train")

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        self.means.pop("val", None)

    def on_test_epoch_start(self) -> None:
        self._look_at_rows("test")
        self.means.pop("test", None)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step("test", batch, batch_idx)

    def _evaluation_step(self, split: str, batch: Any, batch_idx: int) -> None:
        batch = self.as_batch(batch, split).keyed()
        with self._noise_of(batch, batch_idx):
            by = None if self.compiled is None else self.compiled.evaluate
            terms = self.model.evaluate(batch, by)
            if split == "test" and self.samples:
                terms = {**terms, **self.model.in_units(self._estimated(batch), batch)}
        self._count(split, terms, batch)

    def _estimated(self, batch: Batch) -> dict[str, Tensor]:
        with self.model.using():
            value, effective = log_likelihood(self.model.core, batch, self.samples)
        # Of the logarithm of a mean of K weights, to first order: their relative variance over K.
        variance = (1 / effective - 1 / self.samples) * self.samples / max(1, self.samples - 1)
        return {
            "log_likelihood": value,
            "effective_samples": effective,
            _VARIANCE: variance,
        }

    def _noise_of(self, batch: Batch, batch_idx: int) -> AbstractContextManager[None]:
        # The draws of latents have the noise of their rows; what else is random has the batch's.
        # Both are the same in every epoch: checkpoints are compared on them, and training's own
        # random numbers do not depend on how often one looks.
        place = batch_idx * self.trainer.world_size + self.global_rank
        return fixed_noise(place if batch.start is None else batch.start, self.device)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        batch = self.as_batch(batch).keyed()
        with self._noise_of(batch, batch_idx):
            rows = self.model.predict(batch)
        return {name: x[: len(batch) if batch.weight else 0] for name, x in rows.items()}

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        training: dict[str, Any] = {
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "lr_interval": self.lr_interval,
        }
        if self.compiled:
            training["compile"] = self.compiled.arguments or True
        checkpoint["vaekit"] = checkpoints.describe(self.model, training, self.data)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = "cpu",
        **instances: Any,
    ) -> Self:
        """As `vaekit.load`, with the model in the module that trained it."""
        checkpoint = checkpoints.read_checkpoint(checkpoint_path)
        model = checkpoints.rebuild(checkpoint, **instances)
        try:
            module = cls(model, **{**checkpoint["vaekit"]["training"], "compile": False})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"The checkpoint's training settings are damaged: {error}") from error
        checkpoints.fill(module, checkpoint["state_dict"])
        return module.eval().to(map_location or "cpu")

    # Helpers

    @property
    def data(self) -> Any:
        """The trainer's data module, if there is one."""
        return getattr(self._trainer, "datamodule", None)

    def as_batch(self, batch: Any, split: str = "") -> Batch:
        """The batch of a loader. Of a data module that has looked at its rows, the first is looked
        at; of others each, since nothing else has seen them."""
        if not isinstance(batch, Batch):
            batch = batch_of(batch, self.model.info)
        if not (self._looked and getattr(self.data, "looked_at", False)):
            self.model.check_rows(batch.x, batch.mask)
            self._looked = True
        # The same on every rank, also of a stand-in row.
        self._masked[split] = batch.mask is not None
        if batch.weight == 0 and self.model.core.likelihood.couples_rows:
            # A stand-in row counts for nothing, also where rows share a number.
            batch.mask = each(lambda x: torch.zeros_like(x, dtype=torch.bool), batch.x)
        return batch

    def _count(self, split: str, terms: dict[str, Tensor], batch: Batch) -> None:
        if split not in self.means:
            means = RowMeans(exact(self.device), errors=split == "test")
            self.means[split] = means.to(self.device)
        self.means[split].update(terms, rows=len(batch) if batch.weight else 0)

    def _log_means(self, split: str) -> None:
        means = self.means.pop(split)
        if not means.names:  # of an epoch all of whose steps were left out
            return
        values = means.compute()
        errors = {f"{name}_error": e for name, e in means.errors.items() if name != _VARIANCE}
        if _VARIANCE in values:
            errors["log_likelihood_error_draws"] = sqrt(values.pop(_VARIANCE) / means.counted)
        best, bound = self.model.best[0], self.model.bound_name
        if bound in values and self._bits and not self._masked.get(split):
            values["bpd"] = self.model.info.bits_per_dimension(values[bound])
        values |= errors
        for name, value in values.items():
            # The value is that of all ranks already: the mean over them is itself.
            self.log(f"{split}/{name}", value, prog_bar=name == best, sync_dist=True)


_VARIANCE = "log_likelihood_variance"
"""Of a row's estimate, over draws."""


def _as_it_is(data: Any) -> Any:
    return data


class _Again:
    """What can be passed through more than once."""

    def __init__(self, make: Callable[[], Iterator[Batch]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Batch]:
        return self.make()
