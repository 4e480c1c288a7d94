"""W&B offline: what a run holds, read back from its file."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import wandb
from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

from vaekit.loggers import WandbLogger

QUICK = ("--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false")


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
    wandb.teardown()  # which keeps the key and the address of another test


@pytest.mark.usefixtures("no_key")
def test_an_offline_run_holds_losses_configuration_and_pictures(cli: Callable[..., Path]) -> None:
    folder = cli(
        "fit", "-c", "wandb", "--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false"
    )
    wandb.finish()
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


class Server(BaseHTTPRequestHandler):
    """W&B's, as far as a run is begun; it takes one key."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if b"wrong" in base64.b64decode(self.headers.get("Authorization", "").split(" ")[-1]):
            self.answer({"errors": [{"message": "permission denied"}]}, 401)
        elif b"upsertBucket" in body:
            project = {"id": "1", "name": "vaekit", "entity": {"id": "1", "name": "me"}}
            name = json.loads(body)["variables"]["name"]
            bucket = {"id": "1", "name": name, "displayName": name, "project": project}
            self.answer({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}})
        else:
            self.answer({"data": {"viewer": {"id": "1", "entity": "me", "username": "me"}}})

    def answer(self, content: object, code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    own = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=own.serve_forever, daemon=True).start()
    yield own
    own.shutdown()
    own.server_close()


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    ("key", "address", "words"),
    [
        ("0" * 40, "http://127.0.0.1:9", "http://127.0.0.1:9 gives no answer"),
        ("wrong" * 8, None, "permission denied"),
    ],
)
def test_a_fit_goes_on_offline_where_it_cannot_be_online(
    cli: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: ThreadingHTTPServer,
    key: str,
    address: str | None,
    words: str,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    own = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("WANDB_BASE_URL", address or own)
    begun = time.monotonic()
    folder = cli("fit", "-c", "wandb", *QUICK)
    assert time.monotonic() - begun < 15
    wandb.finish()
    said = [line for line in capsys.readouterr().err.splitlines() if "vaekit: warning" in line]
    assert len(said) == 1
    assert words in said[0]
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert f"send it later: wandb sync {path.parent}" in said[0]
    assert any(record.HasField("history") for record in whole(path))
    assert (folder / "runs/version_0/best.ckpt").is_file()


@pytest.mark.usefixtures("no_key")
def test_a_folder_does_not_say_where_the_key_is_sent(
    cli: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def asked(*args: object, **kwargs: object) -> None:
        raise AssertionError("the server of the folder was asked")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("urllib.request.urlopen", asked)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    cli("fit", "--trainer.logger", "WandbLogger", *QUICK)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "vaekit: warning" in line]
    assert "wandb/settings sets base_url, which a folder may not; use WANDB_BASE_URL" in said
    assert list(tmp_path.glob("wandb/offline-run-*"))


GONE = """
import os, sys, threading, time
from http.server import ThreadingHTTPServer
sys.path.insert(0, os.environ["TESTS"])
from test_wandb import Server
from vaekit import loggers
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
loggers._END = 3

def leave(log=loggers.WandbLogger.log_metrics, seen=[]):
    def call(self, *args, **kwargs):
        log(self, *args, **kwargs)
        seen.append(1)
        if len(seen) == 3:
            print("the server leaves", flush=True)
            server.shutdown()
            server.server_close()
    return call

loggers.WandbLogger.log_metrics = leave()
from vaekit.cli.app import run
run(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("no_key")
def test_a_server_that_leaves_does_not_end_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    env = {**os.environ, "TESTS": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", GONE, "fit", "-c", "wandb", *map(str, QUICK)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "the server leaves" in done.stdout
    assert "ELBO of best.ckpt" in done.stdout
    (said,) = [line for line in done.stderr.splitlines() if "gives no answer" in line]
    (path,) = tmp_path.glob("wandb/run-*/run-*.wandb")
    assert f"send it later: wandb sync {path.parent}" in said


@pytest.mark.usefixtures("no_key")
def test_an_error_of_w_and_b_s_stops_its_logging_alone(
    cli: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[int] = []

    def full(self: object, *args: object, **kwargs: object) -> None:
        calls.append(1)
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.log_metrics", full)
    folder = cli("fit", "-c", "wandb", *QUICK)
    said = [line for line in capsys.readouterr().err.splitlines() if "vaekit: warning" in line]
    assert len(calls) == len(said) == 1
    assert "W&B: No space left on device. The run is kept on disk" in said[0]
    assert (folder / "runs/version_0/best.ckpt").is_file()


@pytest.mark.usefixtures("no_key")
def test_it_is_online_only_where_a_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WandbLogger()._wandb_init["mode"] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert "mode" not in WandbLogger()._wandb_init
    assert WandbLogger(offline=True)._wandb_init["mode"] == "offline"
