"""Pictures of tables: a panel for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_MOST, _ACROSS = 20, 4


def _panels(columns: Sequence[dict[str, Any]], title: str) -> tuple[Figure, list[Any]]:
    shown = columns[:_MOST]
    down = -(-len(shown) // _ACROSS)
    figure = Figure(figsize=(11, 2.1 * down + 0.5), dpi=130, layout="constrained")
    grid = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for axes, column in zip(grid, shown, strict=False):
        axes.set_title(column["name"], fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(f"{title}{f' (the first {_MOST} columns)' if columns[_MOST:] else ''}")
    return figure, list(grid[: len(shown)])


def marginals(columns: Sequence[dict[str, Any]], x: Sequence[np.ndarray]) -> Figure:
    """How often each value of each column was sampled, beside how often the training rows have it.

    Arguments:
        columns: What is known of each column.
        x: Its samples, in its units or the places of its values, (n,).
    """
    figure, grid = _panels(columns, "Samples (filled), and the training rows (line)")
    for axes, column, values in zip(grid, columns, x, strict=False):
        shown = column["shown"]
        if "shares" in shown:
            _bars(axes, values, shown["first"], shown["shares"])
        elif shown["quantiles"]:
            _histogram(axes, values, np.asarray(shown["quantiles"]))
        if "values" in column:
            _name(axes, column, "x")
    return figure


def _bars(axes: Any, values: np.ndarray, first: int, shares: list[float]) -> None:
    """The share of each whole number; a line for what is known."""
    at = np.arange(first, first + len(shares))
    places = np.clip(np.round(values) - first, 0, len(shares) - 1).astype(int)
    axes.bar(at, np.bincount(places, minlength=len(shares)) / max(1, len(values)), color="0.7")
    axes.stairs(shares, np.append(at - 0.5, at[-1] + 0.5))


def _histogram(axes: Any, values: np.ndarray, quantiles: np.ndarray) -> None:
    """The density, without the outermost half percents; a line for what is known."""
    place = np.linspace(0, 1, len(quantiles))
    low, high = np.interp([0.005, 0.995], place, quantiles)
    ends = np.linspace(low, max(high, low + 1e-9 * max(1.0, abs(low))), 25)
    axes.hist(np.clip(values, low, high), ends, density=True, color="0.7")
    below = _shares_below(ends, quantiles)
    below[[0, -1]] = 0, 1  # the outermost bars hold what is beyond them
    axes.stairs(np.diff(below) / np.diff(ends), ends)


def _shares_below(ends: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Returns the fraction of numbers below each end, from their quantiles, which may be equal."""
    level = np.linspace(0, 1, len(quantiles))
    values, first = np.unique(quantiles, return_index=True)
    last = len(quantiles) - 1 - np.unique(quantiles[::-1], return_index=True)[1]
    after = np.searchsorted(values, ends).clip(0, len(values) - 1)  # the next value
    before = (after - 1).clip(0)
    width = np.where(values[after] > values[before], values[after] - values[before], 1.0)
    within = ((ends - values[before]) / width).clip(0, 1)
    fraction = level[last[before]] + within * (level[first[after]] - level[last[before]])
    return np.where(ends <= values[0], 0.0, np.where(ends > values[-1], 1.0, fraction))


def pairs(
    columns: Sequence[dict[str, Any]], x: Sequence[np.ndarray], y: Sequence[np.ndarray]
) -> Figure:
    """Each column's reconstructions y over its values x, in its units; of values how many."""
    figure, grid = _panels(columns, "Held-out rows (across) and their reconstructions (up)")
    for axes, column, before, after in zip(grid, columns, x, y, strict=False):
        seen = np.isfinite(before)
        before, after = before[seen], after[seen]
        if "values" in column:
            n = len(column["values"])
            table = np.zeros((n, n))
            np.add.at(table, (_places(after, column), _places(before, column)), 1)
            axes.imshow(table, origin="lower", cmap="Greys", aspect="auto")
            _name(axes, column, "x")
            _name(axes, column, "y")
        else:
            both = np.concatenate([before, after, [column["mean"]]])
            axes.plot([both.min(), both.max()], [both.min(), both.max()], "0.7", linewidth=1)
            axes.scatter(before, after, s=5, linewidths=0)
    return figure


def _places(x: np.ndarray, column: dict[str, Any]) -> Any:
    return np.clip(np.round(x), 0, len(column["values"]) - 1).astype(int)


def _name(axes: Any, column: dict[str, Any], axis: str) -> None:
    """Labels an axis with the names of values, where they are few enough to be read."""
    values = [str(value)[:10] for value in column["values"]]
    if len(values) > 8:
        return
    across = {"rotation": 30, "ha": "right"} if axis == "x" else {}
    (axes.set_xticks if axis == "x" else axes.set_yticks)(range(len(values)), values, **across)
