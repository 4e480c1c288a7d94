"""Lightning's Trainer, with methods that look at a trained model; each is a subcommand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer as LightningTrainer

from vaekit import pictures
from vaekit.batch import flat
from vaekit.callbacks import write_arrays
from vaekit.data.base import DataModule
from vaekit.model import Model
from vaekit.storage import beside

__all__ = ["Trainer"]


class Trainer(LightningTrainer):
    """Lightning's Trainer, with methods that look at a trained model."""

    def sample(
        self,
        model: Model,
        ckpt_path: str,
        datamodule: DataModule | None = None,
        n: int = 64,
        out: str | None = None,
    ) -> None:
        """Draw rows from the prior, to samples.png and samples.npz.

        A conditional model is given the context of the test rows, and again if n is more.
        The data are asked for how they are drawn, and not loaded for anything else.

        Args:
            ckpt_path: The checkpoint of the model.
            n: How many rows.
            out: Folder to write to; by default `sample` beside the checkpoint.
        """
        context = None
        if model.info.context_features and datamodule is not None:
            rows = [b.context for b in datamodule.rows("test", n) if b.context is not None]
            context = torch.cat(rows)[torch.arange(n) % sum(map(len, rows))]
        x = model.sample(n, context)
        folder = _folder(out, ckpt_path, "sample")
        _draw(pictures.samples(model, x, datamodule), folder)
        write_arrays(folder / "samples.npz", flat("x", x))

    def reconstruct(
        self,
        model: Model,
        datamodule: DataModule,
        ckpt_path: str,
        split: str = "test",
        n: int = 32,
        out: str | None = None,
    ) -> None:
        """Show rows and their reconstructions, in reconstructions.png.

        Args:
            ckpt_path: The checkpoint of the model.
            split: Which rows: train, val or test.
            n: How many rows.
            out: Folder to write to; by default `reconstruct` beside the checkpoint.
        """
        batch = next(datamodule.rows(split, n, batch_size=n))
        _draw(
            pictures.reconstructions(model, batch, n, datamodule),
            _folder(out, ckpt_path, "reconstruct"),
        )

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
        batches = [batch for name in splits for batch in datamodule.rows(name)]
        folder = _folder(out, ckpt_path, "encode")
        columns = {
            "z": torch.cat([model.encode(b.x, b.context, b.mask) for b in batches]),
            "row": torch.cat([datamodule.numbers(name) for name in splits]),
        }
        labels = [b.label for b in batches if b.label is not None]
        if labels:
            columns["label"] = torch.cat(labels)
        order = columns["row"].argsort()
        rows = next(datamodule.rows(splits[0], 2000, batch_size=2000))
        _draw({"latent": pictures.latent_plane(model, rows)}, folder)
        columns = {name: x.cpu()[order] for name, x in columns.items()}
        write_arrays(folder / "codes.npz", columns)


def _folder(out: str | None, ckpt_path: str, name: str) -> Path:
    """Where a command writes: in a folder of its own, so that a fit's pictures stay."""
    folder = beside(ckpt_path) / name if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _draw(figures: dict[str, Any], folder: Path) -> None:
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        pictures.save(figure, path)
        print(f"  {path}")
