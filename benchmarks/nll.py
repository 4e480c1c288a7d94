"""Times the importance-weighted likelihood against a chunked loop by hand and pythae's get_nll.

    python benchmarks/nll.py --data DIR [--pythae PYTHON] [--images 40] [--samples 5000]

DIR holds mnist/. Images a second of 784-512-16-512-784, Bernoulli; the rounds are interleaved, the
medians go into benchmarks/results.md. PYTHON is of an environment that has pythae, which is given
its `no_grad`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import warnings
from math import log
from pathlib import Path
from statistics import median

import numpy as np
import torch
from reference import Case, Plain, ratio
from reproduce import publish
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vaekit import Batch, DataInfo, Model, log_likelihood

CASE = Case((1, 28, 28), 100, 600)
BY_HAND = 4_000  # draws at a time, about the fastest of 250 to 20,000


@torch.no_grad()
def by_hand(model: Plain, x: Tensor, samples: int) -> Tensor:
    """As one writes it: the encoder once, draws in chunks, a running log-sum-exp."""
    mean, log_variance = model.head(model.encoder(x)).chunk(2, dim=1)
    scale = (log_variance / 2).exp()
    top = torch.full((len(x),), -torch.inf)
    total = torch.zeros(len(x))
    at_once = max(1, BY_HAND // len(x))
    for start in range(0, samples, at_once):
        noise = torch.randn(min(at_once, samples - start), *mean.shape)
        z = mean + scale * noise
        logits = model.decoder(z.flatten(0, 1)).view(*z.shape[:2], -1)
        target = x.flatten(1).expand_as(logits)
        weight = -binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        weight += (noise.square() - z.square()).sum(-1) / 2 + scale.log().sum(-1)
        highest = torch.maximum(top, weight.amax(0))
        total = total * (top - highest).exp() + (weight - highest).exp().sum(0)
        top = highest
    return top + total.log() - log(samples)


def pythae(python: str, x: Tensor, samples: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "x.npy"), (255 * x).byte().numpy())
        script = [python, str(Path(__file__).with_name("pythae_reference.py")), "nll", folder]
        command = [*script, str(len(x)), str(samples), str(CASE.latent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pythae")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    pixels = torch.from_numpy(CASE.rows(args.data))
    x = pixels[: args.images].float() / 255
    plain = Plain(CASE, pixels)
    model = Model(DataInfo(CASE.event, (0.0, 1.0), levels=2), **CASE.parts()).eval()
    model.core.encoder.net.load_state_dict(plain.encoder[1].state_dict())
    model.core.posterior.linear.load_state_dict(plain.head.state_dict())
    model.core.decoder.net.load_state_dict(plain.decoder[0].state_dict())
    runs = {
        "by hand": lambda: by_hand(plain, x, args.samples),
        "vaekit": lambda: log_likelihood(model.core, Batch(x), args.samples).log_likelihood,
    }
    values, times = {}, {name: [] for name in [*runs, *(["pythae"] if args.pythae else [])]}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            values[name] = run()
            times[name].append(time.perf_counter() - start)
        if args.pythae:
            times["pythae"].append(pythae(args.pythae, x, args.samples))
    error = (values["by hand"] - values["vaekit"]).abs().mean()
    lines = ["| | images a second | seconds / vaekit's |", "|---|---|---|"]
    for name, seconds in times.items():
        spread = ratio(seconds, times["vaekit"])
        lines.append(f"| {name} | {args.images / median(seconds):.1f} | {spread} |")
    how = (
        f"`python benchmarks/nll.py`: {args.images} rows, {args.samples} draws each, medians of "
        f"{args.rounds} interleaved rounds, and the least and the largest ratio of a round. The "
        f"two estimates of a row differ by {error:.3f} nats, with noise of their own."
    )
    publish("The importance-weighted likelihood", how, lines, args.dry)


if __name__ == "__main__":
    main()
