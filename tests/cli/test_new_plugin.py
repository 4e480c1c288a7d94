"""The package that `vaekit new-plugin` writes, and the one of the plugin page, as they stand."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from vaekit import testing
from vaekit.cli.main import main
from vaekit.registry.plugins import KINDS

PAGE = (ROOT / "PLUGINS.md").read_text()
BLOCKS = re.findall(r"^```(?:python|toml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FILES = {m[1]: block for block in BLOCKS if (m := re.match(r"# (\S+/\S+)\n", block))}
COMMANDS = [line.split() for line in re.findall(r"^    (vaekit fit .*)$", PAGE, re.M)]
QUICK = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]


def install(source: Path, site: Path) -> dict[str, str]:
    """Installs a package without network; the environment of a process that finds it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    more = ["--target", site, "--no-deps", "--no-build-isolation", source]
    subprocess.run([*pip, *more], check=True, capture_output=True)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}


def ran(command: list[Any], **kwargs: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_plugin_is_a_package_of_one_part_and_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["new-plugin", "acme-vae"])
    said = capsys.readouterr().out
    written = [path for path in Path("acme-vae").rglob("*") if path.is_file()]
    assert len(written) == 4
    for path in written:
        assert str(path) in said
        if path.suffix == ".py":
            ast.parse(path.read_text())
    assert (
        'AcmeVaeEncoder = "acme_vae:AcmeVaeEncoder"' in Path("acme-vae/pyproject.toml").read_text()
    )


def test_its_part_obeys_the_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["new-plugin", "acme-law"])
    monkeypatch.syspath_prepend(tmp_path / "acme-law")
    part = importlib.import_module("acme_law").AcmeLawEncoder
    testing.check_encoder(part, without=["two_ranks_end_with_one_model"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "Expected one name but got none"),
        (["one", "two"], "Expected one name but got one two"),
        (["Acme VAE"], "Expected the name of a package, such as acme-vae .* but got 'Acme VAE'"),
        (["../acme"], "Expected the name of a package"),
        (["taken"], "Expected a new folder, but taken exists"),
        (["torch"], "Expected a name of its own, but torch is taken"),
        (["class"], "Expected a name of its own, but class is taken"),
    ],
)
def test_what_is_no_new_package_is_refused(
    args: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main(["new-plugin", *args])
    assert stopped.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert os.listdir() == ["taken"]


@pytest.mark.slow
def test_a_new_plugin_installs_passes_its_test_and_is_listed(tmp_path: Path) -> None:
    ran([sys.executable, "-m", "vaekit", "new-plugin", "acme-vae"], cwd=tmp_path)
    folder = tmp_path / "acme-vae"
    env = install(folder, tmp_path / "site")
    said = ran([sys.executable, "-m", "pytest", "-q"], cwd=folder, env=env)
    assert "1 passed" in said
    listed = ran([sys.executable, "-m", "vaekit", "plugins"], cwd=tmp_path, env=env)
    assert re.search(r"encoder .* AcmeVaeEncoder .* acme-vae .* 0\.1\.0", listed)
    ran(
        [sys.executable, "-m", *["vaekit", "fit", "--model.encoder", "AcmeVaeEncoder"], *QUICK],
        cwd=tmp_path,
        env=env,
    )


def test_the_page_shows_every_kind_by_an_example_that_is_short() -> None:
    for kind, (group, base) in KINDS.items():
        assert f"| {kind} | `{group}` |" in PAGE
        assert f'[project.entry-points."{group}"]' in FILES["acme-vae/pyproject.toml"]
        assert base.rpartition(":")[2] in PAGE
    parts = [text for name, text in FILES.items() if name.startswith("acme-vae/acme_vae/")]
    assert len(parts) == len(KINDS)
    for text in parts:
        (cls,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
        assert len(ast.unparse(cls).splitlines()) <= 30
    assert len(COMMANDS) == 5


@pytest.mark.slow
def test_the_page_s_package_installs_obeys_the_laws_and_trains(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    Path(tmp_path, "acme-vae/acme_vae/__init__.py").touch()
    env = install(tmp_path / "acme-vae", tmp_path / "site")
    test = tmp_path / "acme-vae" / "tests"
    said = ran([sys.executable, "-m", "pytest", "-q", test], cwd=tmp_path / "site", env=env)
    assert "7 passed" in said
    Path(tmp_path, "my_parts.py").write_text(
        "import vaekit\n"
        + FILES["acme-vae/acme_vae/encoders.py"].replace(
            "class Sine", "@vaekit.register\nclass Own"
        )
    )
    for command in COMMANDS:
        if "--import" in command:
            command = [word.replace("SineEncoder", "OwnEncoder") for word in command]
        ran([sys.executable, "-m", *command, *QUICK], cwd=tmp_path, env=env)
