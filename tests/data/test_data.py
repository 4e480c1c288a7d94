"""Data modules: splits, orders, ranks, files, and what becomes of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from vaekit import data
from vaekit.contracts.batch import Batch
from vaekit.data.rows.batches import Batches, Order, Rows


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


class Levels(data.DataModule):
    """Values of five levels from -1 to 1, as a plugin may hold them."""

    levels = 5

    def natural_range(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    def load(self) -> dict[str, Rows]:
        x = torch.arange(500).remainder(5).view(250, 2) / 2 - 1
        return {"train": Rows(x), "val": Rows(x.clone())}


def test_values_of_any_range_are_spread_over_their_bins() -> None:
    module = Levels(dequantize=True)
    assert module.info.bin_width == 2 / 5
    for split in ("train", "val"):
        x = next(module.rows(split)).x
        level = ((x + 1) / 0.4).floor()
        assert torch.equal(level, torch.arange(500.0).remainder(5).view(250, 2))
        assert ((x + 1) / 0.4 - level).mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1.5])
def test_rows_that_are_not_what_a_module_declares_are_refused_at_once(bad: float) -> None:
    class Damaged(Levels):
        def load(self) -> dict[str, Rows]:
            splits = super().load()
            splits["val"].x[200, 1] = bad
            return splits

    with pytest.raises(ValueError, match=r"from -1 to 1, as Damaged declares.* x of the val rows"):
        Damaged().info  # noqa: B018


def test_the_ends_of_a_range_that_a_module_declares_are_rounded_as_its_values_are() -> None:
    class Narrow(data.DataModule):
        def natural_range(self) -> tuple[float, float]:
            return (0.0, 0.1)

        def load(self) -> dict[str, Rows]:
            return {"train": Rows(torch.full((9, 2), 0.1))}

    assert Narrow().info.data_range == (0.0, 0.1)


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


# Under Lightning


def test_pytorch_vaes_validation_on_the_test_set_is_not_here() -> None:
    module = data.Digits()
    module.setup()
    rows = {
        s: {tuple(x) for x in module._splits[s][:].x.flatten(1).tolist()} for s in module.splits
    }
    seen = {tuple(x) for b in module.val_dataloader() for x in b.x.flatten(1).tolist()}
    assert seen == rows["val"]
    assert not seen & rows["test"]


def test_a_split_by_groups_follows_the_seed() -> None:
    groups = np.arange(60) // 3
    found = [
        data.Arrays(torch.rand(60, 2), group=groups, val=0.2, test=0, seed=seed).numbers("val")
        for seed in (0, 0, 1, 2)
    ]
    assert found[0].tolist() == found[1].tolist()
    assert found[0].tolist() != found[2].tolist() != found[3].tolist()


def test_labels_stay_with_their_rows_where_these_are_binarised() -> None:
    label = torch.arange(200) % 3
    x = (label[:, None] == torch.arange(3)).float()  # 0 and 1 alone: no draw changes them
    x[0, 0] = 0.99
    rows = data.Arrays(x, label=label, binarize="static", val=0.3, test=0.2)
    for split in ("train", "val", "test"):
        for batch in rows.rows(split):
            assert torch.equal(batch.x.argmax(1), batch.label)
