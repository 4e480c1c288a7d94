"""Sequences: the order of their time steps, and whether whole numbers are tokens or a signal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from vaekit.data import Sequences
from vaekit.data.columns.times import order_of
from vaekit.data.columns.token_score import token_score

ORDERED: dict[str, list[Any]] = {
    "clock": ["8:00", "9:00", "10:00", "11:30"],
    "clock with seconds": ["8:00:05", "08:00:30", "10:00:00", "13:00:00.5"],
    "clock with halves": ["8:00 am", "11:30 AM", "12:15 pm", "1:05 p.m."],
    "hours with halves": ["12 am", "8am", "12 p.m.", "1 PM", "11 pm"],
    "days before and after": ["day -10", "day -2", "day 0", "day 1", "day 12"],
    "days before": ["day -10", "day -2", "day -1"],
    "weeks with a hyphen": ["week-1", "week-2", "week-10"],
    "visits": [f"visit {at}" for at in range(1, 13)],
    "visits with another ending": [f"V{at}.5 h" for at in range(8, 12)],
    "numbers as text": [str(at) for at in range(12)],
    "days first": ["1/2/2024", "15/2/2024", "2/3/2024", "10/4/2024"],
    "months first": ["2/1/2024", "2/15/2024", "3/2/2024", "4/10/2024"],
    "days with dots": ["1.2.2024", "2.2.2024", "1.3.2024"],
    "days with clock": ["1/2/2024 9:00", "1/2/2024 10:00", "15/2/2024 08:30"],
    "years first": ["2024/2/1", "2024/2/15", "2024/10/2"],
    "ISO": ["2024-02-01T09:00", "2024-02-01T10:00", "2024-10-02T00:00"],
    "ISO with zones": ["2024-02-01T10:00+02:00", "2024-02-01T09:00Z", "2024-02-01T10:00Z"],
    "months in words": ["Mar 5, 2023", "May 1, 2023", "Apr 1, 2024"],
    "ordered categories": list(pd.Categorical(["low", "mid", "top"])),
    "datetimes": list(pd.to_datetime(["2024-01-02", "2024-01-10", "2024-11-01"])),
    "numbers": [2, 10, 100],
    "whole numbers with a gap elsewhere": list(pd.array([2, 10, 100], "Int64")),
}


@pytest.mark.parametrize("name", ORDERED)
def test_time_steps_are_in_the_order_of_their_times(name: str) -> None:
    times = ORDERED[name]
    shuffled = np.random.default_rng(0).permutation(len(times))
    column = pd.Series(times, name="when")
    if name == "ordered categories":
        column = pd.Series(pd.Categorical(times, ["low", "mid", "top"], ordered=True))
    shuffled_column = column.iloc[shuffled]
    assert shuffled[order_of(shuffled_column).argsort()].tolist() == list(range(len(times)))


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            ["3/4/2023", "5/4/2023", "4/5/2023"],
            "which number is the day but got '3/4/2023'",
        ),
        (["13/4/2023", "4/13/2023"], "which number is the day"),
        (["Jan-12", "Dec-12", "Jan-13"], "numbers or times"),
        (["early", "late"], "numbers or times in the column when.* got 'early', 'late'"),
        (["8:00", "9 am"], "numbers or times"),
        (["visit 1", "call 2"], "numbers or times"),
        (["8:00 am", "9:00"], "numbers or times"),
    ],
)
def test_times_that_cannot_be_ordered_are_refused(times: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}.*ISO dates.*--data.time none"):
        order_of(pd.Series(times, name="when"))


def frame(name: str = "time", times: Any = range(12), people: int = 30) -> pd.DataFrame:
    """A signal that rises by 1 a step, its rows shuffled."""
    times = list(times)
    who = np.repeat([f"p{at:02}" for at in range(people)], len(times))
    rows = pd.DataFrame({"who": who, name: times * people})
    rows["signal"] = np.tile(np.arange(len(times)) + 0.5, people)
    return rows.sample(frac=1, random_state=0, ignore_index=True)


def is_sorted(sequences: Sequences) -> bool:
    x = next(sequences.rows("train")).x[:, -1]
    return bool((x.diff(dim=1) > 0).all())


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["clock", "visits", "days first", "numbers as text"])
def test_steps_of_a_file_are_sorted_and_keep_their_times(
    tmp_path: Path, name: str, suffix: str
) -> None:
    rows, path = frame("when", ORDERED[name]), tmp_path / f"steps{suffix}"
    rows.to_csv(path, index=False) if suffix == ".csv" else rows.to_parquet(path, index=False)
    sequences = Sequences(path, time="when")
    assert is_sorted(sequences)
    x = next(sequences.rows("val")).x
    (file,) = sequences.write(tmp_path, "out", x, {}, sequences.numbers("val"))
    back = pd.read_csv(file, dtype=str) if suffix == ".csv" else pd.read_parquet(file)
    assert back["when"].tolist()[: len(ORDERED[name])] == ORDERED[name]


@pytest.mark.parametrize("name", ["time", "T", "Date", "step", "timestamp", "year", "visit"])
def test_a_column_with_the_name_of_times_is_the_time(name: str) -> None:
    sequences = Sequences(frame(name, range(2000, 2012)))
    assert sequences.info.event_shape == (1, 12)
    assert sequences.told()["time"].startswith(f"the column {name} (--data.time NAME chooses")
    assert is_sorted(sequences)


def test_a_column_that_counts_within_each_sequence_is_the_time() -> None:
    rows = frame("k", range(3, 9))
    sequences = Sequences(rows.sort_values("k"))
    assert sequences.told()["time"].startswith("the column k ")
    assert is_sorted(sequences)
    with pytest.raises(ValueError, match=r"k only counts .* set --data\.time k if it is"):
        Sequences(rows).info  # noqa: B018
    assert is_sorted(Sequences(rows, time="k"))
    assert Sequences(rows, time="none").info.event_shape == (2, 6)


def test_year_and_month_are_asked_about() -> None:
    rows = frame("k", range(6))
    rows = rows.assign(year=2020 + rows["k"] // 3, month=rows["k"] % 3).drop(columns="k")
    words = r"only year and month together differ .* one column of dates"
    with pytest.raises(ValueError, match=words):
        Sequences(rows).info  # noqa: B018


def test_an_index_that_pandas_has_written_is_no_sequence(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "steps.csv")
    sequences = Sequences(tmp_path / "steps.csv")
    assert sequences.info.event_shape == (1, 12)
    assert sequences.info.schema["id"] == "who"


def test_numbers_that_do_not_count_are_a_channel() -> None:
    assert Sequences(frame("dose", [3, 1, 4, 1, 5, 9])).info.event_shape == (2, 6)
    assert Sequences(frame("dose", [3, 1, 4, 15, 9])).info.event_shape == (2, 5)


def test_the_order_of_the_file_is_kept_on_request(
    tmp_path: Path, cli: Callable[..., Path]
) -> None:
    rows = frame()
    assert Sequences(rows, time="none").info.event_shape == (2, 12)
    assert Sequences(rows, channels=["time", "signal"]).info.event_shape == (2, 12)
    rows.to_csv(tmp_path / "steps.csv", index=False)
    fit = ("fit", "--data", "Sequences", "--data.path", "steps.csv", "--trainer.max_epochs", 1)
    cli(*fit, "--data.time", "none")
    config = (tmp_path / "runs/version_0/config.yaml").read_text()
    assert "time: none" in config.lower()


def test_several_columns_of_times_are_asked_about() -> None:
    rows = frame().assign(date=lambda rows: 100 - rows["time"])
    words = "one column of times but time and date may be it: name it with --data.time, or set"
    with pytest.raises(ValueError, match=words):
        Sequences(rows).info  # noqa: B018
    assert Sequences(rows, time="time").info.event_shape == (2, 12)
    trials = frame("trial").assign(time=lambda rows: np.sin(rows.index))
    with pytest.raises(ValueError, match="time and trial may be it"):
        Sequences(trials).info  # noqa: B018
    same = frame().assign(k=lambda rows: rows["time"] + 1)
    assert Sequences(same).told()["time"].startswith("the column time ")


def test_a_column_with_the_name_of_times_that_repeats_is_a_channel_and_told() -> None:
    with pytest.warns(UserWarning, match="Read t as a channel, since .*--data.time t sorts"):
        assert Sequences(frame("t", [37.5, 38.0, 37.5])).info.event_shape == (2, 3)


def test_dates_that_repeat_sort_time_steps_with_a_warning() -> None:
    dates = ["2/1/2024", "2/1/2024", "13/1/2024", "1/2/2024"]
    rows = frame("Date", dates, people=30).sort_values("signal").iloc[np.r_[60:120, :60]]
    with pytest.warns(UserWarning, match=r"Sorted time steps by Date, though .*--data\.time none"):
        assert is_sorted(Sequences(rows))


def test_times_in_the_first_column_do_not_name_the_sequences() -> None:
    rows = frame()[["time", "who", "signal"]].assign(
        who=lambda rows: rows["who"].str[1:].astype(int)
    )
    with pytest.raises(ValueError, match=r"first column but it is called time: .*--data\.id"):
        Sequences(rows).info  # noqa: B018
    assert Sequences(rows, id="who").info.event_shape == (1, 12)
    days = frame("hour").rename(columns={"who": "date"})
    assert Sequences(days).told()["time"].startswith("the column hour ")


def test_the_error_about_several_channels_names_the_time() -> None:
    rows = frame("when", ["a", "b", "b"])
    with pytest.raises(
        ValueError, match=r"--data\.channels, the column of times with --data\.time"
    ):
        Sequences(rows).info  # noqa: B018


def test_a_model_without_a_time_keeps_the_order_of_the_file() -> None:
    """As the models of earlier versions, whose schema says that there is none."""
    schema = Sequences(frame(), time="none").info.schema
    assert schema["time"] is None
    again = Sequences(frame(), val=0, test=0).follow({**schema, "of": "Sequences"})
    assert again.info.event_shape == (2, 12)


# Tokens or a signal


def passengers(gap: bool = False) -> pd.DataFrame:
    r = np.random.default_rng(0)
    lines = [(90 + 3 * np.arange(24) + r.normal(0, 4, 24)).round().astype(int) for _ in range(40)]
    rows = pd.DataFrame({"line": np.repeat(range(40), 24), "time": np.tile(range(24), 40)})
    rows["passengers"] = np.concatenate(lines)
    if gap:
        rows["passengers"] = rows["passengers"].astype("Int64").where(rows.index != 500)
    return rows


@pytest.mark.parametrize("gap", [False, True])
def test_whole_numbers_with_an_order_are_a_signal(tmp_path: Path, gap: bool) -> None:
    passengers(gap).to_csv(tmp_path / "lines.csv", index=False)
    sequences = Sequences(tmp_path / "lines.csv")
    assert sequences.info.event_shape == (1, 24)
    told = sequences.told()["time steps"]
    assert told.startswith("a signal: -")
    assert told.endswith("as tokens (--data.tokens true reads tokens)")
    assert Sequences(tmp_path / "lines.csv", tokens=True).info.event_shape == (24,)


def words() -> list[np.ndarray]:
    text = "the quick brown fox jumps over the lazy dog and the cat sat on the mat "
    codes = np.frombuffer((text * 30).encode(), dtype=np.uint8).astype(int)
    return [codes[at : at + 40] for at in range(0, len(codes) - 40, 40)]


TOKENS: dict[str, Callable[[], list[np.ndarray]]] = {
    "bits": lambda: [np.random.default_rng(at).integers(0, 2, 20) for at in range(30)],
    "dice": lambda: [np.random.default_rng(at).integers(1, 7, 20) for at in range(30)],
    "amino acids": lambda: [np.random.default_rng(at).integers(0, 20, 50) for at in range(80)],
    "codes without an order": lambda: list(np.random.default_rng(0).integers(0, 100, (50, 20))),
    "far numbers": lambda: list(
        np.random.default_rng(0).choice([-(2**63), 2**63 - 1, *range(30)], (20, 20))
    ),
    "unsigned numbers": lambda: list(
        np.uint64(2**63) + np.random.default_rng(0).integers(0, 40, (40, 20)).astype(np.uint64)
    ),
    "bytes of a text": words,
}


@pytest.mark.parametrize("name", TOKENS)
def test_codes_are_tokens(name: str) -> None:
    sequences = Sequences(TOKENS[name]())
    assert sequences.info.levels is not None
    assert "--data.tokens false reads a signal" in sequences.told()["time steps"]


GAPS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "frame": lambda _, x: pd.DataFrame({"id": np.repeat(range(30), 20), "x": x.ravel()}),
    "list": lambda _, x: list(x),
    ".csv": lambda path, x: path.write_text(
        "id,x\n"
        + "".join(
            f"{at},{'' if np.isnan(value) else int(value)}\n"
            for at, row in enumerate(x)
            for value in row
        )
    ),
    ".parquet": lambda path, x: pq.write_table(
        pa.table({"id": np.repeat(range(30), 20), "x": pa.array(x.ravel(), from_pandas=True)}),
        path,
    ),
    ".npz": lambda path, x: np.savez(path, values=x.ravel(), lengths=np.full(30, 20)),
}


@pytest.mark.parametrize("form", GAPS)
def test_codes_with_a_gap_are_tokens(tmp_path: Path, form: str) -> None:
    x = np.random.default_rng(0).integers(0, 5, (30, 20)).astype(float)
    x[3, 5] = np.nan
    path = tmp_path / f"x{form}"
    source = GAPS[form](path, x)
    sequences = Sequences(path if form.startswith(".") else source, val=0, test=0)
    assert sequences.info.levels == 5
    assert (~next(sequences.rows("train")).mask).nonzero().tolist() == [[3, 5]]


def test_whole_numbers_and_labels_with_gaps_come_back_as_whole_numbers(tmp_path: Path) -> None:
    rows = passengers().assign(kind=lambda rows: (rows["line"] % 3).where(rows["line"] != 7))
    rows["passengers"] = rows["passengers"].where(rows.index != 5).astype(float)
    sequences = Sequences(rows, label="kind", val=0, test=0)
    batch, numbers = next(sequences.rows("train")), sequences.numbers("train")
    files = sequences.write(tmp_path, "out", batch.x, {"label": batch.label}, numbers)
    steps, about = (pd.read_parquet(file) for file in files)
    is_known = rows["passengers"].notna().to_numpy()
    assert steps["passengers"].dtype == "int64"
    assert steps["passengers"][is_known].tolist() == rows["passengers"][is_known].tolist()
    assert about["kind"].tolist()[:9] == [0, 1, 2, 0, 1, 2, 0, pd.NA, 2]


def test_new_data_without_the_column_of_times_name_the_option() -> None:
    schema = Sequences(frame()).info.schema
    new = Sequences(frame().drop(columns="time"), val=0, test=0).follow(schema)
    with pytest.raises(
        ValueError, match=r"no time among who, signal: --data\.time names another column, and none"
    ):
        new.info  # noqa: B018
    unsorted = Sequences(frame().drop(columns="time"), time="none", val=0, test=0).follow(schema)
    assert unsorted.info.event_shape == (1, 12)


def test_a_slow_wave_of_whole_numbers_is_a_signal() -> None:
    r = np.random.default_rng(0)
    waves = [
        (40 * np.sin(np.arange(30) / 4 + r.uniform(0, 6)) + r.normal(0, 1, 30)).round().astype(int)
        for _ in range(40)
    ]
    assert Sequences(waves).info.levels is None


@pytest.mark.parametrize("unit", [1, 100])
def test_the_unit_of_a_signal_does_not_make_it_tokens(unit: int) -> None:
    walks = np.random.default_rng(0).normal(0, 3, (60, 24)).cumsum(1).round().astype(int)
    assert Sequences(list(unit * walks)).info.levels is None


def test_the_score_of_tokens_is_that_of_a_markov_chain() -> None:
    """Five sequences, the last of which is held out: its steps by hand."""
    values = np.asarray([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    lengths = np.full(5, 2)
    single = (4 + 0.5) / (8 + 0.5 * 3)
    first = (4 + 4 * single) / (4 + 4)  # four of four sequences begin with 0
    second = (4 + 4 * single) / (4 + 4)  # 1 follows 0 four times
    expected = (np.log(first) + np.log(second)) / 2
    assert token_score(values, lengths).tokens == pytest.approx(expected, rel=1e-12)


def test_tokens_without_an_order_get_the_score_of_their_frequencies() -> None:
    """Each of 50 tokens is equally probable, whatever the previous token."""
    values = np.random.default_rng(0).integers(0, 50, 4000)
    score = token_score(values, np.full(100, 40)).tokens
    assert score == pytest.approx(-np.log(50), abs=0.02)


def test_the_score_of_a_signal_is_that_of_an_autoregression() -> None:
    r = np.random.default_rng(0)
    lengths = np.full(50, 30)
    x = r.normal(size=(50, 30)).cumsum(1) * 20
    values = x.round().astype(int).ravel()
    fitted, held_out = values.reshape(50, 30), np.arange(50) % 5 == 4
    expected = []
    for lags in range(3):
        at = [lags] if lags < 2 else range(2, 30)
        rows = [
            (fitted[n, k - lags : k][::-1], fitted[n, k], held_out[n])
            for n in range(50)
            for k in at
        ]
        design = np.asarray([[1.0, *before] for before, _, _ in rows])
        target, out = (np.asarray([row[i] for row in rows]) for i in (1, 2))
        weights = np.linalg.lstsq(design[~out], target[~out], rcond=None)[0]
        normal = stats.norm(design @ weights, (target - design @ weights)[~out].std())
        expected += np.log(normal.cdf(target + 0.5) - normal.cdf(target - 0.5))[out].tolist()
    assert token_score(values, lengths).signal == pytest.approx(np.mean(expected), rel=1e-9)


def test_the_probabilities_of_both_readings_sum_to_one() -> None:
    """Of the last step of a held-out sequence, over all whole numbers of the data's span."""
    base = [*np.random.default_rng(1).integers(0, 30, 60).tolist(), 0, 29]
    first = token_score(np.asarray([*base, base[0]]), np.asarray([31, 31, 1]))
    tokens, signal = [], []
    for last in range(30):
        score = token_score(np.asarray([*base, base[0], last]), np.asarray([31, 31, 2]))
        tokens.append(np.exp(2 * score.tokens - first.tokens))
        signal.append(np.exp(2 * score.signal - first.signal))
    assert sum(tokens) == pytest.approx(1, abs=0.02)
    assert 0.8 < sum(signal) < 1  # the rest is outside the span


# Numbers come back


def test_large_whole_numbers_of_a_channel_come_back(tmp_path: Path) -> None:
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"who": np.repeat(range(40), 6), "time": np.tile(range(6), 40)})
    rows["stamp"] = 1_700_000_000 + r.integers(-4000, 4000, 240)
    rows["dose"] = r.gamma(2, 2, 240).round(2)
    rows["count"] = pd.array(r.integers(0, 90, 240), "Int64")
    rows.loc[7, "count"] = pd.NA
    rows.to_csv(tmp_path / "steps.csv", index=False)
    sequences = Sequences(tmp_path / "steps.csv")
    for split in sequences.splits:
        numbers = sequences.numbers(split)
        (file,) = sequences.write(tmp_path, "out", next(sequences.rows(split)).x, {}, numbers)
        back = pd.read_csv(file)
        known = rows.set_index("who").loc[numbers.numpy()]
        assert back["stamp"].tolist() == known["stamp"].tolist()
        assert back["dose"].tolist() == known["dose"].tolist()
        seen = known["count"].notna().to_numpy()
        assert back["count"][seen].tolist() == known["count"][seen].tolist()
        assert back.dtypes.astype(str).tolist() == ["int64", "int64", "int64", "float64", "int64"]


def test_no_number_is_written_as_minus_zero(tmp_path: Path) -> None:
    sequences = Sequences(frame().assign(signal=lambda rows: rows["signal"] - 0.5), val=0, test=0)
    (file,) = sequences.write(tmp_path, "out", next(sequences.rows("train")).x - 1e-6, {})
    signal = pd.read_parquet(file)["signal"].to_numpy()
    assert (signal == 0).any()
    assert not np.signbit(signal).any()


def test_a_label_of_many_numbers_is_a_number() -> None:
    rows = passengers().assign(price=lambda rows: 150.5 + rows["line"])
    more = pd.concat(
        [rows.assign(line=rows["line"] + 40 * k, price=rows["price"] + 40 * k) for k in range(4)]
    )
    sequences = Sequences(more, label="price")
    assert sequences.info.classes is None
    assert next(sequences.rows("test")).label.is_floating_point()
