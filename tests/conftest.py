"""What all tests share."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from vaekit import Model, VAEModule
from vaekit.cli.app import run
from vaekit.registry import plugins

ROOT = Path(__file__).parents[1]
"""The repository."""

os.environ["WANDB_SILENT"] = "true"
if "PYTEST_XDIST_WORKER" in os.environ:  # others run beside it
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "seed of torch, NumPy and random at the start of each test"
    parser.addoption("--seed", type=int, default=0, help=help_text)


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(request.config.getoption("seed"))


def states() -> list[object]:
    """Return the states of the generators that all tests share."""
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a file that draws random numbers at import, before any test sets its seed."""
    before = states()
    report = yield
    if report.passed and states() != before:
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid}, or a module that it imports, draws random numbers at import: "
            "draw them in a test or a fixture, after the seed is set."
        )
    return report


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """What a test leaves in the process ends with it, such as what DDP sets for its ranks."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    root = os.environ.get("VAEKIT_DATA", "")
    if not Path(root, "mnist").is_dir():
        pytest.skip("needs VAEKIT_DATA, a folder with mnist/ and its IDX files")
    return Path(root)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """300 of scikit-learn's digits as PNG files, in a folder for each class."""
    found = load_digits()
    for at, (image, target) in enumerate(zip(found.images[:300], found.target, strict=False)):
        path = tmp_path / f"digits/{target}/{at:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(path)
    return tmp_path / "digits"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs a command in an empty folder and returns that folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> Path:
        run([str(arg) for arg in args])
        return tmp_path

    return call


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a package of one module with some entry points."""

    def install(module: str, entry_points: str) -> None:
        site = tmp_path / "site"
        (site / "intruder-1.0.dist-info").mkdir(parents=True)
        (site / "intruder-1.0.dist-info/METADATA").write_text("Name: intruder\nVersion: 1.0\n")
        (site / "intruder-1.0.dist-info/entry_points.txt").write_text(entry_points)
        (site / "intruder.py").write_text(module)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "intruder", raising=False)
        for name in ("_loaded", "_failures"):
            monkeypatch.setattr(plugins, name, {})

    return install


def fit(
    model: Model | pl.LightningModule, data: pl.LightningDataModule, **kwargs: object
) -> pl.Trainer:
    """Trains and returns the trainer."""
    module = VAEModule(model) if isinstance(model, Model) else model
    settings = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "num_sanity_val_steps": 0,
    }
    trainer = pl.Trainer(**{**settings, **kwargs})
    trainer.fit(module, data)
    return trainer
