"""Sequences of different lengths: what they are read from, padding and masks, the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import fit
from vaekit import Model, testing
from vaekit.data.user.sequences import Sequences
from vaekit.evaluation.output import write_rows

ROWS = 40
LENGTHS = np.random.default_rng(0).integers(3, 9, ROWS)


def signals() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal([5, -1], [3, 0.1], (n, 2)) for n in LENGTHS]


def words() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.choice(["la", "do", "re"], n) for n in LENGTHS]


def tokens() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 5, n) for n in LENGTHS]


def long(parts: list[np.ndarray], shuffle: bool = False) -> pd.DataFrame:
    """The sequences in long form, with the steps of all of them in any order."""
    ids = np.repeat([f"s{i}" for i in range(ROWS)], LENGTHS)
    frame = pd.DataFrame(
        {"who": ids, "when": np.concatenate([np.arange(n) * 0.5 for n in LENGTHS])}
    )
    steps = np.concatenate(parts)
    columns = ["word"] if steps.ndim == 1 else ["speed", "heat"]
    frame[columns] = steps.reshape(len(steps), -1)
    frame["kind"] = np.where(np.repeat(np.arange(ROWS), LENGTHS) % 2, "odd", "even")
    frame["part"] = np.repeat(np.where(np.arange(ROWS) < 30, "train", "val"), LENGTHS)
    return frame.sample(frac=1, random_state=0) if shuffle else frame


LONG: dict[str, Any] = {"time": "when", "label": "kind"}


def padded(parts: list[np.ndarray]) -> np.ndarray:
    found = np.full((ROWS, 8, *parts[0].shape[1:]), parts[0][0])
    for row, part in enumerate(parts):
        found[row, : len(part)] = part
    return found if found.ndim == 2 else found.transpose(0, 2, 1)


def saved(folder: Path, form: str, parts: list[np.ndarray]) -> tuple[Any, dict[str, Any]]:
    """A source of each form, and the arguments it needs."""
    path = folder / f"steps{form.partition(' ')[0]}"
    frame = long(parts, shuffle=True).drop(columns="part")
    match form:
        case ".npz x":
            np.savez(path, x=padded(parts), lengths=LENGTHS)
        case ".npz values":
            np.savez(path, values=np.concatenate(parts), lengths=LENGTHS)
        case ".csv":
            frame.to_csv(path, index=False)
            return path, LONG
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
            return path, LONG
        case ".parquet":
            frame.to_parquet(path)
            return path, LONG
        case "list":
            return parts, {}
        case "DataFrame":
            return frame, LONG
    return path, {}


FORMS = [".npz x", ".npz values", ".csv", ".tsv", ".parquet", "list", "DataFrame"]
KINDS = {"signals": signals, "words": words, "tokens": tokens}


def whole(data: Sequences) -> list[np.ndarray]:
    """All sequences in the user's units, without what is hidden, by the names s0, s1, ..."""
    found: dict[Any, np.ndarray] = {}
    for split in data.splits:
        for batch, at in zip(data.rows(split, batch_size=1), data.numbers(split), strict=True):
            row = data.restored(batch.x)[0]
            values = row[batch.mask[0]] if row.dim() == 1 else row.T[batch.mask[0].T.all(1)]
            name = at.item() if data.names is None else int(data.names[at][1:])
            found[name] = values.numpy()
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_sequences(tmp_path: Path, form: str, kind: str) -> None:
    parts = KINDS[kind]()
    source, known = saved(tmp_path, form, parts)
    data = Sequences(source, **known)
    info = data.info
    assert info.event_shape == ((2, 8) if kind == "signals" else (8,))
    assert info.levels == {"signals": None, "words": 3, "tokens": 5}[kind]
    if kind == "words":
        parts = [np.searchsorted(["do", "la", "re"], part) for part in parts]
    for got, expected in zip(whole(data), parts, strict=True):
        assert np.allclose(got, expected, atol=1e-5)
    assert data.draws_rows == (kind != "signals")
    assert info.classes == (2 if known else None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [".npz values", ".csv"])
def test_it_obeys_the_laws(tmp_path: Path, form: str, kind: str) -> None:
    source, known = saved(tmp_path, form, KINDS[kind]())
    testing.check_data(Sequences, {"path": str(source), **known})
    testing.check_data(Sequences, {"path": str(source), "missing": 0.2, **known})


def test_signals_are_standardised_by_the_training_steps() -> None:
    data = Sequences(signals())
    train = next(data.rows("train"))
    seen = train.x.float().transpose(1, 2)[train.mask.transpose(1, 2)].view(-1, 2)
    assert torch.allclose(seen.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(seen.std(0, correction=0), torch.ones(2), atol=1e-5)
    assert (train.x[~train.mask] == 0).all()
    own = np.concatenate([signals()[i] for i in data.numbers("train")])
    assert np.allclose(data.schema["mean"], own.mean(0))
    assert np.allclose(data.schema["std"], own.std(0))
    plain = Sequences(signals(), standardize=False)
    assert plain.schema is None
    assert plain.info.data_range == (-float("inf"), float("inf"))
    first = next(plain.rows("train")).x[0, :, 0].numpy()
    assert np.allclose(first, signals()[int(plain.numbers("train")[0])][0], atol=1e-5)


def test_what_is_not_standardised_has_its_natural_range() -> None:
    data = Sequences([np.random.rand(n) for n in LENGTHS], standardize=False)
    assert data.info.data_range == (0, 1)
    assert data.info.event_shape == (1, 8)
    assert Sequences([]).follow(data.info.schema).natural_range() == (0, 1)


def test_missing_steps_are_hidden() -> None:
    parts = signals()
    parts[3][1, 0] = np.nan
    data = Sequences(parts, val=0, test=0)
    batch = next(data.rows("train"))
    assert not batch.mask[3, 0, 1]
    assert batch.mask[3, 1, 1]
    assert np.allclose(data.schema["mean"][0], np.nanmean(np.concatenate(parts)[:, 0]))
    frame = long(words())
    frame.loc[2, "word"] = None
    data = Sequences(frame, channels=["word"], val=0, test=0)
    assert next(data.rows("train")).mask[0].tolist() == [
        True,
        True,
        False,
        *[True] * (LENGTHS[0] - 3),
        *[False] * (8 - LENGTHS[0]),
    ]
    assert data.info.levels == 3


def test_whole_numbers_may_be_signals_and_stand_for_themselves_as_tokens() -> None:
    data = Sequences(tokens(), tokens=False)
    assert data.info.event_shape == (1, 8)
    assert data.info.levels is None
    gap = [np.asarray([0, 3, 3]), np.asarray([3, 0])] * 10
    assert Sequences(gap).info.levels == 4
    far = Sequences([np.asarray([-7, 10**6, 5])] * 10)
    assert far.info.schema["vocabulary"] == [-7, 5, 10**6]
    assert far.restored(torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [[-7, 10**6, 5]]
    missing = pd.DataFrame({"id": [0, 0, 1, 1] * 5, "x": [0.0, np.nan, 2.0, 1.0] * 5})
    assert Sequences(missing, tokens=True, val=0, test=0).info.levels == 3


def test_longer_ones_are_cut_with_a_warning() -> None:
    data = Sequences(tokens(), max_length=5)
    count = int((LENGTHS > 5).sum())
    with pytest.warns(UserWarning, match=f"{count} of 40 sequences are longer than 5 steps"):
        data.setup()
    assert data.info.event_shape == (5,)
    for got, expected in zip(whole(data), tokens(), strict=True):
        assert np.array_equal(got, expected[:5])


def test_splits_and_groups_are_those_of_a_column() -> None:
    data = Sequences(long(words()), channels=["word"], split="part")
    assert data.numbers("val").tolist() == list(range(30, 40))
    data = Sequences(long(words()), channels=["word"], group="kind", val=0.5, test=0)
    assert {len(set((data.numbers(s) % 2).tolist())) for s in data.splits} == {1}
    with pytest.raises(ValueError, match="split or group but got both"):
        Sequences(long(words()), channels=["word"], split="part", group="kind").info  # noqa: B018


def test_labels_and_names_of_an_npz_are_found(tmp_path: Path) -> None:
    names = np.asarray([f"n{i}" for i in range(ROWS)])
    label = np.asarray(["a", "b"] * 20)
    np.savez(tmp_path / "x.npz", x=padded(tokens()), lengths=LENGTHS, names=names, label=label)
    data = Sequences(tmp_path / "x.npz", val=0, test=0)
    assert data.info.classes == 2
    assert data.names.tolist() == names.tolist()
    assert next(data.rows("train", 3)).label.tolist() == [0, 1, 0]


# New data of a model


def following(kind: str, source: Any, **known: Any) -> Sequences:
    model = Sequences(long(KINDS[kind]()).drop(columns="part"), **LONG)
    return Sequences(source, **{**LONG, **known}).follow(model.info.as_dict()["schema"])


def _named(data: Sequences, split: str) -> list[tuple[str, torch.Tensor]]:
    x = next(data.rows(split)).x
    return list(zip(data.names[data.numbers(split).numpy()], x, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_moments_vocabulary_and_length_are_the_model_s(kind: str) -> None:
    own = Sequences(long(KINDS[kind]()).drop(columns="part"), **LONG)
    some = long(KINDS[kind]())
    some = some[some["who"].isin([f"s{i}" for i in range(12)])].assign(further=1.0)
    new = following(kind, some[some.columns[::-1]], id="who", val=0, test=0)
    assert new.info.event_shape == own.info.event_shape
    assert new.info.levels == own.info.levels
    batch = next(new.rows("train"))
    rows = {
        int(number): x
        for split in own.splits
        for number, x in zip(own.numbers(split), next(own.rows(split)).x, strict=True)
    }
    order = [int(name[1:]) for name in new.names]
    assert torch.equal(batch.x, torch.stack([rows[at] for at in order]))
    unsorted = following(kind, some[some.columns[::-1]].iloc[::-1], id="who", time=None)
    assert unsorted.info.event_shape == own.info.event_shape
    mixed = {name: x for s in unsorted.splits for name, x in _named(unsorted, s)}
    assert all(torch.equal(mixed[name], rows[int(name[1:])]) for name in new.names)
    longer = some[some["who"].isin(["s0", "s1", "s2"])].assign(who="one", kind="odd")
    with pytest.warns(UserWarning, match="1 of 1 sequences are longer than 8"):
        assert following(kind, longer, val=0, test=0).info.event_shape[-1] == 8


def test_what_the_model_does_not_know_is_an_error() -> None:
    frame = long(words()).assign(word="si")
    with pytest.raises(ValueError, match="tokens that the model knows but got si"):
        following("words", frame).info  # noqa: B018
    with pytest.raises(ValueError, match="but there is no speed"):
        following("signals", long(words()), label=None).info  # noqa: B018
    with pytest.raises(ValueError, match="its data were of another kind"):
        Sequences(tokens()).follow({"columns": {}}).info  # noqa: B018


# What is refused

BROKEN: dict[str, dict[str, Any]] = {
    "it holds objects": {"x": np.asarray([[1, None]], dtype=object), "lengths": [1]},
    "lengths of at most 3, the steps of x, but got 4": {"x": np.ones((1, 3)), "lengths": [4]},
    "2 lengths, as many as rows of x, but got 1": {"x": np.ones((2, 3)), "lengths": [3]},
    "lengths of at least 1 step but got -1": {"x": np.ones((2, 3)), "lengths": [-1, 3]},
    "lengths as whole numbers": {"x": np.ones((1, 3)), "lengths": [1.5]},
    "values of 5 steps": {"values": np.ones(4), "lengths": [2, 3]},
    r"x of shape \(N, T\)": {"x": np.ones((1, 1, 1, 3)), "lengths": [3]},
    "and lengths": {"x": np.ones((1, 3))},
    "label of 1 sequences": {"x": np.ones((1, 3)), "lengths": [3], "label": [1, 2]},
    "names of 1 sequences": {"x": np.ones((1, 3)), "lengths": [3], "names": ["a", "b"]},
    "x holds an infinite one": {"x": np.full((3, 3), np.inf), "lengths": [3, 3, 3]},
    "at least two different tokens": {"x": np.ones((3, 3), int), "lengths": [3, 3, 3]},
    "numbers or texts in sequences but got complex128": {
        "x": np.ones((3, 3), complex),
        "lengths": [3, 3, 3],
    },
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_npz_is_refused(tmp_path: Path, said: str) -> None:
    np.savez(tmp_path / "x.npz", **BROKEN[said])
    with pytest.raises(ValueError, match=said):
        Sequences(tmp_path / "x.npz", val=0, test=0).info  # noqa: B018


def test_a_broken_frame_is_refused(tmp_path: Path) -> None:
    frame = long(signals())

    def told(match: str, source: Any, **known: Any) -> None:
        with pytest.raises(ValueError, match=match):
            Sequences(source, **known).info  # noqa: B018

    told("one channel of tokens, but got when of float64", frame)
    told("there is no speeds among who, when", frame, channels=["speeds"])
    told(
        "one value of heat for each sequence but s0 has several",
        frame,
        label="heat",
        channels=["speed"],
    )
    told("who of each step but 1 have none", frame.assign(who=[None, *frame["who"][1:]]))
    told(
        "when of each step but 1 have none",
        frame.assign(when=[None, *frame["when"][1:]]),
        time="when",
    )
    told("columns of values beside who", frame[["who"]])
    told("Expected tokens in speed but it holds", frame, channels=["speed"], tokens=True)
    told("a file of type .npz", "x.json")
    told("but got dict", {})
    told("of as many channels", [np.ones((3, 2)), np.ones(3)])
    told("max_length of at least 1", frame, max_length=0)
    (tmp_path / "x.parquet").write_bytes(b"no file")
    told("x.parquet could not be read: [^\n]*$", tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("")
    told("x.csv could not be read", tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match="none"):
        Sequences(tmp_path / "none.csv").info  # noqa: B018


# The way back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [".csv", ".parquet"])
def test_it_trains_and_is_written_in_long_form(tmp_path: Path, form: str, kind: str) -> None:
    source, known = saved(tmp_path, form, KINDS[kind]())
    data = Sequences(source, **known)
    encoder = {"class_path": "GRUEncoder", "init_args": {"width": 8, "tokens": kind != "signals"}}
    likelihood = "Gaussian" if kind == "signals" else "Categorical"
    model = Model(data, 2, encoder=encoder, decoder="MLPDecoder", likelihood=likelihood)
    assert fit(model, data, max_epochs=1).callback_metrics["val/elbo"].isfinite()
    rows = data.numbers("test")
    batch = next(data.rows("test"))
    write_rows(
        data, tmp_path, "back", batch.x, {"label": batch.label, "z": torch.rand(4, 2)}, rows
    )
    read = pd.read_csv if form == ".csv" else pd.read_parquet
    found = read(tmp_path / f"back{form}")
    names = data.names[rows.numpy()]
    own = long(KINDS[kind]()).drop(columns=["kind", "part"]).set_index("who").loc[names]
    assert found.columns.tolist() == ["who", "when", *own.columns[1:]]
    assert found["who"].tolist() == own.index.tolist()
    for column, values in own.items():
        same = (
            np.allclose(found[column], values, atol=1e-5)
            if values.dtype.kind == "f"
            else (found[column].tolist() == values.tolist())
        )
        assert same, column
    about = read(tmp_path / f"back_rows{form}")
    assert about.columns.tolist() == ["who", "kind", "z_0", "z_1"]
    assert about["kind"].tolist() == ["odd" if int(name[1:]) % 2 else "even" for name in names]
    samples = model.sample(3, sample=data.draws_rows)
    write_rows(data, tmp_path, "samples", samples, {})
    drawn = read(tmp_path / f"samples{form}")
    assert drawn["who"].tolist() == np.repeat(["sample0", "sample1", "sample2"], 8).tolist()
    assert drawn["when"].tolist() == [*range(8)] * 3
    again = following(kind, drawn, label=None, val=0, test=0)
    assert again.info.event_shape == data.info.event_shape


def test_codes_are_a_row_for_each_sequence(tmp_path: Path) -> None:
    data = Sequences("nowhere.npz").follow(Sequences(tokens()).info.schema)
    (path,) = data.write(tmp_path, "codes", None, {"z": torch.ones(3, 2)}, torch.arange(3))
    found = pd.read_parquet(path)
    assert found.columns.tolist() == ["id", "z_0", "z_1"]
    assert found["id"].tolist() == [0, 1, 2]
