"""VampPrior and IAF beside the diagonal Normal with the standard prior, on binarised MNIST.

    python benchmarks/latents.py --data DIR [--epochs 10] [--seeds 0 1 2] [--at_once 1] [--dry]

DIR holds mnist/. Each is its file of configs/, the plain one that of the VampPrior without it, all
trained for as many epochs; none is chosen by its test rows. The test rows are binarised once. The
means over the seeds and their spread go into benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from reproduce import ROOT, publish, quiet_trainer

from vaekit import Model, VAEModule, data, log_likelihood
from vaekit.numerics.random import fixed_noise

CASES = {
    "diagonal Normal, standard prior": ("mnist_vamp", "prior"),
    "diagonal Normal, VampPrior": ("mnist_vamp", None),
    "IAF, standard prior": ("mnist_iaf", None),
}
DRAWS, ROWS = 1000, 1000  # of the importance-weighted likelihood, and its test rows


def train(case: str, folder: str, epochs: int, seed: int) -> dict[str, float]:
    """Minus the bound of all test rows and minus log p of some, in nats, and seconds an epoch."""
    name, without = CASES[case]
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    settings = config["model"]
    if without:
        del settings[without]
    optimizer = settings.pop("optimizer")
    pl.seed_everything(seed)
    rows = data.MNIST(folder, **config["data"]["init_args"], seed=seed)
    model = Model(rows, **settings)
    trainer = quiet_trainer(epochs, devices=1)
    start = time.perf_counter()
    trainer.fit(VAEModule(model, optimizer), rows)
    seconds = time.perf_counter() - start
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return {**evaluate(model, rows), "seconds": seconds / epochs}


def evaluate(model: Model, rows: data.DataModule) -> dict[str, float]:
    bounds: list[torch.Tensor] = []
    exact: list[torch.Tensor] = []
    with fixed_noise(0, model.device), model.using():
        for batch in rows.rows("test", 500):
            batch = batch.to(model.device)
            bounds.append(model.evaluate(batch)["elbo"])
            if 500 * len(exact) < ROWS:
                exact.append(log_likelihood(model.core, batch, DRAWS).log_likelihood)
    return {
        "bound": -float(torch.cat(bounds).double().mean()),
        "nll": -float(torch.cat(exact).double().mean()),
    }


def found(runs: list[dict[str, float]]) -> str:
    """The cells of a case."""

    def cell(name: str) -> str:
        values = [run[name] for run in runs]
        spread = stdev(values) if len(values) > 1 else 0.0
        return f"{mean(values):.2f} ± {spread:.2f}"

    return f"{cell('bound')} | {cell('nll')} | {mean(run['seconds'] for run in runs):.1f}"


def started(case: str, seed: int, args: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--data", str(args.data), "--epochs", str(args.epochs)]
    command += ["--one", case, "--seeds", str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at_once", type=int, default=1, help="runs side by side")
    parser.add_argument("--one", choices=CASES, help="a single run, its numbers as JSON")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    if args.one:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        print(json.dumps(train(args.one, str(args.data), args.epochs, args.seeds[0])))
        return
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    todo = [(case, seed) for seed in args.seeds for case in CASES]
    while todo:
        some, todo = todo[: args.at_once], todo[args.at_once :]
        for (case, seed), process in [(pair, started(*pair, args)) for pair in some]:
            told, _ = process.communicate()
            runs[case].append(json.loads(told.splitlines()[-1]))
            print(f"{case}, seed {seed}: {runs[case][-1]}", flush=True)
    lines = ["| | minus ELBO, nats | minus log p(x), nats | s an epoch |", "|---|---|---|---|"]
    lines += [f"| {case} | {found(own)} |" for case, own in runs.items()]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    how = (
        f"`python benchmarks/latents.py`: gated dense layers 300-300, 40 latents, batch 100, "
        f"{args.epochs} epochs of 50,000 rows binarised anew, beta from 0 to 1 over the first 20; "
        f"{len(args.seeds)} seeds, the mean and the spread over them. Minus the ELBO is of the "
        f"10,000 test rows, minus log p(x) of {ROWS:,} by {DRAWS:,} draws each ({card}, "
        f"{args.at_once} runs side by side)."
    )
    publish(f"Priors and posteriors, {args.epochs} epochs", how, lines, args.dry)


if __name__ == "__main__":
    main()
