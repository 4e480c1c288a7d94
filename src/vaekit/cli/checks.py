"""What settings may be, looked at before anything is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback

from vaekit.cli.options import CALLBACKS

_AT_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
"""Of the trainer's arguments: where Lightning has no check, and fails later or goes on."""
_FEW = 8  # processes that a machine of few cores bears, as in tests


def refuse_settings(config: Namespace) -> None:
    """Refuses settings with which Lightning would fail later, and not say why.

    Raises:
        ValueError: If there is one.
    """
    for group in ("trainer", *CALLBACKS):
        if group in config and not isinstance(config[group], Namespace):
            raise ValueError(f"Expected options under {group} but got {config[group]!r}.")
    trainer = config.trainer
    for name, least in _AT_LEAST.items():
        value = trainer.get(name)
        if value is not None and value < least:
            raise ValueError(f"--trainer.{name}: expected at least {least} but got {value}.")
    _refuse_crowds(trainer)
    every = trainer.get("val_check_interval")
    if isinstance(every, int | float) and every <= 0:
        raise ValueError(f"--trainer.val_check_interval: expected more than 0 but got {every}.")
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        raise ValueError(f"--seed_everything: expected 0 to {2**32 - 1} but got {seed}.")


def _refuse_crowds(trainer: Namespace) -> None:
    """Refuses so many processes on this machine's CPU that it would stand still."""
    devices, cores = str(trainer.get("devices")), os.cpu_count() or 1
    most = max(cores, _FEW)
    if not devices.isdecimal() or int(devices) <= most:
        return
    if trainer.get("accelerator") == "cpu" or not torch.accelerator.is_available():
        raise ValueError(
            f"--trainer.devices: expected at most {most} processes on the {cores} cores of this "
            f"machine but got {devices}."
        )


def refuse_monitors(callbacks: Sequence[Callback], logged: Callable[[], set[str]]) -> None:
    """Refuses a callback that watches a number which a fit does not log.

    Not where there are other people's callbacks, which may log it.

    Arguments:
        logged: Returns what is logged, as `val/elbo`.

    Raises:
        ValueError: If there is one.
    """
    monitors = [(c, getattr(c, "monitor", None)) for c in callbacks]
    watching = [(c, wanted) for c, wanted in monitors if wanted is not None]
    own = (type(c).__module__.startswith(("lightning.", "vaekit.")) for c in callbacks)
    if not watching or not all(own):
        return
    known = logged()
    for callback, wanted in watching:
        if wanted not in known:
            raise ValueError(
                f"{type(callback).__name__} watches {wanted}, which this fit does not log: "
                f"expected one of {', '.join(sorted(known))}."
            )
