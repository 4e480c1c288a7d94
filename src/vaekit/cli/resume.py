"""Going on from a checkpoint: which one, with which settings, and what may not change."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vaekit.cli.options import CALLBACKS
from vaekit.registry import specs
from vaekit.storage.files import CheckpointError, local
from vaekit.training import optimizers

TRAINING = ("optimizer", "lr_scheduler", "lr_interval", "compile")
"""What stands under model on the command line but is an argument of VAEModule, not of Model."""

_HARMLESS = (
    "vaekit.callbacks.EMA",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.LearningRateMonitor",
)
_KEPT = ("seed_everything", "trainer", *CALLBACKS)


def _config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration of a checkpoint's run lays below that of one that goes on."""
    config: Any = checkpoint
    for key in ("callbacks", "ConfigWriter", "config"):
        config = config.get(key, {})
        if not isinstance(config, Mapping):
            raise CheckpointError("Expected a checkpoint of a run but its settings are damaged.")
    kept = {key: config[key] for key in _KEPT if key in config}
    trainer = kept.get("trainer", {})
    if not (isinstance(trainer, Mapping) and specs.is_plain(kept)):
        raise CheckpointError("Expected a checkpoint of a run but its settings are damaged.")
    return {**kept, "trainer": {k: v for k, v in trainer.items() if k != "default_root_dir"}}


def settings_file(checkpoint: Mapping[str, Any]) -> str:
    """A file, for the caller to remove, of the settings with which a fit goes on."""
    stored = checkpoint["vaekit"]
    model = {k: v for k, v in stored["model"].items() if k != "data"}
    data = {} if stored["data"] is None else {"data": stored["data"]}
    settings = {**_config(checkpoint), "model": {**model, **stored["training"]}, **data}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(settings, file)
    return file.name


def refuse_foreign(
    checkpoint: Mapping[str, Any], path: str, runs: Path, configured: bool = False
) -> None:
    """Refuses a checkpoint from elsewhere whose run had callbacks, loggers or the like.

    They may write to, or reach, what it names; the few that cannot are taken.

    Arguments:
        configured: Whether the user names a configuration, which is taken in the place of its
            settings of the trainer then.

    Raises:
        CheckpointError: If it had one.
    """
    own = local(path)
    if own is not None and own.parent.parent.resolve() == runs.resolve():
        return  # a run of this folder
    for name in _classes(_config(checkpoint)):
        if name in _HARMLESS:
            continue
        if configured:
            del checkpoint["callbacks"]["ConfigWriter"]["config"]["trainer"]
            return
        raise CheckpointError(
            f"The run of the checkpoint, which is none of {runs}, had {name}: name its "
            "configuration too, -c .../config.yaml."
        )


def _classes(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _classes(inner)


def refuse_contradictions(config: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuses a fit that goes on with other parts, data or seed than the checkpoint's.

    Raises:
        ValueError: If it is another; the learning rate and files' paths may be others.
    """
    stored = checkpoint["vaekit"]
    before = {**stored["model"], **stored["training"]}
    for key, value in config["model"].items():
        if key == "compile":
            continue  # it changes no number
        if key == "optimizer":
            optimizers.refuse_other(before[key], optimizers.accepted(value, None, "max")[0])
        elif key == "lr_scheduler":
            _refuse(f"model.{key}", _scheduler(before[key]), _scheduler(value))
        else:
            _refuse(f"model.{key}", _resolved(key, before[key]), _resolved(key, value))
    if stored["data"] is not None:
        _refuse("data", *(specs.resolve("data", d) for d in (stored["data"], config["data"])))
    old = _config(checkpoint)
    if "seed_everything" in old:
        _refuse("seed_everything", old["seed_everything"], config.get("seed_everything"))


def _refuse(key: str, before: Any, now: Any) -> None:
    """Refuses a value that is another; of a part, the argument that is."""
    if before == now:
        return
    parts = [isinstance(value, Mapping) and "class_path" in value for value in (before, now)]
    if all(parts) and before["class_path"] == now["class_path"]:
        for name in {**before["init_args"], **now["init_args"]}:
            values = (spec["init_args"].get(name) for spec in (before, now))
            _refuse(f"{key}.{name}", *values)
        return
    if isinstance(now, str) and isinstance(before, str) and Path(now).exists():
        return  # moved
    raise ValueError(
        f"The checkpoint has {key} {_short(before)} but got {_short(now)}: leave out --{key}, or "
        "--ckpt_path."
    )


def _scheduler(value: Any) -> Any:
    return value and optimizers.torch_spec(value, "torch.optim.lr_scheduler")


def _resolved(key: str, value: Any) -> Any:
    """A part, or the shape of z, in the one form that it has in a checkpoint."""
    if key == "latent_shape":
        return [value] if isinstance(value, int) else list(value)
    return specs.resolve(key, value) if key != "lr_interval" else value


def _short(value: Any) -> str:
    """A part in one line: its name, and its arguments where it has any."""
    if not isinstance(value, Mapping):
        return str(value)
    given = ", ".join(f"{k}={v}" for k, v in value.get("init_args", {}).items())
    return f"{value.get('class_path', value)}({given})"
