"""What reading a folder of images costs beside Pillow alone.

    python benchmarks/images.py [--number 3000] [--rounds 7] [--dry]

Writes so many JPEGs (256x192, resized to 64x64) and PNGs (28x28 grey, 64x64 in colours) into a
temporary folder. Pillow alone opens, converts and resizes the same files in a pool of as many
threads, and keeps nothing; ImageFolder lists the folder, reads the files and has its rows ready.
Rounds alternate, and the ratio is the median over rounds. Goes into benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageOps
from reproduce import publish

from vaekit.data import ImageFolder


@dataclass(frozen=True)
class Case:
    """Images of a size and mode in files of a type, and to what they are resized."""

    suffix: str
    width: int
    height: int
    mode: str
    size: int | None


CASES = {
    "JPEG, 256x192 to 64x64": Case("jpg", 256, 192, "RGB", 64),
    "PNG, 64x64 in colours": Case("png", 64, 64, "RGB", None),
    "PNG, 28x28 grey": Case("png", 28, 28, "L", None),
}


def write(folder: Path, case: Case, number: int) -> None:
    """Smooth random images, which a file holds in about as many bytes as a photo."""
    rng = np.random.default_rng(0)
    channels = len(case.mode)
    for at in range(number):
        coarse = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8).squeeze()
        image = Image.fromarray(coarse).resize((case.width, case.height), Image.Resampling.BICUBIC)
        path = folder / f"{at % 10}/{at:05}.{case.suffix}"
        path.parent.mkdir(exist_ok=True)
        image.save(path)


def alone(folder: Path, case: Case) -> None:
    """Pillow alone, with the draft that JPEGs allow."""

    def one(path: Path) -> None:
        with Image.open(path) as image:
            if case.size is not None:
                image.draft(None, (2 * case.size, 2 * case.size))
            done = image.convert(case.mode)
            if case.size is not None:
                ImageOps.fit(done, (case.size, case.size), Image.Resampling.BICUBIC)

    paths = sorted(folder.rglob(f"*.{case.suffix}"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, paths):
            pass


def ours(folder: Path, case: Case) -> None:
    ImageFolder(folder, size=case.size).setup()


def seconds(run: Callable[[Path, Case], None], folder: Path, case: Case) -> float:
    start = time.perf_counter()
    run(folder, case)
    return time.perf_counter() - start


def measured(case: Case, number: int, rounds: int) -> str:
    """A row of the table: images a second of each, and the ratio of their times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, case, number)
        alone(folder, case)  # the system has all files in memory from here on
        pairs = [[seconds(run, folder, case) for run in (alone, ours)] for _ in range(rounds)]
    ratios = [own / other for other, own in pairs]
    rates = [number / median(times) for times in zip(*pairs, strict=True)]
    span = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"| {rates[0]:,.0f} | {rates[1]:,.0f} | {span} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="leave the results as they are")
    args = parser.parse_args()
    head = "| | Pillow alone, images a second | ImageFolder | ratio of times |"
    lines = [head, "|---|---|---|---|"]
    for name, case in CASES.items():
        lines.append(f"| {name} {measured(case, args.number, args.rounds)}")
        print(lines[-1], flush=True)
    how = (
        f"`python benchmarks/images.py`: {args.number:,} files in 10 folders, read by Pillow "
        "alone in a pool of threads and by `ImageFolder`, which lists them and has its rows "
        f"ready; the median of {args.rounds} alternating rounds, and the least and the largest "
        "ratio. On shared cores."
    )
    publish("Reading images", how, lines, args.dry)


if __name__ == "__main__":
    main()
