"""What large data cost: memory of a resident set, and a file that is larger than memory.

    python benchmarks/large.py [--folder DIR] [--gigabytes 50] [--steps 2000]

Trains 12288-32-8-32-12288 on uint8 rows 3x64x64, batch 100: on 1 GB in memory, as it is and drawn
to 0 and 1 once, and on a sparse `.npy` of so many gigabytes in DIR, which takes no space on the
disk. What is told is the most anonymous memory of the process beside what it had before the data,
and steps a second; each run is a process of its own. Goes into benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from reference import ALONE
from reproduce import publish

from vaekit import Model, VAEModule, data

EVENT = (3, 64, 64)
BYTES = 3 * 64 * 64


def anonymous() -> int:
    """Anonymous memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))


class Peak(threading.Thread):
    """The most anonymous memory while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, False

    def run(self) -> None:
        while not self.over:
            self.most = max(self.most, anonymous())
            time.sleep(0.02)


def sparse(path: Path, rows: int) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, *EVENT)).flush()


def one(kind: str, path: Path, steps: int) -> None:
    """Prints MB beside what there was before, seconds of set-up and steps a second."""
    warnings.simplefilter("ignore")
    before = anonymous()
    peak = Peak()
    peak.start()
    x: Any = path
    if kind != "file":
        rng = np.random.default_rng(0)
        x = np.empty((10**9 // BYTES, *EVENT), np.uint8)
        for at in range(0, len(x), 1000):
            x[at : at + 1000] = rng.integers(256, size=x[at : at + 1000].shape, dtype=np.uint8)
    start = time.perf_counter()
    binarize = "static" if kind == "binarised" else "none"
    rows = data.Arrays(x, batch_size=100, binarize=binarize)
    small: dict[str, Any] = {"hidden": [32]}
    model = Model(
        rows,
        latent_shape=8,
        encoder={"class_path": "MLPEncoder", "init_args": small},
        decoder={"class_path": "MLPDecoder", "init_args": small},
    )
    ready = time.perf_counter() - start
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, limit_val_batches=10, **ALONE)
    start = time.perf_counter()
    trainer.fit(VAEModule(model), rows)
    rate = steps / (time.perf_counter() - start)
    peak.over = True
    print(peak.most - before, ready, rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--gigabytes", type=float, default=50)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--kind", choices=["resident", "binarised", "file"])
    args = parser.parse_args()
    path = args.folder / "sparse-rows.npy"
    if args.kind:
        one(args.kind, path, args.steps)
        return
    sparse(path, int(args.gigabytes * 10**9 / BYTES))
    names = {
        "resident": "1 GB in memory",
        "binarised": "1 GB in memory, binarised once",
        "file": f"a sparse file of {args.gigabytes:g} GB",
    }
    lines = ["| | anonymous memory, MB | set-up, s | steps a second |", "|---|---|---|---|"]
    try:
        for kind, name in names.items():
            command = [sys.executable, __file__, "--kind", kind, "--folder", str(args.folder)]
            command += ["--steps", str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            memory, ready, rate = map(float, done.stdout.split()[-3:])
            lines.append(f"| {name} | {memory:.0f} | {ready:.2f} | {rate:.0f} |")
            print(lines[-1], file=sys.stderr, flush=True)
    finally:
        path.unlink()
    how = (
        f"`python benchmarks/large.py`: {args.steps} steps of 12288-32-8-32-12288, uint8 rows "
        "3x64x64, batch 100; memory beside what the process had before the data, the 1 GB of its "
        "rows included."
    )
    publish("Large data", how, lines, args.dry)


if __name__ == "__main__":
    main()
