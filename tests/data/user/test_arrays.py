"""Arrays: every source, ranges and masks, rows of several entries, damaged files."""

from __future__ import annotations

import os
import pickle
import re
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import Model, data
from vaekit.contracts.likelihood import moments
from vaekit.data.readers import arrays as sources
from vaekit.data.user import ranges
from vaekit.training.non_finite import NonFiniteError


@pytest.fixture
def columns() -> dict[str, torch.Tensor]:
    return {
        "x": torch.rand(40, 3),
        "label": torch.arange(40),
        "context": torch.rand(40, 2),
        "mask": torch.rand(40, 3) > 0.2,
    }


def images(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(9, 5, 7, 3), (9, 5, 7, 1), (9, 8, 8, 4)])
def test_images_whose_last_axis_is_the_channels(shape: tuple[int, ...], dtype: str) -> None:
    x = images(*shape, dtype=dtype)
    with pytest.raises(ValueError, match=r"--data\.channels last moves them") as error:
        data.Arrays(x).info  # noqa: B018
    assert str(shape) in str(error.value)
    seen = x < 200
    moved = data.Arrays(x, mask=seen, channels="last", val=0, test=0)
    assert moved.info.event_shape == (shape[3], *shape[1:3])
    batch = next(moved.rows("train"))
    places = moved.numbers("train")
    assert torch.equal((batch.x * 255).round(), torch.from_numpy(x[places]).movedim(3, 1).float())
    assert batch.mask is not None
    assert torch.equal(batch.mask, torch.from_numpy(seen[places]).movedim(3, 1))
    assert data.Arrays(x, channels="first").info.event_shape == shape[1:]


@pytest.mark.parametrize("shape", [(9, 3, 7, 3), (9, 1, 4, 4), (9, 7, 3), (9, 6, 5, 2)])
def test_what_does_not_look_like_such_images_stands(shape: tuple[int, ...]) -> None:
    assert data.Arrays(images(*shape)).info.event_shape == shape[1:]
    with pytest.raises(ValueError, match="Expected channels to be first or last but got"):
        data.Arrays(images(*shape), channels="middle")  # type: ignore[arg-type]


def test_a_tensor_with_a_gradient_is_read_without_it() -> None:
    x = torch.rand(20, 3, requires_grad=True)
    assert not next(data.Arrays(x).rows("train")).x.requires_grad
    with pytest.raises(ValueError, match="a dense tensor of real numbers but got one of"):
        data.Arrays(torch.eye(9).to_sparse()).info  # noqa: B018


@pytest.mark.parametrize("kind", ["npz", "pt", "npy", "tensors", "numpy"])
def test_arrays_from_every_source(
    kind: str, tmp_path: Path, columns: dict[str, torch.Tensor]
) -> None:
    arrays = {k: v.numpy() for k, v in columns.items()}
    if kind == "npz":
        np.savez(tmp_path / "rows.npz", **arrays)
        module = data.Arrays(tmp_path / "rows.npz")
    elif kind == "pt":
        torch.save(columns, tmp_path / "rows.pt")
        module = data.Arrays(str(tmp_path / "rows.pt"))
    elif kind == "npy":
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        module = data.Arrays(**{k: tmp_path / f"{k}.npy" for k in columns})
    else:
        module = data.Arrays(**(columns if kind == "tensors" else arrays))
    assert module.info.context_features == 2
    assert module.info.data_range == (0.0, 1.0)
    batch = next(module.rows("train"))
    i = batch.label
    assert i is not None
    assert torch.equal(batch.x, columns["x"][i])
    assert torch.equal(batch.context, columns["context"][i])
    assert torch.equal(batch.mask, columns["mask"][i])
    assert (module.spec is None) == (kind in ("tensors", "numpy"))


def test_a_lone_npy_is_mapped_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    big = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(200_000, 64, 64))
    big.flush()
    module = data.Arrays(path, val=0.2)
    before = _resident()
    module.setup()
    next(iter(module.train_dataloader()))
    assert _resident() - before < 100e6  # of 819 MB


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda: (torch.rand(20, 2) > 0.5).float(), ((0.0, 1.0), 2)),
        (lambda: torch.rand(20, 2), ((0.0, 1.0), None)),
        (lambda: torch.rand(20, 2) * 2 - 1, ((-1.0, 1.0), None)),
        (lambda: torch.rand(20, 2) * 255, ((0.0, torch.inf), None)),
        (lambda: torch.randn(20, 2) * 99, ((-torch.inf, torch.inf), None)),
        (lambda: torch.randint(0, 255, (20, 2), dtype=torch.uint8), ((0.0, 1.0), 256)),
        (lambda: torch.randint(0, 2, (20, 2), dtype=torch.uint8), ((0.0, 1.0), 2)),
    ],
)
def test_the_range_is_found(draw: Any, expected: tuple[object, object]) -> None:
    info = data.Arrays(draw()).info
    assert (info.data_range, info.levels) == expected


def test_float_zeros_and_ones_are_spread_over_their_bins() -> None:
    # They stayed 0 and 1 while the bin width said .5: bits per dimension were off by one.
    bits = (torch.rand(400, 3) > 0.5).float()
    module = data.Arrays(bits, label=torch.arange(400), dequantize=True)
    assert module.info.bin_width == 0.5
    batch = next(module.rows("train"))
    assert torch.equal((batch.x * 2).floor(), bits[batch.label])
    assert (batch.x * 2 - bits[batch.label]).mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", ["<u2", ">u2", ">f4", ">f8", "<f2", "<u4", "<i2", "bool", "g"])
def test_numbers_of_every_type_are_read(kind: str, tmp_path: Path) -> None:
    x = np.arange(60).reshape(20, 3).astype(kind)
    np.save(tmp_path / "x.npy", x)
    for source in (x, tmp_path / "x.npy", x[::-1][::-1]):
        module = data.Arrays(source, label=np.arange(20), val=0, test=0)
        assert module.info.data_range == ((0.0, 1.0) if kind == "bool" else (0.0, inf))
        assert np.array_equal(next(module.rows("train")).x.numpy(), x.astype("float32"))


@pytest.mark.parametrize("kind", ["c8", "U3", "M8[s]"])
def test_what_is_no_number_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="Expected x to hold real numbers but it holds"):
        data.Arrays(np.zeros((9, 2), dtype=kind)).info  # noqa: B018


def test_the_ends_of_a_declared_range_are_rounded_as_its_values_are() -> None:
    # float64 .1 becomes a float32 above .1, and was refused.
    for kind in (torch.float64, torch.float32, torch.float16):
        x = torch.full((60, 2), 0.1, dtype=kind)
        module = data.Arrays(x, data_range=(0.0, 0.1))
        model = Model(module, latent_shape=2, likelihood="Gaussian")
        assert model.info.data_range == (0.0, 0.1)
        trainer = fit(model, module, max_epochs=1)
        assert trainer.callback_metrics["val/elbo"].isfinite()


def test_uint8_zeros_and_ones_stay_zeros_and_ones() -> None:
    x = torch.randint(0, 2, (20, 2), dtype=torch.uint8)
    assert set(next(data.Arrays(x).rows("train")).x.unique().tolist()) == {0.0, 1.0}
    assert data.Arrays(x, data_range=[0, 1]).info.data_range == (0.0, 1.0)  # as YAML has it
    with pytest.raises(ValueError, match="declared data_range"):
        data.Arrays(x + 1, data_range=(0.0, 1.5)).setup()


def test_what_a_mask_hides_may_be_nan() -> None:
    x = torch.rand(30, 2)
    mask = torch.rand(30, 2) > 0.5
    assert data.Arrays(torch.where(mask, x, torch.nan), mask=mask).info.data_range == (0.0, 1.0)


@pytest.mark.parametrize("binarize", ["dynamic", "static"])
def test_what_a_mask_hides_is_not_binarised(binarize: str) -> None:
    x, mask = torch.rand(60, 4), torch.rand(60, 4) > 0.3
    hidden = torch.where(mask, x, torch.tensor([torch.nan, -7.0, 3.0, torch.inf]))
    module = data.Arrays(hidden, mask=mask, binarize=binarize)
    batch = next(module.rows("train"))
    assert set(batch.x[batch.mask].tolist()) == {0.0, 1.0}
    fit(Model(module, latent_shape=2), module, max_epochs=1)


def test_an_entry_may_be_hidden_in_every_row() -> None:
    # As when one modality is to be drawn from another.
    x = {"a": torch.full((60, 2), torch.nan), "b": torch.rand(60, 2)}
    mask = {"a": torch.zeros(60, 2).bool(), "b": torch.ones(60, 2).bool()}
    assert data.Arrays(x, mask=mask).info.data_range == {"a": (0.0, 1.0), "b": (0.0, 1.0)}


def test_binarising_once_takes_no_more_memory_than_its_result(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    big = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(40_000, 64, 64))
    big[:] = 128
    big.flush()
    del big
    module = data.Arrays(path, binarize="static", val=0, test=0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident()
    module.setup()
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    assert peak - before < 2 * 164e6 + 200e6  # the file's pages, the result, one slice's work


NINE = torch.linspace(0, 1, 18).view(9, 2)
BAD_ARRAYS = {
    "lengths": ({"x": NINE, "label": torch.zeros(8)}, "Expected 9 rows.*label has 8"),
    "nan": ({"x": torch.full((9, 2), torch.nan)}, "finite values but x holds NaN"),
    "infinity": ({"x": torch.full((9, 2), torch.inf)}, "finite values"),
    "one dimension": ({"x": NINE[:, 0]}, r"shape \(N, \*event\) but got \(9,\)"),
    "mask": ({"x": NINE, "mask": torch.ones(9, 3)}, r"mask of x's shape \(9, 2\)"),
    "context": ({"x": NINE, "context": NINE[:, 0]}, r"context of finite values"),
    "large": ({"x": NINE.double() * 1e300}, "float32 can hold but x spans"),
    "ends": ({"x": NINE, "data_range": (1.0, 0.0)}, "smallest and largest value"),
    "range": ({"x": NINE * 3, "data_range": (0.0, 1.0)}, r"declared data_range"),
    "empty": ({"x": NINE[:0], "val": 0, "test": 0}, r"but got \(0, 2\)"),
    "shares": ({"x": NINE, "val": 0.6, "test": 0.4}, "leave rows for training"),
    "no file": ({"x": "nowhere.npy"}, "there is none at nowhere.npy"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_say_what_was_expected(case: str) -> None:
    arguments, words = BAD_ARRAYS[case]
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        data.Arrays(**arguments).info  # noqa: B018


class _Bomb:
    """Touches a marker file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "pt of an object"])
def test_files_run_no_code(kind: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"rows.{kind[:3].strip()}"
    bomb = np.array([_Bomb(marker)], dtype=object)
    if kind == "npy":
        np.save(path, bomb, allow_pickle=True)
    elif kind == "npz":
        np.savez(path, x=bomb)
    elif kind == "pt":
        path.write_bytes(pickle.dumps(_Bomb(marker)))
    else:
        torch.save({"x": _Bomb(marker)}, path)
    with pytest.raises(ValueError, match="plain arrays, without pickled objects"):
        data.Arrays(path).info  # noqa: B018
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY garbage", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("ending", ["npy", "npz", "pt"])
def test_damaged_files_are_named(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"Expected {path}"):
        data.Arrays(path).info  # noqa: B018


def test_other_files_are_refused_with_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2")
    with pytest.raises(ValueError, match=r"\.npy, \.npz, \.pt"):
        data.Arrays(path).info  # noqa: B018


# Rows of several entries


def test_rows_may_have_several_entries(tmp_path: Path) -> None:
    image, code = torch.randint(0, 17, (40, 1, 2, 2), dtype=torch.uint8), torch.randn(40, 3)
    np.save(tmp_path / "image.npy", image.numpy())
    sources = {"image": tmp_path / "image.npy", "code": code}
    module = data.Arrays(sources, label=torch.arange(40), val=0.2, test=0.1)
    info = module.info
    assert info.event_shape == {"image": (1, 2, 2), "code": (3,)}
    assert info.data_range == {"image": (0.0, 1.0), "code": (-inf, inf)}
    assert info.levels == {"image": 256, "code": None}
    batch = next(module.rows("val"))
    assert torch.allclose(batch.x["image"], image[batch.label] / 255)
    assert torch.equal(batch.x["code"], code[batch.label])
    assert module.spec is None  # a tensor in memory
    spec = data.Arrays({"image": tmp_path / "image.npy"}).spec
    assert spec is not None
    assert spec["init_args"]["x"] == {"image": str(tmp_path / "image.npy")}


def test_entries_are_binarised_and_dequantised() -> None:
    x = {"a": torch.full((40, 2), 128, dtype=torch.uint8), "b": torch.zeros(40, 3).byte()}
    binary = data.Arrays(x, binarize="static", val=0.2)
    assert binary.info.levels == {"a": 2, "b": 2}
    drawn = next(binary.rows("train")).x
    assert set(drawn["a"].unique().tolist()) == {0.0, 1.0}
    assert drawn["b"].unique().tolist() == [0.0]
    spread = data.Arrays(x, dequantize=True, val=0.2)
    assert spread.info.bin_width == {"a": 1 / 256, "b": 1 / 2}
    ways = [next(spread.rows("val")).x for _ in range(2)]
    assert torch.equal(ways[0]["a"], ways[1]["a"])
    assert torch.equal((ways[0]["a"] * 256).floor(), torch.full((8, 2), 128.0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": {"a": NINE[:5], "b": NINE[:4]}}, "5 rows, as in x, but x.b has 4"),
        ({"x": {"a": NINE[:5], "b": NINE[:5, 0]}}, r"Expected x.b with shape \(N"),
        ({"x": {"a": NINE[:5] / 0}}, "Expected finite values but x.a holds"),
        ({"x": {"a": NINE[:5]}, "mask": torch.ones(5, 2)}, "a mask of x's shape {'a'"),
        ({"x": {"a": NINE[:5]}, "data_range": {"b": (0, 1)}}, "data_range of a, as in x"),
        ({"x": {"a": NINE + 9}, "binarize": "static"}, r"Expected values in \[0, 1\]"),
    ],
)
def test_bad_entries_are_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.Arrays(**arguments).info  # noqa: B018


def test_moments_are_those_of_each_entry() -> None:
    x = {"a": torch.rand(50, 2), "b": torch.randn(50, 1, 3, 3)}
    mask = {"a": torch.rand(50, 2) > 0.3, "b": torch.ones(50, 1, 3, 3, dtype=torch.bool)}
    mean, variance = moments(data.Arrays(x, mask=mask, val=0, test=0).rows("train"))
    seen = x["a"][mask["a"][:, 1], 1].double()
    assert mean["a"][1].item() == pytest.approx(seen.mean().item())
    assert variance["a"][1].item() == pytest.approx(seen.var(correction=0).item())
    assert torch.allclose(mean["b"], x["b"].double().mean(0))


def test_labels_context_and_mask_reach_the_parts(columns: dict[str, torch.Tensor]) -> None:
    module = data.Arrays(**columns, batch_size=8)
    model = Model(module, latent_shape=2, likelihood="Gaussian", encoder="MLPEncoder")
    trainer = fit(model, module, max_epochs=1)
    assert model.core.encoder.net[0].in_features == 3 + 2
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])


@pytest.mark.parametrize(("value", "words"), [(7.0, "these rows span"), (torch.nan, "finite")])
def test_of_what_is_too_large_to_be_read_whole_each_batch_is_looked_at(
    value: float, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranges, "WHOLE", 1000)
    x = torch.rand(5000, 4)
    seen = ranges.spread(x)
    assert seen is not None
    assert len(seen) == 1000
    assert (seen[0], seen[-1]) == (0, 4999)
    hidden = next(row for row in range(5000) if row not in seen)
    x[hidden] = value
    np.save(tmp_path / "x.npy", x.numpy())
    rows = data.Arrays(tmp_path / "x.npy", val=0, test=0)
    model = Model(rows, likelihood="Gaussian", latent_shape=2)
    assert rows.looked_at is False
    with pytest.raises((ValueError, NonFiniteError), match=words):
        fit(model, rows, max_epochs=1)


def test_bytes_of_which_a_few_are_neither_0_nor_1_are_met_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranges, "BYTES", 1000)
    x = torch.randint(2, (5000, 4), dtype=torch.uint8)
    seen = ranges.spread(x)
    assert seen is not None
    x[next(row for row in range(5000) if row not in seen)] = 255
    rows = data.Arrays(x, val=0, test=0)
    with pytest.raises(ValueError, match="these rows span"):
        fit(Model(rows, latent_shape=2), rows, max_epochs=1)
    assert data.Arrays(torch.randint(256, (5000, 4)).byte()).info.levels == 256


@pytest.mark.parametrize("whole", [0, 2**31])
def test_a_part_may_change_its_batch_and_the_file_stays(
    whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "WHOLE", whole)
    x = np.random.default_rng(0).random((30, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    rows = data.Arrays(tmp_path / "x.npy", val=0, test=0)
    for batch in rows.rows("train"):
        batch.x.zero_()
    assert torch.equal(next(rows.rows("train")).x, torch.from_numpy(x))


def test_all_rows_of_what_is_small_are_looked_at_at_once() -> None:
    rows = data.Arrays(torch.rand(50, 4))
    assert rows.info.data_range == (0.0, 1.0)
    assert rows.looked_at is True
