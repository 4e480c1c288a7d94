"""Trains every model of configs/ for a few epochs on MNIST and writes one page about them.

    python benchmarks/gallery.py --data DIR [--epochs 3] [--only NAME ...]

DIR holds mnist/. Each model is its file of configs/ over the same networks, 784-512-256-16 and
back, trained on rows binarised anew, batch 100. The page, benchmarks/gallery.md with gallery.png,
shows for each what chooses its checkpoint, how it reconstructs, how many latents are in use, what
a step costs and what it draws. Runs are kept in a folder, from which --only takes the others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from reproduce import ROOT, machine, quiet_trainer

from vaekit import Model, VAEModule, data
from vaekit.numerics.random import fixed_noise

MODELS = (
    *("vae", "beta_vae", "disentangled_beta_vae", "beta_tc_vae", "factor_vae"),
    *("vae_lin_nf", "vae_iaf", "iwae", "miwae", "piwae", "ciwae", "vamp", "svae", "poincare_vae"),
    *("hvae", "rhvae", "ms_ssim_vae", "info_vae_mmd", "wae_mmd", "adversarial_ae", "vae_gan"),
    *("ae", "rae_l2", "rae_gp"),
)
FEWER = ("hvae", "rhvae")  # whose steps are dear: they are trained on 10,000 rows,
FEW = "vae_few"  # and so is the plain VAE that they are held against
RUNS = tuple(name for own in MODELS for name in ((FEW, own) if own == FEWER[0] else (own,)))
BASE: dict[str, Any] = {
    "latent_shape": 16,
    "encoder": {"class_path": "MLPEncoder", "init_args": {"hidden": [512, 256]}},
    "decoder": {"class_path": "MLPDecoder", "init_args": {"hidden": [256, 512]}},
}
COLUMNS = 16
PAGE, SHEET = ROOT / "benchmarks" / "gallery.md", ROOT / "benchmarks" / "gallery.png"


def train(name: str, folder: str, epochs: int) -> tuple[dict[str, Any], np.ndarray]:
    """What is told of a model, and rows that it draws."""
    file = "vae" if name == FEW else name
    config = yaml.safe_load((ROOT / "configs" / f"{file}.yaml").read_text())["model"]
    training = {"optimizer": config.pop("optimizer", None)}
    pl.seed_everything(0)
    held = 50_000 if name in (*FEWER, FEW) else 10_000
    rows = data.MNIST(folder, val=held, batch_size=100, binarize="dynamic")
    model = Model(rows, **{**BASE, **config})
    trainer = quiet_trainer(epochs)
    start = time.perf_counter()
    trainer.fit(VAEModule(model, **training), rows)
    seconds = time.perf_counter() - start
    told = evaluate(model, rows)
    told |= {"step": 1000 * seconds / trainer.global_step, "steps": trainer.global_step}
    with fixed_noise(0):
        drawn = model.sample(COLUMNS)
    return told, drawn[:, 0].numpy()


def evaluate(model: Model, rows: data.DataModule) -> dict[str, Any]:
    """What chooses the checkpoint, the distance of reconstructions and the latents in use."""
    best, _ = model.best
    found: dict[str, list[torch.Tensor]] = {"best": [], "square": [], "codes": []}
    with fixed_noise(0):
        for batch in rows.rows("val", 10_000, batch_size=500):
            found["best"].append(model.evaluate(batch)[best].expand(len(batch)))
            away = model.reconstruct(batch.x) - batch.x
            found["square"].append(away.flatten(1).square().sum(1))
            found["codes"].append(model.encode(batch.x).flatten(1))
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    active = int((whole["codes"].var(0) > 0.01).sum())
    return {
        "name": best,
        "bound": model.has_bound and best == model.bound_name,
        "best": float(whole["best"].double().mean()),
        "square": float(whole["square"].mean()),
        "active": f"{active} of {whole['codes'].shape[1]}",
    }


def sheet(drawn: dict[str, np.ndarray]) -> None:
    """One line of draws for each model."""
    figure, axes = plt.subplots(len(drawn), squeeze=False, figsize=(9, 0.56 * len(drawn)))
    for axis, (name, images) in zip(axes.flat, drawn.items(), strict=True):
        axis.imshow(np.concatenate(images, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.subplots_adjust(left=0.18, right=1, top=1, bottom=0, hspace=0.03)
    figure.savefig(SHEET, dpi=80)


def page(told: dict[str, dict[str, Any]], epochs: int) -> str:
    head = [
        "model",
        "chosen by",
        "value, nats",
        "beside vae",
        "squared error",
        "active",
        "ms a step",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, own in told.items():
        plain = told.get(FEW if name in (*FEWER, FEW) else "vae", own)
        kind = own["name"] if own["bound"] else f"{own['name']}, no bound"
        beside = f"{own['best'] - plain['best']:+.2f}" if own["bound"] else "-"
        cells = [f"`{name}`", kind, f"{own['best']:.2f}", beside, f"{own['square']:.2f}"]
        cells += [own["active"], f"{own['step']:.1f} ({own['step'] / plain['step']:.2f} of vae's)"]
        lines.append(f"| {' | '.join(cells)} |")
    how = (
        f"`python benchmarks/gallery.py`: each file of configs/ over the networks 784-512-256-16 "
        f"and back, {epochs} epochs of MNIST's 50,000 rows binarised anew "
        f"({', '.join((FEW, *FEWER))}: 10,000 rows, held against one another), batch "
        "100, Adam with its defaults, seed 0. The value is that of 10,000 "
        "validation rows by which the checkpoint is chosen, a bound of log p(x) where nothing "
        "else is said (that of several draws, `iwae`, is tighter by itself); the squared error, "
        "a sum over pixels, is that of reconstructions; active latents are those whose point has "
        "a variance above .01 over the rows. The lines of the "
        "picture are draws from the prior, means of p(x|z): autoencoders that hold their codes to "
        "no prior (`ae`, `rae_l2`, `rae_gp`) want `vaekit fit-prior` first. "
        f"Measured on {datetime.date.today()}, {machine()}."
    )
    return "\n".join(["# The models", "", how, "", *lines, "", "![draws](gallery.png)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--one", choices=RUNS, help="a single run, its numbers as JSON")
    parser.add_argument("--kept", type=Path, default=Path("gallery"), help="a folder for the runs")
    args = parser.parse_args()
    if args.one:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        told, drawn = train(args.one, str(args.data), args.epochs)
        np.savez(args.kept / f"{args.one}.npz", drawn=drawn, told=json.dumps(told))
        return
    args.kept.mkdir(exist_ok=True, parents=True)
    for name in args.only:
        own = ["--data", args.data, "--epochs", args.epochs, "--kept", args.kept, "--one", name]
        subprocess.run([sys.executable, __file__, *map(str, own)], check=True)
        print(name, np.load(args.kept / f"{name}.npz")["told"], flush=True)
    files = {name: args.kept / f"{name}.npz" for name in RUNS}
    found = {name: np.load(file) for name, file in files.items() if file.is_file()}
    told = {name: json.loads(str(file["told"])) for name, file in found.items()}
    sheet({name: file["drawn"] for name, file in found.items()})
    PAGE.write_text(page(told, args.epochs))


if __name__ == "__main__":
    main()
