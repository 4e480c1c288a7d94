"""What the command line refuses, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import fit
from vaekit import Model, data, plugins, register
from vaekit.__main__ import main
from vaekit.priors import StandardNormal

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
    "module to import": (
        ["fit", "--import", "no_parts"],
        "no_parts, which --import names, could not be imported: ModuleNotFoundError",
    ),
    "no checkpoint": (["test", "--data", "Digits"], "needs a trained model: --ckpt_path"),
    "checkpoint file": (
        ["test", "--ckpt_path", "nowhere.ckpt"],
        "There is no checkpoint nowhere.ckpt",
    ),
    "checkpoint to go on from": (
        ["fit", "--ckpt_path", "nowhere.ckpt"],
        "There is no checkpoint nowhere.ckpt",
    ),
    "folder for a checkpoint": (["sample", "--ckpt_path", "."], "but . is a folder: name a file"),
    "empty file for a checkpoint": (["sample", "--ckpt_path", "empty"], "empty: Expected a check"),
    "no run yet": (["fit", "--ckpt_path", "last"], "a run with a last.ckpt in runs but there is"),
    "checkpoint of another model": (
        ["fit", "--ckpt_path", "model.ckpt", "--model.latent_shape", "7"],
        "The checkpoint has model.latent_shape [2] but got [7]: leave out --model.lat",
    ),
    "checkpoint with another part": (
        ["fit", "--ckpt_path", "model.ckpt", "--model.encoder", "ConvEncoder"],
        "The checkpoint has model.encoder MLPEncoder(hidden=[256], activation=ReLU) but got",
    ),
    "checkpoint of other rows": (
        ["fit", "--ckpt_path", "model.ckpt", "--data", "Arrays", "--data.x", "rows.npy"],
        "The checkpoint has data Digits(val=0.1, test=0.1, batch_size=64",
    ),
    "shape beside a checkpoint": (
        ["test", "--ckpt_path", "model.ckpt", "--model.latent_shape", "7"],
        "The model comes from the checkpoint: leave out --model.latent_shape.",
    ),
    "no rows to validate": (
        ["validate", "--ckpt_path", "model.ckpt", "--data", "Digits", "--data.val", "0"],
        "Expected val rows but Digits was split into train, test alone",
    ),
    "no rows to test": (
        ["test", "--ckpt_path", "model.ckpt", "--data", "Digits", "--data.test", "0"],
        "Expected test rows but Digits was split into train, val alone",
    ),
    "no rows for a rate to watch": (
        ["fit", "--data.val", "0", "--model.lr_scheduler", "ReduceLROnPlateau"],
        "Expected validation rows, whose number ReduceLROnPlateau watches",
    ),
    "gpu": (["fit", "--trainer.accelerator", "gpu"], "Expected a GPU, for --trainer.accelerator"),
    "gpus": (["fit", "-c", "multi_gpu"], "Expected a GPU, for --trainer.accelerator"),
    "fsdp": (["fit", "--trainer.strategy", "fsdp"], "`fsdp` requires a GPU accelerator"),
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
        "--model.latent_shape: expected int or list[int]",
    ),
    "name of no option": (
        ["fit", "--model.latent_shap", "3"],
        "There is no option --model.latent_shap. Did you mean --model.latent_shape?",
    ),
    "abbreviation": (
        ["fit", "--trainer.max_epoch", "3"],
        "There is no option --trainer.max_epoch. Did you mean --trainer.max_epochs?",
    ),
    "option of no part": (
        ["fit", "--model.encoder", '{"class_path": "ConvEncoder"}', "--trainer.epochs", "3"],
        "There is no option --trainer.epochs.",
    ),
    "type": (["fit", "--trainer.max_epochs", "foo"], "max_epochs: expected int but got 'foo'"),
    "type of a part's argument": (
        ["fit", "--model.encoder.hidden", "a"],
        "--model.encoder.hidden: expected int or list[int], such as [2,3] or 2,3 but got 'a'",
    ),
    "choice": (
        ["fit", "--data.binarize", "x"],
        "--data.binarize: expected one of 'none', 'dynamic', 'static' but got 'x'",
    ),
    "type or choice": (
        ["fit", "--model.likelihood", "Gaussian", "--model.likelihood.scale", "abc"],
        "--model.likelihood.scale: expected float or one of 'learned', 'elementwise', 'optimal'",
    ),
    "argument that is left out": (["fit", "--data", "Arrays"], "Arrays needs --data.x"),
    "argument of torch that is left out": (
        ["fit", "--model.lr_scheduler", "CosineAnnealingLR"],
        "CosineAnnealingLR needs --model.lr_scheduler.T_max",
    ),
    "argument of torch": (
        ["fit", "--model.optimizer", "Adam", "--model.optimizer.lrr", "3"],
        "torch.optim.Adam has no argument 'lrr'. Did you mean lr? It has: lr, betas",
    ),
    "callback": (
        ["fit", "--trainer.callbacks", "EarlyStoping"],
        "--trainer.callbacks: there is no Callback EarlyStoping. Did you mean EarlyStopping?",
    ),
    "configuration in another folder": (
        ["fit", "-c", "nowhere/mnist.yaml"],
        "no configuration file nowhere/mnist.yaml",
    ),
    "damaged yaml": (["fit", "-c", "damaged.yaml"], "damaged.yaml"),
    "yaml of another kind": (["fit", "-c", "text.yaml"], "model"),
    "text for a checkpoint": (["test", "--ckpt_path", "text.yaml"], "of another kind"),
    "split": (["encode", "--ckpt_path", "model.ckpt", "--split", "foo"], "Expected foo rows"),
    "no rows": (["sample", "--ckpt_path", "model.ckpt", "--n", "0"], "at least one row"),
    "trainer": (["fit", "--trainer.epochs", "3"], "trainer.epochs"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_expected_and_end_at_once(
    case: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args, words = ERRORS[case]
    (tmp_path / "bad.yaml").write_text("model:\n  prior: {class_path: Vamp}\n")
    (tmp_path / "damaged.yaml").write_text("model: [unclosed\n")
    (tmp_path / "text.yaml").write_text("model: foo\n")
    (tmp_path / "empty").touch()
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(30, 3)) * 9)
    if "model.ckpt" in args:
        trainer = fit(Model(data.Digits(), latent_shape=2), data.Digits(), max_epochs=1)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(SystemExit) as stopped:
        cli(*args)
    said = capsys.readouterr().err + str(stopped.value)
    assert stopped.value.code not in (0, None)
    assert words in said
    said = re.sub(r"^(Seed set|.PU |.*💡).*\n", "", said, flags=re.MULTILINE)
    assert said.index(words[:9]) < 200
    assert said.count("\n") <= (9 if "damaged" in case or "yaml" in case else 3)
    assert not list(tmp_path.glob("runs/*"))  # nor a folder of a run that never was


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("VAEKIT_FIT__MODEL__LATENT_SHAP", "Did you mean VAEKIT_FIT__MODEL__LATENT_SHAPE?"),
        ("VAEKIT_FTI__MODEL__LATENT_SHAPE", "Did you mean VAEKIT_FIT__MODEL__LATENT_SHAPE?"),
        ("VAEKIT_FIT__MODEL__ENCODER__HIDDEN", "There is no setting VAEKIT_FIT__MODEL__ENCODER__"),
    ],
)
def test_a_misspelt_variable_is_refused(
    name: str,
    words: str,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "3")
    monkeypatch.setenv("VAEKIT_DATA", "elsewhere")
    with pytest.raises(SystemExit):
        cli("fit")
    assert words in capsys.readouterr().err


def test_a_misspelt_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fti"])
    assert stopped.value.code == 2
    assert "There is no command 'fti'. Did you mean fit?" in capsys.readouterr().err


class Broken(StandardNormal):
    """A prior with a fault."""

    def forward(self, context: Any = None, infer: Any = None) -> Any:
        raise ValueError("of my own")


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_of_a_part_names_it_and_its_line(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    debug: bool,
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    register(Broken)
    args = ["fit", "--model.prior", "Broken"]
    if debug:  # its author wants to see more
        with pytest.raises(ValueError, match="of my own"):
            cli(*args, "--debug")
        return
    with pytest.raises(SystemExit) as ended:
        cli(*args)
    said = str(ended.value.code)
    assert "The prior Broken (this process, the module test_cli_errors) failed: Val" in said
    assert "ValueError: of my own (" in said
    assert f"{Path(__file__).name}, line " in said
    assert "Traceback" not in capsys.readouterr().err


def test_the_traceback_of_an_error_is_shown_on_demand(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli("fit", "--debug", "--data.batch_size", 0)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("vaekit: error: The data Digits (vaekit 0.1.0): Expected a batch_size")
    assert "Traceback (most recent call last)" in said
