"""What is installed and whether it works: `vaekit doctor`."""

# Each look is on its own, and imports what it needs: an installation that is broken is told of,
# and does not end the others.

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from vaekit import __version__
from vaekit.cli.commands import COMMANDS

Finding = tuple[str, str, str | None]
"""What was looked at, what was found, and how to mend it where it is broken."""

_SPACE = 2**30  # bytes: a few checkpoints and pictures


def doctor() -> int:
    """Prints what a report of a fault should contain; returns 1 where something is broken."""
    broken, cause = 0, ""
    for look in _LOOKS:
        if cause and look in _NEED_LIGHTNING:
            print(f"{'-':<7} {look.__name__.strip('_'):<12} not looked at: {cause}")
            continue
        try:
            found = list(look())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken installation
            said = " ".join(f"{type(error).__name__}: {error}".split())
            found = [(look.__name__.strip("_"), said, "reinstall what the error names")]
            cause = f"{look.__name__.strip('_')} is broken" if look is _lightning else cause
        for name, what, mend in found:
            broken += mend is not None
            mark = "ok" if mend is None else "BROKEN"
            print(f"{mark:<7} {name:<12} {what}{f'  ->  {mend}' if mend else ''}")
    print(f"{broken} broken" if broken else "nothing is broken")
    return int(broken > 0)


def _versions() -> Iterator[Finding]:
    yield "vaekit", f"{__version__}, {Path(__file__).parents[1]}", None
    yield "python", f"{platform.python_version()}, {platform.platform()}", None
    for text in requires("vaekit") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        mend = f"pip install -U '{need.name}{need.specifier}'"
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield need.name, "not installed", mend
            continue
        fits = need.specifier.contains(found, prereleases=True)
        yield (
            need.name,
            found if fits else f"{found}, needs {need.specifier}",
            None if fits else mend,
        )


def _torchvision() -> Iterator[Finding]:
    """A torchvision for another torch breaks the import of Lightning."""
    try:
        own, torch = version("torchvision"), version("torch").partition("+")[0]
    except PackageNotFoundError:
        yield "torchvision", "not installed, and not needed", None
        return
    wanted = [Requirement(text) for text in requires("torchvision") or []]
    for need in wanted:
        if need.name == "torch" and not need.specifier.contains(torch, prereleases=True):
            mend = "pip uninstall torchvision, or install the one for this torch"
            yield "torchvision", f"{own}, which is for torch {need.specifier}, not {torch}", mend
            return
    yield "torchvision", own, None


def _lightning() -> Iterator[Finding]:
    import lightning.pytorch  # noqa: F401

    yield "import", "lightning.pytorch can be imported", None


def _devices() -> Iterator[Finding]:
    import torch

    built = torch.version.cuda or torch.version.hip
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    yield "devices", f"torch for {built or 'CPUs'}; {', '.join(names) or 'no GPU'}", None
    asked = os.environ.get("OMP_NUM_THREADS")
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    yield "threads", threads + (f", OMP_NUM_THREADS={asked}" if asked else ""), None


def _plugins() -> Iterator[Finding]:
    from vaekit.registry.plugins import RegistryError, conflicts, list_plugins, load

    found = list_plugins()
    packages = sorted({f"{p.package} {p.version}" for p in found})
    yield "plugins", f"{len(found)} of {', '.join(packages)}", None
    for plugin in found:
        try:
            load(plugin)
        except RegistryError as error:
            yield "plugin", str(error), f"mend or uninstall {plugin.package}"
    for what in conflicts():
        yield "plugin", what, "rename it, or uninstall its package"


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path()).free
    mend = "free some, or name another folder with --runs" if free < _SPACE else None
    yield "disk", f"{free / 2**30:.1f} GiB free in {Path().absolute()}", mend
    if not os.access(Path(), os.W_OK):
        yield "folder", f"{Path().absolute()} cannot be written", "name another with --runs"


def _wandb() -> Iterator[Finding]:
    import wandb

    from vaekit.loggers import planted, unreachable

    if mode := os.environ.get("WANDB_MODE"):
        yield "wandb", f"WANDB_MODE={mode}", None
        return
    if why := planted():
        yield "wandb", why, "remove that file"
        return
    if not wandb.login(prompt=False, verify=False):
        yield "wandb", "no key: runs stay on disk until `wandb sync`", None
        return
    why = unreachable()
    where = wandb.setup().settings.base_url
    mend = "a fit goes on offline; for more, look at the network and WANDB_BASE_URL"
    yield "wandb", why or f"a key, and {where} answers", mend if why else None


def _variables() -> Iterator[Finding]:
    commands = "|".join(COMMANDS).replace("-", "_").upper()
    for name, value in sorted(os.environ.items()):
        if not name.startswith("VAEKIT_"):
            continue
        known = re.fullmatch(rf"VAEKIT_(DATA|CONFIG|({commands})__\w+)", name)
        yield "variable", f"{name}={value}", None if known else f"no setting: unset {name}"
    data = os.environ.get("VAEKIT_DATA")
    if data and not Path(data).is_dir():
        yield "variable", f"VAEKIT_DATA={data} is no folder", "name the folder of your data"


_NEED_LIGHTNING = (_plugins, _wandb)
_LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions,
    _torchvision,
    _lightning,
    _devices,
    _plugins,
    _disk,
    _wandb,
    _variables,
)
