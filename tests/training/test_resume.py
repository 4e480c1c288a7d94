"""A fit that was killed and goes on ends as one that nothing stopped, bit for bit."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from conftest import ROOT
from vaekit import register
from vaekit.cli.app import run
from vaekit.networks.mlp import MLPEncoder
from vaekit.registry import plugins
from vaekit.storage.files import read
from vaekit.training.callbacks.checkpoint import BestCheckpoint
from vaekit.training.callbacks.guard import Guard

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("soak", ROOT / "benchmarks/soak.py")
assert spec is not None
assert spec.loader is not None
soak = importlib.util.module_from_spec(spec)
sys.modules["soak"] = soak
spec.loader.exec_module(soak)

FIT = (
    "--trainer.max_epochs 3 --trainer.enable_progress_bar false --trainer.accelerator cpu "
    "--trainer.enable_model_summary false --pictures.rows 50 --data.batch_size 200 "
    "--trainer.log_every_n_steps 2 --data.binarize dynamic --checkpoint.every_n_train_steps 1 "
)
CASES = {
    "plain": ("", [*range(1, 10), 11, 12, 15, 16, 17, 20, 23, 24]),
    "ema": ("-c ema", [1, 8, 13]),
    "accumulation": ("--trainer.accumulate_grad_batches 3", [1, 3, 5]),
    "dropout and state": ("--model.encoder Dropping", [1, 8, 13]),
    "schedule by step": (
        "--model.lr_scheduler StepLR --model.lr_scheduler.step_size 3 --model.lr_interval step "
        "--trainer.val_check_interval 0.5",
        [3, 4, 12, 20],
    ),
    "schedule by epoch": (
        "--model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience 0 "
        "--model.lr_scheduler.threshold 5 --model.objective.beta Linear "
        "--model.objective.beta.steps 15",
        [5, 8, 16, 19],
    ),
    "steps": ("--trainer.max_steps 21 --trainer.max_epochs -1", [8, 13, 16]),
    "bfloat16 and clipping": (
        "--trainer.precision bf16-mixed --trainer.gradient_clip_val 1",
        [5, 16],
    ),
}


class Killed(BaseException):
    """Takes the place of the end of the process."""


class Dropping(MLPEncoder):
    """An encoder with dropout, whose state changes after each step."""

    steps: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Any, context: Any = None, mask: Any = None) -> Tensor:
        return self.drop(super().forward(x, context, mask)) + 0.01 * self.steps

    def after_step(self, draw: Any) -> None:
        self.steps += 1


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    register(Dropping)


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, tuple[int, int, int]]]:
    """Fits in a folder, and returns the rows of each batch that was trained on."""
    seen: dict[int, tuple[int, int, int]] = {}
    kill: list[int] = []
    save, look = BestCheckpoint._save_last, Guard.on_train_batch_end

    def save_and_end(self: BestCheckpoint, trainer: pl.Trainer) -> None:
        before = self._saved_at
        save(self, trainer)
        if kill and before != self._saved_at == kill[0]:
            raise Killed

    def note(
        self: Guard, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        place = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        seen[place] = (trainer.current_epoch, batch.start, len(batch))
        look(self, trainer, module, outputs, batch, i)

    monkeypatch.setattr(BestCheckpoint, "_save_last", save_and_end)
    monkeypatch.setattr(Guard, "on_train_batch_end", note)

    def call(folder: Path, arguments: str, step: int = 0) -> dict[int, tuple[int, int, int]]:
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        kill[:] = [step] if step else []
        try:
            run(["fit", *arguments.split()])
        except Killed:
            return {}
        found = dict(seen)
        seen.clear()
        return found

    return call


def differing(whole: Path, other: Path) -> list[str]:
    """Where the ends of two fits differ."""
    first, second = (read(folder / "runs/version_0/last.ckpt") for folder in (whole, other))
    keys = first.keys() - {"loops", "callbacks", "hparams_name"}
    found = [d for key in keys for d in soak.differences(first[key], second[key], key)]
    best = [c["callbacks"]["BestCheckpoint"] for c in (first, second)]
    texts = [(f / "runs/version_0/metrics.csv").read_bytes() for f in (whole, other)]
    return [*found, *soak.differences(*best), *(["metrics.csv"] if texts[0] != texts[1] else [])]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_fit_ends_as_one_that_was_not(
    fit: Callable[..., dict[int, tuple[int, int, int]]], tmp_path: Path, case: str
) -> None:
    more, steps = CASES[case]
    rows = fit(tmp_path / "whole", FIT + more)
    for epoch in range(max(e for e, _, _ in rows.values())):
        places = [
            p for e, start, n in rows.values() if e == epoch for p in range(start, start + n)
        ]
        assert places == list(range(1437))
    for step in steps:
        folder = tmp_path / str(step)
        fit(folder, FIT + more, step)
        assert fit(folder, "--ckpt_path last") == rows
        assert not differing(tmp_path / "whole", folder)
        shutil.rmtree(folder)


def test_a_longer_fit_is_one_that_was_longer_from_the_start(
    fit: Callable[..., Any], tmp_path: Path
) -> None:
    fit(tmp_path / "whole", FIT + "-c ema")
    fit(tmp_path / "longer", FIT.replace("max_epochs 3", "max_epochs 2") + "-c ema")
    fit(tmp_path / "longer", "--ckpt_path last --trainer.max_epochs 3")
    assert not differing(tmp_path / "whole", tmp_path / "longer")


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_two_ranks_go_on_exactly(
    step: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ranks = FIT + "--trainer.devices 2 --trainer.strategy ddp"
    script = str(ROOT / "tests" / "killed.py")
    whole = tmp_path_factory.getbasetemp() / "two_ranks"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def call(folder: Path, step: int, arguments: str) -> int:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, script, str(step), "fit", *arguments.split()]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode

    if not whole.exists():
        assert call(whole, 0, ranks) == 0
    assert call(tmp_path, step, ranks) == 9
    assert call(tmp_path, 0, "--ckpt_path last") == 0
    assert not differing(whole, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_from_outside(tmp_path: Path, number: int, code: int, ranks: int) -> None:
    devices = f"--trainer.devices {ranks} --trainer.strategy {'ddp' if ranks > 1 else 'auto'}"
    command = [sys.executable, "-m", "vaekit", "fit", *f"{FIT} {devices}".split()]
    process = subprocess.Popen(
        [*command, "--trainer.max_epochs", "9999"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = tmp_path / "runs/version_0/last.ckpt"
    while not last.is_file():
        time.sleep(0.01)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "To go on: vaekit fit --ckpt_path runs/version_0/last.ckpt" in said
    assert "Traceback" not in said
    assert (last.parent / "samples.png").is_file()
    assert read(last)["global_step"] > 0


ONE_RANK = """
import os
import torch
from vaekit import register
from vaekit.likelihoods import Bernoulli

@register
class Breaking(Bernoulli):
    \"\"\"NaN in some calls on the second rank.\"\"\"

    calls = 0

    def log_prob(self, p, x, mask=None):
        self.calls += self.training
        here = f"{self.calls} on {os.environ.get('LOCAL_RANK')}"
        bad = self.training and here in os.environ["BAD"]
        return super().log_prob(p, x, mask) * (torch.nan if bad else 1.0)
"""


@pytest.mark.parametrize(("skip", "code", "step"), [(0, 1, 4), (1, 0, 11)])
def test_what_is_not_finite_on_one_of_two_ranks(
    tmp_path: Path, skip: int, code: int, step: int
) -> None:
    (tmp_path / "my_parts.py").write_text(ONE_RANK)
    arguments = (
        f"{FIT} --trainer.devices 2 --trainer.strategy ddp --guard.skip {skip} "
        "--import my_parts --model.likelihood Breaking"
    )
    bad = "5 on 1" if skip else "5 on 1, 6 on 1"  # the sixth call is the step taken again
    env = {**os.environ, "OMP_NUM_THREADS": "1", "BAD": bad}
    done = subprocess.run(
        [sys.executable, "-m", "vaekit", "fit", *arguments.split()],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("vaekit: error: ")]
    assert len(errors) == (code != 0)
    if errors:
        assert "Step 5 (epoch 1, batch 0 on rank 1): the term distortion is not" in errors[0]
        assert "Traceback" not in done.stderr
    last = read(tmp_path / "runs/version_0/last.ckpt")
    assert last["global_step"] == step
    assert last["run"]["skipped"] == skip
    assert all(x.isfinite().all() for x in last["state_dict"].values())


def test_kills_at_random_moments_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = soak.soak(600, tmp_path, faults=20)
    with capsys.disabled():
        print(f"\n{result}")
    assert result.faults == result.survived == 20
    assert result.during_saves >= 5
    assert (result.rows_lost, result.checkpoints_lost) == (0, 0)
