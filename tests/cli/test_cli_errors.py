"""What the command line refuses, and what it says: see mistakes.txt."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import Model, data, fit_prior, load, register, write_prior
from vaekit.cli.main import main
from vaekit.model.checkpoints import read_checkpoint
from vaekit.priors import StandardNormal
from vaekit.registry import plugins
from vaekit.training.callbacks.config import ConfigWriter

Cli = Callable[..., Path]


MISTAKES = Path(__file__).with_name("mistakes.txt").read_text().splitlines()
"""A command, and in the next line words of what is said of it."""

BIAS = "model.core.encoder.net.0.bias"
counts = {"tried": 0, "stopped with a clear line": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the mistakes name."""
    folder = tmp_path_factory.mktemp("mistakes")
    plant_arrays(folder)
    plant_configurations(folder)
    trainer = fit(
        Model(data.Digits(), latent_shape=2),
        data.Digits(),
        max_epochs=1,
        callbacks=[ConfigWriter({})],
        default_root_dir=folder,
    )
    trainer.save_checkpoint(folder / "good.ckpt")
    plant_checkpoints(folder)
    plant_priors(folder)
    return folder


def plant_arrays(folder: Path) -> None:
    noise = np.random.default_rng(0)
    x = noise.random((40, 6), dtype=np.float32)
    for name, array in {
        "x": x,
        "rows": x * 9 - 3,
        "c64": x.astype(np.complex64),
        "m0": x < 0,
        "mshape": x[:, :5] < 2,
        "huge": x * 1e30,
        "nan": np.where(x < 0.1, np.nan, x),
        "lnan": np.full(40, np.nan),
        "lab": np.arange(39),
        "lstr": np.array(["a"] * 40),
        "obj": np.array([{}] * 40, dtype=object),
        "e": x[:0],
        "s": x[0, 0],
        "v": x[:, 0],
        "ctx": x[:, 0],
        "bimg": noise.random((40, 8, 8, 1)) < 0.5,
        "img": (noise.random((40, 5, 53, 3)) * 255).astype(np.uint8),
    }.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "noX.npz", a=x, b=x)
    np.savez(folder / "two.npz", x=x, label=np.arange(3))
    for name, tensor in {
        "sparse": torch.eye(40).to_sparse(),
        "list": [torch.rand(3)],
        "intk": {3: torch.rand(3)},
        "f8": torch.rand(40, 6).to(torch.float8_e4m3fn),
        "cpt": torch.rand(40, 6, dtype=torch.complex64),
    }.items():
        torch.save(tensor, folder / f"{name}.pt")
    for name in ("x.npy", "two.npz"):
        (folder / f"trunc.{name[-3:]}").write_bytes((folder / name).read_bytes()[:200])
    (folder / "text.npy").write_text("hi")
    (folder / "rows.csv").write_text("1,2\n")
    for name in ("emp.npy", "empty", "file"):
        (folder / name).touch()


def plant_configurations(folder: Path) -> None:
    encoder = "model: {encoder: {class_path: MLPEncoder, init_args: "
    for name, text in {
        "bad": "model:\n  prior: {class_path: Vamp}\n",
        "damaged": "model: [unclosed\n",
        "text": "model: foo\n",
        "b1": "- 1\n- 2\n",
        "b2": "",
        "b3": "nonsense: 3\n",
        "b4": "model: {encoder: 3}\n",
        "b6": encoder + "3}}\n",
        "b7": "trainer: [1]\n",
        "b8": "a: &a [*a]\n",
        "b9": encoder + "{hidden: [a]}, extra: 1}}\n",
        "b10": "data: {class_path: Digits, init_args: {batch_size: foo}}",
        "runs3": "runs: 3\n",
        "nested": "config: b4.yaml\n",
        "import3": "import: 3\n",
        "bomb": "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
        "e: &e [*c, *c, *c]\nf: [*e, *e, *e]\n",
        "b11": "fit: {trainer: {max_epochs: 1}}\n",
    }.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "b5.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "folder.yaml").mkdir()


def plant_checkpoints(folder: Path) -> None:
    """Damaged copies of the good one: the place of a value, and another in its place."""
    weights = {"model.core.encoder.net.0.weight": torch.zeros(2)}
    for name, place, value in (
        ("state", "state_dict", 3),
        ("state2", "state_dict", weights),
        ("state3", "state_dict", {"x": "y"}),
        ("lat", "vaekit.model.latent_shape", "foo"),
        ("lat2", "vaekit.model.latent_shape", [-1]),
        ("lat3", "vaekit.model.latent_shape", None),
        ("lat4", "vaekit.model.latent_shape", [10**12]),
        ("model", "vaekit.model", 3),
        ("model2", "vaekit.model", {}),
        ("train", "vaekit.training", 3),
        ("train2", "vaekit.training.optimizer", "Foo"),
        ("data", "vaekit.data", 3),
        ("pack", "vaekit.packages", None),
        ("nomodel", "vaekit.model", ...),
        ("vk", "vaekit", [1]),
        ("loops", "loops", "x"),
        ("opt", "optimizer_states", []),
        ("opt2", "optimizer_states", "a"),
        ("run", "run", 3),
        ("cb", "callbacks", 3),
        ("enc", "vaekit.model.encoder", 5),
        ("info", "vaekit.model.data", "x"),
        ("info2", "vaekit.model.data.event_shape", "x"),
        ("started", "vaekit.started", ...),
        ("train3", "vaekit.training", {"foo": 1}),
        ("train4", "vaekit.training", {"model": 1}),
        ("nan", f"state_dict/{BIAS}", torch.full((256,), torch.nan)),
        ("complex", f"state_dict/{BIAS}", torch.zeros(256, dtype=torch.complex64)),
        ("ranks", "run.ranks", [{}]),
        ("opt3", "optimizer_states", [{}]),
        ("best", "callbacks.BestCheckpoint", 3),
        ("loops2", "loops.fit_loop.state_dict", 3),
        ("data3", "vaekit.data.init_args.val", "x"),
        ("cw", "callbacks.ConfigWriter", 3),
        ("cw2", "callbacks.ConfigWriter", {"config": 3}),
        ("cw3", "callbacks.ConfigWriter", {"config": {"trainer": 3}}),
        ("cw4", "callbacks.ConfigWriter", {"config": {"guard": torch.zeros(1)}}),
    ):
        found: Any = read_checkpoint(folder / "good.ckpt")
        *way, last = place.split("/" if "/" in place else ".")
        inner = reduce(getitem, way, found)
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        torch.save(found, folder / f"c_{name}.ckpt")


def plant_priors(folder: Path) -> None:
    """A prior that was fitted to the good model, and others that were not."""
    rows = data.Digits()
    for name, model in (
        ("good", load(folder / "good.ckpt")),
        ("other", Model(rows, latent_shape=2)),
        ("wide", Model(rows, latent_shape=3)),
    ):
        prior = fit_prior(model, rows, "FittedNormal")
        write_prior(prior, model, folder / f"p_{name}.ckpt", checkpoint=f"{name}.ckpt")
    (folder / "p_cut.ckpt").write_bytes((folder / "p_good.ckpt").read_bytes()[:900])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(*pair, id=pair[0], marks=pytest.mark.slow if number % 2 else ())
        for number, pair in enumerate(zip(MISTAKES[::2], MISTAKES[1::2], strict=True))
    ],
)
def test_errors_say_what_was_expected_and_end_at_once(
    command: str,
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    shutil.rmtree("runs", ignore_errors=True)
    counts["tried"] += 1
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    code = stopped.value.code
    said = capsys.readouterr().err + (code if isinstance(code, str) else "")
    assert code not in (0, None)
    said = re.sub(r"^(Seed set|.PU |.*💡).*\n", "", said, flags=re.MULTILINE)
    assert said.startswith("vaekit: error: ")
    assert words.strip() in said
    assert len(said.strip().splitlines()) <= 3
    assert "Traceback" not in said
    assert not list(folder.glob("runs/*"))  # nor a folder of a run that never was
    counts["stopped with a clear line"] += 1


def test_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nmistakes: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    assert len(MISTAKES) >= 200
    assert counts["tried"] == counts["stopped with a clear line"]


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
