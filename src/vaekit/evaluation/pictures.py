"""Pictures of a model: samples, reconstructions and its latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import constraints

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.support import same_support
from vaekit.contracts.trees import Tree, each, entries_of, flat
from vaekit.model.model import Model

_SHOWN, _VALUES = 256, 2**23  # rows, and values, of a picture at most
_COLUMNS = 2**11  # of a heat map, at most: a picture has no more points

Array = np.ndarray[Any, np.dtype[np.float64]]


def image_grid(x: Tensor, columns: int, low: float, high: float) -> Array:
    """Rows x (N, *event) as one picture (H, W, 3), values from `low` (black) to `high` (white).

    Images have shape (C, H, W) with one or three channels, or four, whose last says how far
    the others cover white, or (H, W).
    """
    if x.dim() == 3:
        x = x.unsqueeze(1)
    x = ((x.double().cpu() - low) / (high - low)).clamp(0, 1).nan_to_num(0.0)
    if x.shape[1] == 4:
        x = x[:, :3] * x[:, 3:] + 1 - x[:, 3:]
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


def _kind(event: tuple[int, ...]) -> str:
    """What an event is drawn as: an image, a signal of few channels, or a row of a table."""
    if len(event) == 2 and event[0] < 8 and event[1] >= max(16, 4 * event[0]):
        return "signal"
    if len(event) == 2 or (len(event) == 3 and event[0] in (1, 3, 4)):
        return "image"
    return "row"


def _range(info: DataInfo, x: Tensor) -> tuple[float, float]:
    low, high = info.data_range
    if not np.isfinite([low, high]).all():
        seen = x[x.isfinite()]
        low, high = (float(seen.min()), float(seen.max())) if seen.numel() else (0.0, 1.0)
    return low, max(high, low + 1e-9)


def _drawn(x: Tensor, y: Tensor | None, info: DataInfo, title: str) -> Figure:
    """Rows, and their reconstructions y where there are any."""
    x, y = x.double().cpu(), None if y is None else y.double().cpu()
    kind = _kind(tuple(x.shape[1:]))
    if kind == "signal":
        return _lines(x, y, title)
    low, high = _range(info, x)
    if kind == "row":
        return _heat_map(x, y, low, high, title)
    if y is None:
        return _framed(image_grid(x, 8, low, high), title)
    columns = min(16, len(x))
    pairs = [
        np.pad(image_grid(part, columns, low, high), ((0, 1), (0, 0), (0, 0)), constant_values=1)
        for both in zip(x.split(columns), y.split(columns), strict=True)
        for part in both
    ]
    return _framed(np.concatenate(pairs), title)


def _lines(x: Tensor, y: Tensor | None, title: str) -> Figure:
    """Signals (C, L), a line for each channel; with y, x in grey below it."""
    n = min(16, len(x))
    figure = Figure(figsize=(9, 1.5 * -(-n // 4) + 0.4), dpi=150, layout="constrained")
    grid = figure.subplots(-(-n // 4), 4, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[n:]:
        axes.set_axis_off()
    for i, axes in enumerate(grid[:n]):
        for channel in range(x.shape[1]):
            own = {"color": f"C{channel}", "linewidth": 1}
            if y is None:
                axes.plot(x[i, channel].numpy(), **own)
            else:
                axes.plot(x[i, channel].numpy(), color="0.6", linewidth=2)
                axes.plot(y[i, channel].numpy(), **own)
    figure.suptitle(title, fontsize=10)
    return figure


def _heat_map(x: Tensor, y: Tensor | None, low: float, high: float, title: str) -> Figure:
    """A row of the map for each row of data, a column for each element, of many the first."""
    parts = [("rows", x)] if y is None else [("rows", x), ("reconstructions", y)]
    figure = Figure(figsize=(5 * len(parts) + 1, 5), dpi=150, layout="constrained")
    grid = np.atleast_1d(np.asarray(figure.subplots(1, len(parts), sharey=True)))
    for axes, (name, part) in zip(grid, parts, strict=True):
        shown = axes.imshow(
            part.flatten(1)[:, :_COLUMNS].numpy(),
            vmin=low,
            vmax=high,
            aspect="auto",
            interpolation="nearest",
        )
        n = part[0].numel()
        few = f", the first {_COLUMNS:,} of {n:,}" if n > _COLUMNS else ""
        axes.set(xlabel=f"element{few}", ylabel=name)
    figure.colorbar(shown, ax=list(grid), label="value")
    figure.suptitle(title, fontsize=10)
    return figure


def samples(model: Model, x: Tree, data: Any = None) -> dict[str, Figure]:
    """Rows that were drawn from the prior: a picture, or one of each entry of x.

    Of many rows, or large ones, it shows the first.

    Arguments:
        data: The data module, which may bring its own drawing.
    """
    own = data.draw(x) if data is not None else None
    if own is not None:
        return {"samples": own}
    n = _most(x)
    x = each(lambda leaf: leaf[:n], x)
    title = "Samples: what stands for p(x|z), z from the prior"

    def drawn(leaf: Tensor, info: DataInfo) -> Figure:
        return _drawn(leaf, None, info, title)

    return flat("samples", each(drawn, x, _infos(model, x)))


def _most(x: Tree) -> int:
    """How many rows of x a picture can show."""
    largest = max(leaf[:1].numel() for leaf in entries_of(x).values())
    return min(_SHOWN, max(8, _VALUES // max(largest, 1)))


def _infos(model: Model, x: Tree) -> Any:
    """What is known of each entry, as a tree like x."""
    infos = model.info.entries()
    return infos if isinstance(x, dict) else infos["x"]


def reconstructions(
    model: Model, batch: Batch, n: int = 32, data: Any = None
) -> dict[str, Figure]:
    """Held-out rows, each with its reconstruction: a picture, or one of each entry.

    Of many rows, or large ones, it shows the first.

    Arguments:
        data: The data module, which may bring its own drawing.
    """
    batch = batch[: min(n, _most(batch.x))]
    x, y = batch.x, model.reconstruct(batch.x, batch.context, batch.mask)
    if batch.mask is not None:  # what is hidden is not drawn
        x = each(lambda leaf, seen: torch.where(seen, leaf, torch.nan), x, batch.mask)
    own = data.draw(x, y) if data is not None else None
    if own is not None:
        return {"reconstructions": own}

    def drawn(leaf: Tensor, reading: Tensor, info: DataInfo) -> Figure:
        image = _kind(tuple(leaf.shape[1:])) == "image"
        title = "Held-out rows; below each its reconstruction" if image else _BESIDE
        return _drawn(leaf, reading, info, title)

    return flat("reconstructions", each(drawn, x, y, _infos(model, x)))


_BESIDE = "Held-out rows and their reconstructions"


def latent_plane(model: Model, batch: Batch) -> Figure:
    """What stands for q(z|x) of rows, coloured by label; where z lies in a plane, that decoded."""
    z = model.encode(batch.x, batch.context, batch.mask).flatten(1).double().cpu()
    plane = z.shape[1] == 2 and batch.context is None and _has_plane(model)
    figure = Figure(figsize=(11.5 if plane else 6, 5.5), dpi=150, layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(1, 2 if plane else 1)))
    finite = z.isfinite().all(1)  # a model that diverged has others
    points, names, how = _planar(z[finite])
    label = None if batch.label is None or batch.label.dim() != 1 else batch.label.cpu()[finite]
    if label is None or not bool(label.isfinite().any()):
        axes[0].scatter(*points.T, s=6, alpha=0.8, linewidths=0)
    else:
        _scatter(figure, axes[0], points, label)
    title = f"Held-out rows: what stands for q(z|x){how}"
    axes[0].set(xlabel=names[0], ylabel=names[1])
    axes[0].set_title(title, fontsize=10)
    if plane:
        _decoded_plane(model, axes[1])
    return figure


def _has_plane(model: Model) -> bool:
    """Whether any latents may be decoded, and to images."""
    support = getattr(getattr(model.core, "posterior", None), "support", constraints.real)
    entry = next(iter(model.info.entries().values()))
    return same_support(support, constraints.real) and _kind(entry.event_shape) == "image"


def _scatter(figure: Figure, axes: Any, points: Array, label: Tensor) -> None:
    """Points in the colours of their labels: classes apart, other numbers along a scale."""
    style = {"s": 6, "alpha": 0.8, "linewidths": 0}
    classes = label.unique().tolist()
    if label.is_floating_point() or len(classes) > 20:
        figure.colorbar(axes.scatter(*points.T, c=label.numpy(), **style), ax=axes, label="label")
        return
    k = len(classes)
    colours = ListedColormap(colormaps["tab10" if k <= 10 else "tab20"](range(k)))
    place = [classes.index(value) for value in label.tolist()]
    # From half below the first to half above the last: each tick in the middle of its colour.
    dots = axes.scatter(*points.T, c=place, cmap=colours, vmin=-0.5, vmax=k - 0.5, **style)
    bar = figure.colorbar(dots, ax=axes, label="label", ticks=range(k))
    bar.set_ticklabels([str(value) for value in classes])


def _planar(z: Tensor) -> tuple[Array, tuple[str, str], str]:
    """The points of a plane, the names of its axes, and how it was found."""
    if z.shape[1] == 1:
        return np.concatenate([z, np.zeros_like(z)], axis=1), ("z", ""), ""
    if z.shape[1] == 2 or len(z) < 2:
        return z[:, :2].numpy(), ("first latent", "second latent"), ""
    from sklearn.decomposition import PCA  # slow to import, and only needed here

    pca = PCA(2, random_state=0)
    points = pca.fit_transform(z)
    share = np.nan_to_num(pca.explained_variance_ratio_).sum()
    how = f"\nPCA of {z.shape[1]} latents, {share:.0%} of the variance".replace("%", " %")
    return points, ("first component", "second component"), how


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


def draw_all(model: Model, batch: Batch, data: Any = None) -> dict[str, Figure]:
    """The pictures by name; a conditional model takes the context of the batch's rows.

    Arguments:
        data: The data module, which may bring its own drawing.
    """
    draws = getattr(data, "draws_rows", False)  # of which a picture counts many
    n = 1000 if draws else 64
    context = None if batch.context is None else batch.context[:n]
    x = model.sample(n if context is None else len(context), context, draws)
    return {
        **samples(model, x, data),
        **reconstructions(model, batch, data=data),
        "latent": latent_plane(model, batch),
    }


def save(figure: Figure, path: Any) -> None:
    """Writes a figure as PNG, without a display."""
    FigureCanvasAgg(figure).print_png(path)
