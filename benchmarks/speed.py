"""Times a training step against what a user would write or install instead.

    python benchmarks/speed.py --data DIR [--pythae PYTHON] [--rounds 7] [--cases NAME ...]

DIR holds mnist/. R1 is a loop by hand over rows that lie in memory, with fused Adam; R2 is R1
under torch.compile; R3 is pythae's trainer, run by the interpreter PYTHON of an environment that
has it; R4 is Lightning with a TensorDataset, a DataLoader and four `self.log` a step. Each run is
a process of its own, the rounds are interleaved, and what is timed is the second of two epochs.
The medians go into benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import chdir
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from reference import Case, Plain, ratio, second_epoch, step_of
from reproduce import publish
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vaekit import Model, VAEModule, callbacks, data
from vaekit.cli import app as cli

HERE = Path(__file__).parent


CASES = {
    "MLP, batch 100": Case((1, 28, 28), 100, 600),
    "MLP, batch 20": Case((1, 28, 28), 20, 1500),
    "MLP, batch 1,000": Case((1, 28, 28), 1000, 100),
    "MLP, batch 100, 50 samples": Case((1, 28, 28), 100, 30, samples=50),
    "conv 1x28x28, batch 100": Case((1, 28, 28), 100, 150, conv=True),
    "conv 3x64x64, batch 100": Case((3, 64, 64), 100, 120, conv=True),
}


def by_hand(case: Case, x: Tensor, compiled: bool = False) -> float:
    """R1 and R2."""
    model = Plain(case, x)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    if compiled:
        model.compile()
    return second_epoch(case, x.float() / 255, step_of(model, optimizer))


def compiled_by_hand(case: Case, x: Tensor) -> float:
    return by_hand(case, x, compiled=True)


class Usual(pl.LightningModule):
    """R4: Lightning as its tutorials write it."""

    def __init__(self, model: Plain) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        distortion, rate = self.model(batch[0])
        loss = distortion + rate
        self.log("loss", loss, on_epoch=True)
        self.log("elbo", -loss, on_epoch=True)
        self.log("distortion", distortion, on_epoch=True)
        self.log("rate", rate, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Clock(pl.Callback):
    """Seconds of each epoch of training, with all that belongs to it but validation."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        now = time.perf_counter()
        if self.epochs:
            self.epochs[-1] = now - self.start - self.aside
        self.epochs.append(0.0)
        self.start, self.aside = now, 0.0

    def on_validation_start(self, *args: Any) -> None:
        self._before = time.perf_counter()

    def on_validation_end(self, *args: Any) -> None:
        self.aside += time.perf_counter() - self._before

    def on_train_end(self, *args: Any) -> None:
        self.epochs[-1] = time.perf_counter() - self.start - self.aside


def fitted(model: pl.LightningModule, rows: Any, steps: int, **settings: Any) -> float:
    clock = Clock()
    settings["callbacks"] = [clock, *settings.get("callbacks", [])]
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **settings)
    trainer.fit(model, rows)
    return clock.epochs[-1] / steps


def usual(case: Case, x: Tensor) -> float:
    """R4."""
    loader = DataLoader(TensorDataset(x.float() / 255), batch_size=case.batch, shuffle=True)
    model = Usual(Plain(case, x))
    return fitted(model, loader, case.steps, enable_progress_bar=False)


def ours(case: Case, x: Tensor, **training: Any) -> float:
    """vaekit with metrics and checkpoints, from Python."""
    rows = data.Arrays(x, batch_size=case.batch, val=0, test=0)
    torch.manual_seed(0)
    return fitted(
        VAEModule(Model(rows, **case.parts()), **training),
        rows,
        case.steps,
        enable_progress_bar=False,
        callbacks=[callbacks.BestCheckpoint()],
        logger=pl.loggers.CSVLogger("runs"),
    )


def compiled(case: Case, x: Tensor) -> float:
    return ours(case, x, compile=True)


class Timed(cli.CLI):
    """The command line, with a clock."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        trainer = super().instantiate_trainer(**kwargs)
        self.clock = Clock()
        trainer.callbacks.insert(0, self.clock)
        return trainer


def bare(case: Case, x: Tensor) -> float:
    """`vaekit fit` with nothing left out: progress bar, pictures, validation, summary."""
    np.save("x.npy", x.numpy())
    options = {f"model.{key}": value for key, value in case.parts().items()}
    options |= {"data": "Arrays", "data.x": "x.npy", "data.batch_size": case.batch}
    options |= {"trainer.max_epochs": 2, "trainer.accelerator": "cpu"}
    with cli.names_lead_to_plugins():
        command = Timed(["fit", *(f"--{key}={value}" for key, value in options.items())])
    steps = len(command.datamodule.train_dataloader())
    return command.clock.epochs[-1] / steps


RUNS = {
    "R1": by_hand,
    "vaekit": ours,
    "vaekit fit": bare,
    "R4": usual,
    "R2": compiled_by_hand,
    "compiled": compiled,
}


def one(run: str, case: Case, folder: Path, python: str | None) -> float:
    """Seconds a step, from a process of its own; for pythae of its own environment."""
    if run == "R3":
        script = [str(python), str(HERE / "pythae_reference.py"), "train", str(folder)]
        command = [*script, str(case.batch), str(case.latent)]
    else:
        name = next(name for name, found in CASES.items() if found is case)
        command = [sys.executable, __file__, "--data", str(folder), "--run", run, "--cases", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{run}: {done.stderr[-2000:]}")
    seconds = float(done.stdout.split()[-1])
    return seconds / case.steps if run == "R3" else seconds


def measure(case: Case, folder: Path, runs: list[str], python: str | None, rounds: int) -> Any:
    """Seconds a step of each run, by round."""
    times: dict[str, list[float]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place, "x.npy"), case.rows(folder))
        for _ in range(rounds):
            for run in runs:
                times[run].append(one(run, case, Path(place), python))
    return times


_RATIOS = (
    ("vaekit", "R1"),
    ("vaekit fit", "R1"),
    ("R2", "R1"),
    ("compiled", "R2"),
    ("R3", "vaekit"),
    ("R3", "compiled"),
    ("R4", "vaekit"),
)


def row(name: str, times: dict[str, list[float]]) -> str:
    cells = [f"{1e3 * median(times['R1']):.2f}" if "R1" in times else ""]
    for above, below in _RATIOS:
        known = above in times and below in times
        cells.append(ratio(times[above], times[below]) if known else "")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pythae")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--runs", nargs="+", choices=[*RUNS, "R3"], default=[*RUNS, "R3"])
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--run", choices=RUNS, help="one run, in this process, of the rows in DIR")
    args = parser.parse_args()
    if args.run:
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        x = torch.from_numpy(np.load(args.data / "x.npy"))
        with tempfile.TemporaryDirectory() as place, chdir(place):
            print(RUNS[args.run](CASES[args.cases[0]], x))
        return
    head = ["R1, ms a step", *(f"{above} / {below}" for above, below in _RATIOS)]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name in args.cases:
        case = CASES[name]
        peer = args.pythae and not case.conv and case.samples == 1
        runs = [run for run in args.runs if peer or run != "R3"]
        times = measure(case, args.data, runs, args.pythae, args.rounds)
        lines.append(row(name, times))
        for run, t in times.items():
            print(f"{run}: {' '.join(f'{1e3 * s:.2f}' for s in t)}", file=sys.stderr)
        print(lines[-1], file=sys.stderr, flush=True)
    how = (
        f"`python benchmarks/speed.py`: medians of {args.rounds} interleaved rounds, each run in "
        "a process of its own, and the least and the largest ratio of a round."
    )
    publish("Speed of a training step", how, lines, args.dry)


if __name__ == "__main__":
    main()
