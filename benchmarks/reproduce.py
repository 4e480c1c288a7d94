"""Trains a configuration for several seeds and writes its test loss beside the published curve.

    python benchmarks/reproduce.py mnist_pytorch_example --seeds 0 1 2

The result goes into benchmarks/results.md, in the place of an older one of the same name.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from vaekit import Model, VAEModule, specs
from vaekit.noise import fixed_noise

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.md"

PUBLISHED = {
    "mnist_pytorch_example": {
        "source": "the VAE of the PyTorch examples, its log; test loss, nats, after each epoch",
        "curve": [127.30, 115.79, 112.22, 109.64, 108.54, 107.70, 107.07, 106.66, 106.04, 105.56],
    },
}


class TestCurve(Callback):
    """The test rows' mean negative ELBO after each epoch; it chooses nothing."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VAEModule)
        with fixed_noise(0):
            rows = trainer.datamodule.rows("test")  # type: ignore[attr-defined]
            elbo = torch.cat([pl_module.model.evaluate(batch)["elbo"] for batch in rows])
        self.values.append(-float(elbo.double().mean()))
        print(f"  epoch {len(self.values)}: {self.values[-1]:.2f}", flush=True)


def train(name: str, seed: int, epochs: int) -> tuple[list[float], float]:
    """The curve of one run, and its seconds."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    seed_everything(seed)
    data_spec = specs.as_spec(config["data"])
    data_spec["init_args"]["seed"] = seed
    data = specs.build("data", data_spec)
    curve = TestCurve()
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        callbacks=[curve],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    training = {"optimizer": config["model"].pop("optimizer")}
    trainer.fit(VAEModule(Model(data, **config["model"]), **training), data)
    return curve.values, time.perf_counter() - start


def report(name: str, seeds: list[int], curves: list[list[float]], seconds: list[float]) -> str:
    published = PUBLISHED[name]
    head = ["epoch", "published", "mean", *(f"seed {seed}" for seed in seeds)]
    lines = [
        f"## {name}",
        "",
        f"Published: {published['source']}. Measured on {datetime.date.today()}, {machine()}; "
        f"{mean(seconds):.0f} s a run with the test rows after each epoch.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for epoch, values in enumerate(zip(*curves, strict=True)):
        cells = [published["curve"][epoch], mean(values), *values]
        lines.append(f"| {epoch + 1} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "lightning"))
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {packages}"


def write(name: str, text: str) -> None:
    """Puts a section into the results, in the place of the older one."""
    before = RESULTS.read_text() if RESULTS.exists() else "# Measured results\n"
    section = re.compile(rf"^## {name}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    without = section.sub("", before).rstrip()
    RESULTS.write_text(f"{without}\n\n{text}")


def publish(name: str, how: str, lines: list[str], dry: bool = False) -> None:
    """Prints a table and how it was measured, and puts both into the results unless it is dry."""
    when = f"Measured on {datetime.date.today()}, {machine()}."
    text = f"## {name}\n\n{how} {when}\n\n" + "\n".join(lines) + "\n"
    print(text)
    if not dry:
        write(name, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(PUBLISHED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args()
    epochs = args.epochs or len(PUBLISHED[args.name]["curve"])
    runs = []
    for seed in args.seeds:
        print(f"{args.name}, seed {seed}", flush=True)
        runs.append(train(args.name, seed, epochs))
    curves, seconds = zip(*runs, strict=True)
    text = report(args.name, args.seeds, list(curves), list(seconds))
    print(text)
    write(args.name, text)


if __name__ == "__main__":
    main()
