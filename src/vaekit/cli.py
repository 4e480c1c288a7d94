"""LightningCLI, with parts by name, and the subcommands that look at a trained model."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from vaekit import plugins, specs, summary
from vaekit.callbacks import BestCheckpoint, ConfigWriter, Pictures, PredictionWriter
from vaekit.checkpoints import missing, read_checkpoint
from vaekit.data.base import DataModule
from vaekit.model import MODEL_KINDS, Model
from vaekit.module import VAEModule
from vaekit.trainer import Trainer

__all__ = ["CLI", "run"]

_TRAINING = ("optimizer", "lr_scheduler", "lr_interval")  # arguments of VAEModule, not of Model
_LOOKS = ("sample", "reconstruct", "encode")  # commands of our own: they need no LightningModule
_UNDERLAY = "VAEKIT_FIT__CONFIG"


class Parser(LightningArgumentParser):
    """A parser whose error, where a part's name is wrong, says which names there are."""

    given: ClassVar[list[str]] = []

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Ends with the message, and without the pages of usage that would hide it."""
        if not self.exit_on_error:  # a parser within the parser, whose error is looked at
            super().error(message, ex)
        message = _better(message, self.given)
        self.exit(2, f"vaekit: error: {message}\n(All options: vaekit {self.given[0]} --help)\n")


class CLI(LightningCLI):
    """The command line: LightningCLI with a kind of plugin behind each part of the model."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            VAEModule,
            DataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"default_env": True, "env_prefix": "VAEKIT"},
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    # Arguments

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        own = {name: {"model", "datamodule"} for name in _LOOKS}
        return {**LightningCLI.subcommands(), **own}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Trainer, "trainer")
        plain: dict[str, Any] = {"instantiate": False, "required": False, "fail_untyped": False}
        parser.add_class_arguments(Model, "model", skip={"data", *MODEL_KINDS}, instantiate=False)
        parser.add_argument(
            "--model.lr_interval", type=Literal["epoch", "step"], default="epoch", help="..."
        )
        for kind in MODEL_KINDS:
            base = plugins.base(kind)
            parser.add_subclass_arguments(
                base, f"model.{kind}", skip=specs.reserved(kind), **plain
            )
        schedulers = torch.optim.lr_scheduler.LRScheduler
        parser.add_subclass_arguments(
            torch.optim.Optimizer, "model.optimizer", skip={"params"}, **plain
        )
        parser.add_subclass_arguments(
            schedulers, "model.lr_scheduler", skip={"optimizer"}, **plain
        )
        parser.add_subclass_arguments(DataModule, "data", **plain)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_argument(
            "--runs", default="runs", help="Folder in which each run gets its own."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint's hyperparameters never win over the command line in silence."""

    # Instances

    def instantiate_classes(self) -> None:
        self.config_init: Namespace = self.parser.instantiate(self.config)
        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=True, format="yaml"))
        config = config[self.subcommand]
        for key in ("model", "data"):
            if key in config:
                config[key] = specs.shorten(config[key])
        self.plain = config
        try:
            self._instantiate_parts(config)
        except (ValueError, FileNotFoundError) as error:
            self._parser(self.subcommand).error(str(error))
        self.trainer = self.instantiate_trainer()

    def _instantiate_parts(self, config: dict[str, Any]) -> None:
        path = self._get(self.config, "ckpt_path")
        if self.subcommand == "fit":
            self.datamodule = specs.build("data", config["data"])
            training = {k: config["model"].pop(k) for k in _TRAINING if k in config["model"]}
            self.model = VAEModule(Model(self.datamodule, **config["model"]), **training)
            return
        if path is None:
            raise ValueError(
                f"vaekit {self.subcommand} needs a trained model: --ckpt_path runs/.../best.ckpt"
            )
        given = [key for key in MODEL_KINDS if key in config["model"]]
        if given:
            raise ValueError(f"The model comes from the checkpoint: leave out --model.{given[0]}.")
        self.model = VAEModule.load_from_checkpoint(path)
        self.datamodule = None
        if self.subcommand == "sample" and not self.model.model.info.context_features:
            return
        stored = read_checkpoint(path)["vaekit"]
        spec = config.get("data") or stored["data"]
        if spec is None:
            raise ValueError(
                "The checkpoint's data were tensors in memory, or of a class that is not "
                "registered: name data with --data, such as --data Arrays --data.x rows.npy."
            )
        try:
            self.datamodule = specs.build("data", spec)
        except plugins.RegistryError as error:
            raise plugins.RegistryError(missing(error, stored["packages"])) from error
        self.model.model.check_data(self.datamodule.info)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        logger = trainer.get("logger")
        loggers = [logger] if logger and not isinstance(logger, list) else logger or []
        runs = self._get(self.config, "runs")
        if logger is not False and self.subcommand == "fit":
            # First, since Lightning takes the run's folder from the first logger.
            loggers = [CSVLogger(runs, name=None), *(x for x in loggers if x is not True)]
        kwargs["logger"] = loggers or False
        keys = self._parser(self.subcommand).callback_keys
        if self.subcommand != "fit":
            kwargs["enable_checkpointing"] = False
            keys.clear()  # those of a fit
        elif trainer.get("enable_checkpointing") is False:
            keys.remove("checkpoint")
        result: Any = super().instantiate_trainer(**kwargs)
        if self.subcommand == "fit":
            result.callbacks.insert(0, ConfigWriter(self.plain))
        if self.subcommand == "predict":
            result.callbacks.append(
                PredictionWriter(Path(self._get(self.config, "ckpt_path")).parent)
            )
        return result

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("validate", "test", "predict"):
            kwargs["ckpt_path"] = None  # the model has its weights already
        if subcommand == "fit":
            kwargs["weights_only"] = True
        if subcommand in _LOOKS:
            kwargs["model"] = self.model.model
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand not in _LOOKS:
            return super()._run_subcommand(subcommand)
        try:
            return super()._run_subcommand(subcommand)
        except ValueError as error:
            self._parser(subcommand).error(str(error))

    # What is said

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
        name = f"val/{self.model.model.objective.best[0]}"
        best: Any = checkpoint.best_model_score if checkpoint.monitor == name else None
        if best is None and "val" in self.datamodule.splits:
            # Training was cut short of its first validation, or another number chose the best.
            model = VAEModule.load_from_checkpoint(kept)
            best = trainer.validate(model, self.datamodule, verbose=False)[0][name]
        if trainer.is_global_zero:
            pictures = [c for c in trainer.callbacks if isinstance(c, Pictures)]
            drawn = [path for callback in pictures for path in callback.paths]
            files = [Path(kept), *drawn, Path(folder, "config.yaml")]
            best = None if best is None else float(best)
            summary.show(self.model.model, self.datamodule, best, files)


# What happens before the command line is parsed


def run(args: list[str]) -> None:
    """Parses and runs one command."""
    _quieten()
    args = _with_configs(args)
    Parser.given = args
    with _underlay(args):
        _load_named(args)
        CLI(args)


def _quieten() -> None:
    """Leaves out what Lightning says that tells a user of vaekit nothing."""
    noise = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    noise.addFilter(lambda record: not record.getMessage().startswith("💡"))
    for message in (
        "Checkpoint directory .* exists",
        "Couldn't infer the batch indices",
        "Total length of `list` across ranks is zero",  # no validation rows: the summary says so
        "The number of training batches .* is smaller than the logging interval",
        ".*isinstance.treespec, LeafSpec",
    ):
        warnings.filterwarnings("ignore", message=message)


def config_path(name: str) -> Path:
    """The file of a configuration: a path, or the name of one that vaekit brings along."""
    if Path(name).is_file():
        return Path(name)
    here = Path(__file__).parent
    known = {
        path.stem: path
        for folder in (here / "configs", here.parents[1] / "configs")  # installed, or a checkout
        for path in sorted(folder.glob("*.yaml"))
    }
    if Path(name).stem not in known:
        sys.exit(
            f"vaekit: error: there is no configuration file {name}, and none of that name among "
            f"vaekit's own: {', '.join(known)}."
        )
    return known[Path(name).stem]


def _with_configs(args: list[str]) -> list[str]:
    """The arguments with the names of our own configurations replaced by their paths."""
    found = []
    previous = ""
    for arg in args:
        flag, equals, value = arg.partition("=")
        if previous in ("-c", "--config"):
            arg = str(config_path(arg))
        elif flag in ("-c", "--config") and equals:
            arg = f"{flag}={config_path(value)}"
        found.append(arg)
        previous = arg
    return found


@contextmanager
def _underlay(args: list[str]) -> Iterator[None]:
    """Lays digits.yaml under a fit: environment variables, files and arguments override it.

    jsonargparse reads the configuration that an environment variable names before all else; as a
    parser's default it would leak one class's arguments into another that is chosen later.
    """
    ours = str(config_path("digits"))
    before = os.environ.get(_UNDERLAY)
    if before not in (
        None,
        ours,
    ):  # the user's own goes above ours
        args[1:1] = ["-c", str(before)]
    if "fit" in args:
        os.environ[_UNDERLAY] = ours
    try:
        yield
    finally:
        os.environ.pop(_UNDERLAY, None)
        if before is not None:
            os.environ[_UNDERLAY] = before


def _documents(args: list[str]) -> Iterator[tuple[str, str]]:
    """The configuration files of a command line, and what stands in them."""
    paths = [value for flag, value in pairwise(args) if flag in ("-c", "--config")]
    paths += [arg.partition("=")[2] for arg in args if re.match(r"(-c|--config)=", arg)]
    paths += [os.environ.get(_UNDERLAY, "")]
    for path in paths:
        if Path(path).is_file():
            yield path, Path(path).read_text()


def _load_named(args: list[str]) -> None:
    """Imports the plugins whose names stand in the command line, the files or the environment.

    Nobody else's code is imported, but for help, which lists all.
    """
    variables = [v for k, v in os.environ.items() if k.startswith("VAEKIT_")]
    words = set(
        re.findall(
            r"[\w.:]+", "\n".join([*args, *variables, *(text for _, text in _documents(args))])
        )
    )
    everything = any(arg.endswith(("--help", ".help", "-h")) for arg in args)
    found = plugins.plugins()
    claims = Counter((plugin.kind, plugin.name) for plugin in found)
    for plugin in found:
        path = {plugin.value, plugin.value.replace(":", ".")} & words
        named = plugin.name in words and claims[plugin.kind, plugin.name] == 1
        if plugin.package == "vaekit" or path or named or everything:
            # A failure is kept, and told where the parser finds no part of that name.
            with suppress(plugins.RegistryError):
                plugins.load(plugin)


def _named_parts(args: list[str]) -> Iterator[tuple[str, str]]:
    """Kind and name of each part that the command line and its files name."""
    for arg, value in zip(args, [*args[1:], ""], strict=True):
        flag, equals, given = arg.partition("=")
        match = re.fullmatch(r"--(?:model\.)?(\w+)(?:\.class_path)?", flag)
        if match and match[1] in plugins.KINDS:
            yield match[1], given if equals else value
    for _, text in _documents(args):
        with suppress(yaml.YAMLError):
            document = yaml.safe_load(text)
            parts = document.get("model") if isinstance(document, dict) else None
            named = {**(parts if isinstance(parts, dict) else {})}
            if isinstance(document, dict):
                named["data"] = document.get("data")
            for kind, part in named.items():
                name = part.get("class_path") if isinstance(part, dict) else part
                if kind in plugins.KINDS and isinstance(name, str):
                    yield kind, name


def _better(message: str, args: list[str]) -> str:
    """jsonargparse's error about a part's name or argument, in terms of the plugins there are."""
    for path, text in _documents(args):
        try:
            yaml.safe_load(text)
        except yaml.YAMLError as error:
            return f"The configuration {path} is no valid YAML: {error}"
    for kind, name in _named_parts(args):
        try:
            plugins.load(plugins.find(kind, name))
        except plugins.RegistryError as error:
            return str(error)
    with suppress(plugins.RegistryError):
        if option := re.search(r"Option '(\w+)' is not accepted", message):
            paths = re.findall(r"class_path '([\w.]+)'", message[: option.start()])
            if paths:  # the innermost is the one that has no such option
                return specs.refusal(plugins.find_any(paths[-1]), option[1])
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        return _no_class(unknown[1], message)
    return message


def _no_class(name: str, message: str) -> str:
    """What to say of a class that is neither a plugin nor torch's."""
    if key := re.search(r"model\.(optimizer|lr_scheduler)", message):
        module = {"optimizer": "torch.optim", "lr_scheduler": "torch.optim.lr_scheduler"}[key[1]]
        return f"Expected a class of {module} for model.{key[1]} but got {name!r}."
    try:
        plugins.find_any(name)
    except plugins.RegistryError as error:
        return str(error)
    return message
