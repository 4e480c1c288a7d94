"""Memory and speed of training on sparse counts, of a size that is no dense array here.

python benchmarks/counts.py, or with --rows 10000 --genes 5000 --dry for a smaller one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from reproduce import publish


def draw(path: Path, rows: int, genes: int, share: float, chunk: int = 1000) -> None:
    """Writes counts of which a share is above 0, as `scipy.sparse.save_npz` does."""
    rng = np.random.default_rng(0)
    each = round(genes * share)
    indices = np.empty(rows * each, np.int32)
    values = np.empty(rows * each, np.float32)
    width = genes // each  # of the strip of genes in which one is above 0
    for start in range(0, rows, chunk):
        n = min(chunk, rows - start)
        places = np.arange(each) * width + rng.integers(width, size=(n, each))
        at = slice(start * each, (start + n) * each)
        indices[at] = places.ravel()
        values[at] = 1 + rng.poisson(rng.gamma(1.0, 2.0, (n, 1)), (n, each)).ravel()
    np.savez(
        path,
        indices=indices,
        indptr=np.arange(rows + 1, dtype=np.int64) * each,
        data=values,
        shape=np.asarray([rows, genes]),
        format=np.asarray(b"csr"),
    )


def one(path: Path, steps: int, folder: str) -> None:
    """Trains as `vaekit fit` does, and prints the peak of this process, in MB, and seconds."""
    from vaekit.cli.app import run

    warnings.simplefilter("ignore")
    start = time.perf_counter()
    args = ["fit", "--data", "Counts", "--data.path", str(path)]
    args += ["--model.likelihood", "NegativeBinomial", "--model.likelihood.library", "0"]
    args += ["--model.encoder.hidden", "128", "--model.decoder.hidden", "128"]
    args += ["--trainer.max_steps", str(steps), "--trainer.enable_progress_bar", "false"]
    run([*args, "--runs", folder])
    whole = time.perf_counter() - start
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, whole)


def rate(path: Path, steps: int) -> None:
    """Prints steps a second, of training alone."""
    import lightning.pytorch as pl
    from reference import ALONE

    from vaekit import Model, VAEModule, data

    warnings.simplefilter("ignore")
    rows = data.Counts(path)
    small = {"init_args": {"hidden": [128]}}
    model = Model(
        rows,
        encoder={"class_path": "MLPEncoder", **small},
        decoder={"class_path": "MLPDecoder", **small},
        likelihood={"class_path": "NegativeBinomial", "init_args": {"library": 0}},
    )
    model.started = True  # the pass over all rows is no step
    settings = {**ALONE, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    times: list[float] = []

    class Clock(pl.Callback):
        def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
            times.append(time.perf_counter())

    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, callbacks=[Clock()], **settings)
    trainer.fit(VAEModule(model), rows)
    print((len(times) - 6) / (times[-1] - times[5]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.05, help="of counts above 0")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--kind", choices=["fit", "rate"])
    parser.add_argument("--path", type=Path)
    args = parser.parse_args()
    if args.kind == "fit":
        one(args.path, args.steps, str(args.path.parent))
        return
    if args.kind == "rate":
        rate(args.path, args.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "counts.npz")
        draw(path, args.rows, args.genes, args.share)
        found = []
        for kind in ("fit", "rate"):
            command = [sys.executable, __file__, "--kind", kind, "--path", str(path)]
            command += ["--steps", str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found.append(done.stdout.split())
    (*_, peak, whole), (*_, steps) = found
    size = f"{args.rows:,} x {args.genes:,}, {args.share:.0%} above 0"
    dense = 4 * args.rows * args.genes / 2**30
    lines = [
        "| rows x genes | dense, GB | peak of the process, GB | whole fit, s | steps a second |",
        "|---|---|---|---|---|",
        f"| {size} | {dense:.1f} | {int(peak) / 2**10:.2f} | {float(whole):.0f} "
        f"| {float(steps):.1f} |",
    ]
    how = (
        f"`python benchmarks/counts.py`: `vaekit fit` of {args.steps} steps on an .npz of counts, "
        "batch 128, a negative binomial and 128 hidden units, with its passes over all rows "
        "before the first step, the validation, the pictures and the baseline; 2 shared cores. "
        "Steps a second are those of training alone. The peak is the resident memory of the whole "
        "process, torch and Lightning included."
    )
    publish("Sparse counts", how, lines, args.dry)


if __name__ == "__main__":
    main()
