"""Numbers and times come back as they were, and new ones in the resolution of their column."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vaekit import Model, data
from vaekit.contracts.trees import each
from vaekit.data.columns import exact
from vaekit.data.columns import table as of
from vaekit.model.parts_for_data import parts_for


def r(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def days(n: int = 400) -> pd.DatetimeIndex:
    return pd.Timestamp("2021-01-01") + pd.to_timedelta(r().integers(0, 1200, n), unit="D")


def seconds(n: int = 400) -> pd.DatetimeIndex:
    return days(n) + pd.to_timedelta(r(1).integers(0, 86400, n), unit="s")


def far_years(n: int = 400) -> np.ndarray:
    years = r().choice([1500, 1612, 1700, 2300, 2400], n)
    return np.asarray([f"{year}-03-01T12:00:00" for year in years], "datetime64[s]")


COLUMNS: dict[str, Any] = {
    "days": lambda: days().strftime("%Y-%m-%d"),
    "months": lambda: days().strftime("%Y-%m"),
    "minutes": lambda: seconds().strftime("%Y-%m-%dT%H:%M"),
    "seconds": lambda: seconds().strftime("%Y-%m-%d %H:%M:%S"),
    "datetimes": lambda: seconds(),
    "datetimes of Tokyo": lambda: days().tz_localize("Asia/Tokyo"),
    "microseconds": lambda: seconds() + pd.to_timedelta(r(2).integers(0, 10**6, 400), unit="us"),
    "years beyond nanoseconds": far_years,
    "days of Python": lambda: days().date,
    "periods": lambda: days().to_period("M"),
    "nine digits": lambda: 1_700_000_000 + r().integers(0, 5_000_000, 400) * 7,
    "sixteen digits": lambda: 1_234_567_890_123_456 + r().integers(-900, 900, 400),
    "nanoseconds since 1970": lambda: (
        1_700_000_000_000_000_000 + r().integers(0, 1000, 400) * 1000
    ),
    "whole numbers around 0": lambda: r().integers(-900, 900, 400),
    "whole numbers with gaps": lambda: pd.array(
        np.where(np.arange(400) % 5, 47 + np.arange(400) % 7, None), dtype="Int64"
    ),
    "two whole numbers with gaps": lambda: pd.array(
        np.where(np.arange(400) % 5, 1 + np.arange(400) % 2, None), dtype="Int64"
    ),
    "cents": lambda: r().gamma(2, 600, 400).round(2),
    "fifteen digits": lambda: [float(f"{x:.15g}") for x in r().normal(50, 10, 400)],
    "all bits": lambda: r().normal(50, 10, 400),
    "p-values": lambda: np.r_[10.0 ** r().uniform(-30, -20, 40), r(1).random(360)],
    "decimals of Python": lambda: [Decimal(2 * at + 1) / 8 for at in range(400)],
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.filterwarnings("ignore:v holds|Left out")
def test_each_cell_comes_back(name: str) -> None:
    values = pd.Series(COLUMNS[name](), name="v")
    table = data.Table(pd.DataFrame({"v": values, "other": r(3).normal(size=400).round(2)}))
    assert table.info.schema["columns"][0]["kind"] != "ignore"
    for split in table.splits:
        known = values.iloc[table.numbers(split).numpy()].reset_index(drop=True)
        batch = next(table.rows(split))
        back = table.frame(batch.x, mask=batch.mask)["v"]
        seen = known.notna()
        assert (back.notna() == seen).all()
        if name == "days of Python":
            back = back.dt.date
        assert [str(x) for x in back[seen]] == [str(x) for x in known[seen]]
        if not name.endswith("Python"):
            assert back.dtype == known.dtype


def test_float32_is_enough_for_days_and_whole_numbers_of_some_digits() -> None:
    """Reconstructions and samples are in float32; a day must not become the day before."""
    names = ["days", "months", "whole numbers around 0", "cents"]
    frame = pd.DataFrame({name: COLUMNS[name]() for name in names})
    table = data.Table(frame, val=0, test=0)
    x = each(lambda leaf: leaf.float(), next(table.rows("train")).x)
    pd.testing.assert_frame_equal(table.frame(x), frame.iloc[table.numbers("train").numpy()])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("days", r"\d{4}-\d{2}-\d{2}"),
        ("months", r"\d{4}-\d{2}"),
        ("seconds", r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}"),
        ("nine digits", r"17\d{8}"),
        ("whole numbers with gaps", r"\d\d"),
        ("cents", r"\d+\.\d{1,2}"),
    ],
)
def test_samples_have_the_resolution_of_their_column(name: str, pattern: str) -> None:
    table = data.Table(pd.DataFrame({"v": COLUMNS[name]()}), val=0, test=0)
    table.setup()
    x = torch.from_numpy(r(5).normal(size=(300, 1))).float()
    column = table.frame(x)["v"].astype(str)
    assert column.str.fullmatch(pattern).all()
    assert column.nunique() > (5 if "gaps" in name else 30)


def test_a_month_is_the_nearest_one() -> None:
    known = {"name": "m", "kind": "count", "dtype": "object", "times": "%Y-%m", "origin": 0}
    known |= {"unit": "ns", "step": "month", "low": -np.inf, "high": np.inf}
    ends = [np.datetime64(day, "s").astype(float) for day in ("2021-02-14", "2021-02-16")]
    assert exact.column(np.asarray(ends), known).tolist() == ["2021-02", "2021-03"]


def test_the_resolution_is_the_longest_step_from_the_first_time() -> None:
    steps = {
        "day": ["2024-03-01T09:00", "2024-03-02T09:00"],
        "hour": ["2024-03-01T09:30", "2024-03-01T13:30"],
        "minute": ["2024-03-01T09:30:05", "2024-03-01T13:31:05"],
        "second": ["2024-03-01T09:30:05.5", "2024-03-01T13:31:06.5"],
        "ms": ["2024-03-01T09:30:05.5", "2024-03-01T13:31:06.501"],
        "us": ["2024-03-01T09:30:05.000001", "2024-03-01T13:31:06.000002"],
    }
    for step, times in steps.items():
        found = exact.resolution_of(pd.Series(pd.to_datetime(times)))
        assert found["step"] == step


def test_a_schema_without_an_origin_restores_times_and_numbers() -> None:
    """As checkpoints of earlier versions hold it."""
    times = {"name": "t", "kind": "numeric", "dtype": "object", "times": "%Y-%m-%d"}
    times |= {"mean": 1.6e9, "std": 1e7, "low": 1.5e9, "high": 1.7e9, "decimals": 0}
    day = (np.datetime64("2020-09-14", "s").astype(float) - 1.6e9) / 1e7
    assert of.restored(np.asarray([day, day - 1e-4]), times).tolist() == ["2020-09-14"] * 2
    number = {"name": "n", "kind": "numeric", "dtype": "int64", "times": None}
    number |= {"mean": 5.0, "std": 2.0, "low": 0.0, "high": 9.0, "decimals": 0}
    assert of.restored(np.asarray([0.0, 9.0]), number).tolist() == [5, 9]
    assert of.codes(pd.Series([3, 4], name="n"), number).tolist() == [3.0, 4.0]


def test_the_standard_deviation_of_sixteen_digits_is_their_own() -> None:
    values = COLUMNS["sixteen digits"]()
    table = data.Table(pd.DataFrame({"n": values}), val=0, test=0)
    known = table.info.schema["columns"][0]
    assert known["std"] == pytest.approx((values - values.min()).std(), rel=1e-12)
    assert next(table.rows("train")).x.std(correction=0).item() == pytest.approx(1.0)


def test_times_are_told_as_times() -> None:
    table = data.Table(pd.DataFrame({"t": COLUMNS["days"](), "n": COLUMNS["nine digits"]()}))
    told = table.told()
    assert told["t"].startswith("times, numeric from 2021-01-0")
    assert told["n"].startswith("numeric from 17000")


def test_units_of_arrays_have_the_origin_again() -> None:
    table = data.Table(pd.DataFrame({"t": days(60)}), val=0, test=0)
    x = next(table.rows("train")).x
    own = table.restored(x)[:, 0].numpy()
    want = days(60)[table.numbers("train").numpy()].astype(np.int64) / 1e9
    assert np.array_equal(own, want)


def test_held_out_rows_beyond_the_training_rows_keep_their_values(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.r_[np.linspace(0, 1, 50).round(2), 1.255, -7.0]})
    frame["part"] = ["train"] * 50 + ["val"] * 2
    table = data.Table(frame, split="part")
    assert table.frame(next(table.rows("val")).x)["x"].tolist() == [1.255, -7.0]
    frame[50:].drop(columns="part").to_csv(tmp_path / "val.csv", index=False)
    other = data.Table(frame[:50].drop(columns="part"), val=str(tmp_path / "val.csv"), test=0)
    assert other.frame(next(other.rows("val")).x)["x"].tolist() == [1.255, -7.0]


def test_rows_go_to_devices_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of Apple have none."""
    table = data.Table(pd.DataFrame({"v": COLUMNS["seconds"]()}), val=0, test=0)
    batch = next(table.rows("train"))
    assert batch.to("cpu").x.dtype == torch.float64
    monkeypatch.setattr("vaekit.contracts.batch.exact", lambda device: torch.float32)
    assert batch.to("cpu").x.dtype == torch.float32
    model = Model(table, **parts_for(table))
    assert model.encode(batch.x[:3]).dtype == torch.float32


def test_a_model_takes_rows_in_float64() -> None:
    table = data.Table(pd.DataFrame({"v": COLUMNS["cents"](), "w": COLUMNS["seconds"]()}))
    model, batch = Model(table, **parts_for(table)), next(table.rows("train"))
    assert model.encode(batch.x).dtype == torch.float32
    assert model.reconstruct(batch.x).shape == batch.x.shape
    loss = model.objective(model.core, batch, 0)["loss"].mean()
    loss.backward()
    assert loss.isfinite()
    narrow = replace(batch, x=batch.x.float())
    for name, values in model.evaluate(batch.keyed()).items():
        torch.testing.assert_close(
            values.double(), model.evaluate(narrow.keyed())[name].double(), rtol=1e-3, atol=1e-4
        )
    assert set(model.predict(batch)) == set(model.predict(narrow))


def test_a_file_with_finer_numbers_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    train = pd.DataFrame({"x": (np.arange(60) - 30) / 10})
    pd.DataFrame({"x": r().normal(size=40)}).to_csv(tmp_path / "val.csv", index=False)
    table = data.Table(train, val=str(tmp_path / "val.csv"), test=0)
    assert table.frame(next(table.rows("train")).x)["x"].tolist() == train["x"].tolist()
    known = pd.read_csv(tmp_path / "val.csv", float_precision="round_trip")["x"]
    assert table.frame(next(table.rows("val")).x)["x"].tolist() == known.tolist()


def test_times_finer_than_float64_can_count_are_rounded_and_told() -> None:
    base = pd.Timestamp("2001-01-01") + pd.to_timedelta(r().integers(0, 7 * 10**17, 60), unit="ns")
    table = data.Table(pd.DataFrame({"t": base, "x": range(60)}), val=0, test=0)
    with pytest.warns(UserWarning, match="times of t are rounded to us: float64 cannot count ns"):
        table.setup()
    back = table.frame(next(table.rows("train")).x)["t"]
    assert (back - pd.Series(base)).abs().max() <= pd.Timedelta("1us")


def test_numbers_of_a_context_come_back() -> None:
    frame = pd.DataFrame({"x": range(80), "stamp": 1_700_000_000 + np.arange(80) * 654_321})
    frame["dose"] = r().normal(size=80).round(3)
    table = data.Table(frame, context=["stamp", "dose"], val=0, test=0)
    batch = next(table.rows("train"))
    pd.testing.assert_frame_equal(table.frame(batch.x, batch.context), frame)
    model = Model(table, **parts_for(table), prior="LearnedNormal")
    assert model.encode(batch.x, batch.context).dtype == torch.float32
    assert model.evaluate(batch)["elbo"].isfinite().all()


def test_tiny_numbers_have_a_standard_deviation() -> None:
    x = np.arange(1.0, 41) * 1e-200
    table = data.Table(pd.DataFrame({"x": x}), val=0, test=0)
    assert next(table.rows("train")).x.std(correction=0).item() == pytest.approx(1)
    assert table.frame(next(table.rows("train")).x)["x"].tolist() == x.tolist()
