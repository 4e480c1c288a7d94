"""What the command line says of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vaekit import Model, VAEModule, data
from vaekit.evaluation import summary
from vaekit.likelihoods import Bernoulli

Cli = Callable[..., Path]
FAST = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")


def test_a_fit_that_is_interrupted_shows_what_it_has_and_how_to_go_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: VAEModule) -> None:
        if self.trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(VAEModule, "on_train_epoch_start", interrupt)
    with pytest.raises(SystemExit) as ended:
        cli("fit", "--trainer.max_epochs", 9)
    assert ended.value.code == 130
    said = capsys.readouterr().out
    assert "ELBO of best.ckpt" in said
    assert "To go on: vaekit fit --ckpt_path runs/version_0/last.ckpt" in said
    assert Path("runs/version_0/samples.png").is_file()


def test_the_baseline_is_explained_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model(data.Digits(), latent_shape=2)
    for known in (True, False):
        if not known:
            monkeypatch.setattr(Bernoulli, "output_of", lambda *_: None)
        summary.show(model, data.Digits(), -30.0, [Path("best.ckpt")])
        assert ("The baseline is" in capsys.readouterr().out) == known


def test_what_was_said_of_a_fit_is_not_said_again(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", *FAST, "--data.binarize", "none")
    assert "vaekit: warning: Bernoulli on values" in capsys.readouterr().err
    cli("test", "--ckpt_path", "best")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_said_is_what_a_user_of_vaekit_wants_to_know(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vaekit", "fit", *map(str, FAST)]
    grey = [*command, "--data.binarize", "none"]
    done = subprocess.run(grey, cwd=tmp_path, capture_output=True, text=True)
    wanted = ("GPU available", "vaekit: warning: Bernoulli on values", "`Trainer.fit` stopped")
    assert all(line.startswith(wanted) for line in done.stderr.splitlines())
    rows = [line.split("│")[1:4] for line in done.stdout.splitlines() if line.count("│") == 4]
    parts = {row[0].strip(): (row[1].strip(), row[2].strip()) for row in rows}
    assert parts["encoder"] == ("MLPEncoder", f"{64 * 256 + 256:,}")
    assert parts["likelihood"] == ("Bernoulli", "0")
    assert parts["all"][0] == "VAE"
