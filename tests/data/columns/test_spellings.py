"""Spellings of one category are one value; categories that only look alike stay apart."""

from __future__ import annotations

import pandas as pd
import pytest

from vaekit import data
from vaekit.data.columns.spellings import respelled, spellings_of


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["Yes", "Yes", "yes", "No", "No", " No"], ["Yes", "Yes", "Yes", "No", "No", "No"]),
        (["Yes", "yes", "Yes", "No", " No", "No", "N"], ["Yes"] * 3 + ["No"] * 4),
        (
            ["TRUE", "TRUE", "FALSE", "FALSE", "1", "0"],
            ["TRUE"] * 2 + ["FALSE"] * 2 + ["TRUE", "FALSE"],
        ),
        (["Male", "male", "male", "FEMALE", "female", "female"], ["male"] * 3 + ["female"] * 3),
        (["New York ", "New York", "New York"], ["New York"] * 3),
        (["n", "N", "no", "no"], ["no"] * 4),
        (["T", "true", "t", "TRUE", "true"], ["true"] * 5),
    ],
)
def test_spellings_become_the_most_frequent_one(words: list[str], values: list[str]) -> None:
    column = pd.Series(words)
    assert respelled(column, spellings_of(column)).tolist() == values


@pytest.mark.parametrize(
    "words",
    [
        ["AA", "Aa", "aa"],  # genotypes
        ["m", "M"],
        ["mRNA", "MRNA"],
        ["0", "1"],
        ["yes", "no", "maybe", "n"],
        [" left", "right "],
        [1, 2, "1"],
    ],
)
def test_categories_stay_apart(words: list[str]) -> None:
    column = pd.Series(words, dtype=object)
    assert spellings_of(column) == {}


def test_a_table_reads_spellings_as_one_and_tells_it() -> None:
    smokes = ["Yes", "yes", "No", " No", "No", None] * 20
    frame = pd.DataFrame({"smokes": smokes, "x": range(120)})
    words = "Read several spellings .*smokes: 'Yes', 'yes' are 'Yes'; smokes: 'No', ' No' are 'No'"
    table = data.Table(frame)
    with pytest.warns(UserWarning, match=words):
        table.setup()
    schema = table.info.schema
    assert table.told()["smokes"] == "binary: No, Yes"
    new = pd.DataFrame({"smokes": ["YES", "no", "Yes"] * 5, "x": range(15)})
    other = data.Table(new, val=0, test=0).follow(schema)
    batch = next(other.rows("train"))
    assert other.frame(batch.x)["smokes"].tolist() == ["Yes", "No", "Yes"] * 5


def test_spellings_of_a_label_are_one_class() -> None:
    frame = pd.DataFrame({"x": range(60), "kind": ["Oak", "oak ", "Elm"] * 20})
    table = data.Table(frame, label="kind")
    with pytest.warns(UserWarning, match="kind: 'Oak', 'oak ' are 'Oak'"):
        table.setup()
    assert table.info.classes == 2


def test_the_categories_of_pandas_and_chosen_columns_keep_their_spellings() -> None:
    group = pd.Categorical(
        ["low", "Low", "high"] * 20, ["low", "Low", "mid", "high"], ordered=True
    )
    frame = pd.DataFrame({"group": group, "gene": ["MYC", "Myc", "Sox2"] * 20, "x": range(60)})
    table = data.Table(frame, kinds={"gene": "category"}, val=0, test=0)
    assert table.told()["group"] == "category: low, Low, mid, high"
    assert table.told()["gene"] == "category: MYC, Myc, Sox2"
    back = table.frame(next(table.rows("train")).x)
    pd.testing.assert_frame_equal(back, frame)
