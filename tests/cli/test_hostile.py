"""Hostile inputs: nothing that a file, a flag or a variable names runs unless the user trusts it.

Each leaves a marker where it runs. The evil module could be imported: its folder is on the path.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import Model, data
from vaekit.model.checkpoints import read_checkpoint
from vaekit.registry import plugins
from vaekit.registry.specs import resolve
from vaekit.storage.files import write

Cli = Callable[..., Path]

EVIL = "from pathlib import Path\nPath(__file__).with_name('marker').touch()\nclass Evil: pass\n"
SPEC = {"class_path": "evilmod.Evil", "init_args": {}}
FIT = ["fit", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
counts = {"tried": 0, "stopped or left aside": 0, "ran": 0}


class Payload:
    """Leaves a marker where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return (exec, (f"open({self.marker!r}, 'w')",))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    fit(Model(data.Digits(), latent_shape=2), data.Digits(), max_epochs=1).save_checkpoint(path)
    return path


@pytest.fixture
def attack(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Runs a command beside an evil module; nothing of it may run."""
    (tmp_path / "evilmod.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)

    def call(*args: object, said: str | None = None) -> None:
        counts["tried"] += 1
        code, error = 0, ""
        try:
            cli(*args)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
            error = stopped.code if isinstance(stopped.code, str) else ""
        error += capsys.readouterr().err
        ran = "evilmod" in sys.modules or (tmp_path / "marker").exists()
        counts["ran"] += ran
        assert not ran
        assert "Traceback" not in error
        if said is None:
            assert code == 0, error
        else:
            assert code in (1, 2)
            assert said in error
            lines = [line for line in error.splitlines() if "vaekit" in line]
            assert 1 <= len(lines) <= 3
        counts["stopped or left aside"] += 1

    return call


TRUST = "If you trust the package evilmod, say so on the command line: --allow-import evilmod"
NAMED = {
    "trainer.callbacks": TRUST,
    "trainer.logger": TRUST,
    "trainer.plugins": TRUST,
    "trainer.strategy": "invalid strategy name",
    "trainer.profiler": "profiler",
    "trainer.accelerator": "invalid accelerator name",
    "model.optimizer": "Expected a class of torch.optim but",
    "model.lr_scheduler": "Expected a class of torch.optim.lr_scheduler but",
    "data": "There is no data 'evilmod.Evil'",
    "model.objective.beta": "There is no schedule 'evilmod.Evil'",
    "model.encoder.activation": "Expected the name",
    **{
        f"model.{kind}": f"There is no {kind} 'evilmod.Evil'"
        for kind in plugins.KINDS
        if kind not in ("schedule", "data")
    },
}


@pytest.mark.parametrize("how", ["flag", "mapping", "yaml", "variable"])
@pytest.mark.parametrize("key", NAMED)
def test_a_foreign_class_is_not_imported(
    attack: Any, key: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = key.endswith(("strategy", "profiler", "accelerator", "activation"))
    value: Any = "evilmod.Evil" if plain or how == "flag" else SPEC
    said = NAMED[key]
    if how == "yaml":
        tree: Any = value
        for name in reversed(key.split(".")[:2] if "beta" not in key else ["model"]):
            tree = {name: tree}
        if "beta" in key or "activation" in key:
            part, _, name = key.removeprefix("model.").partition(".")
            cls = {"objective": "ELBO", "encoder": "MLPEncoder"}[part]
            tree = {"model": {part: {"class_path": cls, "init_args": {name: value}}}}
        (tmp_path / "evil.yaml").write_text(json.dumps(tree))
        attack(*FIT, "-c", "evil.yaml", said=said)
    elif how == "variable" and key.count(".") < 2:
        monkeypatch.setenv(
            f"VAEKIT_FIT__{key.replace('.', '__')}".upper(),
            value if isinstance(value, str) else json.dumps(value),
        )
        attack(*FIT, said=said)
    else:
        attack(*FIT, f"--{key}", value if isinstance(value, str) else json.dumps(value), said=said)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--trainer.callbacks", "os.system"], "--allow-import os"),
        (["--model.encoder", "os.system"], "There is no encoder 'os.system'"),
        (["--model.encoder.hidden", "os.system"], "expected int or list[int]"),
        (["--trainer.callbacks", "lightning.pytorch.callbacks.model_checkpoint.os.system"], ""),
        (["--trainer.callbacks", "vaekit.loggers.unreachable"], "Callback but got"),
        (
            ["--trainer.callbacks", "LambdaCallback", "--trainer.callbacks.setup", "os.system"],
            "--allow-import os",
        ),
        (["-c", "http://127.0.0.1:9/a.yaml"], "no configuration file"),
        (["--ckpt_path", "simplecache::http://127.0.0.1:9/a.ckpt"], "chained"),
        (["--ckpt_path", "http://127.0.0.1:9/a.ckpt"], "There is no checkpoint"),
    ],
    ids=str,
)
def test_a_foreign_call_is_not_made(attack: Any, args: list[str], said: str) -> None:
    attack(*FIT, *args, said=said)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:evilmod.Evil []",
        "model: !!python/object/new:evilmod.Evil {}",
        "model: !!python/name:evilmod.Evil ''",
        "model: !!python/module:evilmod ''",
        "import: evilmod",
        "import: [evilmod]",
        "allow-import: evilmod\nimport: evilmod",
        "debug: true",
    ],
)
def test_a_configuration_runs_nothing(attack: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "evil.yaml").write_text(text)
    attack(*FIT, "-c", "evil.yaml", said="vaekit: error")


@pytest.mark.parametrize(
    "name", ["VAEKIT_FIT__IMPORT", "VAEKIT_FIT__ALLOW_IMPORT", "VAEKIT_FIT_PRIOR__IMPORT"]
)
def test_a_variable_imports_nothing(
    attack: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "evilmod")
    attack(*FIT, said=f"{name}: only the command line can say that")


def test_what_a_user_trusts_is_imported(attack: Any, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "kind.py").write_text("import lightning\nclass Kind(lightning.Callback): pass\n")
    (tmp_path / "kind.yaml").write_text("trainer: {callbacks: [{class_path: kind.Kind}]}\n")
    attack(*FIT, "-c", "kind.yaml", said="--allow-import kind")
    cli(*FIT, "-c", "kind.yaml", "--allow-import", "kind")
    attack(*FIT, "-c", "kind.yaml", said="--allow-import kind")  # that fit alone


@pytest.mark.parametrize(
    "name", ["digits", "mnist", "MLPEncoder", "Adam", "Digits", "Linear", "ELBO", "EarlyStopping"]
)
def test_a_planted_file_takes_no_name_s_place(attack: Any, tmp_path: Path, name: str) -> None:
    tree = {"trainer": {"callbacks": [SPEC]}} if name.islower() else SPEC
    (tmp_path / name).write_text(json.dumps(tree))
    parts = ["--model.optimizer", "Adam", "--model.encoder", "MLPEncoder", "--data", "Digits"]
    parts += ["--model.objective.beta", "Linear", "--model.objective.beta.steps", "9"]
    parts += ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/elbo"]
    attack(*FIT, *parts)


def test_the_working_folder_is_searched_for_what_is_named_alone(
    attack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text("try:\n    import evilmod\nexcept ImportError:\n    pass\n")
    (tmp_path / "plugin-1.dist-info").mkdir()
    (tmp_path / "plugin-1.dist-info/METADATA").write_text("Name: plugin\nVersion: 1\n")
    (tmp_path / "plugin-1.dist-info/entry_points.txt").write_text(
        "[vaekit.encoders]\nEvil = evilmod:Evil\n"
        "[lightning.pytorch.callbacks_factory]\nEvil = evilmod:Evil\n"
    )
    attack(*FIT, "--import", "mine")
    assert "mine" in sys.modules
    attack(*FIT, "--import", "mine", "--model.encoder", "Evil", said="There is no encoder 'Evil'")
    (tmp_path / "other.py").write_text("import evilmod\n")
    attack(*FIT, "--import", "other", said="evilmod.py lies in this folder: name it too")


def test_the_working_folder_is_not_searched(tmp_path: Path) -> None:
    names = ("torch", "yaml", "rich", "tensorboard", "sklearn", "evilmod")
    for name in names:
        (tmp_path / f"{name}.py").write_text(EVIL)
    (tmp_path / "plugin-1.dist-info").mkdir()
    (tmp_path / "plugin-1.dist-info/METADATA").write_text("Name: plugin\nVersion: 1\n")
    (tmp_path / "plugin-1.dist-info/entry_points.txt").write_text(
        "[vaekit.encoders]\nEvil = evilmod:Evil\n"
    )
    counts["tried"] += len(names)
    command = [sys.executable, "-m", "vaekit", "fit", "--model.encoder", "Evil"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "There is no encoder 'Evil'" in done.stderr
    assert not (tmp_path / "marker").exists()
    counts["stopped or left aside"] += len(names)


# Files that hold code


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw", "nested"])
@pytest.mark.parametrize("command", ["fit", "test", "sample"])
def test_a_checkpoint_with_a_payload_is_refused(
    attack: Any, kind: str, command: str, tmp_path: Path, good: Path
) -> None:
    payload, path = Payload(tmp_path / "marker"), tmp_path / "evil.ckpt"
    if kind == "raw":
        path.write_bytes(pickle.dumps(payload))
    else:
        found = {**read_checkpoint(good), "x": payload} if kind == "nested" else {"x": payload}
        torch.save(found, path, _use_new_zipfile_serialization=kind != "legacy")
    attack(command, "--ckpt_path", path, said="Expected a checkpoint")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", "legacy.pt", "raw.pt"])
def test_an_array_with_a_payload_is_refused(attack: Any, suffix: str, tmp_path: Path) -> None:
    payload, path = Payload(tmp_path / "marker"), tmp_path / f"evil{suffix}"
    array = np.array([payload], dtype=object)
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    elif suffix == ".npz":
        np.savez(path, x=array)
    elif suffix == "raw.pt":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save({"x": payload}, path, _use_new_zipfile_serialization=suffix == ".pt")
    attack(*FIT, "--data", "Arrays", "--data.x", path, said="could not be read")


def plant(good: Path, place: str, path: Path) -> None:
    """Writes the good checkpoint with the evil class in a place."""
    checkpoint = read_checkpoint(good)
    stored = checkpoint["vaekit"]
    if place in plugins.KINDS and place != "data":
        stored["model"][place] = SPEC
    elif place == "part's argument":
        stored["model"]["objective"]["init_args"]["beta"] = SPEC
    elif place in ("optimizer", "lr_scheduler"):
        stored["training"][place] = SPEC
    elif place == "data":
        stored["data"] = SPEC
    elif place == "_instantiator":
        checkpoint["hyper_parameters"] = {"_instantiator": "evilmod.Evil", "a": SPEC}
        checkpoint["hparams_name"] = "kwargs"
    elif place == "import":
        checkpoint["callbacks"]["ConfigWriter"] = {"config": {"import": "evilmod"}}
    else:
        value: Any = [SPEC] if place in ("callbacks", "plugins") else SPEC
        config = {"trainer": {"max_epochs": 1, place: value}}
        checkpoint["callbacks"]["ConfigWriter"] = {"config": config}
    write(checkpoint, path)


PLACES = ["encoder", "core", "part's argument", "optimizer", "lr_scheduler", "data"]
SETTINGS = ["callbacks", "logger", "plugins", "strategy", "profiler"]


@pytest.mark.parametrize("place", [*PLACES, *SETTINGS])
def test_a_checkpoint_s_foreign_class_is_not_imported(
    attack: Any, place: str, good: Path, tmp_path: Path
) -> None:
    plant(good, place, tmp_path / "evil.ckpt")
    attack("fit", "--ckpt_path", "evil.ckpt", said="evilmod.Evil")
    if place in PLACES:
        attack("test", "--ckpt_path", "evil.ckpt", said="evilmod.Evil")


@pytest.mark.parametrize("place", ["_instantiator", "import"])
def test_what_vaekit_does_not_read_of_a_checkpoint_does_nothing(
    attack: Any, place: str, good: Path, tmp_path: Path
) -> None:
    plant(good, place, tmp_path / "evil.ckpt")
    attack("test", "--ckpt_path", "evil.ckpt")
    attack("fit", "--ckpt_path", "evil.ckpt", "--trainer.max_epochs", 1)


@pytest.mark.parametrize("where", ["/elsewhere/x", "../x", "~/x", "src", "http://127.0.0.1:9/x"])
def test_a_checkpoint_from_elsewhere_names_no_folder_to_write_to(
    attack: Any, where: str, good: Path, tmp_path: Path
) -> None:
    found = read_checkpoint(good)
    spec = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    config = {"trainer": {"callbacks": [{**spec, "init_args": {"dirpath": where}}]}}
    found["callbacks"]["ConfigWriter"] = {"config": config}
    write(found, tmp_path / "evil.ckpt")
    attack("fit", "--ckpt_path", "evil.ckpt", said="callbacks.ModelCheckpoint: name its config")
    # The user's own configuration takes the place of its settings.
    (tmp_path / "mine.yaml").write_text("trainer: {max_epochs: 1}")
    attack("fit", "--ckpt_path", "evil.ckpt", "-c", "mine.yaml")
    config = (tmp_path / "runs/version_0/config.yaml").read_text()
    assert "ModelCheckpoint" not in config


@pytest.mark.parametrize("command", ["fit", "test", "encode", "predict", "reconstruct"])
def test_a_checkpoint_s_data_are_not_downloaded(
    attack: Any, command: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "vaekit.data.readers.downloads.fetch", lambda url, path, md5: asked.append(url)
    )
    found = read_checkpoint(good)
    root = str(tmp_path / "chosen")
    spec = {"class_path": "MNIST", "init_args": {"root": root}}
    found["vaekit"]["data"] = resolve("data", spec)
    write(found, tmp_path / "evil.ckpt")
    attack(command, "--ckpt_path", "evil.ckpt", said="or have it downloaded")
    assert not asked
    assert not Path(root).exists()


def test_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nhostile inputs: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    assert counts["tried"] == counts["stopped or left aside"]
    assert counts["ran"] == 0
