"""Trains what was published for several seeds and writes the published numbers beside its own.

    python benchmarks/reproduce.py NAME [--epochs 5] [--seeds 0 1 2] [--data DIR] [--dry]
    python benchmarks/reproduce.py --list

Each row of a paper's table is a file of configs/ and what the row has otherwise. DIR holds mnist/
and the like; without it VAEKIT_DATA does. The result goes into benchmarks/results.md, in the place
of an older one of the same name and number of epochs.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import re
import time
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from vaekit import Model, VAEModule, log_likelihood
from vaekit.data import DataModule
from vaekit.numerics.random import fixed_noise
from vaekit.registry import specs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.md"
DRAWS = 5000


@dataclass(frozen=True)
class Row:
    """A row of a published table.

    Arguments:
        source: Where it stands, in words.
        config: The file of configs/ that it is trained by.
        points: The published numbers, by the epochs after which they were measured.
        unit: "elbo", minus the ELBO of the test rows in nats; "nll", minus log p(x) of them by
            5,000 draws; "bpd", the same in bits per dimension.
        model: What stands in the place of the file's arguments of the model.
        data: What stands in the place of its arguments of the data.
    """

    source: str
    config: str
    points: dict[int, float]
    unit: str = "nll"
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


_EXAMPLE = [127.30, 115.79, 112.22, 109.64, 108.54, 107.70, 107.07, 106.66, 106.04, 105.56]
_TIGHT = (1, 5, 10, 20, 50, 100, 400, 1000, 3280)
_TIGHT_CURVES = {
    "vae": ("ELBO", 127.02, 104.65, 99.46, 95.26, 92.32, 91.06, 89.09, 88.26, 87.54),
    "iwae_64": (
        part("IWAE", samples=64),
        *(120.61, 98.85, 94.43, 91.56, 89.06, 87.99, 86.18, 85.36, 84.66),
    ),
    "miwae_8_8": (
        part("IWAE", samples=8, groups=8),
        *(114.26, 96.31, 93.04, 90.65, 88.73, 87.77, 86.37, 85.64, 85.06),
    ),
}
_RAINFORTH = {
    "vae": ("ELBO", 86.21),
    "iwae_64": (part("IWAE", samples=64), 84.52),
    "piwae_8_8": (part("IWAE", samples=8, groups=8, partial=True), 84.46),
    "miwae_8_8": (part("IWAE", samples=8, groups=8), 84.97),
    "ciwae_64": (part("IWAE", samples=64, elbo=0.5), 85.24),
}
_BURDA = {  # of one layer of latents: draws and VAE, IWAE
    "mnist": {1: (86.76, 86.76), 5: (86.47, 85.54), 50: (86.35, 84.78)},
    "omniglot": {1: (108.11, 108.11), 5: (107.62, 106.12), 50: (107.80, 104.67)},
}
_BURDA_DATA = {"mnist": {}, "omniglot": {"class_path": "Omniglot"}}

PUBLISHED: dict[str, Row] = {
    "mnist_pytorch_example": Row(
        "the VAE of the PyTorch examples, its log",
        "mnist_pytorch_example",
        dict(enumerate(_EXAMPLE, start=1)),
        "elbo",
    ),
    **{
        f"tight_{name}": Row(
            "the logs of TightIWAE, a reproduction of Rainforth et al. (2018), one run",
            "mnist_burda",
            dict(zip(_TIGHT, values, strict=True)),
            model={"objective": objective},
            data={"val": 0},
        )
        for name, (objective, *values) in _TIGHT_CURVES.items()
    },
    **{
        f"rainforth_{name}": Row(
            "Rainforth et al. (2018), table 1",
            "mnist_burda",
            {3280: value},
            model={"objective": objective},
            data={"val": 0},
        )
        for name, (objective, value) in _RAINFORTH.items()
    },
    **{
        f"burda_{rows}_{name}_{k}": Row(
            "Burda et al. (2016), table 1, one stochastic layer",
            "mnist_burda",
            {3280: values[name == "iwae"]},
            model={
                "objective": part("IWAE" if name == "iwae" else "ELBO", samples=k),
                "likelihood": part("Bernoulli", from_baseline=True),
            },
            data={**_BURDA_DATA[rows], "val": 0},
        )
        for rows, table in _BURDA.items()
        for k, values in table.items()
        for name in ("vae", "iwae")
    },
    "vamp_standard": Row(
        "Tomczak and Welling (2018), rerun by Exemplar VAE (2020); at most 2,000 epochs",
        "mnist_vamp",
        {2000: 84.45},
        model={"prior": "StandardNormal"},
    ),
    "vamp_prior": Row(
        "Tomczak and Welling (2018), rerun by Exemplar VAE (2020); at most 2,000 epochs",
        "mnist_vamp",
        {2000: 82.43},
    ),
    "frey": Row("Tomczak and Welling (2018)", "frey", {600: 4.63}, "bpd"),
    "frey_vamp": Row(
        "Tomczak and Welling (2018)",
        "frey",
        {600: 4.57},
        "bpd",
        model={"prior": part("VampPrior", components=500)},
    ),
    "bb_ans": Row(
        "Townsend et al. (2019), the binary model: 100 hidden units, 40 latents",
        "mnist_pytorch_example",
        {20: 105.40},
        "elbo",
        model={
            "latent_shape": 40,
            "encoder": part("MLPEncoder", hidden=[100]),
            "decoder": part("MLPDecoder", hidden=[100]),
        },
        data={"binarize": "static", "batch_size": 100},
    ),
}


# One run


def configured(config: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """A file of configs/, with other arguments of the model and of the data."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())
    found["model"] |= changes.get("model", {})
    found["data"] = specs.as_spec(found["data"])
    other = dict(changes.get("data", {}))
    found["data"]["class_path"] = other.pop("class_path", found["data"]["class_path"])
    found["data"]["init_args"] |= other
    return found


class TestCurve(Callback):
    """The test rows' mean negative ELBO after each epoch; it chooses nothing."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VAEModule)
        with fixed_noise(0):
            rows = trainer.datamodule.rows("test")  # type: ignore[attr-defined]
            elbo = torch.cat([pl_module.model.evaluate(batch)["elbo"] for batch in rows])
        self.values[trainer.current_epoch + 1] = -float(elbo.double().mean())
        print(f"  epoch {trainer.current_epoch + 1}: {-float(elbo.mean()):.2f}", flush=True)


def quiet_trainer(epochs: int, **more: Any) -> Trainer:
    """One that trains, and neither validates, writes nor prints."""
    return Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **more,
    )


def train(row: Row, seed: int, epochs: int) -> tuple[dict[int, float], float]:
    """The numbers of one run, by epochs, and its seconds."""
    config = configured(row.config, model=row.model, data=row.data)
    seed_everything(seed)
    config["data"]["init_args"]["seed"] = seed
    rows = specs.build("data", config["data"])
    training = {k: config["model"].pop(k, None) for k in ("optimizer", "lr_scheduler")}
    model, curve = Model(rows, **config["model"]), TestCurve()
    trainer = quiet_trainer(
        epochs,
        callbacks=[curve] if row.unit == "elbo" else [],
        gradient_clip_val=config.get("trainer", {}).get("gradient_clip_val"),
    )
    start = time.perf_counter()
    trainer.fit(VAEModule(model, **training), rows)
    seconds = time.perf_counter() - start
    return curve.values or {epochs: nll(model, rows, row.unit)}, seconds


def nll(model: Model, rows: DataModule, unit: str) -> float:
    """Minus log p(x) of the test rows by 5,000 draws each."""
    found: list[torch.Tensor] = []
    with fixed_noise(0), model.using():
        for batch in rows.rows("test", batch_size=200):
            found.append(log_likelihood(model.core, batch, DRAWS).log_likelihood)
    nats = float(torch.cat(found).double().mean())
    print(f"  log p(x): {nats:.2f}", flush=True)
    return model.info.bits_per_dimension(nats) if unit == "bpd" else -nats


# What is written

_WHAT = {
    "elbo": "minus the ELBO of the test rows in nats, after each epoch",
    "nll": f"minus log p(x) of the test rows in nats, by {DRAWS:,} draws each",
    "bpd": f"minus log p(x) of the test rows in bits per dimension, by {DRAWS:,} draws each",
}


def report(
    name: str, seeds: list[int], runs: list[dict[int, float]], seconds: list[float]
) -> tuple[str, list[str]]:
    """How it was measured, and the table."""
    row = PUBLISHED[name]
    head = ["epochs", "published", "mean", *(f"seed {seed}" for seed in seeds)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for epoch in runs[0]:
        values = [run[epoch] for run in runs]
        published = f"{row.points[epoch]:.2f}" if epoch in row.points else "-"
        cells = [published, *(f"{value:.2f}" for value in (mean(values), *values))]
        lines.append(f"| {epoch} | {' | '.join(cells)} |")
    how = (
        f"`python benchmarks/reproduce.py {name}`: {_WHAT[row.unit]}; {mean(seconds):.0f} s of "
        f"training a run. Published: {row.source}."
    )
    return how, lines


def machine() -> str:
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "lightning"))
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {packages}"


def write(name: str, text: str) -> None:
    """Puts a section into the results, in the place of the older one."""
    before = RESULTS.read_text() if RESULTS.exists() else "# Measured results\n"
    section = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
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
    parser.add_argument("name", nargs="?", choices=PUBLISHED, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="by default as many as were published")
    parser.add_argument("--data", type=Path, help="the folder that holds mnist/ and the like")
    parser.add_argument("--list", action="store_true", help="the names, and what they are")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    if args.list or not args.name:
        for name, row in PUBLISHED.items():
            print(f"{name:24} {row.source}; after {', '.join(map(str, row.points))} epochs")
        return
    if args.data:
        os.environ["VAEKIT_DATA"] = str(args.data)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    epochs = args.epochs or max(PUBLISHED[args.name].points)
    runs, seconds = [], []
    for seed in args.seeds:
        print(f"{args.name}, seed {seed}", flush=True)
        values, took = train(PUBLISHED[args.name], seed, epochs)
        runs.append(values)
        seconds.append(took)
    whole = epochs == max(PUBLISHED[args.name].points)
    title = args.name if whole else f"{args.name}, {epochs} epochs"
    publish(title, *report(args.name, args.seeds, runs, seconds), dry=args.dry)


if __name__ == "__main__":
    main()
