"""What measures runs: a benchmark for a GPU on the CPU, with tiny sizes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from test_mnist import write_mnist

from conftest import ROOT
from vaekit import DataInfo, Model

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gpu")


def test_the_slope_is_that_of_the_last_three_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    growth = importlib.import_module("growth")
    sizes = [1, 10, 100, 1000]
    assert growth.slope(sizes, [7.0, 2.0, 8.0, 32.0]) == pytest.approx(
        growth.log(4) / growth.log(10)
    )
    found = growth.measured(growth.Sizes(batch=4, latent=2, event=8, depth=2), steps=5)
    assert found.keys() == set(growth.COSTS)
    assert all(seconds > 0 for seconds in found.values())


@pytest.mark.parametrize(
    "run",
    [
        "by hand",
        "by hand, graph",
        "vaekit",
        *(
            pytest.param(f"{name}compiled", marks=pytest.mark.slow)
            for name in ("by hand, ", "vaekit, ")
        ),
        pytest.param("vaekit, reduce-overhead", marks=pytest.mark.slow),
    ],
)
def test_the_runs_of_a_gpu_run_on_a_cpu(gpu: Any, run: str) -> None:
    seconds, memory, rate = map(float, gpu.one(gpu.CASES["tiny"], run).split())
    assert seconds > 0
    assert memory == 0 or gpu.torch.cuda.is_available()
    assert rate > 0


def test_the_operations_are_those_of_the_layers(gpu: Any) -> None:
    # Forward once and backward twice, but for the first layer, whose input needs no gradient.
    first, others = 64 * 4, 4 * 4 + 2 * 4 + 4 * 64
    expected = 2 * gpu.CASES["tiny"].batch * (2 * first + 3 * others)
    x = gpu.torch.from_numpy(gpu.CASES["tiny"].rows(None))
    assert gpu.operations(gpu.CASES["tiny"], x) == expected


def test_every_published_row_can_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    reproduce = importlib.import_module("reproduce")
    for name, row in reproduce.PUBLISHED.items():
        config = reproduce.configured(row.config, model=row.model, data=row.data)
        assert row.points, name
        assert {"class_path", "init_args"} == config["data"].keys()
        parts = {
            k: v for k, v in config["model"].items() if k not in ("optimizer", "lr_scheduler")
        }
        grey = row.config == "frey"
        info = DataInfo((1, 28, 20 if grey else 28), (0.0, 1.0), 256 if grey else 2)
        assert Model(info, **parts).best[0] in ("elbo", "iwae"), name


@pytest.mark.slow
def test_the_gallery_trains_the_models_of_readme(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    gallery = importlib.import_module("gallery")
    readme = (FOLDER.parent / "README.md").read_text()
    table = readme.partition("\n## Models\n")[2].partition("\n\nParts combine")[0]
    named = {
        n for line in re.findall(r"^\| (`.*?) \|", table, re.M) for n in line.split("`")[1::2]
    }
    assert named == {"-c", *gallery.MODELS}
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "gallery.md")
    monkeypatch.setattr(gallery, "SHEET", tmp_path / "gallery.png")
    write_mnist(tmp_path / "mnist", train=10_300)
    told, drawn = gallery.train("wae_mmd", str(tmp_path), epochs=1)
    assert told["steps"] == 3
    assert drawn.shape == (16, 28, 28)
    page = gallery.page({"vae": {**told, "bound": True, "name": "elbo"}, "wae_mmd": told}, 1)
    assert "| `wae_mmd` | loss, no bound |" in page
    gallery.sheet({"wae_mmd": drawn})
    assert (tmp_path / "gallery.png").is_file()
