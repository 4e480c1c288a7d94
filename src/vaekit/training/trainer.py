"""Lightning's Trainer, with methods that look at a trained model; each is a subcommand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer as LightningTrainer
from torch import Tensor

from vaekit.contracts.trees import each, entries_of
from vaekit.data.base import DataModule
from vaekit.data.rows.batches import fitting
from vaekit.evaluation import pictures, summary
from vaekit.evaluation.output import write_rows
from vaekit.model.fitted_priors import fit_prior, using_prior, write_prior
from vaekit.model.model import Model
from vaekit.storage.files import beside

_ROWS = 10_000
"""How many rows are sampled at once."""


class Trainer(LightningTrainer):
    """Lightning's Trainer, with methods that look at a trained model."""

    def test(
        self,
        model: Any = None,
        dataloaders: Any = None,
        ckpt_path: Any = None,
        *args: Any,
        samples: int = 0,
        prior: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Test a model, as Lightning does.

        Args:
            ckpt_path: A checkpoint, whose weights the model is given first.
            prior: A file that fit-prior wrote, whose prior takes the place of the model's own.
            samples: Beside what the objective reports, estimate log p(x) of each row from so many
                draws of q(z|x), and to how many of equal weight they amount; 0 for neither.

        Raises:
            ValueError: If there are fewer than 0 samples, or both a checkpoint and a prior, which
                Lightning would load the checkpoint's over.
        """
        if prior is not None and ckpt_path is not None:
            raise ValueError(
                f"Expected a prior or a ckpt_path but got {prior} and {ckpt_path}, whose prior "
                "would be loaded over it: test the model that vaekit.load makes of the checkpoint."
            )
        if samples < 0:
            raise ValueError(f"Expected samples of at least 0 but got {samples}.")
        model = model or self.lightning_module
        model.samples = samples
        try:
            with using_prior(getattr(model, "model", model), prior):
                return super().test(model, dataloaders, ckpt_path, *args, **kwargs)
        finally:
            model.samples = 0

    def predict(self, model: Any = None, *args: Any, split: str = "test", **kwargs: Any) -> Any:
        """Predict rows, as Lightning does.

        Args:
            split: Which rows of a vaekit data module: train, val, test or all.
        """
        data = kwargs.get("datamodule")
        if isinstance(data, DataModule):
            data.predicted = data.splits if split == "all" else (split,)
        return super().predict(model, *args, **kwargs)

    def sample(
        self,
        model: Model,
        ckpt_path: str,
        datamodule: DataModule | None = None,
        n: int = 64,
        draw: bool | None = None,
        prior: str | None = None,
        out: str | None = None,
    ) -> None:
        """Draw rows from the prior, to samples.npz, and the first of them to samples.png.

        Of a table, of counts and of images they are written in the form of the data too. A
        conditional model is given the context of the test rows, and again if n is more. The data
        are asked for how they are drawn and written, and not loaded for anything else.

        Args:
            ckpt_path: The checkpoint of the model.
            n: How many rows.
            draw: Draw x from p(x|z), and not what stands for it, its mean by default; if nothing
                is said, for tables and counts alone.
            prior: A file that fit-prior wrote, whose prior takes the place of the model's own.
            out: Folder to write to; by default `sample` beside the checkpoint.
        """
        if n < 1:
            raise ValueError(f"Expected at least one row to sample but got n={n}.")
        _refuse_more_than_memory(n, model.info.event_shape)
        folder = _folder(out, ckpt_path, "sample")
        context = None
        if model.info.context_features and datamodule is not None:
            rows = [b.context for b in datamodule.rows("test", n) if b.context is not None]
            context = torch.cat(rows)[torch.arange(n) % sum(map(len, rows))]
        if draw is None:
            draw = datamodule is not None and datamodule.draws_rows
        step = fitting(_ROWS, model.info.event_shape)
        with using_prior(model, prior):
            parts = [
                model.sample(
                    min(step, n - i), None if context is None else context[i : i + step], draw
                )
                for i in range(0, n, step)
            ]
        x: Any = each(lambda *leaves: torch.cat(leaves), *parts)
        _draw(pictures.samples(model, x, datamodule), folder)
        columns = {} if context is None else {"context": context}
        write_rows(datamodule, folder, "samples", x, columns)

    def reconstruct(
        self,
        model: Model,
        datamodule: DataModule,
        ckpt_path: str,
        split: str = "test",
        n: int = 32,
        out: str | None = None,
    ) -> None:
        """Show rows and their reconstructions, in reconstructions.png, of many the first.

        Of a table, of counts and of images the reconstructions are written in the form of the
        data too.

        Args:
            ckpt_path: The checkpoint of the model.
            split: Which rows: train, val or test.
            n: How many rows.
            out: Folder to write to; by default `reconstruct` beside the checkpoint.
        """
        if n < 1:
            raise ValueError(f"Expected at least one row to show but got n={n}.")
        folder = _folder(out, ckpt_path, "reconstruct")
        batch = next(datamodule.rows(split, n, batch_size=n))
        _draw(pictures.reconstructions(model, batch, n, datamodule), folder)
        y = model.reconstruct(batch.x, batch.context, batch.mask)
        columns = {} if batch.context is None else {"context": batch.context}
        rows = datamodule.numbers(split)[: len(batch)]
        for file in datamodule.write(folder, "reconstructions", y, columns, rows):
            print(f"  {file}")

    def encode(
        self,
        model: Model,
        datamodule: DataModule,
        ckpt_path: str,
        split: str = "test",
        out: str | None = None,
    ) -> None:
        """Write what stands for q(z|x) of rows, and labels, to codes.npz; show it in latent.png.

        The file holds z, row (the row's number in the data, in whose order they are) and, where
        there are labels, label.

        Args:
            ckpt_path: The checkpoint of the model.
            split: Which rows: train, val, test or all.
            out: Folder to write to; by default `encode` beside the checkpoint.
        """
        splits = datamodule.splits if split == "all" else (split,)
        folder = _folder(out, ckpt_path, "encode")
        found: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in (batch for name in splits for batch in datamodule.rows(name)):
            found.append(model.encode(batch.x, batch.context, batch.mask))
            labels += [] if batch.label is None else [batch.label]
        columns = {"z": torch.cat(found)}
        if labels:
            columns["label"] = torch.cat(labels)
        rows = torch.cat([datamodule.numbers(name) for name in splits])
        order = rows.argsort()
        some = fitting(2000, model.info.event_shape)
        shown = next(datamodule.rows(splits[0], some, batch_size=some))
        _draw({"latent": pictures.latent_plane(model, shown)}, folder)
        columns = {name: x.cpu()[order] for name, x in columns.items()}
        write_rows(datamodule, folder, "codes", None, columns, rows[order])

    def fit_prior(
        self,
        model: Model,
        datamodule: DataModule,
        ckpt_path: str,
        prior: str | Mapping[str, Any],
        out: str | None = None,
    ) -> None:
        """Fit a prior to one draw of q(z|x) of each training row, and write it to a file.

        It says what that does to the ELBO of the validation rows.

        Args:
            ckpt_path: The checkpoint of the model.
            prior: The prior, by its name or as a spec.
            out: Folder to write to; by default `fit-prior` beside the checkpoint.
        """
        folder = _folder(out, ckpt_path, "fit-prior")
        fitted = fit_prior(model, datamodule, prior)
        summary.show_prior(model, fitted, datamodule)
        file = folder / f"{type(fitted).__name__}.ckpt"
        rows = len(datamodule.numbers("train"))
        replaced = " (replaced the file of an earlier fit)" if file.exists() else ""
        told = {"checkpoint": str(ckpt_path), "data": datamodule.spec, "rows": rows}
        write_prior(fitted, model, file, **told)
        print(f"  {file}{replaced}\nNext: vaekit sample --ckpt_path {ckpt_path} --prior {file}")


setattr(Trainer, "fit-prior", Trainer.fit_prior)  # as the command is called


def _folder(out: str | None, ckpt_path: str, name: str) -> Path:
    """Where a command writes: in a folder of its own, so that a fit's pictures stay."""
    folder = beside(ckpt_path) / name if out is None else Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} could not be made: {error.strerror or error}.") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written: name another with --out.")
    return folder


def _refuse_more_than_memory(n: int, event_shape: Any) -> None:
    """Refuses as many rows as this machine could not hold twice."""
    if not hasattr(os, "sysconf"):
        return
    wanted = 2 * 4 * n * sum(prod(shape) for shape in entries_of(event_shape).values())
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > has:
        raise ValueError(
            f"Expected rows that fit into memory but {n:,} want {wanted / 2**30:,.1f} GiB of "
            f"{has / 2**30:,.1f}: sample fewer, with another --seed_everything each time."
        )


def _draw(figures: dict[str, Any], folder: Path) -> None:
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        pictures.save(figure, path)
        print(f"  {path}")
