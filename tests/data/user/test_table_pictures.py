"""Pictures of tables: the line of the training rows has the shares that the bars have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaekit.data.user.table_pictures import marginals

N = 4000


def columns() -> dict[str, np.ndarray]:
    r = np.random.default_rng(0)
    half, x = r.random(N) < 0.5, r.uniform(1e5, 2.5e5, N)
    return {
        "ties at the largest": np.where(half, 2.5e5, x),
        "ties at the smallest": np.where(half, 1e5, x),
        "ties in the middle": np.where(half, 1.75e5, x),
        "ties at both ends": np.where(half, 2.5e5, np.where(r.random(N) < 0.5, 1e5, x)),
        "no ties": x,
        "normal": r.normal(size=N),
        "far from 0": 1.7e9 + np.where(half, 7.0, r.normal(size=N)),
    }


@pytest.mark.parametrize("name", columns())
def test_the_line_of_the_training_rows_has_their_shares(name: str) -> None:
    x = columns()[name]
    known: dict[str, Any] = {"name": "income", "kind": "numeric", "mean": 0.0}
    known["shown"] = {"quantiles": np.quantile(x, np.linspace(0, 1, 65)).tolist()}
    axes = marginals([known], [x]).axes[0]
    line = axes.patches[-1].get_data()
    shares = line.values * np.diff(line.edges)
    assert shares.sum() == pytest.approx(1)
    clipped = np.clip(x, line.edges[0], line.edges[-1])
    expected = np.histogram(clipped, line.edges)[0] / N
    # 65 quantiles place a tie to within one of them.
    assert np.abs(shares - expected).max() < 1.5 / 64
    bars = [patch.get_height() * patch.get_width() for patch in axes.patches[:-1]]
    assert np.allclose(bars, expected, atol=1e-9)
