"""Labels: classes, or numbers of which there are too many to be classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vaekit import data
from vaekit.data.readers.frames import read_frame


def test_prices_are_a_label_of_a_table_and_are_written(tmp_path: Path) -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"x": r.normal(size=500), "price": r.gamma(2, 100, 500).round(2)})
    table = data.Table(frame, label="price")
    assert table.info.classes is None
    assert table.told()["labels"].startswith("numbers from ")
    batch = next(table.rows("val"))
    rows = table.numbers("val")
    assert batch.label.tolist() == frame["price"][rows.numpy()].tolist()
    (path,) = table.write(tmp_path, "out", batch.x, {"label": batch.label}, rows)
    np.testing.assert_allclose(read_frame(path)["price"], frame["price"][rows.numpy()], rtol=1e-6)
    new = data.Table(frame.drop(columns="price"), val=0, test=0).follow(table.info.schema)
    assert next(new.rows("train")).label.isnan().all()


def test_prices_are_a_label_of_arrays() -> None:
    r = np.random.default_rng(0)
    price = r.permutation(400) * 250 + 50_000
    arrays = data.Arrays(r.normal(size=(400, 3)), label=price)
    assert arrays.info.classes is None
    batch, rows = next(arrays.rows("val")), arrays.numbers("val").numpy()
    assert batch.label.tolist() == price[rows].astype("float32").tolist()
    few = data.Arrays(r.normal(size=(400, 3)), label=price % 7 + 10**6)
    assert few.info.classes == 7
