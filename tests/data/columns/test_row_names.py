"""Which columns name the rows: text, and no numbers, money or times."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vaekit import data
from vaekit.data.columns.row_names import are_row_names

N = 120
QUANTITIES: dict[str, list[Any]] = {
    "money": [f"${price:,.2f}" for price in np.linspace(5, 5000, N)],
    "euros": [f"{price:.2f} €" for price in np.linspace(5, 5000, N)],
    "thousands": [f"{people:,}" for people in range(1000, 1000 + N)],
    "minus in brackets": [
        f"({x:.2f})" if at % 3 else f"{x:.2f}" for at, x in enumerate(np.arange(N))
    ],
    "percent": [f"{x / 7:.3f}%" for x in range(N)],
    "units": [f"{x:,} g" for x in range(2500, 2500 + N)],
    "decimal commas": [f"{x},5" for x in range(N)],
    "decimals": [Decimal(x) / 4 for x in range(N)],
    "days": [date.fromordinal(738000 + x) for x in range(N)],
    "days with dots": [f"{1 + x % 28}.{1 + x % 12}.{1990 + x}" for x in range(N)],
    "ISO times": [f"2024-03-01T{x // 60:02}:{x % 60:02}:00Z" for x in range(N)],
    "months in words": [f"Mar {1 + x % 28}, {1900 + x}" for x in range(N)],
    "day and month in words": [f"{1 + x % 28} March {1900 + x}" for x in range(N)],
    "months of years": [f"December {1900 + x}" for x in range(N)],
    "clock": [f"{x // 60}:{x % 60:02}" for x in range(N)],
    "durations": list(pd.to_timedelta(np.arange(N), unit="s")),
    "periods": list(pd.period_range("2000-01", periods=N, freq="M")),
    "numbers": list(range(N)),
}
NAMES: dict[str, list[Any]] = {
    "people": [f"person {x}" for x in range(N)],
    "codes": [f"{x:05}" for x in range(N)],
    "samples": [f"{x}A-{x % 7}" for x in range(N)],
    "markers": [f"Marker {x}" for x in range(N)],
    "deciles": [f"Decile {x}" for x in range(N)],
    "names with numbers": [f"May Smith {x}" for x in range(N)],
    "addresses": [f"10.0.1.{x}" for x in range(N)],
    "telephones": [f"079 123 {x:04}" for x in range(N)],
    "May": [f"May {chr(65 + x % 26)}{chr(65 + x // 26)}" for x in range(N)],
}


@pytest.mark.parametrize("name", QUANTITIES)
@pytest.mark.filterwarnings("ignore:Left out")
def test_quantities_never_name_the_rows(name: str) -> None:
    column = pd.Series(QUANTITIES[name])
    assert not are_row_names(column)
    table = data.Table(pd.DataFrame({"first": column, "x": np.arange(N) % 11}))
    assert "first" not in [key for key, told in table.told().items() if told == "names the rows"]


@pytest.mark.parametrize("name", NAMES)
def test_text_that_differs_names_the_rows(name: str) -> None:
    table = data.Table(pd.DataFrame({"first": NAMES[name], "x": np.arange(N) % 11}))
    assert table.told()["first"] == "names the rows"


def test_a_column_left_out_names_the_options() -> None:
    countries = [f"country {x % 195}" for x in range(800)]
    frame = pd.DataFrame({"country": countries, "x": range(800), "one": "a"})
    words = (
        "Left out: one, with at most one .*; country, with more than 100 .*--data.categories "
        "raises this limit, --data.id names .*--data.kinds.COLUMN"
    )
    with pytest.warns(UserWarning, match=words):
        data.Table(frame).info  # noqa: B018
    table = data.Table(frame, categories=200, kinds={"one": "ignore"}, val=0, test=0)
    assert table.info.levels["country"] == 195


def test_a_column_of_numbers_and_a_mark_names_the_option() -> None:
    level = np.linspace(1, 9, 600).round(3).astype(str).astype(object)
    level[[100, 400]] = "?"
    frame = pd.DataFrame({"x": range(600), "level": level})
    words = r"level: 598 of 600 values are numbers, the others are '\?': --data.na '\?' reads"
    table = data.Table(frame, val=0, test=0)
    with pytest.warns(UserWarning, match=words):
        table.setup()
    table = data.Table(frame, na="?", kinds={"level": "numeric"}, val=0, test=0)
    assert table.told()["missing"] == "0.2% of the elements"


def test_a_label_or_a_context_never_names_the_rows() -> None:
    frame = pd.DataFrame({"y": [f"class {x}" for x in range(N)], "x": np.arange(N) % 11})
    for role in ({"label": "y"}, {"context": ["y"]}, {"split": "y"}):
        if "split" in role:
            frame["y"] = ["train"] * (N - 1) + ["val"]
        assert "names the rows" not in data.Table(frame, **role, val=0, test=0).told().values()


def test_whole_numbers_that_float64_cannot_tell_apart_are_left_out() -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"tweet": r.integers(10**18, 2 * 10**18, 300), "x": r.normal(size=300)})
    frame.loc[::9, "tweet"] = -1
    with pytest.warns(UserWarning, match="Left out: tweet, whole numbers whose differences"):
        assert data.Table(frame).told()["tweet"] == "left out"
    far = frame.assign(tweet=np.where(np.arange(300) % 9, 17 * 10**17, -(2**63) + 1))
    with pytest.warns(UserWarning, match="Left out: tweet"):
        data.Table(far.assign(tweet=far["tweet"] + np.arange(300))).info  # noqa: B018
