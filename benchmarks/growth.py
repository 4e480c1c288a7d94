"""How the cost of a step, of an evaluation and of a start grows with what is asked for.

    python benchmarks/growth.py [--dry]

One size is varied at a time, from a VAE of 256-256-16-256-256 with batches of 128 rows. A step is
all that lies between one batch of a fit and the next; an evaluation is a batch of the test rows,
its likelihood by importance sampling included; a start is all from the rows to the first step.
Plots go into growth_step.png, growth_evaluation.png and growth_start.png beside this file, the
slopes into results.md: that of log cost against log size over the three largest sizes. A slope of
1 is a cost that grows as the size does, which is how the work grows: with depth and draws, with
the rows of a batch and, in the outer layers, with the sizes of the latents and of the event. What
exceeds it is the memory's: the same loop by hand, which stands beside it, exceeds it too.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from matplotlib.figure import Figure
from reference import ALONE, Case, Plain, step_of
from reproduce import publish
from torch import Tensor

from vaekit import Model, VAEModule, data

STEPS = 13


@dataclass
class Sizes:
    """What is asked for."""

    batch: int = 128
    samples: int = 1
    latent: int = 16
    event: int = 256
    rows: int = 0
    """Of the training split; 0 is as many as the steps need."""
    depth: int = 1


AXES: dict[str, tuple[int, ...]] = {
    "batch": (32, 128, 512, 2048, 8192, 32768),
    "samples": (1, 4, 16, 64, 256),
    "latent": (4, 16, 64, 256, 1024, 4096, 16384),
    "event": (64, 256, 1024, 4096, 16384, 65536),
    "rows": (4096, 16384, 65536, 262144, 1048576),
    "depth": (1, 4, 16, 64),
}
COSTS = ("step", "step by hand", "evaluation", "start")


class Watch(pl.Callback):
    """When each batch began."""

    def __init__(self) -> None:
        self.at: dict[str, list[float]] = {"step": [], "evaluation": []}

    def on_train_batch_start(self, *args: Any) -> None:
        self.at["step"].append(time.perf_counter())

    def on_test_batch_start(self, *args: Any) -> None:
        self.at["evaluation"].append(time.perf_counter())

    def seconds(self, cost: str) -> float:
        """The median from one batch to the next, without the first, which warms up."""
        at = self.at[cost][1:]
        return median(later - earlier for earlier, later in pairwise(at))


def measured(sizes: Sizes, steps: int = STEPS) -> dict[str, float]:
    """Seconds of a step, an evaluation and a start."""
    held = sizes.batch * 5
    n = (sizes.rows or sizes.batch * steps) + held
    x = np.random.default_rng(0).integers(256, size=(n, sizes.event), dtype=np.uint8)
    watch, hidden = Watch(), {"hidden": [256] * sizes.depth}
    begin = time.perf_counter()
    rows = data.Arrays(x, batch_size=sizes.batch, val=0, test=held / n)
    model = Model(
        rows,
        latent_shape=sizes.latent,
        encoder={"class_path": "MLPEncoder", "init_args": hidden},
        decoder={"class_path": "MLPDecoder", "init_args": hidden},
        objective={"class_path": "ELBO", "init_args": {"samples": sizes.samples}},
    )
    module = VAEModule(model)
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", callbacks=[watch], **ALONE)
    trainer.fit(module, rows)
    module.samples = sizes.samples
    trainer.test(module, rows, verbose=False)
    costs = {cost: watch.seconds(cost) for cost in watch.at}
    hand = by_hand(sizes, torch.from_numpy(x), steps)
    return {**costs, "step by hand": hand, "start": watch.at["step"][0] - begin}


def by_hand(sizes: Sizes, x: Tensor, steps: int) -> float:
    """Seconds of a step of the same model in a loop by hand."""
    widths = (256,) * sizes.depth
    case = Case((sizes.event,), sizes.batch, steps, sizes.latent, sizes.samples, sizes=widths)
    model = Plain(case, x)
    step = step_of(model, torch.optim.Adam(model.parameters(), fused=True))
    seconds = []
    for at in torch.randperm(len(x)).split(sizes.batch)[:steps]:
        begin = time.perf_counter()
        step(x[at].float() / 255)
        seconds.append(time.perf_counter() - begin)
    return median(seconds[1:])


def slope(sizes: list[int], costs: list[float]) -> float:
    """That of the line through (log size, log cost), by least squares, over the last three."""
    x, y = ([log(value) for value in values[-3:]] for values in (sizes, costs))
    return float(np.polyfit(x, y, 1)[0])


def plot(cost: str, found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """One panel for each axis, the fitted slope in its title."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flat
    for axes, (axis, by_size) in zip(panels, found.items(), strict=True):
        sizes = list(by_size)
        costs = [by_size[size][cost] for size in sizes]
        axes.loglog(sizes, [1e3 * seconds for seconds in costs], "o-", color="C0")
        if cost == "step":
            hand = [1e3 * by_size[size]["step by hand"] for size in sizes]
            axes.loglog(sizes, hand, ".:", color="C7", label="by hand")
            axes.legend(fontsize=8)
        by = slope(sizes, costs)
        line = [1e3 * costs[-1] * (size / sizes[-1]) ** by for size in sizes[-3:]]
        axes.loglog(sizes[-3:], line, "--", color="C3")
        axes.set_title(f"{axis}: slope {by:.2f}", fontsize=10)
        axes.grid(alpha=0.3)
    figure.supylabel(f"{cost}, ms")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    measured(Sizes())  # which pays for what a process does once
    found: dict[str, dict[int, dict[str, float]]] = {}
    for axis, sizes in AXES.items():
        found[axis] = {size: measured(replace(Sizes(), **{axis: size})) for size in sizes}
    lines = [f"| | sizes | {' | '.join(COSTS)} |", "|---" * (len(COSTS) + 2) + "|"]
    for axis, by_size in found.items():
        sizes = list(by_size)
        cells = []
        for cost in COSTS:
            costs = [by_size[size][cost] for size in sizes]
            ends = f"{1e3 * costs[0]:.1f} to {1e3 * costs[-1]:.1f} ms"
            cells.append(f"{slope(sizes, costs):.2f} ({ends})")
        lines.append(f"| {axis} | {sizes[0]:,} to {sizes[-1]:,} | {' | '.join(cells)} |")
    if not args.dry:
        for cost in ("step", "evaluation", "start"):
            plot(cost, found, Path(__file__).with_name(f"growth_{cost}.png"))
    how = (
        "`python benchmarks/growth.py`: the slope of log cost against log size over the three "
        "largest sizes, and the cost of the smallest and the largest (`growth_step.png`, "
        "`growth_evaluation.png`, `growth_start.png`)."
    )
    publish("Growth", how, lines, args.dry)


if __name__ == "__main__":
    main()
