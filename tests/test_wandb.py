"""W&B offline: what a run holds, read back from its file."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

from vaekit.callbacks import WandbLogger


def whole(path: Path) -> list[Record]:
    """The records of a run that has ended; W&B's own process may still write the last ones."""
    for _ in range(300):
        with suppress(DecodeError):
            found = list(records(path))
            if any(record.HasField("exit") for record in found):
                return found
        time.sleep(0.1)
    raise AssertionError(f"{path} does not end")


def records(path: Path) -> Iterator[Record]:
    """The records of an offline run: the log format of LevelDB after a header of 7 bytes."""
    content, block, whole = path.read_bytes(), 32768, b""
    at = 7
    while at + 7 <= len(content):
        if block - at % block < 7:  # a block's tail is too short for a header
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("no_key")
def test_an_offline_run_holds_losses_configuration_and_pictures(cli: Callable[..., Path]) -> None:
    folder = cli(
        "fit", "-c", "wandb", "--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false"
    )
    sys.modules["wandb"].finish()
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = whole(path)
    history = [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in r.history.item
        }
        for r in found
        if r.HasField("history")
    ]
    names = {name for row in history for name in row}
    assert {"val/elbo", "train/loss", "train/rate", "step/loss"} <= names
    elbos = [row["val/elbo"] for row in history if "val/elbo" in row]
    assert len(elbos) == 2
    assert elbos[1] > elbos[0]
    config = {
        item.key: json.loads(item.value_json)
        for r in found
        for update in (r.run.config.update, r.config.update)
        for item in update
    }
    assert config["model"]["encoder"]["class_path"] == "MLPEncoder"
    assert config["trainer"]["max_epochs"] == 2
    for name in ("samples", "reconstructions", "latent"):
        assert f"pictures/{name}/_type" in names
        assert list(path.parent.glob(f"files/media/images/pictures/{name}*.png"))
    assert "WANDB_MODE" not in os.environ


@pytest.mark.usefixtures("no_key")
def test_it_is_online_only_where_a_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WandbLogger()._wandb_init["mode"] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert "mode" not in WandbLogger()._wandb_init
    assert WandbLogger(offline=True)._wandb_init["mode"] == "offline"
