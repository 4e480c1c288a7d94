"""The options of every command."""

from __future__ import annotations

import os
from collections.abc import Set
from typing import Any, Literal

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import vaekit.callbacks  # noqa: F401 - gives the callbacks the paths that config.yaml contains
from vaekit.cli.allowed_imports import import_named
from vaekit.cli.configs import ConfigFile
from vaekit.cli.parser import Parser, bracketed
from vaekit.data.base import DataModule
from vaekit.model.model import MODEL_KINDS
from vaekit.registry import plugins, specs
from vaekit.training.callbacks.checkpoint import BestCheckpoint
from vaekit.training.callbacks.collapse import CollapseWatch
from vaekit.training.callbacks.guard import Guard
from vaekit.training.callbacks.pictures import Pictures
from vaekit.training.trainer import Trainer

LOOKS = ("sample", "reconstruct", "encode", "fit-prior")
"""Commands of our own, which need no LightningModule."""

CALLBACKS = {
    "checkpoint": BestCheckpoint,
    "pictures": Pictures,
    "guard": Guard,
    "collapse": CollapseWatch,
}
"""The callbacks of every fit, by the option that holds their arguments."""

_PLAIN: dict[str, Any] = {"instantiate": False, "required": False, "fail_untyped": False}


class Options(LightningCLI):
    """LightningCLI's options, and a kind of plugin behind each part of the model."""

    asked: Set[str]
    """The commands among the words of the command line; only their options are made."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(**kwargs)
        parser.add_argument(
            "-c", "--config", action=ConfigFile, help="A YAML file, or the name of one of ours."
        )
        parser.add_argument(
            "--import",
            type=str | list[str] | None,
            help="Modules that register parts of your own; this folder is searched last. "
            "(--allow-import PACKAGE lets a configuration name classes of a package; --debug "
            "shows the traceback of an error.)",
        )
        return parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        own = {name: {"model", "datamodule"} for name in LOOKS}
        own["fit-prior"].add("prior")  # of which the parts' own arguments are options
        known = {**LightningCLI.subcommands(), **own}
        return {name: skip for name, skip in known.items() if name in (self.asked or known)}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit-prior":
            parser.add_subclass_arguments(
                plugins.base("prior"), "prior", skip=specs.reserved("prior"), **_PLAIN
            )
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Trainer, "trainer")
        # None where it is not said: digits.yaml says it for a fit, a checkpoint elsewhere.
        parser.add_argument(
            "--model.latent_shape",
            type=int | list[int] | None,
            help="Shape of z; a number n means (n,).",
        )
        parser.add_argument(
            "--model.lr_interval",
            type=Literal["epoch", "step"] | None,
            help="Whether the scheduler steps each epoch or each step.",
        )
        parser.add_argument(
            "--model.compile",
            type=bool | dict[str, Any] | None,
            help="Compile core and objective as one region: true, or arguments of torch.compile, "
            "such as --model.compile.mode reduce-overhead.",
        )
        for kind in MODEL_KINDS:
            base = plugins.base(kind)
            parser.add_subclass_arguments(
                base, f"model.{kind}", skip=specs.reserved(kind), **_PLAIN
            )
        schedulers = torch.optim.lr_scheduler.LRScheduler
        parser.add_subclass_arguments(
            torch.optim.Optimizer, "model.optimizer", skip={"params"}, **_PLAIN
        )
        parser.add_subclass_arguments(
            schedulers, "model.lr_scheduler", skip={"optimizer"}, **_PLAIN
        )
        parser.add_subclass_arguments(DataModule, "data", **_PLAIN)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for option, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, option)
        parser.add_argument(
            "--runs", type=str, default="runs", help="Folder in which each run gets its own."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        own: Any = parser
        commands: dict[str, Any] = {c: self._parser(c) for c in self.subcommands()}
        own.refuse_variables(os.environ, commands)
        for command in commands.values():
            command.read_no_files()
        import_named(args)
        self.config = parser.parse_args(bracketed(args))
