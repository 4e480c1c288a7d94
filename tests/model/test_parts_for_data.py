"""What is chosen for data that are named by a path: the module that reads them, and parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import anndata
import datasets
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from conftest import fit
from vaekit import Batch, Model, data
from vaekit.cli.invocation import data_named, with_module
from vaekit.data.module_for_path import module_for
from vaekit.model.parts_for_data import epochs_for, parts_for

Cli = Callable[..., Path]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


COUNTS = rng().poisson(2.0, (60, 5)) + 1
FAST = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")


def write(kind: str, folder: Path) -> Path:
    """Data of a kind, as a user has them."""
    path = folder / kind
    if kind == "cells.h5ad":
        anndata.AnnData(COUNTS).write_h5ad(path)
    elif kind == "sparse.npz":
        scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(COUNTS))
    elif kind == "sequences.npz":
        np.savez(path, x=rng().normal(size=(60, 2, 20)), lengths=rng().integers(5, 21, 60))
    elif kind == "tokens.npz":
        np.savez(path, x=rng().integers(0, 4, (60, 9)), lengths=rng().integers(3, 10, 60))
    elif kind == "arrays.npz":
        np.savez(path, images=rng().integers(0, 256, (60, 12, 12), dtype=np.uint8))
    elif kind == "numbers.npy":
        np.save(path, rng().normal(size=(60, 4)))
    elif kind == "tensor.pt":
        torch.save(torch.randint(0, 2, (60, 6)).byte(), path)
    elif kind in ("table.csv", "table.parquet"):
        frame = pd.DataFrame({"age": rng().normal(size=60), "job": ["a", "b", "c"] * 20})
        (frame.to_csv if kind == "table.csv" else frame.to_parquet)(path, index=False)
    elif kind == "photos":
        path.mkdir()
        for at, pixels in enumerate(rng().integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(path / f"{at}.png")
    else:
        assert kind == "set"
        rows = datasets.Dataset.from_dict({"x": rng().normal(size=(60, 3)).tolist()})
        rows.save_to_disk(path)
    return path


KINDS = {
    "cells.h5ad": ("Counts", "path", "NegativeBinomial", "MLPEncoder"),
    "sparse.npz": ("Counts", "path", "NegativeBinomial", "MLPEncoder"),
    "sequences.npz": ("Sequences", "path", "Gaussian", "Conv1dEncoder"),
    "tokens.npz": ("Sequences", "path", "Categorical", "GRUEncoder"),
    "arrays.npz": ("Arrays", "x", "DiscretizedLogistic", "ConvEncoder"),
    "numbers.npy": ("Arrays", "x", "Gaussian", "MLPEncoder"),
    "tensor.pt": ("Arrays", "x", "Bernoulli", "MLPEncoder"),
    "table.csv": ("Table", "path", "Mixed", "EmbeddingEncoder"),
    "table.parquet": ("Table", "path", "Mixed", "EmbeddingEncoder"),
    "photos": ("ImageFolder", "path", "DiscretizedLogistic", "ConvEncoder"),
    "set": ("HuggingFace", "path", "Gaussian", "MLPEncoder"),
}


SLOW = ("sparse.npz", "tokens.npz", "tensor.pt", "table.parquet")  # others like them are quick


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in KINDS]
)
def test_a_path_alone_trains(
    kind: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, argument, likelihood, encoder = KINDS[kind]
    path = write(kind, tmp_path)
    assert module_for(path) == (module, argument)
    capsys.readouterr()
    folder = cli("fit", "--data.path", path, *FAST)
    said = capsys.readouterr().out
    for words in (f" {module} ", "rows", "train", likelihood, encoder, "baseline"):
        assert words in said, words
    config = yaml.safe_load((folder / "runs/version_0/config.yaml").read_text())
    assert config["data"]["class_path"] == module
    assert config["model"]["likelihood"]["class_path"] == likelihood
    assert config["model"]["encoder"]["class_path"] == encoder
    assert config["trainer"]["max_epochs"] == 1
    cli("sample", "--ckpt_path", "best", "--n", 3)
    cli("predict", "--ckpt_path", "best", "--data.path", path, "--split", "all")
    with np.load(folder / "runs/version_0/predictions.npz") as found:
        assert found["row"].tolist() == list(range(30 if kind == "photos" else 60))


def test_what_is_chosen_is_overridden(cli: Cli, tmp_path: Path) -> None:
    write("table.csv", tmp_path)
    Path("mine.yaml").write_text("model: {decoder: {class_path: MLPDecoder}, latent_shape: 3}")
    own = ("--model.encoder.hidden", 9, "--data.kinds.age", "ignore", "-c", "mine.yaml")
    folder = cli("fit", "--data.path=table.csv", *own, *FAST)
    config = yaml.safe_load((folder / "runs/version_0/config.yaml").read_text())
    assert config["data"]["init_args"]["kinds"] == {"age": "ignore"}
    assert config["model"]["likelihood"]["class_path"] == "Categorical"  # of the one column left
    assert config["model"]["encoder"]["init_args"]["hidden"] == 9
    assert config["model"]["decoder"]["init_args"]["hidden"] == [256]
    assert config["model"]["latent_shape"] == 3
    other = ("--model.encoder", "MLPEncoder", "--model.likelihood", "Mixed")
    gaussians = ("--model.likelihood.others", "Gaussian")
    cli("fit", "--data.path", "table.csv", *other, *gaussians, *FAST)
    config = yaml.safe_load((folder / "runs/version_1/config.yaml").read_text())
    assert config["model"]["encoder"]["class_path"] == "MLPEncoder"
    assert config["model"]["likelihood"]["init_args"]["columns"] == {}
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data.path", "nowhere.csv"], "there is no nowhere.csv"),
        (["--data.path", "x.doc"], "a file of .csv, .* but got x.doc"),
        (["--data.path", "empty"], "Expected images in empty"),
        (["--data.path", "table.csv", "--data.kindss.age", "count"], "kindss"),
        (["--data.path", "table.csv", "--data.kinds.age", "number"], "kinds out of numeric"),
        (["--data.path", "table.csv", "--model.encoder.hiddn", "3"], "Did you mean hidden"),
    ],
)
def test_mistakes_end_in_a_line(
    args: list[str], words: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("table.csv", tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.doc").write_text("a letter")
    with pytest.raises(SystemExit) as stopped:
        cli("fit", *args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[0].startswith("vaekit: error: ")
    assert len(said) <= 2
    assert re.search(words, said[0]), said


def test_the_words_of_a_command_line(tmp_path: Path) -> None:
    assert data_named(["fit", "--data.path", "a.csv"]) == "a.csv"
    assert data_named(["fit", "--data.path=a.csv"]) == "a.csv"
    assert data_named(["fit", "--data", "Table", "--data.path", "a.csv"]) is None
    assert data_named(["fit"]) is None
    path = str(write("numbers.npy", tmp_path))
    found = with_module(["fit", "--data.val", "0.2", "--data.path", path, "--runs", "r"], path)
    own = ["fit", "--data", "Arrays", "--data.x", path, "--data.val", "0.2", "--runs", "r"]
    assert found == own


def test_data_of_one_s_own_are_given_parts_too(cli: Cli) -> None:
    Path("my_points.py").write_text(
        "import torch, vaekit\n"
        "from vaekit.data import Rows, split\n"
        "@vaekit.register\n"
        "class MyPoints(vaekit.data.DataModule):\n"
        "    def __init__(self, path: str, seed: int = 0) -> None:\n"
        "        super().__init__(seed=seed)\n"
        "    def natural_range(self): return (-float('inf'), float('inf'))\n"
        "    def load(self): return split(Rows(torch.randn(60, 3)), 0.1, 0.1, self.seed)\n"
    )
    own = ("--data", "MyPoints", "--data.path=anywhere", "--import", "my_points")
    folder = cli("fit", *own, *FAST)
    config = yaml.safe_load((folder / "runs/version_0/config.yaml").read_text())
    assert config["model"]["likelihood"]["class_path"] == "Gaussian"


def test_parts_fit_in_python_too() -> None:
    table = data.Table(pd.DataFrame({"a": rng().normal(size=90), "b": ["x", "y", "z"] * 30}))
    model = Model(table, **parts_for(table))
    trainer = fit(model, table, max_epochs=1)
    assert trainer.callback_metrics["val/elbo"].isfinite()
    counts = data.Arrays(COUNTS, data_range=(0, inf))
    assert parts_for(counts)["likelihood"]["class_path"] == "NegativeBinomial"
    assert epochs_for(counts) == 300


def _of(x: Any) -> str:
    likelihood = parts_for(data.Arrays(x))["likelihood"]
    return likelihood if isinstance(likelihood, str) else likelihood["class_path"]


def test_the_likelihood_is_one_of_the_values() -> None:
    assert _of(torch.randint(0, 2, (60, 4)).byte()) == "Bernoulli"
    assert _of(torch.randint(0, 256, (60, 1, 16, 16)).byte()) == "DiscretizedLogistic"
    assert _of(torch.rand(60, 3, 16, 16)) == "Gaussian"
    assert _of(torch.randn(60, 5)) == "Gaussian"
    assert _of(torch.randint(0, 900, (60, 4))) == "NegativeBinomial"


@pytest.mark.parametrize("normal", [1, 3, 8])
def test_the_elbo_of_an_array_of_nearly_constant_pixels_finds_what_is_not_normal(
    normal: int,
) -> None:
    """With a scale for each element a rare value of a constant one outweighs the rest of a row."""
    x, y = load_digits(return_X_y=True)
    x = torch.from_numpy(x).float()
    rows = data.Arrays(x[y == normal][:120], val=0.1, test=0, batch_size=32)
    torch.manual_seed(0)
    model = Model(rows, **parts_for(rows))
    fit(model, rows, max_epochs=30)
    others = torch.cat([x[y == normal][120:], x[y != normal]])
    with model.using():
        scores = model.evaluate(Batch(others, start=0).keyed())["elbo"].neg()
    usual = len(x[y == normal][120:])
    later = (scores[usual:, None] > scores[:usual]).float().mean()  # the AUROC
    assert later > 0.9
