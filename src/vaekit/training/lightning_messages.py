"""What Lightning says that tells a user of vaekit nothing, left out."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch.profilers import PassThroughProfiler

_LINES = (
    "💡",
    "TPU available",
    "Seed set to",
    "The following callbacks returned in `LightningModule.configure_callbacks` will override",
)
_WARNINGS = (
    "Checkpoint directory .* exists",
    "Couldn't infer the batch indices",
    "Total length of `list` across ranks is zero",  # no validation rows: the summary says so
    "The number of training batches .* is smaller than the logging interval",
    "You requested to overfit but enabled .* dataloader shuffling",  # which our loaders leave out
    "Starting from v1.9.0, `tensorboardX` has been removed",
    ".*isinstance.treespec, LeafSpec",
)


def quieten() -> None:
    """Leaves these lines and warnings out, in this process, from here on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logger = logging.getLogger(name)
        if _wanted not in logger.filters:
            logger.addFilter(_wanted)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_LINES)


class Unwatched(PassThroughProfiler):
    """No profiler, as Lightning's own, without making a context at each of forty places a step."""

    _nothing: AbstractContextManager[Any] = nullcontext()

    def profile(  # type: ignore[override]
        self, action_name: str
    ) -> AbstractContextManager[Any]:
        return self._nothing
