"""What the doctor says of an installation that is broken, and of one that is not."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from vaekit.cli.main import main


@pytest.fixture
def say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Asks the doctor; returns its exit code, and what it found broken."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "VAEKIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()

    def call(*args: str) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main([*args] or ["doctor"])
        said = capsys.readouterr().out.splitlines()
        assert any(line.startswith("ok ") and " torch " in line for line in said)
        code = ended.value.code
        assert isinstance(code, int)
        return code, [line for line in said if line.startswith("BROKEN")]

    return call


def test_nothing_is_broken_here(say: Any) -> None:
    assert say() == (0, [])


def test_a_torchvision_for_another_torch(
    say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site/torchvision-0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "Name: torchvision\nVersion: 0.1\nRequires-Dist: torch==1.0\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    code, (said,) = say()
    assert code == 1
    assert "0.1, which is for torch ==1.0, not" in said
    assert "->  pip uninstall torchvision" in said


def test_an_import_that_fails_does_not_end_the_others(
    say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    code, (said,) = say()
    assert code == 1
    assert "BROKEN  lightning" in said
    assert "reinstall" in said


def test_the_doctor_takes_debug(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert say("--debug", "doctor") == say("doctor", "--debug") == (0, [])


def test_a_package_that_is_too_old(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaekit.cli import doctor

    found = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.1" if name == "wandb" else found(name))
    code, (said,) = say()
    assert code == 1
    assert "0.1, needs >=0." in said
    assert "->  pip install -U 'wandb>=0." in said


def test_broken_and_claiming_plugins(say: Any, package: Any) -> None:
    package(
        "raise OSError('no flux')",
        "[vaekit.encoders]\nFlux = intruder:Flux\nMLPEncoder = intruder:MLPEncoder\n"
        "[vaekit.encoder]\nLost = intruder:Lost\n",
    )
    code, said = say()
    assert code == 1
    text = "\n".join(said)
    assert "The encoder Flux (intruder 1.0) could not be imported" in text
    assert "intruder.py, line 1)" in text
    assert "encoder MLPEncoder (intruder 1.0) has a name of vaekit's own" in text
    assert "into the group vaekit.encoder, which vaekit does not read" in text
    assert all("->" in line for line in said)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VAEKIT_FTI__MODEL", "3", "no setting: unset VAEKIT_FTI__MODEL"),
        ("VAEKIT_DATA", "/nowhere", "VAEKIT_DATA=/nowhere is no folder"),
    ],
)
def test_variables(
    say: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("VAEKIT_FIT__RUNS", "elsewhere")
    monkeypatch.setenv(name, value)
    code, (said,) = say()
    assert code == 1
    assert words in said


def test_a_full_disk(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    code, (said,) = say()
    assert code == 1
    assert "0.0 GiB free" in said


def test_a_server_that_does_not_answer(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    code, (said,) = say()
    wandb.teardown()
    assert code == 1
    assert "http://127.0.0.1:9 gives no answer" in said
    assert "0" * 40 not in said


def test_a_broken_installation_leads_to_the_doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vaekit.cli.app", None)
    with pytest.raises(SystemExit) as ended:
        main(["fit"])
    assert ended.value.code == 1
    assert "(vaekit doctor says what is broken" in capsys.readouterr().err
    with pytest.raises(ImportError):
        main(["fit", "--debug"])
