"""Counts: what they are read from, what becomes of cells and genes, and the way back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from conftest import fit
from vaekit import Model, testing
from vaekit.data.readers.cells import _unique
from vaekit.data.rows.sparse import Sparse, compressed
from vaekit.data.user.counts import Counts
from vaekit.evaluation.output import write_rows

GENES = ["CD4", "CD8", "MS4A1", "NKG7", "LYZ"]
ROWS = 60


def matrix(rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = rng.poisson(rng.gamma(0.5, 4.0, (rows, len(GENES))))
    found[:, 0] += 1  # no row is without any
    return found


def cells() -> anndata.AnnData:
    rng = np.random.default_rng(1)
    x = matrix()
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(ROWS)])
    obs["batch"] = pd.Categorical(rng.choice(["b", "a"], ROWS), categories=["b", "a", "unused"])
    obs["age"] = rng.integers(20, 80, ROWS)
    obs["score"] = rng.normal(size=ROWS)
    obs["fresh"] = rng.random(ROWS) < 0.5
    obs["type"] = pd.Categorical(rng.choice(["T", "B"], ROWS))
    obs["donor"] = [f"d{i // 10}" for i in range(ROWS)]
    obs["part"] = ["train"] * 40 + ["validation"] * 10 + ["test"] * 10
    var = pd.DataFrame(index=GENES)
    layers = {"counts": sparse.csr_matrix(x), "wide": x.astype(float)}
    return anndata.AnnData(np.log1p(x), obs=obs, var=var, layers=layers)


COVARIATES = ["batch", "age", "score", "fresh"]
ALL: dict[str, Any] = {"layer": "counts", "covariates": COVARIATES, "label": "type"}


def saved(folder: Path, form: str) -> tuple[Any, dict[str, Any]]:
    """A source of each form, and the arguments it needs."""
    x, path = matrix(), folder / f"cells{form.partition(' ')[0]}"
    frame = pd.DataFrame(x, index=cells().obs_names, columns=GENES)
    match form:
        case ".h5ad":
            cells().write_h5ad(path)
            return path, {"layer": "counts"}
        case ".h5ad dense":
            cells().write_h5ad(path)
            return path, {"layer": "wide"}
        case ".h5ad csc":
            anndata.AnnData(sparse.csc_matrix(x), var=cells().var).write_h5ad(path)
        case ".npz":
            sparse.save_npz(path, sparse.csr_matrix(x.astype(float)))
        case ".npz csc":
            sparse.save_npz(path, sparse.csc_array(x))
        case ".csv":
            frame.to_csv(path)
        case ".tsv":
            frame.rename_axis("cell").to_csv(path, sep="\t")
        case ".parquet":
            frame.to_parquet(path)
        case "AnnData":
            return cells(), {"layer": "counts"}
        case "coo":
            return sparse.coo_matrix(x), {}
        case "DataFrame":
            return frame, {}
    return path, {}


FORMS = [".h5ad", ".h5ad dense", ".h5ad csc", ".npz", ".npz csc", ".csv", ".tsv", ".parquet"]
FORMS += ["AnnData", "coo", "DataFrame"]


def whole(data: Counts) -> tuple[np.ndarray, Any]:
    """All rows and their contexts, in the order of the data."""
    batches = [b for split in data.splits for b in data.rows(split)]
    order = torch.cat([data.numbers(split) for split in data.splits]).argsort()
    x, context = (torch.cat([getattr(b, n) for b in batches])[order] for n in ("x", "context"))
    return x.numpy(), context


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_counts(tmp_path: Path, form: str) -> None:
    source, known = saved(tmp_path, form)
    data = Counts(source, **known)
    x, context = whole(data)
    assert np.array_equal(x, matrix())
    assert x.dtype == np.float32
    assert np.allclose(context[:, 0], np.log(matrix().sum(1)))
    assert data._splits["train"].x.csr.dtype == np.uint8
    assert data.info.data_range == (0, float("inf"))
    if form not in (".npz", ".npz csc", "coo"):
        assert data.schema["genes"] == GENES
    if form not in (".npz", ".npz csc", "coo", ".h5ad csc"):
        assert data.names.tolist() == [f"cell{i}" for i in range(ROWS)]
        assert data.names.dtype.kind == "U"  # others would be pickled


@pytest.mark.parametrize("form", [".h5ad", ".npz", ".csv"])
def test_it_obeys_the_laws(tmp_path: Path, form: str) -> None:
    source, known = saved(tmp_path, form)
    known |= {"covariates": COVARIATES, "label": "type"} if form == ".h5ad" else {}
    testing.check_data(Counts, {"path": str(source), **known})
    testing.check_data(Counts, {"path": str(source), "missing": 0.2, **known})


def test_rows_are_cut_in_the_order_that_is_asked_for() -> None:
    rows = Sparse(sparse.csr_array(matrix().astype(np.uint16)))
    at = torch.tensor([5, 0, 5, 59])
    assert np.array_equal(rows[at].numpy(), matrix()[at])
    assert np.array_equal(rows[3:7].numpy(), matrix()[3:7])
    assert rows[torch.tensor([], dtype=torch.long)].shape == (0, 5)


@pytest.mark.parametrize(
    ("largest", "kind"), [(255, np.uint8), (256, np.uint16), (2**16, np.uint32)]
)
def test_counts_lie_in_the_smallest_type_that_holds_them(largest: int, kind: type) -> None:
    rows = Counts(sparse.csr_matrix(np.asarray([[largest, 1], [1, 0]] * 20)))
    assert rows.info.event_shape == (2,)
    assert rows._splits["train"].x.csr.dtype == kind
    assert float(next(rows.rows("train", 1)).x.max()) in (largest, 1)


# What is said of the cells


def test_covariates_and_labels_are_as_the_frame_says() -> None:
    data = Counts(cells(), **ALL)
    obs = cells().obs
    _, context = whole(data)
    assert context.shape == (ROWS, 1 + 3 + 1 + 1 + 2)
    assert np.array_equal(context[:, 1:4].argmax(1), obs["batch"].cat.codes)
    train = data.numbers("train").numpy()
    for place, name in ((4, "age"), (5, "score")):
        column = obs[name].to_numpy(float)
        expected = (column - column[train].mean()) / column[train].std()
        assert np.allclose(context[:, place], expected, atol=1e-5)
    assert np.array_equal(context[:, 7].bool(), obs["fresh"])
    assert data.info.classes == 2
    batch = next(data.rows("train", 5))
    assert np.array_equal(batch.label, (obs["type"] == "T").to_numpy(int)[train[:5]])


def test_splits_and_groups_are_those_of_a_column() -> None:
    data = Counts(cells(), layer="counts", split="part")
    assert {name: data.numbers(name).tolist() for name in data.splits} == {
        "train": list(range(40)),
        "val": list(range(40, 50)),
        "test": list(range(50, 60)),
    }
    data = Counts(cells(), layer="counts", group="donor", val=1 / 6, test=1 / 6)
    donors = [set((data.numbers(name) // 10).tolist()) for name in data.splits]
    assert [len(found) for found in donors] == [4, 1, 1]
    assert len(set.union(*donors)) == 6
    with pytest.raises(ValueError, match="split or group but got both"):
        Counts(cells(), layer="counts", split="part", group="donor").info  # noqa: B018


def test_columns_of_a_table_may_be_covariates() -> None:
    frame = pd.DataFrame(matrix(), columns=GENES).assign(site=["x", "y"] * 30)
    data = Counts(frame, covariates=["site"])
    assert data.info.event_shape == (5,)
    assert data.info.context_features == 3
    with pytest.raises(ValueError, match="site holds object: name it as covariate"):
        Counts(frame).info  # noqa: B018


def test_rows_without_counts_are_left_out_with_a_warning() -> None:
    x = matrix()
    x[[3, 7]] = 0
    data = Counts(sparse.csr_matrix(x))
    with pytest.warns(UserWarning, match="2 of 60 rows have no counts"):
        data.setup()
    numbers = torch.cat([data.numbers(split) for split in data.splits]).tolist()
    assert sorted(numbers) == [i for i in range(ROWS) if i not in (3, 7)]
    model = Counts(sparse.csr_matrix(matrix())).info.schema
    with pytest.warns(UserWarning, match="2 of 60 rows have no counts"):  # whatever is said now
        Counts(sparse.csr_matrix(x), library=False).follow(model).setup()
    kept = Counts(sparse.csr_matrix(x), library=False)
    assert kept.info.context_features == 0
    assert sum(len(kept.numbers(split)) for split in kept.splits) == ROWS
    with pytest.raises(ValueError, match="all 20 rows have none"):
        Counts(sparse.csr_matrix((20, 3))).info  # noqa: B018


# New data of a model


def following(source: Any, **known: Any) -> Counts:
    """New data, by the schema of a model of the cells."""
    model = Counts(cells(), **ALL)
    return Counts(source, **known).follow(model.info.as_dict()["schema"])


def test_genes_are_found_by_name_and_moments_and_categories_are_the_model_s() -> None:
    own = Counts(cells(), **ALL)
    some = cells()[:30, ["LYZ", "CD8", "CD4", "MS4A1", "NKG7"]].copy()
    wide = anndata.concat([some, some[:, ["CD4"]].copy()], axis=1, merge="first")
    wide.var_names = [*some.var_names, "further"]
    wide.obs["batch"] = wide.obs["batch"].astype(str)  # without categories of its own
    new = following(wide, layer="counts", val=0, test=0)
    assert new.info.event_shape == own.info.event_shape
    for got, expected in zip(whole(new), whole(own), strict=True):
        assert np.array_equal(got, expected[:30])


def test_what_the_model_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"5 genes .* lack 2 of them, such as CD4, CD8"):
        following(cells()[:, ["LYZ", "MS4A1", "NKG7"]].copy(), layer="counts").info  # noqa: B018
    other = cells()
    other.obs["batch"] = ["c"] * ROWS
    with pytest.raises(ValueError, match=r"batch of the model's categories, b, a, unused.* got c"):
        following(other, layer="counts").info  # noqa: B018
    del other.obs["batch"]
    with pytest.raises(ValueError, match="'batch', as covariate, but there are: age"):
        following(other, layer="counts").info  # noqa: B018
    with pytest.raises(ValueError, match="genes by name"):
        following(sparse.csr_matrix(matrix())).info  # noqa: B018
    with pytest.raises(ValueError, match="its data were of another kind"):
        Counts(cells()).follow({"columns": {}}).info  # noqa: B018
    nameless = Counts(sparse.csr_matrix(matrix())).info.schema
    with pytest.raises(ValueError, match="Expected 5 columns, as the model has, but got 3"):
        Counts(sparse.csr_matrix(matrix()[:, :3])).follow(nameless).info  # noqa: B018


def test_a_class_that_the_model_does_not_know_is_no_class() -> None:
    other = cells()
    other.obs["type"] = ["T", "new"] * 30
    new = following(other, layer="counts", label="type", val=0, test=0)
    assert new.info.classes == 2
    assert next(new.rows("train", 4)).label.tolist() == [1, -1, 1, -1]


def test_names_that_two_genes_share_are_told_apart() -> None:
    with pytest.warns(UserWarning, match="3 genes have the name of another"):
        assert _unique(["a", "a", "b", "a-1", "a", "b"]) == ["a", "a-2", "b", "a-1", "a-3", "b-1"]


def test_dates_as_covariates_are_plain_data_in_a_checkpoint() -> None:
    other = cells()
    other.obs["day"] = pd.to_datetime(["2020-01-02", "2020-01-01"] * 30)
    data = Counts(other, layer="counts", covariates=["day"])
    assert data.info.schema["covariates"]["day"]["categories"] == [
        "2020-01-01 00:00:00",
        "2020-01-02 00:00:00",
    ]
    assert data.info.context_features == 3


# The way back


def small(data: Counts) -> Model:
    hidden = {"init_args": {"hidden": [8]}}
    return Model(
        data,
        3,
        encoder={"class_path": "MLPEncoder", **hidden},
        decoder={"class_path": "MLPDecoder", **hidden},
        likelihood={"class_path": "NegativeBinomial", "init_args": {"library": 0}},
    )


def test_it_trains_and_samples_come_back_as_cells(tmp_path: Path) -> None:
    data = Counts(cells(), **ALL)
    model = small(data)
    trainer = fit(model, data, max_epochs=2)
    assert trainer.callback_metrics["val/elbo"].isfinite()
    batch = next(data.rows("test", 6))
    x = model.sample(6, batch.context, sample=True)
    write_rows(data, tmp_path, "samples", x, {"context": batch.context})
    found = anndata.read_h5ad(tmp_path / "samples.h5ad")
    assert found.var_names.tolist() == GENES
    assert sparse.issparse(found.X)
    assert found.X.dtype.kind == "i"
    assert np.array_equal(found.X.toarray(), x.numpy())
    expected = cells().obs.iloc[data.numbers("test").numpy()][COVARIATES]
    for name, kind in expected.dtypes.items():
        assert found.obs[name].dtype == kind
        if name == "score":
            assert np.allclose(found.obs[name], expected[name], atol=1e-5)
        else:
            assert found.obs[name].tolist() == expected[name].tolist()
    again = following(found, val=0, test=0)  # cells without counts are left out
    kept = batch.context[x.sum(1) > 0, 1:]
    assert np.allclose(whole(again)[1][:, 1:], kept, atol=1e-5)


def test_samples_are_written_by_the_schema_alone(tmp_path: Path) -> None:
    known = Counts(cells(), **ALL).info.schema
    data = Counts("nowhere.h5ad").follow(known)
    (path,) = data.write(tmp_path, "samples", torch.ones(2, 5), {})
    assert anndata.read_h5ad(path).var_names.tolist() == GENES


def test_codes_and_bounds_stand_beside_the_names_of_cells(tmp_path: Path) -> None:
    data = Counts(cells(), **ALL)
    rows = data.numbers("test")
    columns = {"z": torch.randn(6, 3), "elbo": torch.randn(6), "label": torch.tensor([0, 1] * 3)}
    write_rows(data, tmp_path, "codes", None, columns, rows)
    found = anndata.read_h5ad(tmp_path / "codes.h5ad")
    assert found.obs_names.tolist() == [f"cell{i}" for i in rows]
    assert np.array_equal(found.obsm["X_vae"], columns["z"])
    assert np.allclose(found.obs["elbo"], columns["elbo"])
    assert found.obs["type"].tolist() == ["B", "T"] * 3
    assert found.n_vars == 0
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as arrays:
        assert arrays["name"].tolist() == found.obs_names.tolist()


@pytest.mark.parametrize("arrow", [True, False])
def test_a_table_comes_back_as_one(
    tmp_path: Path, arrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Counts(sparse.csr_matrix(matrix()))
    data.setup()
    if not arrow:
        monkeypatch.setattr("vaekit.data.readers.frames.find_spec", lambda name: None)
    columns = {"z": torch.randn(6, 2), "0": torch.zeros(6)}
    x = torch.from_numpy(matrix()[:6])
    (path,) = data.write(tmp_path, "rows", x, columns, data.numbers("test"))
    assert path.suffix == (".parquet" if arrow else ".csv")
    found = pd.read_parquet(path) if arrow else pd.read_csv(path, index_col=0)
    assert found.columns.tolist() == ["0_", "X_vae_0", "X_vae_1", "0", "1", "2", "3", "4"]
    assert [str(name) for name in found.index] == [str(i) for i in data.numbers("test").tolist()]
    assert np.array_equal(found[["0", "1", "2", "3", "4"]], matrix()[:6])


# Memory

_PEAK = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import lightning.pytorch as pl
from vaekit.evaluation import pictures
from vaekit.evaluation.baseline import baseline
from vaekit import Model, VAEModule
import pandas, scipy.sparse
from vaekit.data import Counts
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
rows = Counts(sys.argv[1], batch_size=16)
small = {"init_args": {"hidden": [32]}}
likelihood = {"class_path": "NegativeBinomial", "init_args": {"library": 0}}
model = Model(rows, 8, likelihood=likelihood,
    encoder={"class_path": "MLPEncoder", **small}, decoder={"class_path": "MLPDecoder", **small})
trainer = pl.Trainer(accelerator="cpu", max_steps=5, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False)
trainer.fit(VAEModule(model), rows)
baseline(model, rows)
pictures.draw_all(model, next(rows.rows("val", 64)), rows)
print(peak() - before)
"""


@pytest.mark.slow
def test_sparse_counts_take_far_less_memory_than_dense_ones(tmp_path: Path) -> None:
    n, genes = 10_000, 20_000
    rng = np.random.default_rng(0)
    each = genes // 20
    indices = (np.arange(each) * 20 + rng.integers(20, size=(n, each))).astype(np.int32)
    counts = sparse.csr_array(
        (rng.poisson(2, n * each) + 1, indices.ravel(), np.arange(n + 1) * each), (n, genes)
    )
    sparse.save_npz(tmp_path / "x.npz", counts, compressed=False)
    del counts
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "x.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    dense = 4 * n * genes >> 20
    assert int(done.stdout.split()[-1]) < 0.75 * dense, done.stdout


def test_places_are_checked_before_anything_is_read_from_them() -> None:
    with pytest.raises(ValueError, match="Expected counts of 1 genes but got 2 columns"):
        compressed("csr", (1, 2), *(np.asarray(x) for x in ([0, 1], [1], [1])), ["a"])
