"""The folder of a run: creates it, finds its checkpoints and writes metrics.csv."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from vaekit.storage.files import CheckpointError, local, write


def found(path: str | None, runs: Path, on: bool = False) -> str | None:
    """A checkpoint's path; `last` and `best` are those of the newest run.

    Arguments:
        on: To go on from it: then not from an older run than the newest.

    Raises:
        ValueError: If there is no run that has one.
    """
    if path not in ("last", "best"):
        own = local(path) if path else None
        return str(own) if own is not None else path
    known = sorted(runs.glob(f"*/{path}.ckpt"), key=lambda p: p.stat().st_mtime)
    if not known:
        raise ValueError(f"Expected a run with a {path}.ckpt in {runs} but there is none.")
    begun = max(runs.glob("*/config.yaml"), key=lambda p: p.stat().st_mtime, default=None)
    if on and begun is not None and begun.stat().st_mtime > known[-1].stat().st_mtime:
        if not begun.with_name(f"{path}.ckpt").is_file():
            raise ValueError(
                f"The newest run, {begun.parent}, ended before its first {path}.ckpt: begin it "
                f"again without --ckpt_path, or name the one before, {known[-1]}."
            )
        return str(begun.with_name(f"{path}.ckpt"))
    return str(known[-1])


def own_folder(path: str | None, runs: Path) -> str | None:
    """The name of the run that goes on in its own folder, as from its `last.ckpt` alone."""
    last = local(path) if path else None
    if last is None or last.name != "last.ckpt" or last.parent.parent.resolve() != runs.resolve():
        return None
    return last.parent.name


# Metrics


class RunLogger(CSVLogger):
    """Lightning's CSV logger, with a folder of this run's own, and a file that can go on.

    Arguments:
        runs: The folder of all runs.
        version: The folder of a run that goes on; None makes a new one.
    """

    def __init__(self, runs: str | Path, version: str | None = None) -> None:
        super().__init__(runs, name=None, version=version)
        self._table: _Table | None = None

    @property
    def version(self) -> int | str:
        if self._version is None:
            self._version = _new_folder(Path(self.root_dir))
        return self._version

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._table is None:
            self._table = self._experiment = _Table(  # type: ignore[assignment]
                Path(self.log_dir, "metrics.csv")
            )
        return self._table

    @property
    def rows(self) -> int:
        """How many rows were logged."""
        return self._table.rows if self._table else 0

    @rank_zero_only
    def go_on(self, rows: int) -> None:
        """Goes on after so many rows; what a killed run logged after its checkpoint is removed."""
        self.experiment.keep(rows)

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""


def _new_folder(runs: Path) -> int:
    """The number of a run's folder; made and not looked for, so that no two runs share one."""
    known = [p.name.removeprefix("version_") for p in runs.glob("version_*")]
    version = max((int(n) for n in known if n.isdigit()), default=-1) + 1
    while getattr(rank_zero_only, "rank", 0) == 0:  # others are told its path
        try:
            (runs / f"version_{version}").mkdir(parents=True)
            break
        except FileExistsError:
            version += 1
        except OSError as error:
            raise CheckpointError(f"{runs} could not be written: {error.strerror}.") from error
    return version


class _Table:
    """A CSV file to which rows are added; a new column rewrites it."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._columns: list[str] = []
        self._new: list[dict[str, Any]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self._new.append({**metrics, "step": step})

    def save(self) -> None:
        if not self._new:
            return
        columns = sorted({*self._columns, *(key for row in self._new for key in row)})
        if columns == self._columns and self.path.is_file():
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerows(self._new)
        else:
            self._write([*self._old(), *self._new], columns)
        self.rows += len(self._new)
        self._new = []

    def keep(self, rows: int) -> None:
        kept = self._old()[:rows]
        self._write(kept, sorted({key for row in kept for key, value in row.items() if value}))
        self.rows = len(kept)

    def _old(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
        write(text.getvalue(), self.path)
        self._columns = columns
