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
from pathlib import Path
from typing import Any

import torch

from vaekit.storage import read

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
    rows_lost: int = 0
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
    log = (folder / "said.txt").open("a")
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
    whole = start(folder / "whole", [*FIT.split(), str(epochs)])
    assert whole.wait() == 0, (folder / "whole/said.txt").read_text()
    wanted = read(folder / "whole/runs/version_0/last.ckpt")
    metrics = (folder / "whole/runs/version_0/metrics.csv").read_bytes()
    ends = time.monotonic() + seconds

    def over() -> bool:
        done = faults is not None and result.faults >= faults
        return done or time.monotonic() > ends

    while not over():
        own = folder / f"fit_{result.fits}"
        run, arguments = own / "runs/version_0", [*FIT.split(), str(epochs)]
        while True:
            process, number = start(own, arguments), None
            if not over():
                aim = result.faults % 2 == 0
                number = stop(process, run, draw, aim)
                if number is not None:
                    result.faults += 1
            code = process.wait()
            # A signal that comes while the last pictures are drawn ends at once.
            ends_well = (0, 143, 130, -signal.SIGKILL, -signal.SIGTERM)
            assert code in ends_well, (own / "said.txt").read_text()
            result.during_saves += code == -signal.SIGKILL and _part(run)
            arguments = ["fit", "--ckpt_path", "last"]
            for path in run.glob("*.ckpt"):
                try:
                    read(path)
                except ValueError:
                    result.checkpoints_lost += 1
            result.survived += number is not None
            if code == 0:
                break
        result.fits += 1
        found = read(run / "last.ckpt")
        same = (run / "metrics.csv").read_bytes() == metrics
        wrong = [d for key in STATE for d in differences(wanted[key], found[key], key)]
        assert not wrong, wrong
        result.rows_lost += 0 if same else 1
        assert same, own
    return result


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
