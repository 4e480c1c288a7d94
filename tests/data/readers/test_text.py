"""Text files of tables: rows, headers, missing values and types as the user meant them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vaekit.data.readers.frames import frame_of, read_frame
from vaekit.data.readers.text import TextFormat

PEOPLE = ["18,170.5,cook", "25,160.0,nurse", "40,181.5,smith", "33,165.0,cook"]


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(path: Path, **text: Any) -> list[list[Any]]:
    frame = read_frame(path, TextFormat(**text))
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


# Rows


def test_an_empty_value_at_the_end_of_each_row_does_not_shift_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "trail.csv", ["age,height,job", *(f"{row}," for row in PEOPLE)])
    frame = read_frame(path)
    assert frame["age"].tolist() == [18, 25, 40, 33]
    assert frame["job"].tolist() == ["cook", "nurse", "smith", "cook"]
    assert isinstance(frame.index, pd.RangeIndex)


def test_an_empty_value_at_the_end_of_some_rows_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["age,height,job", PEOPLE[0], f"{PEOPLE[1]},", PEOPLE[2]])
    assert read_frame(path)["age"].tolist() == [18, 25, 40]


@pytest.mark.parametrize("more", [",7", ",7,8", ",,8"])
@pytest.mark.parametrize("first", [0, 2], ids=["each row", "a later row"])
def test_a_row_with_more_values_than_columns_is_refused(
    tmp_path: Path, more: str, first: int
) -> None:
    lines = [row + (more if at >= first else "") for at, row in enumerate(PEOPLE)]
    path = write(tmp_path / "more.csv", ["age,height,job", *lines])
    words = rf"Expected 3 values .* \(age, height, job\), but line {first + 2} has "
    with pytest.raises(ValueError, match=words + str(3 + more.count(","))):
        read_frame(path)


def test_the_line_of_a_long_row_counts_the_lines_of_a_quoted_value(tmp_path: Path) -> None:
    lines = ["a,b", '1,"two', 'lines"', "2,x", "3,y,z"]
    with pytest.raises(ValueError, match="line 5 has 3"):
        read_frame(write(tmp_path / "quoted.csv", lines))


def test_a_short_row_has_missing_values(tmp_path: Path) -> None:
    path = write(tmp_path / "short.csv", ["a,b,c", "1,2,x", "3"])
    assert rows(path) == [[1, 2, "x"], [3, None, None]]


def test_no_column_becomes_the_index(tmp_path: Path) -> None:
    """pandas takes the first column as the index if the rows are longer than the header."""
    frame = read_frame(write(tmp_path / "r.csv", [",a", "x,1", "y,2"]))
    assert list(frame) == ["Unnamed: 0", "a"]
    assert isinstance(frame.index, pd.RangeIndex)


# Lines above the header


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_a_line_that_names_the_separator_is_obeyed(tmp_path: Path, first: str) -> None:
    path = write(tmp_path / "excel.csv", [first, "age;kind", "18;u", "19;v"])
    with pytest.warns(UserWarning, match="Skipped line 1, which names the separator ';',"):
        assert rows(path) == [[18, "u"], [19, "v"]]


@pytest.mark.parametrize(
    ("above", "told"),
    [
        (["Table 1: people", ""], r"line 1 \(Table 1: people\)"),
        (["Table 1: people,,", ",,"], r"line 1 \(Table 1: people\)"),
        (["# exported on 2024-05-01"], r"line 1 \(# exported on 2024-05-01\)"),
        (["# a, b and c", "# d"], r"line 1 \(# a,b and c\) and line 2 \(# d\)"),
        (["People", "of 2024", ""], r"line 1 \(People\) and line 2 \(of 2024\)"),
    ],
)
def test_lines_above_the_header_are_skipped_and_told(
    tmp_path: Path, above: list[str], told: str
) -> None:
    path = write(tmp_path / "title.csv", [*above, "age,height,job", *PEOPLE])
    with pytest.warns(UserWarning, match=f"Skipped {told} above the header of title.csv"):
        frame = read_frame(path)
    assert list(frame) == ["age", "height", "job"]
    assert frame["age"].tolist() == [18, 25, 40, 33]


@pytest.mark.parametrize(
    "lines",
    [
        ["#age,height,job", *PEOPLE],  # a header that begins with #
        ["age,,job", *PEOPLE],
        [",height,job", *PEOPLE],
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_header_is_no_title(tmp_path: Path, lines: list[str]) -> None:
    frame = read_frame(write(tmp_path / "header.csv", lines))
    assert len(frame) == 4
    assert frame.iloc[:, 0].tolist() == [18, 25, 40, 33]
    assert frame.columns[-1] == "job"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_rows_after_a_name_of_two_lines_and_empty_lines_are_all_read(
    tmp_path: Path, newline: str
) -> None:
    path = tmp_path / "lines.csv"
    text = newline.join(['"A', 'title"', "", "", 'a,"b', 'c"', "", '1,"x', 'y"', "2,z", ""])
    path.write_bytes(("\ufeff" + text).encode())
    with pytest.warns(UserWarning, match="Skipped line 2"):
        frame = read_frame(path)
    assert frame.iloc[:, 0].tolist() == [1, 2]
    assert frame.columns[0] == "a"


def test_a_byte_order_mark_is_no_part_of_the_first_value(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    path.write_bytes("\ufeff1,x\n2,y\n".encode())
    assert rows(path, header=False) == [[1, "x"], [2, "y"]]


def test_one_column_has_no_title(tmp_path: Path) -> None:
    assert read_frame(write(tmp_path / "one.csv", ["x", "1", "2"]))["x"].tolist() == [1, 2]
    assert read_frame(write(tmp_path / "one.csv", ["x,", "1,", "2,"]))["x"].tolist() == [1, 2]


@pytest.mark.parametrize("header", ["4.5,3.3,c", "-1,2,3", "a,b,a"])
def test_names_that_look_like_values_give_a_warning(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "nohead.csv", [header, "1.5,2.5,b", "3.5,4.5,c"])
    with pytest.warns(UserWarning, match="names of the columns, .*--data.header false"):
        assert len(read_frame(path)) == 2
    frame = read_frame(path, TextFormat(header=False))
    assert (len(frame), list(frame)) == (3, ["column1", "column2", "column3"])


@pytest.mark.parametrize("header", ["name,1990,1991,1992", "0,1,2,3", "1,2,3,4", "a,b,c,50"])
@pytest.mark.filterwarnings("error")
def test_years_and_positions_are_names(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "wide.csv", [header, "5,6,7,8", "6,7,8,9"])
    assert list(read_frame(path)) == header.split(",")


def test_names_that_repeat_stay_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["a,a,a.1,a", "1,2,3,4"])
    with pytest.warns(UserWarning, match="repeat"):
        assert list(read_frame(path)) == ["a", "a.2", "a.1", "a.3"]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["x,", "1,a", "2,b"], ["x", "Unnamed: 1"]),
        (["id,,,", "1,a,b,c", "2,d,e,f"], ["id", "Unnamed: 1", "Unnamed: 2", "Unnamed: 3"]),
        (["name,,", "u,v,w", "a,b,c"], ["name", "Unnamed: 1", "Unnamed: 2"]),
        (["#id,type", "a,u", "b,v"], ["id", "type"]),
        (["#,name,hp", "1,a,7", "2,b,8"], ["#", "name", "hp"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_header_with_few_names_is_no_title(
    tmp_path: Path, lines: list[str], names: list[str]
) -> None:
    frame = read_frame(write(tmp_path / "few.csv", lines))
    assert list(frame) == names
    assert len(frame) == len(lines) - 1


@pytest.mark.parametrize("first", ["1,,,", "#a,1.5,2,3"])
def test_a_first_row_is_no_title_if_there_is_no_header(tmp_path: Path, first: str) -> None:
    path = write(tmp_path / "nohead.csv", [first, "2,3,4,5", "6,7,8,9"])
    assert len(read_frame(path, TextFormat(header=False))) == 3


# Separators


def test_spaces_behind_commas_are_no_part_of_names_and_values(tmp_path: Path) -> None:
    frame = read_frame(write(tmp_path / "x.csv", ["who, num, kind", "a, 1, u ", 'b, 2, "v, w"']))
    assert list(frame) == ["who", "num", "kind"]
    assert frame["kind"].tolist() == ["u", "v, w"]
    assert frame["num"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("suffix", "sep", "name", "words"),
    [
        (".csv", ";", ";", "Expected commas .* but there are semicolons: set --data.sep ';'"),
        (".csv", "\t", "tab", "Expected commas .* but there are tabs: set --data.sep tab"),
        (".csv", " ", "space", "Expected commas .* but there are spaces: set --data.sep space"),
        (".tsv", ",", ",", "Expected tabs .* but there are commas: set --data.sep ','"),
    ],
)
def test_another_separator_is_named(
    tmp_path: Path, suffix: str, sep: str, name: str, words: str
) -> None:
    lines = [sep.join(cells) for cells in (["a", "b"], ["1", "x"], ["2", "y"])]
    path = write(tmp_path / f"x{suffix}", lines)
    with pytest.raises(ValueError, match=words):
        read_frame(path)
    assert rows(path, sep=name) == [[1, "x"], [2, "y"]]


def test_decimal_commas_between_semicolons_are_not_taken_for_titles(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["price;value", "12,5;1,5", "13,25;2,5"])
    with pytest.raises(ValueError, match=r"set --data\.sep ';'"):
        read_frame(path)


def test_texts_of_equally_many_words_are_one_column(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.csv", ["my text", "hello you", "good day", "good bye"])
    assert rows(path) == [["hello you"], ["good day"], ["good bye"]]


@pytest.mark.parametrize("name", [",", "comma"])
def test_a_separator_that_is_named_is_taken(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.csv", ["a;b", "1;2", "3;4"])
    assert rows(path, sep=name) == [["1;2"], ["3;4"]]


# Missing values


def test_frequent_words_for_missing_values_are_values(tmp_path: Path) -> None:
    lines = ["alcohol,country", *(["None,NA", "Some,DE", "Much,ZA", "None,NA"] * 5)]
    path = write(tmp_path / "words.csv", lines)
    words = "Read as values, .*'None' in alcohol; 'NA' in country. --data.na None,NA reads"
    with pytest.warns(UserWarning, match=words):
        frame = read_frame(path)
    assert frame["alcohol"].value_counts()["None"] == 10
    assert frame["country"].value_counts()["NA"] == 10
    frame = read_frame(path, TextFormat(na="None,NA"))
    assert frame.isna().sum().tolist() == [10, 10]


def test_a_rare_word_for_a_missing_value_is_missing_and_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rare.csv", ["sex,x", *(["f,1", "m,2"] * 30), "NA,3", ",4"])
    with pytest.warns(UserWarning, match="Read as missing: 'NA' in sex. --data.na lists"):
        assert read_frame(path)["sex"].isna().sum() == 2
    assert read_frame(path, TextFormat(na=""))["sex"].value_counts()["NA"] == 1


def test_a_word_that_is_missing_among_numbers_is_missing_among_words(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", ["sex,age", *(["f,NA", "NA,20", "m,30"] * 5)])
    with pytest.warns(UserWarning, match="Read as missing: 'NA' in sex"):
        frame = read_frame(path)
    assert frame.isna().sum().tolist() == [5, 5]
    assert frame["age"].dropna().tolist() == [20, 30] * 5


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["TRUE", "FALSE", "NA"], "boolean"),
        (["2024-01-01", "2024-02-01", "NA"], "object"),
        (["$5.00", "$7.50", "None"], "object"),
    ],
)
def test_a_frequent_word_is_missing_among_truth_values_times_and_money(
    tmp_path: Path, words: list[str], kind: str
) -> None:
    frame = read_frame(write(tmp_path / "r.csv", ["a,b", *(f"{word},1" for word in words * 5)]))
    assert frame["a"].isna().sum() == 5
    assert str(frame["a"].dtype) == kind


def test_words_that_are_named_are_missing_in_addition_to_the_usual_ones_of_numbers(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "both.csv", ["a,b,c", "-999,NA,x", "3,2.5,?", "?,NaN,NA"])
    frame = read_frame(path, TextFormat(na="-999,?"))
    assert frame["a"].tolist()[1] == 3
    assert frame.isna().sum().tolist() == [2, 2, 1]
    assert frame["c"].tolist()[2] == "NA"


def test_a_number_may_mean_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "mark.csv", ["x,y,who", "-999,1.5,a", "3,-999.0,b", "4,2.5,-"])
    frame = read_frame(path, TextFormat(na=["-999", "-"]))
    assert frame.isna().to_numpy().tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert str(frame["x"].dtype) == "Int64"
    again = frame_of(pd.DataFrame({"x": [-999, 3], "y": ["-", "a"]}), TextFormat(na="-999,-"))
    assert again.isna().to_numpy().tolist() == [[True, True], [False, False]]


# Types


def test_zip_codes_keep_their_leading_zeros(tmp_path: Path) -> None:
    path = write(tmp_path / "zip.csv", ["zip,x,y", "00501,1,0.5", "94110,10,0.25", "02134,0,0"])
    with pytest.warns(UserWarning, match="Read as text, since they have leading zeros: zip"):
        frame = read_frame(path)
    assert frame["zip"].tolist() == ["00501", "94110", "02134"]
    assert frame["x"].tolist() == [1, 10, 0]


def test_whole_numbers_with_gaps_stay_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "gaps.csv", ["a,b,c", "1,47.0,True", ",,", f"{2**53 + 1},48.0,False"])
    frame = read_frame(path)
    assert frame.dtypes.astype(str).tolist() == ["Int64", "float64", "boolean"]
    assert frame["a"].dropna().tolist() == [1, 2**53 + 1]


def test_whole_numbers_beside_words_for_missing_values_are_exact(tmp_path: Path) -> None:
    path = write(
        tmp_path / "na.csv", ["a,b", f"{2**60 + 1},0.1", "NA,NA", "7,0.30000000000000004"]
    )
    frame = read_frame(path)
    assert frame["a"].dropna().tolist() == [2**60 + 1, 7]
    assert frame["b"].dropna().tolist() == [0.1, 0.30000000000000004]


@pytest.mark.parametrize("cells", [["1_1", "2_2"], ["\u0661\u0662", "\u0663"], ["0x1A", "0x2B"]])
def test_text_that_python_reads_as_a_number_is_text(tmp_path: Path, cells: list[str]) -> None:
    path = tmp_path / "plate.csv"
    path.write_text("\n".join(["plate,x", *(f"{cell},1" for cell in cells)]), encoding="utf-8")
    assert read_frame(path)["plate"].tolist() == cells


def test_numbers_of_64_bits_with_a_gap_are_exact(tmp_path: Path) -> None:
    lines = ["x,y", "NA,1", f"{2**64 - 1},2", "7,3"]
    column = read_frame(write(tmp_path / "x.csv", lines))["x"]
    assert str(column.dtype) == "UInt64"
    assert column.dropna().tolist() == [2**64 - 1, 7]


def test_a_column_of_a_large_file_has_one_type(tmp_path: Path) -> None:
    """pandas reads such a file in pieces, each with types of its own."""
    lines = [f"{at % 4 if at < 8280 else 'A1'},{',' * 60}{at % 3}" for at in range(8300)]
    header = ",".join(["code", *(f"q{at}" for at in range(61))])
    frame = read_frame(write(tmp_path / "pieces.csv", [header, *lines]))
    assert sorted(frame["code"].unique()) == ["0", "1", "2", "3", "A1"]


def test_numbers_and_texts_of_one_column_become_text() -> None:
    frame = frame_of(pd.DataFrame({"code": [0, 1, "0", None, "A1"]}))
    assert frame["code"].tolist() == ["0", "1", "0", None, "A1"]


def test_floats_are_read_to_the_last_bit(tmp_path: Path) -> None:
    r = np.random.default_rng(0)
    x = np.r_[r.normal(size=200), 10.0 ** r.uniform(-30, 30, 200)]
    frame = read_frame(write(tmp_path / "x.csv", ["x", *(repr(float(value)) for value in x)]))
    assert frame["x"].tolist() == x.tolist()


def test_columns_of_arrow_become_columns_of_pandas() -> None:
    plain = pd.DataFrame(
        {
            "when": pd.to_datetime(["2024-01-01", "2024-01-02", None]),
            "n": pd.array([1, 2, None], "Int64"),
            "x": [0.5, 1.5, 2.5],
            "word": ["a", "b", None],
            "group": pd.Categorical(["u", "v", "u"]),
        }
    )
    arrow = pd.DataFrame({n: pd.arrays.ArrowExtensionArray(_arrow(c)) for n, c in plain.items()})
    frame = frame_of(arrow)
    assert frame["when"].tolist()[:2] == plain["when"].tolist()[:2]
    kinds = frame.dtypes.astype(str).tolist()
    assert kinds == ["datetime64[ns]", "Int64", "float64", "object", "category"]
    assert frame["word"].tolist() == ["a", "b", None]


def _arrow(column: pd.Series) -> Any:
    import pyarrow as pa

    return pa.chunked_array([pa.Array.from_pandas(column)])


def test_arrow_times_of_far_years_and_days_are_read() -> None:
    import pyarrow as pa

    days = np.asarray(["1500-03-01", "2400-03-01"], dtype="datetime64[D]")
    for kind in (pa.timestamp("s"), pa.date32()):
        column = pd.Series(pd.arrays.ArrowExtensionArray(pa.array(days).cast(kind)), name="d")
        assert frame_of(column.to_frame())["d"].tolist() == [
            pd.Timestamp(str(day)) for day in days
        ]


def test_levels_of_rows_become_columns_and_levels_of_columns_are_joined() -> None:
    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["who", "year"])
    columns = pd.MultiIndex.from_tuples([("money", "in"), ("money", "out")])
    frame = frame_of(pd.DataFrame([[1, 2], [3, 4]], index, columns).reset_index(drop=True))
    assert list(frame) == ["money_in", "money_out"]
    frame = frame_of(pd.DataFrame({"x": [1, 2]}, index))
    assert frame.to_dict("list") == {"who": ["a", "b"], "year": [1, 2], "x": [1, 2]}


def test_whole_numbers_among_objects_are_whole() -> None:
    frame = frame_of(pd.DataFrame({"n": [1, None, 3], "x": [0.5, None, 2]}, dtype=object))
    assert frame.dtypes.astype(str).tolist() == ["Int64", "float64"]


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"column z but it holds complex numbers: give .* as two"):
        frame_of(pd.DataFrame({"z": [1 + 2j, 3 + 0j]}))
