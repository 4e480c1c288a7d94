"""Data modules: splits, orders, ranks, files, and what becomes of a batch."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import Model, data
from vaekit.batch import Batch
from vaekit.data.base import Batches, Order, Rows


def numbered(n: int) -> Rows:
    return Rows(torch.arange(n).view(n, 1), label=torch.arange(n))


def labels(batches: Iterable[Batch]) -> list[int]:
    return [i for b in batches if b.weight for i in b.label.tolist()]


# The order of an epoch


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = Batches(numbered(100), 7, shuffle=True, seed=seed)
        loader.sampler.set_epoch(epoch)
        torch.rand(3)  # whatever else is drawn
        return labels(loader)

    assert order(0, 4) == order(0, 4)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(o) for o in orders}) == 9
    assert all(sorted(o) == list(range(100)) for o in orders)


def test_splits_share_one_copy_of_the_data() -> None:
    rows = numbered(10).subset(torch.tensor([8, 3, 5, 0]))
    assert rows.x.shape[0] == 10
    assert len(rows) == 4
    assert rows[torch.tensor([1, 3])].x.flatten().tolist() == [3, 0]
    assert rows.subset(slice(1, 3))[:].x.flatten().tolist() == [3, 5]


def test_rows_in_their_own_order_are_cut_without_copying() -> None:
    rows = numbered(10)
    first = next(iter(Batches(rows, 4, shuffle=False)))
    assert first.x.data_ptr() == rows.x.data_ptr()
    assert Order(10, shuffle=False, seed=0).rows(2, 5) == slice(2, 5)


@pytest.mark.parametrize("n", [1, 7, 16, 17, 18, 23, 24])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_is_in_one_batch_of_one_rank(n: int, ranks: int, shuffle: bool) -> None:
    # Lightning's own sampler pads: 26 of 25 rows would be counted.
    loaders = [Batches(numbered(n), 4, shuffle, rank=r, ranks=ranks) for r in range(ranks)]
    steps = [list(loader) for loader in loaders]
    assert Counter(labels(b for own in steps for b in own)) == Counter(range(n))
    assert {len(own) for own in steps} == {len(loaders[0])}
    assert all(len(b) > 0 for own in steps for b in own)


@pytest.mark.parametrize("n", [17, 18, 23])
def test_ranks_share_out_the_batches_of_one_rank(n: int) -> None:
    one = list(Batches(numbered(n), 6, shuffle=True))
    ranks = zip(*(Batches(numbered(n), 3, True, rank=r, ranks=2) for r in range(2)), strict=True)
    for whole, parts in zip(one, ranks, strict=True):
        assert labels([whole]) == labels(parts)
        mean = whole.x.double().mean()
        assert sum(b.weight * b.x.double().mean() for b in parts) / 2 == pytest.approx(mean.item())


# Splits and what is done to x


def test_splits_are_disjoint_seeded_and_whole() -> None:
    x = torch.arange(100.0).view(100, 1)

    def rows(seed: int) -> dict[str, set[float]]:
        module = data.Arrays(x, val=0.2, test=0.1, seed=seed)
        return {
            s: {v for b in module.rows(s) for v in b.x.flatten().tolist()} for s in module.splits
        }

    first = rows(0)
    assert [len(first[s]) for s in ("train", "val", "test")] == [70, 20, 10]
    assert set.union(*first.values()) == set(range(100))
    assert first == rows(0)
    assert first != rows(1)


def test_all_rows_may_be_for_training() -> None:
    module = data.Arrays(torch.rand(9, 2), val=0, test=0)
    assert module.splits == ("train",)
    assert module.info.data_size == 9
    assert module.val_dataloader() == []
    with pytest.raises(ValueError, match="Expected test rows but Arrays was split into train"):
        module.test_dataloader()


def test_digits_are_grey_values_from_0_to_1_with_labels() -> None:
    module = data.Digits(binarize="none")
    batch = next(module.rows("train"))
    assert module.info.event_shape == (1, 8, 8)
    assert module.info.levels == 17
    assert (batch.x.min(), batch.x.max()) == (0.0, 1.0)
    assert set(batch.label.tolist()) == set(range(10))
    assert sum(len(b) for s in module.splits for b in module.rows(s)) == 1797


def test_uint8_stays_uint8_until_it_is_on_the_device() -> None:
    module = data.Digits(binarize="none")
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert batch.x.dtype == torch.uint8
    assert module._converted(batch, "train", torch.float32).x.dtype == torch.float32


def test_dynamic_binarisation_draws_anew_in_training_and_once_for_held_out_rows() -> None:
    module = data.Digits()
    grey = next(data.Digits(binarize="none").rows("train", 200)).x
    draws = torch.stack([next(module.rows("train", 200)).x for _ in range(300)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(draws[0], draws[1])
    assert (draws.mean(0) - grey).abs().max() < 5 * 0.5 / 300**0.5
    held = [next(module.rows("val", 50)).x for _ in range(2)]
    assert torch.equal(*held)
    assert set(held[0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(held[0], next(data.Digits().rows("val", 50)).x)
    assert module.info.levels == 2


def test_static_binarisation_draws_once() -> None:
    first, again = (next(data.Digits(binarize="static").rows("train", 50)).x for _ in range(2))
    assert torch.equal(first, again)
    other = next(data.Digits(binarize="static", seed=1).rows("train", 50)).x
    assert not torch.equal(first, other)


def test_dequantisation_spreads_values_over_their_bins() -> None:
    module = data.Digits(binarize="none", dequantize=True)
    x = next(module.rows("train", 200)).x
    raw = next(data.Digits(binarize="none").rows("train", 200)).x * 16
    assert torch.equal((x * 17).floor(), raw)
    inside = x * 17 - raw
    assert inside.mean() == pytest.approx(0.5, abs=0.02)
    assert module.info.bin_width == 1 / 17
    assert module.info.levels is None


def test_impossible_preparations_are_refused() -> None:
    with pytest.raises(ValueError, match="one of dequantize and binarize"):
        data.Digits(dequantize=True, binarize="static")
    with pytest.raises(ValueError, match=r"values in \[0, 1\].*range is \[-inf, inf\]"):
        data.Arrays(torch.randn(50, 2) * 9, binarize="static").info  # noqa: B018
    with pytest.raises(ValueError, match="known number of levels"):
        data.Arrays(torch.rand(50, 2), dequantize=True).info  # noqa: B018
    with pytest.raises(ValueError, match="binarize to be none, dynamic or static"):
        data.Digits(binarize="dynamical")
    with pytest.raises(ValueError, match="batch_size of at least 1"):
        data.Digits(batch_size=0)


# Arrays


@pytest.fixture
def columns() -> dict[str, torch.Tensor]:
    return {
        "x": torch.rand(40, 3),
        "label": torch.arange(40),
        "context": torch.rand(40, 2),
        "mask": torch.rand(40, 3) > 0.2,
    }


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
    ("x", "expected"),
    [
        ((torch.rand(20, 2) > 0.5).float(), ((0.0, 1.0), 2)),
        (torch.rand(20, 2), ((0.0, 1.0), None)),
        (torch.rand(20, 2) * 2 - 1, ((-1.0, 1.0), None)),
        (torch.rand(20, 2) * 255, ((0.0, torch.inf), None)),
        (torch.randn(20, 2) * 99, ((-torch.inf, torch.inf), None)),
        (torch.randint(0, 255, (20, 2), dtype=torch.uint8), ((0.0, 1.0), 256)),
        (torch.randint(0, 2, (20, 2), dtype=torch.uint8), ((0.0, 1.0), 2)),
    ],
)
def test_the_range_is_found(x: torch.Tensor, expected: tuple[object, object]) -> None:
    info = data.Arrays(x).info
    assert (info.data_range, info.levels) == expected


def test_uint8_zeros_and_ones_stay_zeros_and_ones() -> None:
    x = torch.randint(0, 2, (20, 2), dtype=torch.uint8)
    assert set(next(data.Arrays(x).rows("train")).x.unique().tolist()) == {0.0, 1.0}
    with pytest.raises(ValueError, match="no data_range, or"):
        data.Arrays(x, data_range=(0.0, 255.0)).setup()


def test_what_a_mask_hides_may_be_nan() -> None:
    x = torch.rand(30, 2)
    mask = torch.rand(30, 2) > 0.5
    assert data.Arrays(torch.where(mask, x, torch.nan), mask=mask).info.data_range == (0.0, 1.0)


BAD_ARRAYS = {
    "lengths": ({"x": torch.rand(9, 2), "label": torch.zeros(8)}, "Expected 9 rows.*label has 8"),
    "nan": ({"x": torch.full((9, 2), torch.nan)}, "finite values but x holds NaN"),
    "infinity": ({"x": torch.full((9, 2), torch.inf)}, "finite values"),
    "one dimension": ({"x": torch.rand(9)}, r"shape \(N, \*event\) but got \(9,\)"),
    "mask": ({"x": torch.rand(9, 2), "mask": torch.ones(9, 3)}, r"mask of x's shape \(9, 2\)"),
    "context": ({"x": torch.rand(9, 2), "context": torch.rand(9)}, r"context of finite values"),
    "range": ({"x": torch.rand(9, 2) * 3, "data_range": (0.0, 1.0)}, r"declared data_range"),
    "empty": ({"x": torch.rand(0, 2), "val": 0, "test": 0}, r"but got \(0, 2\)"),
    "shares": ({"x": torch.rand(9, 2), "val": 0.6, "test": 0.4}, "leave rows for training"),
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


# Under Lightning


def test_labels_context_and_mask_reach_the_parts(columns: dict[str, torch.Tensor]) -> None:
    module = data.Arrays(**columns, batch_size=8)
    model = Model(module, latent_shape=2, likelihood="Gaussian", encoder="MLPEncoder")
    trainer = fit(model, module, max_epochs=1)
    assert model.core.encoder.net[0].in_features == 3 + 2
    assert torch.isfinite(trainer.callback_metrics["val/elbo"])


def test_pytorch_vaes_validation_on_the_test_set_is_not_here() -> None:
    module = data.Digits()
    module.setup()
    rows = {
        s: {tuple(x) for x in module._splits[s][:].x.flatten(1).tolist()} for s in module.splits
    }
    seen = {tuple(x) for b in module.val_dataloader() for x in b.x.flatten(1).tolist()}
    assert seen == rows["val"]
    assert not seen & rows["test"]
