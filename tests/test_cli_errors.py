"""What the command line refuses, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import fit
from vaekit import Model, data

Cli = Callable[..., Path]


ERRORS = {
    "unknown name": (
        ["fit", "--model.encoder", "ConvEncodr"],
        "There is no encoder 'ConvEncodr'. Did you mean ConvEncoder? Registered under encoder: C",
    ),
    "unknown name in a file": (
        ["fit", "-c", "bad.yaml"],
        "There is no prior 'Vamp'. Registered under prior: StandardNormal",
    ),
    "another kind": (
        ["fit", "--model.encoder", "Gaussian"],
        "Expected an encoder, but Gaussian is a likelihood",
    ),
    "unknown argument": (
        ["fit", "--model.encoder", "MLPEncoder", "--model.encoder.hiden", "[3]"],
        "has no argument 'hiden'. Did you mean hidden? It has: hidden, activation.",
    ),
    "argument of another part": (
        ["fit", "--model.likelihood.scale", "3"],
        "The likelihood Bernoulli (vaekit 0.1.0) has no argument 'scale'",
    ),
    "refused value": (
        ["fit", "--model.likelihood", "Gaussian", "--model.likelihood.scale", "-1"],
        "The likelihood Gaussian (vaekit 0.1.0): Expected scale to be positive",
    ),
    "too many halvings": (
        ["fit", "--model.encoder", "ConvEncoder", "--model.encoder.channels", "[4,4,4,4]"],
        "at most 3 channels entries for 8x8 images",
    ),
    "range": (
        ["fit", "--data", "Arrays", "--data.x", "rows.npy"],
        "Bernoulli expected data in [0, 1], but the data's range is [-inf, inf]",
    ),
    "no configuration": (
        ["fit", "-c", "mnits"],
        "no configuration file mnits, and none of that name among vaekit's own: digits, early",
    ),
    "no checkpoint": (["test", "--data", "Digits"], "needs a trained model: --ckpt_path"),
    "checkpoint file": (["test", "--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
    "model beside a checkpoint": (
        ["sample", "--ckpt_path", "model.ckpt", "--model.encoder", "ConvEncoder"],
        "The model comes from the checkpoint: leave out --model.encoder.",
    ),
    "optimizer": (
        ["fit", "--model.optimizer", "Adma"],
        "Expected a class of torch.optim but got 'Adma'",
    ),
    "learning rate": (
        ["fit", "--model.optimizer", "Adam", "--model.optimizer.lr", "-1"],
        "torch.optim.Adam: Invalid learning rate",
    ),
    "argument of a part inside a part": (
        ["fit", "--model.objective.beta", "Linear", "--model.objective.beta.stps", "3"],
        "The schedule Linear (vaekit 0.1.0) has no argument 'stps'. Did you mean steps?",
    ),
    "name of a part inside a part": (
        ["fit", "--model.objective.beta", "Linearr"],
        "There is no schedule 'Linearr'. Did you mean Linear?",
    ),
    "another key than the one that was first tried as a name": (
        ["fit", "--model.objective.beta", "0.5", "--model.latent_shape", "foo"],
        'Parser key "model.latent_shape"',
    ),
    "damaged yaml": (["fit", "-c", "damaged.yaml"], "damaged.yaml"),
    "yaml of another kind": (["fit", "-c", "text.yaml"], "model"),
    "text for a checkpoint": (["test", "--ckpt_path", "text.yaml"], "plain data alone"),
    "split": (["encode", "--ckpt_path", "model.ckpt", "--split", "foo"], "Expected foo rows"),
    "no rows": (["sample", "--ckpt_path", "model.ckpt", "--n", "0"], "at least one row"),
    "trainer": (["fit", "--trainer.epochs", "3"], "trainer.epochs"),
    "command": (["fti"], "invalid choice: 'fti'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_expected_and_end_at_once(
    case: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args, words = ERRORS[case]
    (tmp_path / "bad.yaml").write_text("model:\n  prior: {class_path: Vamp}\n")
    (tmp_path / "damaged.yaml").write_text("model: [unclosed\n")
    (tmp_path / "text.yaml").write_text("model: foo\n")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(30, 3)) * 9)
    if "model.ckpt" in args:
        trainer = fit(Model(data.Digits(), latent_shape=2), data.Digits(), max_epochs=1)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(SystemExit) as stopped:
        cli(*args)
    said = capsys.readouterr().err + str(stopped.value)
    assert stopped.value.code not in (0, None)
    assert words in said
    assert said.count("\n") < 25  # and no page of usage that hides it
    assert not (tmp_path / "runs").exists()
