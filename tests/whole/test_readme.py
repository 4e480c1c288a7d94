"""What README shows, run as it stands."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn.utils import parameters_to_vector

from conftest import ROOT
from vaekit import load
from vaekit.cli.commands import COMMANDS
from vaekit.cli.main import main
from vaekit.registry import plugins

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(?:python|toml)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_doctor_says_what_readme_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(SystemExit):
        main(["doctor"])
    names = {line[8:20].strip() for line in capsys.readouterr().out.splitlines()[:-1]}
    block = re.search(r"\$ vaekit doctor\n(.*?)```", README, re.DOTALL)
    assert block is not None
    shown = [line for line in block[1].splitlines()[:-1] if line != "..."]
    assert {line[8:20].strip() for line in shown} <= names
    assert {line[:8].strip() for line in shown} == {"ok", "BROKEN"}


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = next(block for block in BLOCKS if not block.startswith("# "))
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102 - README's own code
    assert names["model"].encode(names["x"]).shape == (180, 16)
    assert names["model"].sample(64).shape == (64, 1, 8, 8)
    assert names["model"].reconstruct(names["x"]).shape == (180, 1, 8, 8)
    said = capfd.readouterr()
    assert "ConvEncoder" in said.out
    for noise in (
        "FLOPs",
        "TPU",
        "litlogger",
        "litmodels",
        "tensorboardX",
        "log_every",
        "LeafSpec",
    ):
        assert noise not in said.out + said.err


def test_the_everyday_tasks_run(cli: Callable[..., Path]) -> None:
    section = README.partition("## Everyday tasks\n")[2].partition("\n## ")[0]
    quick = ["--trainer.enable_progress_bar", "false", "--trainer.max_epochs"]
    cli("fit", *quick, 1)
    commands = [line.split() for line in re.findall(r"^    vaekit (.*)$", section, re.M)]
    assert len(commands) == 7
    for epochs, command in enumerate(commands, start=2):
        cli(*command, *([*quick, str(epochs)] if command[0] == "fit" else []))
    (example,) = (block for block in BLOCKS if block.startswith("# after a fit"))
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102 - README's own code
    assert names["features"].shape == (180, 256)
    before = load("runs/version_0/best.ckpt")
    for name, frozen in (("encoder", True), ("decoder", False)):
        old, new = (
            parameters_to_vector(getattr(model.core, name).parameters())
            for model in (before, names["model"])
        )
        assert torch.equal(old, new) == frozen


def test_the_table_and_the_sequences_train(cli: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"x.age": rng.normal(size=(60, 1)), "x.job": rng.integers(0, 9, (60, 1))}
    np.savez(tmp_path / "table.npz", **columns, **{"x.visits": rng.poisson(3.0, (60, 1))})
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "table.yaml").write_text(block)
    quick = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")
    cli("fit", "-c", "table.yaml", *quick)
    x, length = rng.integers(0, 10, (60, 12)), rng.integers(4, 12, (60, 1))
    np.savez(tmp_path / "tokens.npz", x=x, mask=np.arange(12) < length)
    (command,) = re.findall(r"^    vaekit (fit .*tokens.npz .*)$", README, re.MULTILINE)
    cli(*command.split(), *quick)


def test_the_part_of_one_s_own_obeys_the_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    (example,) = (block for block in BLOCKS if "class WidePrior" in block)
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    exec(example, vars(notebook))  # noqa: S102 - README's own code


def _commands() -> list[list[str]]:
    """The vaekit commands that stand alone in the text."""
    return [line.split("#")[0].split() for line in re.findall(r"^    (vaekit .*)$", README, re.M)]


def test_every_command_and_part_is_named() -> None:
    for command, text in COMMANDS.items():
        assert f"| `{command}` | {text} |\n" in README, command
    for plugin in plugins.list_plugins():
        if plugin.package == "vaekit":
            assert f"`{plugin.name}`" in README, plugin
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"`{path.stem}`" in README, path


def _write_data() -> None:
    """What README's commands call a user's own."""
    counts = np.random.default_rng(0).poisson(3, (40, 5)) + 1
    obs = pd.DataFrame({"batch": ["a", "b"] * 20, "age": range(40)}).set_index(
        np.arange(40).astype(str)
    )
    anndata.AnnData(counts, obs=obs, layers={"counts": counts}).write_h5ad("cells.h5ad")
    pd.DataFrame({"age": range(40), "job": ["cook", "nurse"] * 20}).to_csv("people.csv")
    Path("photos").mkdir()
    for at in range(20):
        Image.fromarray(np.full((32, 32), at, np.uint8)).save(f"photos/{at}.png")


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_commands_name_what_there_is(command: list[str], cli: Callable[..., Path]) -> None:
    """Each is parsed as it stands; only what it would do is left out."""
    options = [word for word in command[2:] if word.startswith("--") or word == "-c"]
    assert command[1] in COMMANDS
    Path("mine.yaml").write_text("trainer: {max_epochs: 1}")
    Path("my_callbacks.py").touch()
    _write_data()
    if command[1] == "fit" and "--ckpt_path" in command:
        cli("fit", "--trainer.max_epochs", "1")
    if not options:
        return
    if command[1] == "fit" and not any(o.endswith(".help") for o in options):
        with pytest.raises(SystemExit) as stopped:
            cli(*command[1:], "--print_config")
        assert stopped.value.code in (0, None)
