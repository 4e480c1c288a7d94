"""The table of a model's parts and their sizes, which is shown before training."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelSummary
from rich.console import Console
from rich.table import Table
from torch import nn

from vaekit.model import Model

__all__ = ["in_place_of", "show_parts"]


def in_place_of(summary: ModelSummary, model: Model) -> ModelSummary:
    """A callback that shows the parts where Lightning's own shows one row, and no operations."""
    own = type(summary)()  # of this very type, else Lightning shows both
    own.summarize = lambda *_, **__: show_parts(model)  # type: ignore[method-assign]
    return own


def show_parts(model: Model) -> None:
    """Prints the parts of a model, each with the number of its parameters."""
    table = Table("part", "class", "parameters")
    for name, part in {**dict(model.core.named_children()), "objective": model.objective}.items():
        table.add_row(name, type(part).__name__, f"{_size(part):,}")
    table.add_row("all", type(model.core).__name__, f"{_size(model):,}")
    Console().print(table)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
