"""The base of all data modules: what is declared of rows, and what is done to a batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.trees import Ranges, Tree, each, entries_of, first, like, within
from vaekit.data.rows.batches import SPLITS, Batches, Rows, fitting, span
from vaekit.data.rows.prepare import apart, binarized, described, hidden_by, hide, share
from vaekit.data.rows.splits import divided
from vaekit.numerics.random import generator, later_draws, row_keys, row_uniform, seed_of
from vaekit.registry.specs import is_plain

_BINDING = {"scales", "columns", "genes", "vocabulary"}  # of a schema: what changes values
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
        missing: Share of the elements that a mask hides, drawn once with the seed; of images all
            channels of a pixel.

    Raises:
        ValueError: If the batch size is below one, both binarisation and dequantisation are
            wanted, or `missing` is not from 0 to below 1.
    """

    levels: int | dict[str, int | None] | None = None
    schema: dict[str, Any] | None = None
    """How the user's form became x, as plain data: `load` finds it, or follows the one that is
    there already, a model's."""

    kinds: Mapping[str, str] = {}
    """What the values of each entry are, where `load` knows more than a range says: numeric,
    binary, count, category, image, signal or sequence. From it the command line chooses parts."""

    names: np.ndarray | None = None
    """What the user calls each row of the data, counted through all files, such as an index."""

    draws_rows = False
    """Whether samples are draws of p(x|z), as of counts, and not what stands for it, as images."""

    looked_at = True
    """Whether all rows have been held to what is declared of them; else each batch is."""

    is_exact = False
    """Whether `rows` gives x and context in float64, to restore the user's values exactly."""

    follows_model = False
    """Whether `follow` was called, so that rows are a model's, or new ones for it."""

    is_held_out = False
    """Whether all rows are held out: those of a file that was named as val or test."""

    source_number = 0
    """The place of the rows among those of several files; 0 for the first file."""

    only_held_out: Mapping[str, str] = {}
    """Describes the values that only held-out rows have, of which the schema knows nothing, by
    column or entry."""
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
        missing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= missing < 1:
            raise ValueError(
                f"Expected missing, a share of the elements, from 0 to below 1 but got {missing}."
            )
        if batch_size < 1:
            raise ValueError(f"Expected a batch_size of at least 1 but got {batch_size}.")
        if binarize not in ("none", "dynamic", "static"):
            raise ValueError(
                f"Expected binarize to be none, dynamic or static but got {binarize!r}."
            )
        if dequantize and binarize != "none":
            raise ValueError(f"Expected one of dequantize and binarize={binarize!r} but got both.")
        self.batch_size, self.binarize, self.dequantize = batch_size, binarize, dequantize
        self.seed, self.missing = seed, missing
        self._splits: dict[str, Rows] = {}
        self._numbers: dict[str, Tensor] = {}
        self.predicted: tuple[str, ...] = ("test",)
        """The splits that `predict` goes through."""

    def load(self) -> dict[str, Rows]:
        """The rows of each split: "train", and "val" and "test" where there are any."""
        raise NotImplementedError

    def natural_range(self) -> Ranges:
        """Smallest and largest value of x, before binarisation and dequantisation."""
        return (0.0, 1.0)

    def scale(self) -> Any:
        """By what the values of each element or channel were divided; None where x has their
        units. Of a dict-valued x by entry."""
        return None

    def draw(self, x: Tree, y: Tree | None = None) -> Any:
        """A matplotlib figure of rows x (N, *event); None leaves the drawing to vaekit.

        Arguments:
            y: The reconstructions of these rows, where there are any.
        """
        return None

    def observed(self, x: Tree, mask: Tree | None) -> Tree | None:
        """Returns the mask of rows x (N, *event) after `missing` hides a fraction of the elements.

        A subclass computes moments of the observed elements.

        Arguments:
            x: Only its shape counts.
            mask: Like x, True where an element is observed; None if all are.
        """
        if not self.missing:
            return mask
        return hidden_by(x, mask, self.missing, self.seed, self.source_number)

    def restored(self, x: Tree) -> Tree:
        """Rows of the model, (n, *event), in the units of the user's data."""
        return x

    def write(
        self,
        folder: Path,
        name: str,
        x: Tree | None,
        columns: Mapping[str, Any],
        rows: Tensor | None = None,
    ) -> list[Path]:
        """Writes rows in the form in which the user's data came, beside the arrays.

        Arguments:
            name: Of what is written, without its suffix.
            x: Rows of the model, (n, *event); None where there are codes alone.
            columns: What else is known of each row, such as its bound, by name, (n,) or (n, C).
            rows: The numbers of the rows in the data, (n,); None for samples.

        Returns:
            The files; none by default.
        """
        return []

    def told(self) -> dict[str, str]:
        """What the data were taken for, in words, by what it is of."""
        found = described(self.info, self.kinds, self._splits)
        if self.only_held_out:
            parts = (f"{name}: {values}" for name, values in self.only_held_out.items())
            found["only in held-out rows"] = "; ".join(parts)
        return found

    def follow(self, schema: dict[str, Any] | None) -> Self:
        """Lets rows become x by the schema of a model's data: in its units, its categories.

        Raises:
            ValueError: If that is of another kind of data.
        """
        own, of = type(self).__name__, (schema or {}).get("of", type(self).__name__)
        if schema and of != own and _BINDING & set(schema):
            raise ValueError(
                f"Expected data by --data {of}, as the model's, which knows their columns, but "
                f"got {own}."
            )
        self.schema, self.follows_model = schema or self.schema, True
        return self

    def _divided(
        self,
        rows: Rows,
        by: tuple[Any, Any],
        shares: tuple[Any, Any],
        classes: np.ndarray | None,
    ) -> dict[str, Rows]:
        """Returns the rows of each split: by names, or by shares with groups or else classes.

        Rows that follow a model are split by classes only if its schema says so: the training
        rows of earlier versions were drawn without classes, and stay training rows.

        Arguments:
            by: Names of splits and groups, each (N,) or None.
            shares: Shares of val and test, or the files that hold these rows.
            classes: The class of each row, (N,), -1 if it is unknown; None without classes.
        """
        held_out = share(shares[0]), share(shares[1])
        before = self.follows_model and not (self.schema or {}).get("stratified")
        is_random = all(names is None for names in by) and any(held_out)
        classes = classes if is_random and not before else None
        self._stratified = classes is not None
        return divided(rows, *by, held_out, self.seed, classes)

    def _noting_split(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Returns a schema that says whether the rows were split by classes."""
        if not self.follows_model:
            return {**schema, "stratified": self._stratified}
        known = self.schema or {}
        return {**schema, **({"stratified": known["stratified"]} if "stratified" in known else {})}

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
            bin_width=self._bin_widths() if self.dequantize else None,
            classes=self._classes(),
            context_features=0 if train.context is None else train.context.shape[1],
            batch_effects=None if train.context is None else self.batch_effects(train.context),
            data_size=len(train),
            schema=self.schema and {"of": type(self).__name__, **self.schema},
            scale=self.scale(),
        )

    def batch_effects(self, context: Tensor) -> tuple[int, ...]:
        """Returns the numbers of the columns of a context (N, C) that hold a batch effect.

        By default they are the columns of zeros and ones, such as one-hot categories.
        """
        binary = ((context == 0) | (context == 1)).all(0)
        return tuple(binary.nonzero().flatten().tolist())

    def _classes(self) -> int | None:
        """Number of classes of the labels; None where they are no class of each row."""
        labels = [rows.label for rows in self._splits.values()]
        if known := (self.schema or {}).get("classes"):
            return len(known) if any(y is not None for y in labels) else None
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

    def _bin_widths(self) -> Any:
        """The width of the bins, of each entry: its range, cut into as many as it has levels."""

        def width(span: tuple[float, float], levels: int | None) -> float:
            if levels is None or not isfinite(span[1] - span[0]):
                raise ValueError(
                    "Expected data of a known number of levels, such as uint8 images, to "
                    f"dequantise, but {type(self).__name__} holds continuous values."
                )
            return (span[1] - span[0]) / levels

        spans, levels = self.natural_range(), self.levels
        tree = spans if isinstance(spans, Mapping) else levels
        return each(width, like(tree, spans), like(tree, levels))

    # What Lightning calls

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        splits = self.load()
        if not splits or any(len(rows) == 0 for rows in splits.values()):
            sizes = {name: len(rows) for name, rows in splits.items()}
            raise ValueError(f"Expected at least one row in every split but got {sizes}.")
        self._refuse_preparations()
        self._number(splits)
        if self.missing:
            hide(splits, self.missing, self.seed)
        for split, rows in splits.items():
            self._refuse_rows(rows, split)
        for split, rows in splits.items():
            if self.binarize == "static" or (self.binarize == "dynamic" and split != "train"):
                splits[split] = binarized(rows, generator("binarize", self.seed, split))
        self._splits = splits

    def _number(self, splits: dict[str, Rows]) -> None:
        """Numbers the rows by their places in what they were read from, sources one by one."""
        starts: dict[int, int] = {}
        total = 0
        for split in (name for name in SPLITS if name in splits):
            rows, source = splits[split], first(splits[split].x)
            if id(source) not in starts:
                starts[id(source)] = total
                total += len(source)
            own = torch.arange(len(source)) if rows.index is None else rows.index
            self._numbers[split] = own + starts[id(source)]

    def _refuse_preparations(self) -> None:
        if self.dequantize:
            self._bin_widths()
        for low, high in entries_of(self.natural_range()).values():
            if self.binarize != "none" and (low, high) != (0.0, 1.0):
                raise ValueError(
                    "Expected values in [0, 1], probabilities of a one, to binarise, but the "
                    f"data's range is [{low:g}, {high:g}]."
                )

    def _refuse_rows(self, rows: Rows, split: str) -> None:
        """Refuses rows with values that are not finite, or out of the range that is declared."""
        spans = entries_of(like(rows.x, self.natural_range()))
        for name, (leaf, mask, top) in rows.entries().items():
            if leaf.dtype == torch.uint8 and top == 255:
                continue  # no byte is larger
            declared = (0.0, float(top)) if top is not None else spans[name]
            found = span(leaf, mask, rows.index)
            if found is None:
                continue
            low, high, _ = found
            finite = isfinite(low) and isfinite(high)
            if not (finite and within(low, high, declared, leaf.dtype)):
                raise ValueError(
                    f"Expected finite values from {declared[0]:g} to {declared[1]:g}, as "
                    f"{type(self).__name__} declares them, but {name} of the {split} rows spans "
                    f"[{low:g}, {high:g}]."
                )

    def _loader(self, split: str, shuffle: bool) -> Batches:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        rows = self._splits[split]
        return Batches(rows, self.batch_size, shuffle, self.seed, rank, ranks)

    def train_dataloader(self) -> Batches:
        # Lightning asks for the same batches in each epoch then, and cannot arrange it itself.
        overfit = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        return self._loader("train", shuffle=not overfit)

    def val_dataloader(self) -> Batches | list[Any]:
        return self._loader("val", shuffle=False) if "val" in self._splits else []

    def test_dataloader(self) -> Batches:
        return self._loader(self._held_out("test"), shuffle=False)

    def predict_dataloader(self) -> list[Batches]:
        return [self._loader(self._held_out(split), shuffle=False) for split in self.predicted]

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
        stage = str(self.trainer.state.stage and self.trainer.state.stage.value)
        split = self.predicted[dataloader_idx] if stage == "predict" else _SPLIT_OF.get(stage)
        return self._converted(
            batch, split or "test", torch.promote_types(torch.float32, model.dtype)
        )

    # What becomes of a batch

    def _converted(self, batch: Batch, split: str, dtype: torch.dtype) -> Batch:
        """The batch with x as the model sees it."""

        def scaled(x: Tensor, top: float | None, stored: Tensor) -> Tensor:
            return apart(x.to(dtype), stored) if top is None else x.to(dtype) / top

        keys = self._keys_of(batch, split)

        def spread(x: Tensor, top: float | None, span: Any, levels: int) -> Tensor:
            nonlocal keys
            low, high = span
            x = x.to(dtype)
            if keys is None:
                noise = torch.rand_like(x)
            else:
                noise, keys = row_uniform(keys, 1, x.shape[1:], dtype)[0], later_draws(keys, 1)
            # Which of the levels 0, 1, 2, ... each value is.
            level = x if top is not None else ((x - low) / (high - low) * (levels - 1)).round()
            # Of many levels, a float32 near the end of a bin is rounded into the next.
            place = (level + noise).minimum(torch.nextafter(level + 1, level))
            return low + place * (high - low) / levels

        top = self._splits[split].top
        if self.dequantize:
            spans, levels = like(batch.x, self.natural_range()), like(batch.x, self.levels)
            batch.x = each(spread, batch.x, top, spans, levels)
        else:
            batch.x = each(scaled, batch.x, top, self._splits[split].x)
        if self.binarize == "dynamic" and split == "train":
            # What a mask hides may be no probability.
            seen = like(batch.x, batch.mask)
            batch.x = each(lambda p, m: p if m is None else torch.where(m, p, 0.0), batch.x, seen)
            batch.x = each(torch.bernoulli, batch.x)
        if batch.context is not None:
            batch.context = batch.context.to(dtype)
        return batch

    def _keys_of(self, batch: Batch, split: str) -> Tensor | None:
        """Held-out values go to the same place of their bin in each epoch and batch."""
        if split == "train" or not self.dequantize or batch.start is None:
            return None
        seed = seed_of("dequantize", self.seed, split)
        return row_keys(seed, batch.start, len(batch), first(batch.x).device)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have rows: "train", and "val" and "test" where there are any."""
        self.info  # noqa: B018 - loads the rows
        return tuple(self._splits)

    def numbers(self, split: str) -> Tensor:
        """Which row of the data each of a split's rows is, counted from 0 through all files."""
        if split not in self.splits:
            self._held_out(split)
        return self._numbers[split]

    def rows(
        self,
        split: str,
        limit: int | None = None,
        batch_size: int | None = None,
        every: int = 1,
    ) -> Iterator[Batch]:
        """Batches of a split's rows as the model sees them, whatever the rank, in their own order.

        Arguments:
            split: "train", "val" or "test".
            limit: At most so many rows.
            batch_size: Rows of a batch; None for a thousand, or fewer where rows are large.
            every: Every so many-th row only.
        """
        if split not in self.splits:
            self._held_out(split)
        rows = self._splits[split]
        if limit is not None or every > 1:
            rows = rows.subset(slice(0, limit, every))
        if batch_size is None:
            batch_size = fitting(1000, each(lambda leaf: leaf.shape[1:], rows.x), 2**20)
        for batch in Batches(rows, batch_size, shuffle=False):
            dtype = torch.float64 if self.is_exact else torch.get_default_dtype()
            yield self._converted(batch, split, dtype)


def _path_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
