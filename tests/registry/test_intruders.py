"""Packages that claim vaekit's names or break on import, and keys that must be written nowhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaekit.model.checkpoints import read_checkpoint
from vaekit.registry import plugins

Cli = Callable[..., Path]

FIT = ["fit", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]


def test_a_part_that_leaves_the_process_ends_with_an_error(cli: Cli, package: Any) -> None:
    package(
        "import sys\nfrom vaekit.networks import MLPEncoder\n"
        "class Outer(MLPEncoder):\n    def forward(self, *args): sys.exit(0)\n",
        OUTER,
    )
    with pytest.raises(SystemExit, match=r"encoder Outer \(intruder 1\.0\) failed: SystemE"):
        cli(*FIT, "--model.encoder", "Outer")


OUTER = "[vaekit.encoders]\nOuter = intruder:Outer\n"
CLAIMS = "[vaekit.encoders]\nMLPEncoder = intruder:MLPEncoder\nLinear = intruder:Linear\n"
CLAIMING = """
from pathlib import Path
from vaekit import networks
Path(__file__).with_name("imported").touch()
class MLPEncoder(networks.MLPEncoder):
    pass
class Linear(networks.MLPEncoder):
    pass
"""


def test_a_built_in_name_stays_vaekit_s(package: Any, tmp_path: Path, cli: Cli) -> None:
    package(CLAIMING, CLAIMS)
    cli(*FIT, "--model.objective.beta", "Linear", "--model.objective.beta.steps", "9")
    cli("test", "--ckpt_path", "last")
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    assert not (tmp_path / "site/imported").exists()
    found = plugins.find("encoder", "MLPEncoder")
    assert (found.package, found.unique_name()) == ("vaekit", "MLPEncoder")
    (said,) = [line for line in plugins.conflicts() if "encoder MLPEncoder" in line]
    assert "(intruder 1.0) has a name of vaekit's own" in said
    cli(*FIT, "--model.encoder", "intruder.MLPEncoder", "--model.encoder.hidden", 8)
    stored = read_checkpoint(tmp_path / "runs/version_1/last.ckpt")["vaekit"]["model"]
    assert stored["encoder"]["class_path"] == "intruder.MLPEncoder"


def test_a_package_s_parts_stand_in_help_train_and_are_missed(
    cli: Cli, package: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package("from vaekit.networks import MLPEncoder\nclass Outer(MLPEncoder): pass\n", OUTER)
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    text = capsys.readouterr().out
    assert re.search(r"known\s+subclasses:[^)]*\sMLPEncoder,\s+Outer,", text)
    assert "intruder" not in text
    folder = cli(*FIT, "--model.encoder", "Outer", "--model.encoder.hidden", 7)
    config = folder / "runs/version_0/config.yaml"
    assert "class_path: Outer" in config.read_text()
    cli("test", "--ckpt_path", "best")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("site")])
    for args in (["test", "--ckpt_path", "best"], ["fit", "-c", config]):
        with pytest.raises(SystemExit):
            cli(*args)
        said = capsys.readouterr().err
        assert "There is no encoder 'Outer'" in said
        assert "written with intruder 1.0: install that package" in said


@pytest.mark.parametrize("args", [FIT, [*FIT, "--model.encoder", "Leaving"], ["fit", "--help"]])
def test_a_plugin_that_exits_when_imported_is_a_broken_plugin(
    cli: Cli, package: Any, args: list[str], capsys: Any
) -> None:
    package("import sys\nsys.exit(0)\n", "[vaekit.encoders]\nLeaving = intruder:Leaving\n")
    if args == FIT:
        cli(*args)
        return
    with pytest.raises(SystemExit) as ended:
        cli(*args)
    said = capsys.readouterr()
    if "Leaving" in args:
        assert ended.value.code == 2
        assert (
            "encoder Leaving (intruder 1.0) could not be imported from intruder:Leav" in said.err
        )
        assert "SystemExit: 0" in said.err
        assert "intruder.py, line 2)" in said.err
    else:
        assert "--model.encoder" in said.out


# Secrets


def test_a_planted_key_is_written_nowhere(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "5ecre7" * 6 + "cafe"
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "VAEKIT_DATA"):
        monkeypatch.setenv(name, key)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cli(*FIT, "-c", "wandb", "--trainer.logger.offline", "true")
    sys.modules["wandb"].finish()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert any(path.suffix == ".ckpt" for path in files)
    assert any(path.name == "metrics.csv" for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]
