"""Going on from a checkpoint: which one, and what of a run it decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit import specs

__all__ = ["TRAINING", "found", "take"]

TRAINING = ("optimizer", "lr_scheduler", "lr_interval")
"""What stands under model on the command line but is an argument of VAEModule, not of Model."""


def found(path: str | None, runs: Path) -> str | None:
    """A checkpoint's path; `last` and `best` are those of the newest run.

    Raises:
        ValueError: If there is no run that has one.
    """
    if path not in ("last", "best"):
        return path
    known = sorted(runs.glob(f"*/{path}.ckpt"), key=lambda p: p.stat().st_mtime)
    if not known:
        raise ValueError(f"Expected a run with a {path}.ckpt in {runs} but there is none.")
    return str(known[-1])


def take(config: dict[str, Any], default: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """What the user did not say is the checkpoint's; its model cannot be another.

    Arguments:
        config: The configuration of a fit, which is changed.
        default: The same where nothing is said.
        stored: What the checkpoint says under "vaekit".

    Raises:
        ValueError: If the user says another part, or another shape of z.
    """
    before = {**stored["model"], **stored["training"]}
    for key, value in config["model"].items():
        if value == default["model"].get(key):
            config["model"][key] = before[key]
        elif key not in TRAINING and _resolved(key, value) != _resolved(key, before[key]):
            raise ValueError(
                f"The checkpoint's model has the {key} {_short(before[key])} but got "
                f"{_short(value)}: leave out --model.{key}, or --ckpt_path."
            )
    if config["data"] == default["data"]:
        config["data"] = stored["data"]


def _resolved(key: str, value: Any) -> Any:
    """A part, or the shape of z, in the one form that it has in a checkpoint."""
    if key == "latent_shape":
        return [value] if isinstance(value, int) else list(value)
    return specs.resolve(key, value)


def _short(value: Any) -> str:
    """A part in one line: its name, and its arguments where it has any."""
    if not isinstance(value, Mapping):
        return str(value)
    given = ", ".join(f"{k}={v}" for k, v in value.get("init_args", {}).items())
    return f"{value.get('class_path', value)}({given})"
