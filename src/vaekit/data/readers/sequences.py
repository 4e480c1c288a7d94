"""Steps of sequences, one after the other, from files and from Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.columns.times import NAMES, OTHER_NAMES, SURE_NAMES, order_of
from vaekit.data.readers.frames import FRAMES, frame_of, read_frame
from vaekit.data.readers.text import TextFormat

if TYPE_CHECKING:
    from pandas import DataFrame, Series


@dataclass
class SequenceFrame:
    """The steps of N sequences, S in all, one sequence after the other.

    Arguments:
        values: A frame of S rows, with a column for each channel.
        lengths: How many steps each sequence has, (N,).
        form: The suffix of the files in which such data come.
        names: Names of the sequences, (N,); None where they have none.
        about: What else is known of each sequence, N rows; None for nothing.
        times: When each step was, (S,); None where it is not known.
        id: What the names are called.
        time: The column of the times; None if there is none.
    """

    values: DataFrame
    lengths: np.ndarray
    form: str
    names: np.ndarray | None = None
    about: DataFrame | None = None
    times: np.ndarray | None = None
    id: str = "id"
    time: str | None = None


def read_steps(
    source: Any,
    id: str | None = None,
    time: str | None = None,
    channels: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    finds_time: bool = False,
    text: TextFormat = TextFormat(),  # noqa: B008 - frozen
) -> SequenceFrame:
    """Reads sequences from a file, a frame in long form or a list of arrays.

    Arguments:
        id: Of a frame, the column that says of which sequence a step is; None for the first.
        time: Of a frame, the column by which steps are sorted; None for their order.
        channels: Of a frame, the columns of values; None for all others.
        columns: Of a frame or an `.npz` file, what says something of a sequence as a whole.
        finds_time: Whether a frame's column of times is found by its name and values if `time` is
            None.
        text: The format of a text file.

    Raises:
        ValueError: If it is of another kind or damaged, or lengths do not fit the values.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return _of_arrays(_read_npz(path), path, columns)
        if suffix not in FRAMES:
            raise ValueError(f"Expected a file of type .npz, {', '.join(FRAMES)} but got {path}.")
        frame, form = read_frame(path, text), suffix
    elif type(source).__name__ == "DataFrame":
        frame, form = frame_of(source, text), ".parquet"
    elif isinstance(source, list | tuple) and len(source):
        return _of_list(source)
    else:
        raise ValueError(
            "Expected a file, a DataFrame or a list of arrays, one for each sequence, but got "
            f"{type(source).__name__}."
        )
    frame = _without_index(frame) if id is None else frame
    first = str(frame.columns[0])
    if finds_time and time is None:
        if id is None:
            _refuse_times_as_names(frame)
        time = _time_of(frame, [id or first, *columns], channels)
    return _of_frame(frame, id or first, time, channels, columns, form)


# Arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of sequences but there is none at {path}.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        said = " ".join(str(error).split())
        if "pickle" in said:  # NumPy goes on to say how to load it all the same
            said = "it holds objects, or is of another kind"
        raise ValueError(
            f"Expected {path} to hold plain arrays, without pickled objects, but it could not be "
            f"read: {said}"
        ) from error


def _of_arrays(
    arrays: Mapping[str, np.ndarray], path: Path, columns: Sequence[str]
) -> SequenceFrame:
    """Sequences of padded arrays x, or of values one after the other."""
    import pandas as pd

    name = next((name for name in ("x", "values") if name in arrays), None)
    if name is None or "lengths" not in arrays:
        raise ValueError(
            f"Expected arrays x (N, T) or (N, C, T), or values (S,) or (S, C), and lengths (N,) "
            f"in {path} but it holds {', '.join(arrays) or 'none'}."
        )
    values = arrays[name]
    n = len(values) if name == "x" and values.ndim else None
    lengths = _lengths(arrays["lengths"], n)
    steps = _padded(values, lengths) if name == "x" else values
    if steps.ndim not in (1, 2) or len(steps) != lengths.sum():
        raise ValueError(
            f"Expected {name} of {lengths.sum():,} steps, as the lengths say, but got the shape "
            f"{values.shape}."
        )
    names = arrays["names"].astype(str) if "names" in arrays else None
    wanted = [*dict.fromkeys([*columns, *(c for c in ("label",) if c in arrays)])]
    about = {c: arrays[c] for c in wanted if c in arrays}
    for column, array in [*about.items(), ("names", lengths if names is None else names)]:
        if array.shape != lengths.shape:
            raise ValueError(
                f"Expected {column} of {len(lengths):,} sequences but got the shape {array.shape}."
            )
    return SequenceFrame(_as_frame(steps), lengths, ".npz", names, pd.DataFrame(about))


def _lengths(found: np.ndarray, n: int | None) -> np.ndarray:
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise ValueError(
            f"Expected lengths as whole numbers (N,) but got {found.dtype} of shape {found.shape}."
        )
    if n is not None and len(found) != n:
        raise ValueError(f"Expected {n:,} lengths, as many as rows of x, but got {len(found):,}.")
    if int(found.min()) < 1 or int(found.max()) >= 2**31:
        raise ValueError(f"Expected lengths of at least 1 step but got {int(found.min()):,}.")
    return found.astype(np.int64)


def _padded(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The steps (S,) or (S, C) of padded rows (N, T) or (N, C, T)."""
    if x.ndim not in (2, 3):
        raise ValueError(f"Expected x of shape (N, T) or (N, C, T) but got {x.shape}.")
    if int(lengths.max()) > x.shape[-1]:
        raise ValueError(
            f"Expected lengths of at most {x.shape[-1]:,}, the steps of x, but got "
            f"{int(lengths.max()):,}."
        )
    seen = np.arange(x.shape[-1]) < lengths[:, None]
    return (x if x.ndim == 2 else x.transpose(0, 2, 1))[seen]


def _of_list(source: Sequence[Any]) -> SequenceFrame:
    parts = [np.asarray(part) for part in source]
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1 or parts[0].ndim not in (1, 2) or not all(map(len, parts)):
        raise ValueError(
            "Expected sequences of shape (T,) or (T, C), each of at least one step and all of as "
            f"many channels, but got {', '.join(str(p.shape) for p in parts[:5])}."
        )
    lengths = np.asarray([len(part) for part in parts])
    return SequenceFrame(_as_frame(np.concatenate(parts)), lengths, ".parquet")


def _as_frame(steps: np.ndarray) -> DataFrame:
    import pandas as pd

    if steps.dtype.kind not in "biufUO":
        raise ValueError(f"Expected numbers or texts in sequences but got {steps.dtype}.")
    names = ["x"] if steps.ndim == 1 else [f"x{at}" for at in range(steps.shape[1])]
    names = ["x"] if len(names) == 1 else names
    native = steps.astype(steps.dtype.newbyteorder("="), copy=False)
    return pd.DataFrame(native.reshape(len(steps), len(names)), columns=names)


# Frames in long form


def _of_frame(
    frame: DataFrame,
    id: str,
    time: str | None,
    channels: Sequence[str] | None,
    columns: Sequence[str],
    form: str,
) -> SequenceFrame:
    """Sequences of a frame of a row for each step, in the order in which they first come."""
    own = [name for name in (id, time, *columns, *(channels or ())) if name is not None]
    if unknown := [name for name in own if name not in frame.columns]:
        hint = ": --data.time names another column, and none keeps the order of the file"
        raise ValueError(
            f"Expected columns {', '.join(own)} but there is no {', '.join(unknown)} among "
            f"{', '.join(frame.columns[:10])}{hint if time in unknown else ''}."
        )
    if channels is None:
        channels = [name for name in frame.columns if name not in own]
    if not channels:
        raise ValueError(f"Expected columns of values beside {', '.join(own)} but there are none.")
    for name in (id, *([time] if time else [])):
        if missing := int(frame[name].isna().sum()):
            raise ValueError(f"Expected {name} of each step but {missing:,} have none.")
    number, names = _numbered(frame[id])
    order = _order(number, None if time is None else order_of(frame[time]))
    frame, number = frame.iloc[order], number[order]
    lengths = np.bincount(number)
    first = np.concatenate([[0], lengths.cumsum()[:-1]])
    about = frame[list(columns)].iloc[first].reset_index(drop=True)
    for name in columns:
        _refuse_several(frame[name], number, name, names)
    times = None if time is None else frame[time].to_numpy()
    values = frame[list(channels)].reset_index(drop=True)
    return SequenceFrame(values, lengths, form, names, about, times, id, time)


def _without_index(frame: DataFrame) -> DataFrame:
    """Returns a frame without a first column that is an index, as pandas writes it."""
    first = str(frame.columns[0])
    is_index = first.startswith("Unnamed: ") and frame[first].is_unique
    return frame.drop(columns=first) if is_index and len(frame.columns) > 2 else frame


def _time_of(frame: DataFrame, used: Sequence[str], channels: Sequence[str] | None) -> str | None:
    """Finds the column of times: by its name, or since it counts within each sequence.

    Raises:
        ValueError: If several columns may be it, and sort time steps differently.
    """
    free = [n for n in frame.columns if n not in used and n not in (channels or ())]
    if len(free) < (2 if channels is None else 1) or used[0] not in frame.columns:
        return None
    number = _numbered(frame[used[0]])[0]
    differ = [name for name in free if not _repeats(frame[name], number)]
    usual = _called_times(frame, free, differ, number)
    usual = usual or [name for name in differ if name.lower() in OTHER_NAMES]
    counted = [name for name in differ if name not in usual and _counts(frame[name], number)]
    candidates = [*usual, *counted]
    if len(candidates) > 1:
        orders = [_order(number, order_of(frame[name])) for name in candidates]
        if not all(np.array_equal(order, orders[0]) for order in orders):
            raise ValueError(
                f"Expected one column of times but {' and '.join(candidates)} may be it: name it "
                "with --data.time, or set --data.time none to keep the order of the file."
            )
    if candidates and candidates[0] not in differ:
        warnings.warn(
            f"Sorted time steps by {candidates[0]}, though its values repeat within a sequence: "
            "steps of the same time keep the order of the file. --data.time names another "
            "column, and --data.time none keeps the order of the file.",
            stacklevel=2,
        )
    if not candidates:
        _refuse_parts_of_times(frame, free, number)
        return None
    if not usual and not _is_sorted(frame[candidates[0]], number):
        raise ValueError(
            f"Expected the column of times by its name but {candidates[0]} only counts within "
            f"each sequence, in another order than the file: set --data.time {candidates[0]} if "
            "it is the time, or --data.time none if it is a channel."
        )
    return candidates[0]


def _refuse_parts_of_times(frame: DataFrame, free: Sequence[str], number: np.ndarray) -> None:
    """Refuses columns such as year and month, which differ within a sequence only together."""
    parts = [name for name in free if name.lower() in OTHER_NAMES]
    if len(parts) > 1 and not _repeat_together(frame[parts], number):
        raise ValueError(
            f"Expected one column of times but only {' and '.join(parts)} together differ within "
            "a sequence: write them as one column of dates, such as 2024-03, or set --data.time "
            "none to keep the order of the file."
        )


def _called_times(
    frame: DataFrame, free: Sequence[str], differ: Sequence[str], number: np.ndarray
) -> list[str]:
    """Finds columns with the name of times, and warns of those that are channels all the same.

    Arguments:
        differ: The columns whose values do not repeat within a sequence.
    """
    columns = []
    for name in (name for name in free if name.lower() in NAMES):
        if name in differ or (name.lower() in SURE_NAMES and _varies(frame[name], number)):
            columns.append(name)
        else:
            warnings.warn(
                f"Read {name} as a channel, since its values repeat or are missing within a "
                f"sequence: --data.time {name} sorts time steps by it.",
                stacklevel=2,
            )
    return columns


def _varies(column: Series, number: np.ndarray) -> bool:
    """Whether a column has several values in a sequence, and no missing ones."""
    return bool(column.notna().all() and (column.groupby(number).nunique() > 1).any())


def _refuse_times_as_names(frame: DataFrame) -> None:
    """Refuses times as the names of sequences, unless another column has the name of times."""
    first, *others = frame.columns
    if first.lower() in NAMES and not {name.lower() for name in others} & {*NAMES, *OTHER_NAMES}:
        raise ValueError(
            f"Expected the names of the sequences in the first column but it is called {first}: "
            f"name their column with --data.id, which may be {first}."
        )


def _repeats(column: Series, number: np.ndarray) -> bool:
    """Whether a value occurs twice in a sequence, or is missing."""
    import pandas as pd

    if column.isna().any() or pd.api.types.infer_dtype(column) == "mixed":
        return True
    return bool(pd.DataFrame({"number": number, "value": column.to_numpy()}).duplicated().any())


def _repeat_together(columns: DataFrame, number: np.ndarray) -> bool:
    """Whether a row of values occurs twice in a sequence."""
    return bool(columns.assign(**{"": number}).duplicated().any())


def _is_sorted(column: Series, number: np.ndarray) -> bool:
    """Whether a column rises within each sequence."""
    return bool((column.groupby(number).diff().dropna() > 0).all())


def _counts(column: Series, number: np.ndarray) -> bool:
    """Whether a column holds consecutive whole numbers in each sequence, in some order."""
    from pandas.api.types import is_integer_dtype

    if not is_integer_dtype(column.dtype):
        return False
    steps = column.astype("int64").groupby(number).agg(["min", "max", "size"])
    is_dense = (steps["max"] - steps["min"] + 1 == steps["size"]).all()
    return bool(is_dense and (steps["size"] > 2).any())


def _numbered(ids: Series) -> tuple[np.ndarray, np.ndarray]:
    """Which sequence each step is of, in the order in which they come, and their names."""
    import pandas as pd

    number, names = pd.factorize(ids)
    return number, np.asarray([str(name) for name in names])


def _order(number: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    by_time = np.arange(len(number)) if times is None else times.argsort(kind="stable")
    return by_time[number[by_time].argsort(kind="stable")]


def _refuse_several(column: Series, number: np.ndarray, name: str, names: np.ndarray) -> None:
    """Refuses a column that says several things of one sequence."""
    several = column.astype(str).groupby(number).nunique()
    if (several > 1).any():
        raise ValueError(
            f"Expected one value of {name} for each sequence but {names[int(several.argmax())]} "
            "has several."
        )
