"""Images that are written, and what a user does with a folder of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import QUICK, noise, saved
from test_images_refused import bomb

from conftest import ROOT, fit
from vaekit import Model, data, load
from vaekit.data.user.images import ImageFolder
from vaekit.evaluation import pictures

Cli = Callable[..., Path]


# What is written


@pytest.mark.parametrize(
    ("mode", "dtype", "channels"),
    [("L", np.uint8, 1), ("RGB", np.uint8, 3), ("RGBA", np.uint8, 4), ("I;16", np.uint16, 1)],
)
@pytest.mark.parametrize("dequantize", [False, True])
def test_rows_are_written_as_they_were_read(
    tmp_path: Path, mode: Any, dtype: Any, channels: int, dequantize: bool
) -> None:
    images = noise(12, 5, 4, channels, dtype=dtype).squeeze()
    for at, image in enumerate(images):
        saved(tmp_path / f"photos/{at % 2}/same{at // 4}.{at}.png", image)
    module = ImageFolder(tmp_path / "photos", mode=mode, dequantize=dequantize)
    rows = module.numbers("train")
    x = next(module.rows("train")).x
    assert module.write(tmp_path, "out", x, {}, rows) == [tmp_path / "out"]
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == len(rows) == 10
    for path, row in zip(written, rows.tolist(), strict=True):
        original = tmp_path / "photos" / module.names[row]
        assert path.name == f"{row:05}_{original.name}"
        with Image.open(path) as one, Image.open(original) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_of_many_images_the_first_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.data.user.images._WRITTEN", 3)
    module = ImageFolder(tmp_path)
    assert module.write(tmp_path, "unknown", torch.rand(5, 1, 2, 2), {}) == []
    module.follow({"mode": "L"})  # as for samples, for which no image is read
    assert module.write(tmp_path, "samples", torch.rand(5, 1, 2, 2), {}) == [tmp_path / "samples"]
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"]
    assert module.write(tmp_path, "none", None, {}) == []
    assert module.write(tmp_path, "none", {"a": torch.rand(5, 1)}, {}) == []


def test_transparent_images_are_drawn_over_white() -> None:
    x = torch.tensor([0.2, 0.4, 0.6, 0.5]).reshape(1, 4, 1, 1)
    assert pictures.image_grid(x, 1, 0.0, 1.0).ravel().tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert pictures._kind((4, 8, 8)) == "image"


# What a user does


def test_a_model_of_a_folder_goes_through_all_commands(
    cli: Cli, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--data", "ImageFolder", "--data.path", digits, *QUICK)
    cli("sample", "--ckpt_path", "best", "--n", 5)
    cli("reconstruct", "--ckpt_path", "best", "--n", 7)
    cli("predict", "--ckpt_path", "best")
    run = Path("runs/version_0")
    assert "runs/version_0/sample/samples\n" in capsys.readouterr().out
    assert sorted(p.name for p in (run / "sample/samples").iterdir())[4] == "00004.png"
    shown = list((run / "reconstruct/reconstructions").iterdir())
    assert len(shown) == 7
    with np.load(run / "predictions.npz") as found:
        names, labels = found["name"].tolist(), found["label"].tolist()
        assert found["reconstruction"].shape == (30, 1, 8, 8)
        first = (found["reconstruction"][0, 0] * 255).round()
        row = int(found["row"][0])
    assert [name.partition("/")[0] for name in names] == list(map(str, labels))
    written = run / f"predictions/{row:05}_{Path(names[0]).name}"
    with Image.open(written) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), first)


def test_other_images_follow_the_model_s_size_mode_and_classes(
    cli: Cli, tmp_path: Path, digits: Path
) -> None:
    how = ("--data.size", 6, "--data.crop", 8, "--data.mode", "L")
    cli("fit", "--data", "ImageFolder", "--data.path", digits, *how, *QUICK)
    schema = load("runs/version_0/best.ckpt").info.schema
    assert schema is not None
    assert (schema["size"], schema["crop"], schema["mode"]) == ([6, 6], 8, "L")
    for at, folder in enumerate(("7", "new", "3") * 4):
        saved(tmp_path / f"others/{folder}/{at}.png", noise(20, 30, 3))
    others = ("--data", "ImageFolder", "--data.path", tmp_path / "others", "--split", "all")
    cli("predict", "--ckpt_path", "best", *others)
    with np.load("runs/version_0/predictions.npz") as found:
        assert found["label"].tolist() == [3] * 4 + [7] * 4 + [-1] * 4
        assert found["reconstruction"].shape == (12, 1, 6, 6)
    saved(tmp_path / "others/3/2.png", noise(4, 4))  # smaller than the model's crop
    with pytest.raises(SystemExit):
        cli("predict", "--ckpt_path", "best", *others)


@pytest.mark.slow
def test_the_commands_of_readme_run(cli: Cli, tmp_path: Path) -> None:
    for at in range(12):
        saved(tmp_path / f"photos/{at % 2}/{at}.jpg", noise(70, 90, 3))
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("### Images\n")[2].partition("\n### ")[0]
    fit_command, sample = re.findall(r"^    vaekit (.*)$", section, re.MULTILINE)
    cli(*fit_command.split(), *QUICK)
    cli(*sample.split())
    with Image.open("runs/version_0/sample/samples/00099.png") as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_a_bad_folder_is_told_in_a_line_on_the_command_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "photos/a.png", noise(4, 4))
    (tmp_path / "photos/b.png").write_bytes(bomb(50_000))
    for path, said in (("photos", "declares 50,000x50,000"), ("nowhere", "there is none at")):
        with pytest.raises(SystemExit):
            cli("fit", "--data", "ImageFolder", "--data.path", path, *QUICK)
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(lines) == 1
        assert said in lines[0]


def test_colours_train_in_python(tmp_path: Path) -> None:
    for at in range(40):
        saved(tmp_path / f"{at:02}.jpg", noise(40, 30, 3))
    module = data.ImageFolder(tmp_path, size=16, mode="RGBA")
    model = Model(module, latent_shape=2, encoder="ConvEncoder", decoder="ConvDecoder")
    fit(model, module, max_epochs=1)
    assert model.sample(3).shape == (3, 4, 16, 16)
