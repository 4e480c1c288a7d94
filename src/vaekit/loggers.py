"""Loggers: W&B that never holds up a fit, and TensorBoard beside the runs."""

from __future__ import annotations

import atexit
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger

_ANSWER = 5  # seconds in which the server has to answer
_BEGIN = 8  # seconds in which it has to take a new run
_HARMLESS = ("mode", "disabled")  # what `wandb offline` writes into a folder
_END = 15  # seconds for what is not sent when the process ends


class TensorBoardLogger(LightningTensorBoardLogger):
    """Lightning's TensorBoard logger, beside the runs unless another folder is named.

    Arguments:
        save_dir: The folder; None is that of the runs.
        name: The folder in it.
    """

    def __init__(self, save_dir: str | None = None, name: str = "tensorboard") -> None:
        super().__init__(save_dir or "runs", name)


class WandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, offline where there is no key, or no server that takes it.

    Whatever fails, the fit goes on, and one warning says how to send the run later.

    Arguments:
        project: The project's name.
        name: The run's name; None lets W&B choose.
        save_dir: Where the `wandb` folder is made.
        offline: Keep the run on disk, for `wandb sync`; None decides by whether a key is there.
    """

    def __init__(
        self,
        project: str = "vaekit",
        name: str | None = None,
        save_dir: str = ".",
        offline: bool | None = None,
    ) -> None:
        import wandb

        if offline is None:
            offline = not wandb.login(prompt=False, verify=False)
        # Not Lightning's own `offline`, which sets WANDB_MODE for the whole process.
        mode: dict[str, Any] = {"mode": "offline"} if offline else {}
        settings = wandb.Settings(init_timeout=_BEGIN, finish_timeout=_END)
        super().__init__(
            name=name,
            save_dir=Path(save_dir).absolute(),
            project=project,
            settings=settings,
            **mode,
        )
        self._wandb_init.pop("anonymous", None)  # of which W&B says that it has no effect
        self._failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run; the first call opens it, offline where it cannot be online."""
        if self._experiment is not None:
            return self._experiment
        opened: Any = vars(LightningWandbLogger)["experiment"].fget
        why = None if "mode" in self._wandb_init else planted() or unreachable()
        if why is None:
            try:
                run = opened(self)
            except Exception as error:  # noqa: BLE001 - whatever W&B raises, the fit goes on
                why = str(error)
            else:
                atexit.register(self._say_what_is_unsent)
                return run
        for mode in ("offline", "disabled"):
            self._wandb_init["mode"] = mode
            try:
                run = opened(self)
            except Exception as error:  # noqa: BLE001 - such as a folder that cannot be written
                why = str(error)
                continue
            self._warn(why, run)
            return run
        raise AssertionError("a disabled run can always be opened")

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._go_on(super().log_metrics, *args, **kwargs)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._go_on(super().log_hyperparams, *args, **kwargs)

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self._go_on(super().log_image, *args, **kwargs)

    def _go_on(self, log: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Logs, until that fails, as where a disk is full."""
        if self._failed:
            return
        try:
            log(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the fit goes on
            self._failed = True
            self._warn(str(error), self._experiment)

    def _say_what_is_unsent(self) -> None:
        """At the end of the process, before W&B waits for what is not sent."""
        if "mode" not in self._wandb_init and not self._failed and (why := unreachable()):
            self._warn(why, self._experiment)

    def _warn(self, why: str, run: Any) -> None:
        text = f"W&B: {' '.join(why.split())}"
        folder = Path(str(getattr(getattr(run, "settings", None), "sync_dir", "")))
        if folder.name and folder.is_dir():
            later = f"The run is kept on disk; send it later: wandb sync {folder}"
        else:
            later = "Nothing more is logged to W&B."
        warnings.warn(f"{text.rstrip('.')}. {later}", stacklevel=2)


def planted() -> str | None:
    """What settings of W&B's in the working folder may not say: where the key is sent."""
    for path in (Path(".wandb/settings"), Path("wandb/settings")):
        if not path.is_file():
            continue
        lines = path.read_text("utf8", "replace").splitlines()
        names = [line.partition("=")[0].strip() for line in lines]
        for name in names:
            if name and name not in _HARMLESS and name[0] not in "[#;":
                return f"{path} sets {name}, which a folder may not; use WANDB_BASE_URL"
    return None


def unreachable() -> str | None:
    """Why W&B's server gives no answer; None where it does, whatever that says."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode not in ("online", "shared"):  # as WANDB_MODE says
        return None
    try:
        with urllib.request.urlopen(settings.base_url, timeout=_ANSWER):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return f"{settings.base_url} gives no answer ({getattr(error, 'reason', error)})"
