"""Fit, kill and go on at random moments: `python benchmarks/soak.py --minutes 20`.

A fit in a process of its own is stopped again and again, by SIGKILL (each second time as soon as a
checkpoint is being written), SIGTERM and SIGINT, and goes on with `vaekit fit --ckpt_path last`.
In the end its weights, its optimizer and its metrics.csv are held against those of a fit that
nothing stopped, bit for bit; then it begins again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from vaekit.storage.files import read

# A checkpoint of 14 MB after each step, so that many kills fall on one that is being written.
FIT = (
    "fit --trainer.accelerator cpu --trainer.enable_progress_bar false --pictures.rows 50 "
    "--trainer.enable_model_summary false --data.batch_size 100 --data.binarize dynamic "
    "--model.encoder.hidden 1024,512 --model.decoder.hidden 512 --trainer.log_every_n_steps 3 "
    "--checkpoint.every_n_train_steps 1 -c ema --trainer.max_epochs "
)


@dataclass
class Result:
    """What was done and what came of it."""

    faults: int = 0
    survived: int = 0
    during_saves: int = 0
    fits: int = 0
    rows_lost: int = 0  # of metrics.csv
    checkpoints_lost: int = 0

    def __str__(self) -> str:
        return (
            f"faults injected {self.faults} ({self.during_saves} while a checkpoint was being "
            f"written), survived {self.survived}, rows lost {self.rows_lost}, checkpoints lost "
            f"{self.checkpoints_lost}, in {self.fits} fits"
        )


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vaekit", *arguments]
    with (folder / "said.txt").open("a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True)


def stop(process: subprocess.Popen[str], run: Path, draw: random.Random, aim: bool) -> int | None:
    """Sends a signal at a random moment of training; None if the fit ended before."""
    number = (
        signal.SIGKILL if aim else draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    )
    wait = draw.uniform(0, 1.5)
    last, began = run / "last.ckpt", time.time()
    while process.poll() is None:  # until it saves for the first time, from where it goes on
        if last.is_file() and last.stat().st_mtime > began:
            break
        time.sleep(0.002)
    ends = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < ends:
        time.sleep(0.002)
    if aim:
        while process.poll() is None and not run.joinpath("last.ckpt.part").exists():
            time.sleep(0.0002)
    if process.poll() is not None:
        return None
    process.send_signal(number)
    return number


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ, bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{path} keys"]
        return [d for k in first for d in differences(first[k], second[k], f"{path}/{k}")]
    if isinstance(first, list | tuple):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}/{i}")]
    return [] if first == second else [path]


STATE = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "run")


def soak(
    seconds: float, folder: Path, epochs: int = 12, seed: int = 0, faults: int | None = None
) -> Result:
    """Stops and goes on for so long, or so often; raises where a fit cannot go on."""
    draw, result = random.Random(seed), Result()
    whole, begin = folder / "whole", [*FIT.split(), str(epochs)]
    assert start(whole, begin).wait() == 0, (whole / "said.txt").read_text()
    ends = time.monotonic() + seconds

    def over() -> bool:
        done = faults is not None and result.faults >= faults
        return done or time.monotonic() > ends

    while not over():
        own, arguments = folder / f"fit_{result.fits}", begin
        while (process := start(own, arguments)) and not over():
            if interrupted(process, own, draw, result) == 0:
                break
            arguments = ["fit", "--ckpt_path", "last"]
        assert process.wait() == 0, (own / "said.txt").read_text()
        result.fits += 1
        compare(whole, own, result)
    return result


def interrupted(
    process: subprocess.Popen[str], own: Path, draw: random.Random, result: Result
) -> int:
    """Stops a fit, looks at what it left, and returns the code with which it ended."""
    run = own / "runs/version_0"
    number = stop(process, run, draw, aim=result.faults % 2 == 0)
    code = process.wait()
    # A signal ends it at once while the last pictures are drawn, or as the interpreter ends.
    ends_well = (0, 143, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
    assert code in ends_well, (own / "said.txt").read_text()
    result.faults += number is not None
    result.during_saves += code == -signal.SIGKILL and _part(run)
    for path in run.glob("*.ckpt"):
        try:
            read(path)
        except ValueError:
            result.checkpoints_lost += 1
    result.survived += number is not None
    return code


def compare(whole: Path, own: Path, result: Result) -> None:
    """Holds the end of a fit against that of one that nothing stopped."""
    wanted, found = (read(f / "runs/version_0/last.ckpt") for f in (whole, own))
    wrong = [d for key in STATE for d in differences(wanted[key], found[key], key)]
    assert not wrong, wrong
    lines = [(f / "runs/version_0/metrics.csv").read_text().splitlines() for f in (whole, own)]
    result.rows_lost += sum(a != b for a, b in zip_longest(*lines))


def _part(run: Path) -> bool:
    return run.joinpath("last.ckpt.part").exists() or run.joinpath("best.ckpt.part").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    with tempfile.TemporaryDirectory() as folder:
        print(soak(60 * options.minutes, Path(folder), seed=options.seed))


if __name__ == "__main__":
    main()
