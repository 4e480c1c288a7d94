"""The base of all data modules: resident rows, an epoch's order, what is done to a batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from vaekit.batch import Batch, DataInfo, Ranges, Tree, each, entries_of, first
from vaekit.noise import fixed_noise, generator, seed_of
from vaekit.specs import is_plain

__all__ = ["Batches", "DataModule", "Order", "Rows", "natural", "split"]


@dataclass
class Rows:
    """The rows of one split, as they lie in memory or on disk.

    Arguments:
        x: The data, with shape `(N, *event)`, or a dict of such; uint8 stays so until it is on the
            device.
        context: Columns to condition on, with shape `(N, C)`.
        mask: Like x, True where an element is observed.
        label: Labels, with shape `(N,)` or `(N, *)`.
        top: The stored value that is x = 1, None where values are taken as they are; where x is a
            dict, one for each entry.
        index: Which of those rows these are; None for all. Splits share one copy of the data.
    """

    x: Tree
    context: Tensor | None = None
    mask: Tree | None = None
    label: Tensor | None = None
    top: float | dict[str, float | None] | None = None
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(first(self.x)) if self.index is None else len(self.index)

    def __getitem__(self, at: Tensor | slice) -> Batch:
        index = at if self.index is None else self.index[at]

        def rows(column: Any) -> Any:
            return None if column is None else each(lambda x: x[index], column)

        return Batch(*(rows(c) for c in (self.x, self.context, self.mask, self.label)))

    def subset(self, at: Tensor | slice) -> Rows:
        """Some of the rows, not copied."""
        index = torch.arange(len(self))[at] if self.index is None else self.index[at]
        return replace(self, index=index)


def split(rows: Rows, val: float, test: float, seed: int) -> dict[str, Rows]:
    """Disjoint train, val and test rows, drawn with a seed; a split without rows is left out.

    Arguments:
        val: Share of the rows, from 0 to 1; the same for `test`. Where both are 0, all rows
            are for training.

    Raises:
        ValueError: If the shares leave no row for training.
    """
    n = len(rows)
    n_val, n_test = round(n * val), round(n * test)
    if val < 0 or test < 0 or n_val + n_test >= n:
        raise ValueError(
            f"Expected shares of held-out rows from 0 that leave rows for training, but got "
            f"val={val} and test={test} of {n} rows."
        )
    if n_val == n_test == 0:
        return {"train": rows}
    order = torch.randperm(n, generator=generator("split", seed))
    parts = order.split([n - n_val - n_test, n_val, n_test])
    named = zip(("train", "val", "test"), parts, strict=True)
    return {name: rows.subset(part.sort()[0]) for name, part in named if len(part)}


class Order:
    """The order of an epoch's rows: a function of (seed, epoch), or the rows' own order."""

    def __init__(self, n: int, shuffle: bool, seed: int) -> None:
        self.n, self.shuffle, self.seed, self.epoch = n, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def rows(self, start: int, stop: int) -> Tensor | slice:
        """Which rows stand at these places of the epoch."""
        return self._permutation()[start:stop] if self.shuffle else slice(start, stop)

    def _permutation(self) -> Tensor:
        key = (self.seed, self.epoch)
        if getattr(self, "_key", None) != key:
            self._key = key
            self._order = torch.randperm(self.n, generator=generator("order", *key))
        return self._order


class Batches:
    """A loader that cuts batches out of resident rows.

    Every rank takes the same number of steps, and every row is in exactly one batch of one rank.
    The rows of a last batch are shared out evenly; a rank that is left without one receives a
    stand-in row with weight 0.

    Arguments:
        batch_size: Rows per batch and rank.
        shuffle: New order each epoch, a function of (seed, epoch); else the rows' own.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.rank, self.ranks = rows, batch_size, rank, ranks
        self.sampler = Order(len(rows), shuffle, seed)  # Lightning calls its set_epoch
        self.batch_sampler = None  # which Lightning looks for beside a sampler

    def __len__(self) -> int:
        return ceil(len(self.rows) / (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[Batch]:
        n, step = len(self.rows), self.batch_size * self.ranks
        for start in range(0, n, step):
            count = min(step, n - start)
            share, more = divmod(count, self.ranks)
            own = share + (self.rank < more)
            first = start + self.rank * share + min(self.rank, more) if own else start
            batch = self.rows[self.sampler.rows(first, first + max(own, 1))]
            batch.weight, batch.start = own * self.ranks / count, first
            yield batch


_SPLIT_OF = {"train": "train", "validate": "val", "sanity_check": "val"}  # by Lightning's stage


class DataModule(LightningDataModule):
    """Base of all data modules. A subclass says how to `load` the rows of each split.

    Arguments:
        batch_size: Rows per step and device: with several devices the world's batch is that many
            times larger, as in Lightning.
        binarize: "none"; "dynamic", new draws of 0 and 1 from the grey values at each step of
            training, held-out rows drawn once; or "static", all rows drawn once.
        dequantize: Spread each of the `levels` values evenly over its bin, as a density wants it.
        seed: Of the split, of the order of the rows and of what is drawn once.

    Raises:
        ValueError: If the batch size is below one, or both binarisation and dequantisation are
            wanted.
    """

    levels: int | dict[str, int | None] | None = None
    _init: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Remembered here, for every subclass, so that a checkpoint can say what data it was
        # trained on.
        module = super().__new__(cls)
        signature = inspect.signature(cls)
        module._init = dict(signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                module._init |= module._init.pop(name, {})
        return module

    def __init__(
        self,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"Expected a batch_size of at least 1 but got {batch_size}.")
        if binarize not in ("none", "dynamic", "static"):
            raise ValueError(
                f"Expected binarize to be none, dynamic or static but got {binarize!r}."
            )
        if dequantize and binarize != "none":
            raise ValueError(f"Expected one of dequantize and binarize={binarize!r} but got both.")
        self.batch_size, self.binarize, self.dequantize = batch_size, binarize, dequantize
        self.seed = seed
        self._splits: dict[str, Rows] = {}

    def load(self) -> dict[str, Rows]:
        """The rows of each split: "train", and "val" and "test" where there are any."""
        raise NotImplementedError

    def natural_range(self) -> Ranges:
        """Smallest and largest value of x, before binarisation and dequantisation."""
        return (0.0, 1.0)

    # What is declared

    @property
    def info(self) -> DataInfo:
        """What is known of the data; loads it."""
        self.prepare_data()
        self.setup()
        train = self._splits["train"]
        levels = 2 if self.binarize != "none" else self.levels
        return DataInfo(
            event_shape=each(lambda x: tuple(x.shape[1:]), train.x),
            data_range=self.natural_range(),
            levels=None if self.dequantize else levels,
            bin_width=each(self._bin_width, levels) if self.dequantize else None,
            classes=self._classes(),
            context_features=0 if train.context is None else train.context.shape[1],
            data_size=len(train),
        )

    def _classes(self) -> int | None:
        """Number of classes of the labels; None where they are no class of each row."""
        labels = [rows.label for rows in self._splits.values()]
        if any(y is None or y.dim() != 1 or y.is_floating_point() for y in labels):
            return None
        return max(int(y.max()) for y in labels if y is not None) + 1

    @property
    def spec(self) -> dict[str, Any] | None:
        """This data as plain data, for the checkpoint; None where it was made from tensors."""
        init_args = {k: each(_path_as_text, v) for k, v in self._init.items()}
        if not is_plain(init_args):
            return None
        return {"class_path": type(self).__name__, "init_args": init_args}

    def _bin_width(self, levels: int | None) -> float:
        if levels is None:
            raise ValueError(
                "Expected data of a known number of levels, such as uint8 images, to dequantise, "
                f"but {type(self).__name__} holds continuous values."
            )
        return 1.0 / levels

    # What Lightning calls

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        splits = self.load()
        if not splits or any(len(rows) == 0 for rows in splits.values()):
            sizes = {name: len(rows) for name, rows in splits.items()}
            raise ValueError(f"Expected at least one row in every split but got {sizes}.")
        self._refuse_preparations()
        for split, rows in splits.items():
            if self.binarize == "static" or (self.binarize == "dynamic" and split != "train"):
                splits[split] = self._binarized(rows, split)
        self._splits = splits

    def _refuse_preparations(self) -> None:
        if self.dequantize:
            each(self._bin_width, self.levels)
        for low, high in entries_of(self.natural_range()).values():
            if self.binarize != "none" and (low, high) != (0.0, 1.0):
                raise ValueError(
                    "Expected values in [0, 1], probabilities of a one, to binarise, but the "
                    f"data's range is [{low:g}, {high:g}]."
                )

    def _binarized(self, rows: Rows, split: str) -> Rows:
        part, noise = rows[:], generator("binarize", self.seed, split)

        def drawn(x: Tensor, top: float | None) -> Tensor:
            u = torch.rand(x.shape, generator=noise)
            return (u * (1.0 if top is None else top) < x).to(torch.uint8)

        ones = each(drawn, part.x, rows.top)
        return Rows(ones, part.context, part.mask, part.label, top=each(lambda x: 1.0, ones))

    def _loader(self, split: str, shuffle: bool) -> Batches:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        rows = self._splits[split]
        return Batches(rows, self.batch_size, shuffle, self.seed, rank, ranks)

    def train_dataloader(self) -> Batches:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> Batches | list[Any]:
        return self._loader("val", shuffle=False) if "val" in self._splits else []

    def test_dataloader(self) -> Batches:
        return self._loader(self._held_out("test"), shuffle=False)

    def predict_dataloader(self) -> Batches:
        return self._loader(self._held_out("test"), shuffle=False)

    def _held_out(self, wanted: str) -> str:
        if wanted not in self._splits:
            raise ValueError(
                f"Expected {wanted} rows but {type(self).__name__} was split into "
                f"{', '.join(self._splits)} alone."
            )
        return wanted

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert self.trainer is not None
        model: Any = self.trainer.lightning_module
        split = _SPLIT_OF.get(
            str(self.trainer.state.stage and self.trainer.state.stage.value), "test"
        )
        return self._converted(batch, split, torch.promote_types(torch.float32, model.dtype))

    # What becomes of a batch

    def _converted(self, batch: Batch, split: str, dtype: torch.dtype) -> Batch:
        """The batch with x as the model sees it."""

        def scaled(x: Tensor, top: float | None) -> Tensor:
            x = x.to(dtype)
            if top is None:
                return x
            return (x + torch.rand_like(x)) / (top + 1) if self.dequantize else x / top

        with self._noise_of(batch, split):
            batch.x = each(scaled, batch.x, self._splits[split].top)
        if self.binarize == "dynamic" and split == "train":
            batch.x = each(torch.bernoulli, batch.x)
        if batch.context is not None:
            batch.context = batch.context.to(dtype)
        return batch

    def _noise_of(self, batch: Batch, split: str) -> AbstractContextManager[None]:
        """Held-out values go to the same place of their bin in each epoch."""
        if split == "train" or not self.dequantize:
            return nullcontext()
        seed = seed_of("dequantize", self.seed, split, batch.start)
        return fixed_noise(seed, first(batch.x).device)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have rows: "train", and "val" and "test" where there are any."""
        self.info  # noqa: B018 - loads the rows
        return tuple(self._splits)

    def rows(
        self, split: str, limit: int | None = None, batch_size: int = 1000
    ) -> Iterator[Batch]:
        """Batches of a split's rows as the model sees them, whatever the rank, in their own order.

        Arguments:
            split: "train", "val" or "test".
            limit: At most so many rows.
        """
        if split not in self.splits:
            self._held_out(split)
        rows = self._splits[split]
        if limit is not None:
            rows = rows.subset(slice(0, limit))
        for batch in Batches(rows, batch_size, shuffle=False):
            yield self._converted(batch, split, torch.get_default_dtype())


def _path_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def natural(low: float, high: float) -> tuple[float, float]:
    """The narrowest of [0, 1], [-1, 1], [0, inf) and the real line that holds [low, high]."""
    for least, most in ((0.0, 1.0), (-1.0, 1.0), (0.0, inf)):
        if least <= low and high <= most:
            return least, most
    return -inf, inf
