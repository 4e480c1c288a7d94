"""LightningCLI, with parts by name, and the subcommands that look at a trained model."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

from vaekit.cli import resume
from vaekit.cli.allowed_imports import limited, split_off
from vaekit.cli.checks import refuse_monitors, refuse_settings
from vaekit.cli.commands import ASIDE, COMMANDS
from vaekit.cli.configs import default_files
from vaekit.cli.errors import REFUSALS, is_of_restoring, is_refusal, one_line, why
from vaekit.cli.invocation import (
    chosen,
    going_on,
    named_by_path,
    names_data,
    settings_below,
    with_data,
)
from vaekit.cli.options import LOOKS, Options
from vaekit.cli.parser import Parser, names_lead_to_plugins
from vaekit.data.base import DataModule
from vaekit.evaluation import summary
from vaekit.model.checkpoints import data_of, describe, load, missing, read_checkpoint, restored
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins, specs
from vaekit.storage.files import CheckpointError, beside
from vaekit.storage.runs import RunLogger, found, own_folder
from vaekit.training.callbacks.checkpoint import BestCheckpoint
from vaekit.training.callbacks.config import ConfigWriter
from vaekit.training.callbacks.guard import Interrupted, exit_code, guard_of
from vaekit.training.callbacks.pictures import Pictures
from vaekit.training.callbacks.predictions import PredictionWriter
from vaekit.training.callbacks.progress import Progress
from vaekit.training.lightning_messages import quieten
from vaekit.training.module import VAEModule
from vaekit.training.non_finite import NonFiniteError
from vaekit.training.trainer import Trainer

_NEEDS = {"validate": "val", "test": "test", "predict": "named"}  # which rows


class CLI(Options):
    """The command line: LightningCLI with a kind of plugin behind each part of the model.

    Arguments:
        args: Its words.
        chooses: Whether a fit's parts that are not named are chosen for its data.
    """

    def __init__(self, args: list[str], chooses: bool = False) -> None:
        self.asked = COMMANDS.keys() & set(args) - ASIDE
        own: dict[str, Any] = {
            name: {"description": COMMANDS[name]} for name in self.subcommands()
        }
        # Of a fit that goes on: the checkpoint, and its settings, which lie below all others.
        self._path, self.checkpoint = going_on(args) if "fit" in args else (None, None)
        self._data_are_named = self.checkpoint is None or names_data(args)
        # Of data that are named by their path, which are read before all else is parsed.
        self._read: DataModule | None = None
        if {"-h", "--help"} & set(args) or "fit" not in args or self.checkpoint is not None:
            self._base = settings_below(self.checkpoint)
        elif chooses:
            self._read, self._chosen, self._base = chosen(args)
        else:
            self._base = None
        if "fit" in own:
            below = [self._base] if self._base else default_files()
            own["fit"]["default_config_files"] = below
        super().__init__(
            VAEModule,
            DataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "default_env": True,
                "env_prefix": "VAEKIT",
                "prog": "vaekit",
                "allow_abbrev": False,
                **own,
            },
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def parse_arguments(self, parser: Any, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
            refuse_settings(self.config[self.config.subcommand])
        except ValueError as error:
            parser.error(why(error))
        finally:
            if self._base:
                Path(self._base).unlink()

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint's hyperparameters never win over the command line in silence."""

    # Instances

    def instantiate_classes(self) -> None:
        command, parser = str(self.subcommand), self._parser(self.subcommand)
        if command != "fit":  # which said it
            warnings.filterwarnings("ignore", category=UserWarning, module=r"vaekit\.")
        try:
            self._fill_in_folder()
            self.config_init: Namespace = self.parser.instantiate(self.config)
            self.plain = self._plain(self.parser, self.config)[command]
            if not isinstance(self.plain.get("model", {}), Mapping):
                raise ValueError(f"Expected options under model but got {self.plain['model']!r}.")
            named, self.runs = self._get(self.config, "ckpt_path"), self._get(self.config, "runs")
            self.ckpt_path = self._path or found(named, Path(self.runs))
            if command == "fit":
                self._instantiate_fit(self.plain)
            else:
                self._instantiate_trained(self.plain)
            self.trainer = self.instantiate_trainer()
        except (OSError, ModuleNotFoundError, *REFUSALS) as error:
            refused = isinstance(error, ValueError | OSError | ModuleNotFoundError)
            told = plugins.blame(error)
            if not (refused or told or is_refusal(error)):
                raise
            parser.error(told or why(error))

    def _fill_in_folder(self) -> None:
        """The folder of the runs, where a TensorBoard logger is named without one."""
        named = self._get(self.config, "trainer").get("logger")
        for logger in named if isinstance(named, list) else [named]:
            if isinstance(logger, Namespace) and logger.class_path.endswith(".TensorBoardLogger"):
                logger.init_args.save_dir = logger.init_args.save_dir or self._get(
                    self.config, "runs"
                )

    def _plain(self, parser: Any, config: Namespace) -> dict[str, Any]:
        """A parsed configuration as plain data, with parts by their short names."""
        plain = yaml.safe_load(
            parser.dump(config, skip_unset=True, format="yaml", skip_validation=True)
        )
        for own in (plain, plain.get(str(self.subcommand), {})):
            for key in ("model", "data", "prior"):
                if key in own:
                    own[key] = specs.shorten(own[key])
        return dict(plain)

    def _instantiate_fit(self, config: dict[str, Any]) -> None:
        checkpoint, self.checkpoint = self.checkpoint, None
        if checkpoint is not None:
            if config.get("data") is None:
                self._data(None, checkpoint)  # which says what to name
            resume.refuse_contradictions(config, checkpoint)
        self.datamodule = self._known() or self._data(
            config.get("data"), checkpoint, self._data_are_named
        )
        data: Any = self.datamodule
        if checkpoint is not None:
            data = data.info
            restored(checkpoint).check_data(data)
            stored = checkpoint["vaekit"]["model"]["data"]
            data = replace(data, batch_effects=stored.get("batch_effects"))
        if self._read is not None and getattr(rank_zero_only, "rank", 0) == 0:
            summary.show_data(self.datamodule, {k: config["model"][k] for k in self._chosen})
        parts = {k: v for k, v in config["model"].items() if k not in resume.TRAINING}
        training = {k: v for k, v in config["model"].items() if k in resume.TRAINING}
        self.model = VAEModule(Model(data, **parts), **training)
        if self.model.lr_scheduler:  # as it is in force
            config["model"]["lr_scheduler"] = self.model.lr_scheduler

    def _known(self) -> DataModule | None:
        """The data that were read to choose parts for them, if they are those of the fit."""
        spec = self.plain.get("data")
        if self._read is None or spec is None:
            return None
        given, read = (specs.resolve("data", s) for s in (spec, self._read.spec))
        return self._read if given == read else None

    def _instantiate_trained(self, config: dict[str, Any]) -> None:
        if self.ckpt_path is None:
            raise ValueError(
                f"vaekit {self.subcommand} needs a trained model: --ckpt_path runs/.../best.ckpt, "
                "or best, that of the newest run"
            )
        named = [key for key, value in config.get("model", {}).items() if value is not None]
        if named:
            raise ValueError(f"The model comes from the checkpoint: leave out --model.{named[0]}.")
        self.model = VAEModule.load_from_checkpoint(self.ckpt_path)
        checkpoint = read_checkpoint(self.ckpt_path)
        spec = config.get("data") or checkpoint["vaekit"]["data"]
        given = config.get("data") is not None
        if self.subcommand == "sample" and not self.model.model.info.context_features:
            self.datamodule = None
            with suppress(ValueError):  # wanted for its form alone, and not loaded
                self.datamodule = self._data(spec or data_of(checkpoint), checkpoint, given)
            return
        self.datamodule = self._data(spec, checkpoint, given)
        try:
            info = self.datamodule.info
        except (TypeError, AttributeError) as error:
            if given:
                raise
            raise ValueError(f"The checkpoint's data are damaged: {error}") from error
        self.model.model.check_data(info)
        if needed := _NEEDS.get(str(self.subcommand)):
            said = str(self._get(self.config, "split")) if needed == "named" else needed
            for split in self.datamodule.splits if said == "all" else (said,):
                next(self.datamodule.rows(split, 1))  # refused where there are none

    def _data(
        self, spec: Any, checkpoint: dict[str, Any] | None, named: bool = True
    ) -> DataModule:
        """The data module; one that a checkpoint alone names neither downloads nor writes."""
        if spec is None and checkpoint is None:
            raise ValueError("Expected data, such as --data Digits, but got none.")
        if spec is None:
            raise ValueError(
                "The checkpoint's data were tensors in memory, or of a class that is not "
                "registered: name data with --data, such as --data Arrays --data.x rows.npy."
            )
        try:
            data: DataModule = specs.build("data", spec)
        except plugins.RegistryError as error:
            known = checkpoint["vaekit"]["packages"] if checkpoint else {}
            raise plugins.RegistryError(missing(error, known)) from error
        if checkpoint is not None:
            data.follow(checkpoint["vaekit"]["model"]["data"].get("schema"))
        if not named:
            vars(data)["prepare_data"] = lambda: None
        return data

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        logger = trainer.get("logger")
        loggers = [logger] if logger and not isinstance(logger, list) else logger or []
        runs = self.runs
        own = own_folder(self.ckpt_path, Path(runs))
        if logger is not False and self.subcommand == "fit":
            # First, since Lightning takes the run's folder from the first logger.
            loggers = [RunLogger(runs, own), *(x for x in loggers if x is not True)]
        kwargs["logger"] = loggers or False
        if logger is False and self.subcommand == "fit":  # files go into a folder of the run's own
            kwargs["default_root_dir"] = RunLogger(runs, own).log_dir
        keys = self._parser(self.subcommand).callback_keys
        if self.subcommand != "fit":
            kwargs["enable_checkpointing"] = False
            keys.clear()  # those of a fit
        elif trainer.get("enable_checkpointing") is False:
            keys.remove("checkpoint")
        result: Any = super().instantiate_trainer(**kwargs)
        named = trainer.get("callbacks") or []
        for at, callback in enumerate(result.callbacks):
            chosen = callback in (named if isinstance(named, list) else [named])
            if type(callback) is RichProgressBar and not chosen:  # Lightning's default
                result.callbacks[at] = Progress()
        if self.subcommand == "fit":
            packages = describe(self.model.model, {}, self.datamodule)["packages"]
            result.callbacks.insert(0, ConfigWriter(self.plain, packages))
            refuse_monitors(result.callbacks, self._logged)
        if self.subcommand == "predict":
            result.callbacks.append(PredictionWriter(beside(str(self.ckpt_path))))
        return result

    def _logged(self) -> set[str]:
        """The names of the numbers that a fit logs."""
        model: Model = self.model.model
        with fixed_noise(0), model.using():
            batch = next(self.datamodule.rows("train", 2))
            terms = {
                "val": model.evaluate(batch),
                "train": model.objective(model.core, batch, 0),
            }
        trainer = self._get(self.config_init, "trainer")
        if "val" not in self.datamodule.splits or trainer.get("limit_val_batches") in (0, 0.0):
            del terms["val"]
        bound = model.bound_name
        bits = {f"{split}/bpd" for split in terms if model.has_bits and bound in terms[split]}
        found = {f"{split}/{name}" for split in terms for name in terms[split]}
        if "val" in terms:
            found |= self._get(self.config_init, "collapse").names(model, self.datamodule)
        return found | bits | {f"step/{name}" for name in terms["train"]}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        # But for a fit the model has its weights already.
        kwargs["ckpt_path"] = None if subcommand in _NEEDS else self.ckpt_path
        if subcommand == "fit":
            kwargs["weights_only"] = True
        if subcommand in LOOKS:
            kwargs["model"] = self.model.model
        if subcommand == "fit-prior":
            kwargs["prior"] = self.plain.get("prior")
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Interrupted:
            self._after_interrupt()
            raise
        except SystemExit as error:  # as Lightning ends after a second Ctrl-C
            interrupted = isinstance(error.__context__, KeyboardInterrupt)
            raise SystemExit(130 if interrupted else error.code) from None
        except (NonFiniteError, CheckpointError) as error:
            self._fail(error)
        except OSError as error:
            self._fail(error)
        except (*REFUSALS, ImportError, KeyError, AttributeError, IndexError) as error:
            parser: Any = self._parser(subcommand)
            if self.ckpt_path and is_of_restoring(error):
                said = f"{type(error).__name__}: {why(error)}"
                parser.error(f"{self.ckpt_path} could not be gone on from: {said}")
            if not is_refusal(error):
                raise
            parser.error(why(error))
        if subcommand == "fit" and (number := guard_of(self.trainer).signal):
            sys.exit(exit_code(self.trainer, 128 + number))  # it came with the last step

    # What is said

    def _fail(self, error: Exception) -> None:
        """Ends with one error, and the newest state that is good."""
        kept = self._kept()
        go_on = f" The newest good state is in {kept}." if kept else ""
        if self.trainer.is_global_zero:
            print(f"vaekit: error: {why(error)}{go_on}", file=sys.stderr)
        sys.exit(exit_code(self.trainer, 1))

    def _fail_of_result(self, what: str) -> None:
        """Ends a fit whose result is no number."""
        print(
            f"vaekit: error: Expected a finite result of the fit, but {what}: training diverged. "
            "Try a lower learning rate (--model.optimizer.lr), clip the gradients "
            "(--trainer.gradient_clip_val 1), or look for extreme values in the data.",
            file=sys.stderr,
        )
        sys.exit(exit_code(self.trainer, 1))

    def _kept(self) -> str:
        kept = str(getattr(self.trainer.checkpoint_callback, "last_model_path", ""))
        return kept if Path(kept).is_file() else ""

    def _after_interrupt(self) -> None:
        """Pictures and summary of a fit that was interrupted, and how to go on."""
        trainer: Any = self.trainer
        kept = self._kept()
        if kept:
            for callback in trainer.callbacks:
                if isinstance(callback, Pictures):
                    callback.on_fit_end(trainer, self.model)
        self.after_fit()
        if kept and trainer.is_global_zero:
            print(f"To go on: vaekit fit --ckpt_path {kept}")

    def after_fit(self) -> None:
        trainer: Any = self.trainer
        checkpoint = trainer.checkpoint_callback
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if not isinstance(checkpoint, BestCheckpoint) or folder is None:
            return
        kept = checkpoint.best_model_path or checkpoint.last_model_path
        if not kept:
            print("No epoch was trained: there is nothing to show.")
            return
        if trainer.is_global_zero:
            best: Any = checkpoint.best_model_score
            name = f"val/{self.model.model.best[0]}"
            share = trainer.limit_val_batches  # a whole number counts batches
            whole = isinstance(share, float) and share == 1
            chosen = checkpoint.monitor == name and whole
            # Not known where training was cut short of its first validation, another number chose
            # the best, or that of a part of the rows.
            best = float(best) if best is not None and chosen else None
            pictures = [c for c in trainer.callbacks if isinstance(c, Pictures)]
            drawn = [path for callback in pictures for path in callback.paths]
            files = [Path(kept), *drawn, Path(folder, "config.yaml")]
            # Not by the trainer, whose callbacks may change weights.
            model = load(kept, trainer.strategy.root_device)
            if best is None and "val" in self.datamodule.splits:
                best = float(summary.bound(model, self.datamodule).mean())
            if best is not None and not isfinite(best):
                self._fail_of_result(f"{name} of {kept} is {best}")
            summary.show(model, self.datamodule, best, files)


def run(args: list[str]) -> None:
    """Parses and runs one command."""
    quieten()
    matplotlib.rcdefaults()  # a matplotlibrc in this folder may say anything
    args, packages, debug = split_off(args)
    with warnings.catch_warnings(), limited(packages), names_lead_to_plugins():
        warnings.showwarning = _said
        try:
            CLI(with_data(args), chooses=named_by_path(args))
        except KeyboardInterrupt:
            sys.exit(130)
        except SystemExit as error:
            if debug and error.__context__ is not None:
                traceback.print_exception(error.__context__)
            left = error.__context__ if isinstance(error.__context__, SystemExit) else error
            if told := plugins.blame(left):  # a part that leaves the process
                sys.exit(f"vaekit: error: {one_line(told)}")
            raise
        except Exception as error:
            told = plugins.blame(error)
            if debug or told is None:  # a fault of vaekit's own
                raise
            sys.exit(f"vaekit: error: {one_line(told)} (--debug shows the traceback)")


def _said(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning in one line, without the line of code that it comes from."""
    print(f"vaekit: warning: {message}", file=sys.stderr)
