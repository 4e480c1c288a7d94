"""A number that drowns the others is told with its row, whatever the number of rows."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from vaekit import data
from vaekit.data.columns import table as of


def normal(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=n).round(2)


@pytest.mark.parametrize("n", [30, 400, 3000])
def test_one_far_number_is_told_with_its_row(n: int) -> None:
    x = normal(n)
    x[7] = 1e9
    with pytest.warns(UserWarning, match="x holds 1000000000 in row 7, counted from 0, "):
        data.Table(pd.DataFrame({"x": x, "y": normal(n)}), val=0, test=0).info  # noqa: B018
    frame = pd.DataFrame({"who": [f"p{at}" for at in range(n)], "x": x, "y": normal(n)})
    with pytest.warns(UserWarning, match="x holds 1000000000 in row p7, "):
        data.Table(frame, val=0, test=0).info  # noqa: B018


@pytest.mark.parametrize(
    "x",
    [
        normal(3000),
        np.random.default_rng(0).lognormal(size=3000),
        np.random.default_rng(0).exponential(size=3000),
        np.where(np.arange(3000) % 50, 0.0, np.arange(3000)),  # most are 0
        np.r_[np.zeros(260), 1.0, 2.0, 2.0],
        np.where(normal(3000) > 0.7, np.exp(8 + normal(3000)), 0.0),
    ],
    ids=["normal", "lognormal", "exponential", "zeros", "nearly constant", "three quarters zeros"],
)
def test_ordinary_tails_are_not_told(x: np.ndarray) -> None:
    known = of.learned(pd.Series(x, name="x"), "numeric", np.arange(len(x)))
    assert of.find_outlier(x, known, range(len(x)), True) is None


def test_a_mark_for_missing_values_is_told() -> None:
    x = normal(400)
    x[::20] = -999
    frame = pd.DataFrame({"x": x, "y": normal(400)})
    words = "x holds -999 in 20 rows, far from .* set --data.na -999"
    with pytest.warns(UserWarning, match=words):
        data.Table(frame, val=0, test=0).info  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = data.Table(frame, na="-999", val=0, test=0)
        assert table.told()["missing"] == "2.5% of the elements"
        assert table.info.schema["columns"][0]["low"] > -10


def test_a_mark_in_a_column_of_counts_is_told() -> None:
    visits = np.random.default_rng(0).poisson(3.0, 400)
    visits[::40] = 9999
    frame = pd.DataFrame({"visits": visits, "y": normal(400)})
    with pytest.warns(UserWarning, match="visits holds 9999 in 10 rows.* set --data.na 9999"):
        data.Table(frame, val=0, test=0).info  # noqa: B018


def test_several_columns_with_outliers_are_told_in_one_warning() -> None:
    frame = pd.DataFrame({name: normal(200) for name in "abc"})
    frame.loc[3, "a"], frame.loc[5, "b"] = 1e4, 1e6
    with pytest.warns(UserWarning, match="b holds .* 1 other columns have outliers: a") as told:
        data.Table(frame, val=0, test=0).info  # noqa: B018
    assert len(told) == 1
