"""vaekit on a GPU beside loops by hand: one command for a GPU machine.

    python benchmarks/gpu.py [--cases NAME ...] [--runs NAME ...] [--dry]

Rows lie on the GPU, networks run in bfloat16 by autocast. Each run is a process of its own; what
is timed is the second of two epochs. `graph` is a loop by hand whose step was captured as a CUDA
graph. The share is of the card's peak in bfloat16, of the operations of the networks alone. Goes
into benchmarks/results.md. Without a GPU it runs on the CPU, which says whether it works.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from reference import ALONE, Case, Plain, second_epoch, step_of
from reproduce import publish
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vaekit import Model, VAEModule, data

CASES = {
    "MLP, batch 1,000": Case((1, 28, 28), 1000, 200),
    "MLP, batch 100": Case((1, 28, 28), 100, 500),
    "conv 3x64x64, batch 256": Case((3, 64, 64), 256, 100, conv=True, sizes=(64, 128, 256)),
    "MLP, batch 1,000, 50 samples": Case((1, 28, 28), 1000, 50, samples=50),
    "tiny": Case((1, 8, 8), 8, 4, latent=2, sizes=(4,)),
}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, a second


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _step(model: Plain, optimizer: Any) -> Any:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16):
            return model(x)

    return step_of(forward, optimizer)


def by_hand(case: Case, x: Tensor, compiled: bool = False) -> float:
    model = Plain(case, x).to(x.device)
    if compiled:
        model.compile()
    step = _step(model, torch.optim.Adam(model.parameters(), fused=True))
    return second_epoch(case, x.float() / 255, step, _wait)


def graph(case: Case, x: Tensor) -> float:
    """A loop by hand that replays one captured step; on a CPU, which has no graphs, the loop."""
    if x.device.type != "cuda":
        return by_hand(case, x)
    model, rows = Plain(case, x).to(x.device), x.float() / 255
    step = _step(model, torch.optim.Adam(model.parameters(), fused=True, capturable=True))
    place = rows[: case.batch].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(place)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step(place)

    def replay(batch: Tensor) -> None:
        place.copy_(batch)
        captured.replay()

    return second_epoch(case, rows, replay, _wait)


class Clock(pl.Callback):
    """Seconds of the second epoch."""

    def on_train_epoch_start(self, *args: Any) -> None:
        _wait()
        self.start = time.perf_counter()

    def on_train_end(self, *args: Any) -> None:
        _wait()
        self.seconds = time.perf_counter() - self.start


def ours(case: Case, x: Tensor, compile: Any = False) -> float:
    rows = data.Arrays(x, batch_size=case.batch, val=0, test=0)
    torch.manual_seed(0)
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=2,
        precision="bf16-mixed",
        accelerator="auto",
        devices=1,
        callbacks=[clock],
        **ALONE,
    )
    trainer.fit(VAEModule(Model(rows, **case.parts()), compile=compile), rows)
    return clock.seconds / case.steps


RUNS = {
    "by hand": by_hand,
    "by hand, compiled": lambda case, x: by_hand(case, x, compiled=True),
    "by hand, graph": graph,
    "vaekit": ours,
    "vaekit, compiled": lambda case, x: ours(case, x, True),
    "vaekit, reduce-overhead": lambda case, x: ours(case, x, {"mode": "reduce-overhead"}),
}


def operations(case: Case, x: Tensor) -> float:
    """Floating point operations of the networks in a step."""
    model, rows = Plain(case, x).to(x.device), x[: case.batch].float() / 255
    counter = FlopCounterMode(display=False)
    with counter:
        sum(model(rows)).backward()
    return float(counter.get_total_flops())


def one(case: Case, run: str) -> str:
    """Milliseconds a step, MB at most, operations a second."""
    x = torch.from_numpy(case.rows(None)).to(_device())
    wanted = operations(case, x)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = RUNS[run](case, x)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0
    return f"{1e3 * seconds} {peak} {wanted / seconds}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES)[:-1])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--one", action="store_true", help="one run, in this process")
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        print(one(CASES[args.cases[0]], args.runs[0]))
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    top = next((peak for name, peak in PEAKS.items() if name in card), None)
    lines = ["| | | ms a step | MB | share of the peak |", "|---|---|---|---|---|"]
    for name in args.cases:
        for run in args.runs:
            command = [sys.executable, __file__, "--one", "--cases", name, "--runs", run]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                lines.append(f"| {name} | {run} | failed | | |")
                print(done.stderr[-2000:], file=sys.stderr)
                continue
            ms, peak, rate = map(float, done.stdout.split()[-3:])
            share = f"{rate / top:.1%}" if top else ""
            lines.append(f"| {name} | {run} | {ms:.3f} | {peak:.0f} | {share} |")
            print(lines[-1], file=sys.stderr, flush=True)
    publish("On a GPU", f"`python benchmarks/gpu.py`, on {card}.", lines, args.dry)


if __name__ == "__main__":
    main()
