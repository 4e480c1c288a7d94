"""The private names of other packages that the house leans on, all in this list.

They may change without notice, so pyproject.toml caps the packages below their next minor version.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import WandbLogger
from torch import nn

SRC = Path(__file__).parents[1] / "src" / "vaekit"

PRIVATE = {
    "lightning.pytorch.cli:LightningCLI": {
        "_get",
        "_parse_ckpt_path",
        "_parser",
        "_prepare_subcommand_kwargs",
        "_run_subcommand",
    },
    "lightning.pytorch.cli:LightningArgumentParser": {
        "_actions",
        "_load_env_vars",
        "_option_string_actions",
    },
    "lightning.pytorch:LightningModule": {"_trainer"},
    "lightning.pytorch.loggers:WandbLogger": {"_experiment", "_wandb_init"},
    "torch.nn:Module": {"_apply", "_modules", "_parameters"},
    "vaekit.numerics.random:torch": {"_sample_dirichlet", "_standard_gamma"},
    "jsonargparse:_typehints": {"resolve_class_path_by_name"},
    "jsonargparse:_common": {"parsing_settings"},
}


@pytest.mark.parametrize("where", PRIVATE)
def test_the_private_names_are_there(where: str) -> None:
    module, _, name = where.partition(":")
    found = getattr(importlib.import_module(module), name)
    instances = (LightningModule, nn.Module, LightningArgumentParser, WandbLogger)
    made = found() if found in instances else found
    for private in PRIVATE[where]:
        assert hasattr(made, private), f"{where} has no {private} any more"


def test_the_loops_count_as_they_are_set_when_a_fit_goes_on() -> None:
    loop = Trainer(logger=False, enable_progress_bar=False).fit_loop
    assert hasattr(loop, "_restarting")
    assert hasattr(loop.epoch_loop, "_batches_that_stepped")


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_the_list_is_whole() -> None:
    used, own = set(), set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute):
                (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("vaekit"):
                used |= {alias.name for alias in node.names}
    listed = set().union(*PRIVATE.values()) | {where.partition(":")[2] for where in PRIVATE}
    assert {name for name in used - own if _private(name)} <= listed
