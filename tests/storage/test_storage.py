"""Checkpoints on disk: whole or not there, and never another than was written."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from conftest import fit
from vaekit import Model, data, load
from vaekit.storage.files import CheckpointError, beside, local, read, write
from vaekit.storage.runs import RunLogger
from vaekit.training.callbacks.checkpoint import BestCheckpoint

CONTENT = {"vaekit": {"lr": 0.5}, "weights": torch.arange(2000.0)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(CONTENT, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_what_is_written_is_read_by_vaekit_and_by_torch(file: Path) -> None:
    for found in (read(file), torch.load(file, weights_only=True)):
        assert torch.equal(found["weights"], CONTENT["weights"])
    assert torch.equal(read(io.BytesIO(file.read_bytes()))["weights"], CONTENT["weights"])
    assert [p.name for p in file.parent.iterdir()] == ["a.ckpt"]


def test_no_flipped_bit_is_read(file: Path) -> None:
    # 197 of 200 were read, with other weights.
    raw = file.read_bytes()
    ends = [*range(2, 8), *range(len(raw) - 100, len(raw))]
    draw = np.random.default_rng(0)
    for at in [*ends, *draw.integers(2, len(raw), 300).tolist()]:
        bad = bytearray(raw)
        bad[at] ^= 1 << int(draw.integers(8))
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"a\.ckpt: Expected a checkpoint but"):
            read(file)


def test_no_part_of_a_file_is_read(file: Path) -> None:
    raw = file.read_bytes()
    for size in [0, 1, 2, 50, len(raw) // 2, *range(len(raw) - 120, len(raw))]:
        file.write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match=r"a\.ckpt: Expected a checkpoint but"):
            read(file)


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "a.ckpt")  # as by a user who took something out of it
    assert read(tmp_path / "a.ckpt")["vaekit"] == {"lr": 0.5}


def test_the_newest_good_file_beside_a_bad_one_is_named(file: Path) -> None:
    for age, name in enumerate(("newest", "older")):
        write(CONTENT, file.with_name(f"{name}.ckpt"))
        os.utime(file.with_name(f"{name}.ckpt"), (0, 1000 - age))
    file.with_name("bad.ckpt").write_bytes(b"")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"The newest good one beside it is \S*newest\.ckpt"):
        read(file)
    with pytest.raises(FileNotFoundError, match=r"newest\.ckpt"):
        read(file.with_name("missing.ckpt"))


def test_a_foreign_file_is_called_so(file: Path) -> None:
    file.write_text("weights: none")
    with pytest.raises(CheckpointError, match="the file is of another kind"):
        read(file)
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(CheckpointError, match="tensors and plain data alone") as error:
        read(file)
    assert "weights_only" not in str(error.value)  # torch's hint at how to load it all the same
    torch.save({"state_dict": {}}, file)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: Expected a checkpoint of a VAEModule"):
        load(file)


def test_an_unknown_protocol_is_one_error() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere://a\.ckpt could not be opened"):
        read("nowhere://a.ckpt")


def test_a_failed_write_leaves_the_old_file(file: Path) -> None:
    old = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old), limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a\.ckpt could not be written: File too large"):
            write({"vaekit": {}, "weights": torch.zeros(9000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert file.read_bytes() == old
    assert [p.name for p in file.parent.iterdir()] == ["a.ckpt"]


def test_tmpdir_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "mkstemp", None)
    write(CONTENT, tmp_path / "a.ckpt")
    assert torch.equal(read(tmp_path / "a.ckpt")["weights"], CONTENT["weights"])


def test_numpy_s_numbers_are_written_as_plain_ones(tmp_path: Path) -> None:
    write({"a": [np.float64(0.5)], "b": (np.int64(3),)}, tmp_path / "a.ckpt")
    assert read(tmp_path / "a.ckpt") == {"a": [0.5], "b": (3,)}


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got torch\.nn\.modules\.linear\.Linear"):
        write({"part": torch.nn.Linear(1, 1)}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_elsewhere_is_written_and_read_through_fsspec() -> None:
    rows = data.Digits(batch_size=500)
    trainer = fit(Model(rows, latent_shape=2), rows, max_epochs=1)
    trainer.save_checkpoint("memory://runs/a.ckpt")
    assert load("memory://runs/a.ckpt").latent_shape == (2,)
    assert fsspec.filesystem("memory").cat("/runs/a.ckpt").count(b"sha256:") == 1


def test_addresses_of_local_files_are_local(tmp_path: Path) -> None:
    assert local(f"file://{tmp_path}/a.ckpt") == tmp_path / "a.ckpt"
    assert local("a/b.ckpt") == Path("a/b.ckpt")
    assert local("memory://a.ckpt") is None
    assert beside(f"file://{tmp_path}/a.ckpt") == tmp_path
    assert beside("memory://runs/a.ckpt") == Path()


def test_every_fit_writes_so(tmp_path: Path) -> None:
    # Lightning's own way is a copy out of TMPDIR, which a kill cuts short.
    rows = data.Digits(batch_size=500)
    keep = BestCheckpoint()
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    fit(Model(rows, latent_shape=2), rows, max_epochs=1, callbacks=[keep], **settings)
    for path in (keep.best_model_path, keep.last_model_path):
        assert Path(path).read_bytes()[-71:].startswith(b"sha256:")


# Folders and metrics


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "version_7").mkdir()
    with ThreadPoolExecutor(16) as pool:
        loggers = [RunLogger(tmp_path) for _ in range(16)]
        folders = list(pool.map(lambda logger: logger.log_dir, loggers))
    assert sorted(folders) == sorted(str(tmp_path / f"version_{n}") for n in range(8, 24))


@pytest.mark.slow
def test_processes_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    code = "from vaekit.storage.runs import RunLogger; print(RunLogger('runs').log_dir)"
    command = [sys.executable, "-c", code]
    own = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = sorted(process.communicate()[0].strip() for process in own)
    assert folders == [f"runs/version_{n}" for n in range(3)]


def test_metrics_go_on_after_the_rows_of_the_checkpoint(tmp_path: Path) -> None:
    rows = [({"a": 0.1}, 0), ({"a": 0.25, "b": 2.0}, 1), ({"c": 3.0}, 2)]
    whole, killed = RunLogger(tmp_path), RunLogger(tmp_path)
    for logger in (whole, killed):
        for metrics, step in rows:
            logger.log_metrics(metrics, step)
            logger.save()
        logger.finalize("success")
    text = Path(whole.log_dir, "metrics.csv").read_text()
    assert text.splitlines() == ["a,b,c,step", "0.1,,,0", "0.25,2.0,,1", ",,3.0,2"]
    with Path(killed.log_dir, "metrics.csv").open("a") as file:
        file.write("0.7,,")  # half a row, as a kill leaves it
    again = RunLogger(tmp_path, Path(killed.log_dir).name)
    again.go_on(2)
    assert Path(again.log_dir, "metrics.csv").read_text().splitlines()[-1] == "0.25,2.0,1"
    again.log_metrics(*rows[2])
    again.save()
    assert Path(again.log_dir, "metrics.csv").read_text() == text
