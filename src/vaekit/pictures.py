"""Pictures of a model: samples, reconstructions and its latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vaekit.batch import Batch, DataInfo, Tree, each, entries_of, flat
from vaekit.model import Model

__all__ = ["draw_all", "image_grid", "latent_plane", "reconstructions", "samples", "save"]

Array = np.ndarray[Any, np.dtype[np.float64]]


def image_grid(x: Tensor, columns: int, low: float, high: float) -> Array:
    """Rows x (N, *event) as one picture (H, W, 3), values from `low` (black) to `high` (white).

    Images have shape (C, H, W) with one or three channels, or (H, W); any other event is a strip
    of its values.
    """
    event = x.shape[1:]
    if len(event) == 2:
        x = x.unsqueeze(1)
    elif len(event) != 3 or event[0] not in (1, 3):
        x = x.flatten(1)[:, None, None, :]
    x = ((x.double().cpu() - low) / (high - low)).clamp(0, 1).nan_to_num(0.0)
    x = x.expand(-1, 3, -1, -1)
    n, _, h, w = x.shape
    rows = -(-n // columns)
    grid = torch.ones(rows * columns, 3, h + 1, w + 1, dtype=torch.float64)  # a white line between
    grid[:n, :, :h, :w] = x
    grid = grid.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)  # (rows, h, columns, w, 3)
    return grid.reshape(rows * (h + 1), columns * (w + 1), 3)[:-1, :-1].numpy()


def _framed(picture: Array, title: str) -> Figure:
    h, w = picture.shape[:2]
    figure = Figure(figsize=(6, 6 * h / w + 0.35), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    return figure


def _range(info: DataInfo, x: Tensor) -> tuple[float, float]:
    low, high = info.data_range
    if not np.isfinite([low, high]).all():
        seen = x[x.isfinite()]
        low, high = float(seen.min()), float(seen.max())
    return low, max(high, low + 1e-9)


def samples(model: Model, x: Tree) -> dict[str, Figure]:
    """Rows that were drawn from the prior: a picture, or one of each entry of x."""

    def drawn(leaf: Tensor, info: DataInfo) -> Figure:
        grid = image_grid(leaf, 8, *_range(info, leaf))
        return _framed(grid, "Samples: what stands for p(x|z), z from the prior")

    return flat("samples", each(drawn, x, _infos(model, x)))


def _infos(model: Model, x: Tree) -> Any:
    """What is known of each entry, as a tree like x."""
    infos = model.info.entries()
    return infos if isinstance(x, dict) else infos["x"]


def reconstructions(model: Model, batch: Batch, n: int = 32) -> dict[str, Figure]:
    """Held-out rows, each with its reconstruction below it: a picture, or one of each entry."""
    batch = batch[:n]
    x, y = batch.x, model.reconstruct(batch.x, batch.context, batch.mask)
    if batch.mask is not None:  # what is hidden is drawn black
        x = each(lambda leaf, seen: torch.where(seen, leaf, torch.nan), x, batch.mask)
    return flat("reconstructions", each(_pairs, x, y, _infos(model, x)))


def _pairs(x: Tensor, y: Tensor, info: DataInfo) -> Figure:
    columns = min(16, len(x))
    pairs = [
        picture
        for a, b in zip(x.split(columns), y.cpu().split(columns), strict=True)
        for picture in (image_grid(part, columns, *_range(info, x)) for part in (a, b))
    ]
    picture = np.concatenate(
        [np.pad(p, ((0, 1), (0, 0), (0, 0)), constant_values=1) for p in pairs]
    )
    return _framed(picture, "Held-out rows; below each its reconstruction")


def latent_plane(model: Model, batch: Batch) -> Figure:
    """What stands for q(z|x) of rows, coloured by label; of two latents the plane decoded too."""
    z = model.encode(batch.x, batch.context, batch.mask).flatten(1).double().cpu()
    plane = z.shape[1] == 2 and batch.context is None
    figure = Figure(figsize=(11.5 if plane else 6, 5.5), dpi=150, layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(1, 2 if plane else 1)))
    points, names = _planar(z)
    label = None if batch.label is None or batch.label.dim() != 1 else batch.label.cpu()
    coloured = {} if label is None else {"c": label, "cmap": "tab10"}
    dots = axes[0].scatter(*points.T, s=6, alpha=0.8, linewidths=0, **coloured)
    if label is not None:
        figure.colorbar(dots, ax=axes[0], label="label")
    axes[0].set(xlabel=names[0], ylabel=names[1], title="Held-out rows: what stands for q(z|x)")
    if plane:
        _decoded_plane(model, axes[1])
    return figure


def _planar(z: Tensor) -> tuple[Array, tuple[str, str]]:
    if z.shape[1] == 1:
        return np.concatenate([z, np.zeros_like(z)], axis=1), ("z", "")
    if z.shape[1] == 2 or len(z) < 2:
        z = z[:, :2]
        return z.numpy(), ("first latent", "second latent")
    from sklearn.decomposition import PCA  # slow to import, and only needed here

    return PCA(2, random_state=0).fit_transform(z), ("first component", "second component")


def _decoded_plane(model: Model, axes: Any, n: int = 20) -> None:
    # Evenly spaced in probability, from the 2.5 % to the 97.5 % quantile of a standard Normal.
    steps = torch.special.ndtri(torch.linspace(0.025, 0.975, n, dtype=torch.float64))
    first, second = torch.meshgrid(steps, steps.flip(0), indexing="xy")
    z = torch.stack([first, second], dim=-1).reshape(-1, *model.latent_shape)
    x = model.decode(z.to(torch.get_default_dtype()))
    name, info = next(iter(model.info.entries().items()))  # of several entries, the first
    x = entries_of(x)[name]
    axes.imshow(image_grid(x, n, *_range(info, x)), interpolation="nearest")
    axes.set(title="The plane decoded: quantiles 2.5 % to 97.5 %", xticks=[], yticks=[])


def draw_all(model: Model, batch: Batch) -> dict[str, Figure]:
    """The pictures by name; a conditional model takes the context of the batch's rows."""
    context = None if batch.context is None else batch.context[:64]
    x = model.sample(64 if context is None else len(context), context)
    return {
        **samples(model, x),
        **reconstructions(model, batch),
        "latent": latent_plane(model, batch),
    }


def save(figure: Figure, path: Any) -> None:
    """Writes a figure as PNG, without a display."""
    FigureCanvasAgg(figure).print_png(path)
