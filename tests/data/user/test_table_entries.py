"""Tables: each column is learned, whatever its name, from the numbers that are observed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vaekit import Model, data
from vaekit.data.user.tables import _entries
from vaekit.model.parts_for_data import parts_for


@pytest.mark.parametrize(
    "names",
    [
        ("count", "count_"),
        ("x", "x_"),
        ("numeric", "numeric_"),
        ("binary", "binary_", "binary__"),
        ("count_", "count"),
        ("x_", "x__", "x"),
    ],
)
def test_columns_whose_entries_had_one_name_are_all_learned(names: tuple[str, ...]) -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame({name: r.choice(list("abc"), 200) for name in names})
    frame = frame.assign(size=r.normal(size=200).round(2), visits=r.poisson(3.0, 200))
    table = data.Table(frame, val=0, test=0)
    assert len(table.info.event_shape) == len(names) + 2
    back = table.frame(next(table.rows("train")).x)
    pd.testing.assert_frame_equal(back, frame.iloc[table.numbers("train").numpy()])
    made = table.frame(Model(table, **parts_for(table)).sample(20, sample=True))
    assert list(made) == list(frame)


def test_entries_of_earlier_checkpoints_keep_their_names() -> None:
    columns = [{"name": name, "kind": "category"} for name in ("count", "job", "x")]
    assert list(_entries(columns)) == ["count_", "job", "x_"]


def test_a_category_that_no_row_has_is_kept() -> None:
    group = pd.Categorical(["low", "high"] * 30, ["low", "middle", "high"], ordered=True)
    frame = pd.DataFrame({"group": group, "x": np.arange(60.0)})
    table = data.Table(frame, val=0, test=0)
    assert table.told()["group"] == "category: low, middle, high"
    back = table.frame(next(table.rows("train")).x)
    pd.testing.assert_frame_equal(back, frame)


def test_two_values_of_training_rows_are_a_number_if_other_rows_have_more() -> None:
    frame = pd.DataFrame({"n": [7, 9] * 20 + [8], "part": ["train"] * 40 + ["val"]})
    table = data.Table(frame, split="part")
    assert table.told()["n"].startswith("numeric")
    assert table.frame(next(table.rows("val")).x)["n"].tolist() == [8]


def test_missing_cells_are_missing_in_the_frame() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 9] * 10, "b": ["u", None, "v", "w"] * 10})
    table = data.Table(frame, val=0, test=0)
    batch = next(table.rows("train"))
    back = table.frame(batch.x, mask=batch.mask)
    assert back["b"].isna().tolist() == frame["b"].isna().tolist()
    assert back["a"].tolist() == frame["a"].tolist()


def test_moments_are_those_of_the_observed_numbers() -> None:
    r = np.random.default_rng(0)
    level = (np.where(np.arange(300) % 2, 100, 0) + r.normal(0, 1, 300)).round(3)
    frame = pd.DataFrame({"level": level, "n": r.integers(5, 90, 300), "kind": list("abc") * 100})
    whole = data.Table(frame, val=0.2, test=0).info.schema["columns"]
    table = data.Table(frame, val=0.2, test=0, missing=0.5)
    x, mask = next(table.rows("train")).x["numeric"], next(table.rows("train")).mask["numeric"]
    for at, known in enumerate(table.info.schema["columns"][:2]):
        seen = x[:, at][mask[:, at]]
        assert seen.mean().item() == pytest.approx(0, abs=1e-9)
        assert seen.std(correction=0).item() == pytest.approx(1, abs=1e-9)
        assert known["mean"] != whole[at]["mean"]


def test_the_command_line_and_python_report_the_same(
    tmp_path: Path, cli: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    r = np.random.default_rng(0)
    lines = [
        f"{zip},{word},{x:.2f}"
        for zip, word, x in zip(
            r.choice(["00501", "94110", "02134"], 80),
            r.choice(["None", "Some", "some"], 80),
            r.normal(size=80),
            strict=True,
        )
    ]
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["A title", "zip,alcohol,x", *lines, "94110,Some,1e9"]) + "\n")
    with warnings.catch_warnings(record=True) as ours:
        warnings.simplefilter("always")
        table = data.Table(path)
        told = table.told()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli("fit", "--data.path", path, "--trainer.max_epochs", 1)
    shown = capsys.readouterr()
    for name in ("zip", "alcohol", "x"):
        assert told[name] in shown.out
    messages = {str(warning.message) for warning in ours}
    assert len(messages) == 5
    assert all(f"vaekit: warning: {message}\n" in shown.err for message in messages)


def test_options_of_text_files_reach_the_table(tmp_path: Path, cli: Callable[..., Path]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\n".join(f"{at % 7};{at / 8};{'-u'[at % 2]}" for at in range(90)))
    told = data.Table(path, header=False, sep=";", na="-", kinds={"column3": "category"}).told()
    assert told["column1"] == "count from 0 to 6"
    assert told["missing"] == "16.2% of the elements"
    folder = cli(
        *("fit", "--data.path", path, "--data.header", "false", "--data.sep", ";"),
        *("--data.na", "-", "--trainer.max_epochs", 1),
    )
    assert folder


def test_new_files_are_read_with_the_words_of_the_model(tmp_path: Path) -> None:
    """By their own frequencies, None would be a value in one file and missing in the other."""
    words = ["None", "Some", "Much"] * 40
    frame = pd.DataFrame({"alcohol": words, "sex": ["f", "m", "f"] * 40, "n": range(120)})
    frame.loc[:2, "sex"] = "NA"
    frame.to_csv(tmp_path / "train.csv", index=False)
    table = data.Table(tmp_path / "train.csv", val=0, test=0)
    assert table.told()["alcohol"] == "category: Much, None, Some"
    assert table.told()["sex"] == "binary: f, m"
    rare = pd.DataFrame(
        {"alcohol": ["Some"] * 99 + ["None"], "sex": ["f"] * 100, "n": ["NA"] * 100}
    )
    rare.loc[:20, "sex"] = "NA"
    rare.to_csv(tmp_path / "new.csv", index=False)
    new = data.Table(tmp_path / "new.csv", val=0, test=0).follow(table.info.schema)
    batch = next(new.rows("train"))
    back = new.frame(batch.x, mask=batch.mask)
    assert back["alcohol"].tolist() == rare["alcohol"].tolist()
    assert back["sex"].isna().sum() == 21
    assert back["n"].isna().all()


def test_new_files_are_read_in_the_format_of_the_model_s(tmp_path: Path) -> None:
    lines = [f"{at % 7 - 3};{-999 if at % 9 == 0 else at / 8}" for at in range(90)]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines))
    table = data.Table(path, header=False, sep=";", na=["-999"], val=0, test=0)
    assert table.info.schema["text"] == {"sep": ";", "header": False, "na": ["-999"]}
    new = data.Table(path, val=0, test=0).follow(table.info.schema)
    one, other = next(new.rows("train")), next(table.rows("train"))
    assert new.told()["missing"] == table.told()["missing"]
    assert (one.x == other.x).all()
