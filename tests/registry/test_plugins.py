"""From names to parts: errors, registration, and packages of other people."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import ROOT
from vaekit import Model, register
from vaekit.contracts import Encoder, Prior
from vaekit.contracts.batch import DataInfo
from vaekit.contracts.schedule import Schedule
from vaekit.registry import plugins
from vaekit.registry.plugins import RegistryError, find, load
from vaekit.registry.specs import as_spec, build, resolve, shorten

PACKAGES = ROOT / "tests" / "packages"
INFO = DataInfo((3,), (0.0, 1.0), levels=2)


# In one process


def test_our_own_parts_are_entry_points() -> None:
    plugin = find("encoder", "ConvEncoder")
    assert (plugin.package, plugin.value) == ("vaekit", "vaekit.networks.conv:ConvEncoder")
    assert find("encoder", "vaekit.networks.conv:ConvEncoder") == plugin
    assert find("encoder", "vaekit.networks.conv.ConvEncoder") == plugin


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("encoder", "ConvEncodr", "Did you mean ConvEncoder"),
        ("encoder", "Gaussian", "Expected an encoder, but Gaussian is a likelihood"),
        ("encoder", "encoders.ConvEncoder", "There is no encoder 'encoders.ConvEncoder'"),
        ("prior", "os.system", "Registered under prior: .*StandardNormal"),
        ("core", "VAE2", "vaekit.models"),
    ],
)
def test_a_wrong_name_says_what_there_is(kind: str, name: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        find(kind, name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hiden": [3]}, "no argument 'hiden'. Did you mean hidden"),
        ({"event_shape": (3,)}, "is given event_shape by vaekit"),
        ({"activation": "Relu"}, r"The encoder MLPEncoder \(vaekit .*\): Expected the name"),
    ],
)
def test_a_wrong_argument_names_kind_plugin_package(
    arguments: dict[str, object], words: str
) -> None:
    spec = {"class_path": "MLPEncoder", "init_args": arguments}
    with pytest.raises(RegistryError, match=words):
        Model(INFO, encoder=spec)


@pytest.mark.parametrize("value", [3, None, {"name": "MLPEncoder"}, {"class_path": 3}])
def test_what_is_no_spec_is_refused(value: object) -> None:
    with pytest.raises(RegistryError, match="Expected a part as Name or"):
        as_spec(value)


def test_a_class_of_this_process_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class HalfPrior(Prior):
        """A Normal of half the width."""

        def __init__(self, latent_shape: tuple[int, ...], width: float = 0.5) -> None:
            super().__init__()
            self.loc, self.width = nn.Parameter(torch.zeros(latent_shape)), width

        def forward(self, context=None, infer=None):
            return torch.distributions.Independent(
                torch.distributions.Normal(self.loc, self.width), 1
            )

    spec = {"class_path": "HalfPrior", "init_args": {"width": 0.25}}
    model = Model(INFO, prior=spec)
    assert model.core.prior.width == 0.25
    assert model.spec["prior"] == spec

    first = HalfPrior

    @register
    class HalfPrior(Prior):
        """A cell run again."""

    assert load(find("prior", "HalfPrior")) is not first


def test_register_refuses_what_has_no_kind_or_a_taken_name() -> None:
    with pytest.raises(RegistryError, match="to extend one of"):
        register(nn.Linear)

    class MLPEncoder(Encoder):
        pass

    with pytest.raises(RegistryError, match=r"taken by the encoder MLPEncoder \(vaekit"):
        register(MLPEncoder)


def test_arguments_reach_through_kwargs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})
    base = load(find("encoder", "MLPEncoder"))

    @register
    class WideEncoder(base):
        def __init__(self, factor: int = 2, **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.factor = factor

    spec = {"class_path": "WideEncoder", "init_args": {"factor": 3, "hidden": [11]}}
    part = build("encoder", spec, {"event_shape": (3,), "context_features": 0, "features": 9})
    assert (part.factor, part.features) == (3, 11)


def test_parts_inside_parts_are_built() -> None:
    beta = {"class_path": "Linear", "init_args": {"steps": 10}}
    objective = build("objective", {"class_path": "ELBO", "init_args": {"beta": beta}})
    assert objective.beta(5) == 0.5
    spec = {"class_path": "vaekit.objectives.elbo.ELBO", "init_args": {"beta": beta}}
    assert shorten(spec)["class_path"] == "ELBO"


def test_a_name_that_two_kinds_share_is_told_apart_inside_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Linear(Encoder):
        """Has the name of a schedule of vaekit's, which stays that."""

    beta = {"class_path": "Linear", "init_args": {"steps": 10}}
    spec = resolve("objective", {"class_path": "ELBO", "init_args": {"beta": beta}})
    assert spec["init_args"]["beta"]["class_path"] == "Linear"
    assert build("objective", spec).beta(5) == 0.5

    for kind in (Encoder, Schedule):
        register(type("Twice", (kind,), {"__module__": __name__, "__qualname__": kind.__name__}))
    beta = {"class_path": "Twice", "init_args": {}}
    with pytest.raises(RegistryError, match=r"Several parts are called Twice.*\.Schedule"):
        build("objective", {"class_path": "ELBO", "init_args": {"beta": beta}})


def test_an_encoder_may_have_an_argument_called_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Sized(Encoder):
        def __init__(self, features: int = 7) -> None:
            super().__init__()
            self.features = features

    assert build("encoder", {"class_path": "Sized", "init_args": {"features": 9}}).features == 9


def test_whatever_a_plugin_raises_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Raising(Encoder):
        def __init__(self) -> None:
            raise ModuleNotFoundError("no flux")

    with pytest.raises(RegistryError, match=r"The encoder Raising \(this process.*no flux"):
        build("encoder", "Raising")


def test_a_part_may_be_given_as_a_module(tmp_path: Path) -> None:
    class Mine(Encoder):
        features = 3

        def forward(self, x, context=None, mask=None):
            return x

    mine = Mine()
    model = Model(INFO, encoder=mine)
    assert model.core.encoder is mine
    assert model.spec["encoder"] == {"instance": f"{__name__}.{Mine.__qualname__}"}


# Packages of other people


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the packages under tests/packages."""
    target = tmp_path_factory.mktemp("site")
    for package in ("vaekit-demo", "vaekit-broken"):
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", target, "--no-deps"]
        source = [PACKAGES / package, "--no-build-isolation", "--disable-pip-version-check"]
        subprocess.run([*command, *source], check=True, capture_output=True)
    return target


@pytest.fixture
def vaekit(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs vaekit in a process of its own, with those packages or without."""

    def call(*args: object, packages: bool = True, code: int = 0) -> str:
        env = {**os.environ, "BROKEN_MARKER": str(tmp_path / "marker"), "COLUMNS": "200"}
        env["PYTHONPATH"] = str(installed) if packages else ""
        command = [sys.executable, "-m", "vaekit", *map(str, args)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


def test_plugins_are_listed_from_metadata_without_imports(
    vaekit: Callable[..., str], tmp_path: Path
) -> None:
    listing = vaekit("plugins")
    for name in ("DemoEncoder", "DemoLaplace", "FailingEncoder", "ConvEncoder"):
        assert name in listing
    assert "vaekit-demo" in listing
    assert "1.2.3" in listing
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
def test_plugins_check_says_what_is_broken_and_why(vaekit: Callable[..., str]) -> None:
    listing = vaekit("plugins", "--check", code=1)
    assert "One linear layer and a sine." in listing
    assert "the flux capacitor is missing" in listing
    assert "is no Encoder: a plugin in the group vaekit.encoders must be a subclass" in listing
    assert "leads to a class named Other" in listing
    assert "has no attribute 'GoneEncoder'" in listing
    assert "Several packages claim the prior DemoPrior: " in listing
    assert "vaekit-broken 0.0.1 puts Misplaced into the group vaekit.encoder, which" in listing
    assert "Did you mean vaekit.encoders?" in listing


def test_listing_and_help_of_the_top_level_do_not_import_torch() -> None:
    code = (
        "import sys; from vaekit.__main__ import main\n"
        "main(['plugins']); main(['--help']); main(['--version'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ConvEncoder" in done.stdout


@pytest.mark.slow
def test_a_package_s_parts_train_from_yaml_and_reload(
    vaekit: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "demo.yaml").write_text(
        "model:\n"
        "  encoder: {class_path: DemoEncoder, init_args: {width: 12}}\n"
        "  likelihood: DemoLaplace\n"
        "  prior: vaekit_demo.DemoPrior\n"
    )
    vaekit("fit", "-c", "demo.yaml", "--trainer.max_epochs", 1, "--model.likelihood.scale", 0.25)
    assert not (tmp_path / "marker").exists()  # a broken plugin is left alone
    config = (tmp_path / "runs/version_0/config.yaml").read_text()
    assert "class_path: DemoEncoder" in config
    assert "scale: 0.25" in config
    checkpoint = tmp_path / "runs/version_0/best.ckpt"
    assert "test/elbo" in vaekit("test", "--ckpt_path", checkpoint)

    error = vaekit("test", "--ckpt_path", checkpoint, packages=False, code=2)
    assert "There is no encoder 'DemoEncoder'" in error
    assert "written with vaekit-demo 1.2.3: install that package" in error
    error = vaekit("fit", "-c", "runs/version_0/config.yaml", packages=False, code=2)
    assert "There is no encoder 'DemoEncoder'" in error
    assert "written with vaekit-demo 1.2.3: install that package" in error


@pytest.mark.slow
def test_the_laws_hold_for_whatever_is_installed(installed: Path) -> None:
    # One text was matched, and another package's part broke the collection.
    laws = ROOT / "tests" / "laws" / "test_conformance.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(laws)]
    which = ["-k", "Demo", "-m", "slow or not slow"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([*command, *which], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    # Three parts, alone and on two ranks; two compiled, and the prior held to all laws.
    assert "9 passed" in done.stdout


@pytest.mark.slow
def test_a_package_s_parts_stand_in_help(vaekit: Callable[..., str]) -> None:
    assert "--model.encoder.width" in vaekit("fit", "--model.encoder.help", "DemoEncoder")
    text = " ".join(vaekit("fit", "--help").split())
    assert "MLPEncoder, DeepSets, EmbeddingEncoder, DemoEncoder)" in text  # and no broken one
    assert "vaekit_demo.DemoEncoder" not in text


@pytest.mark.slow
def test_errors_about_packages_name_them(vaekit: Callable[..., str], tmp_path: Path) -> None:
    error = vaekit("fit", "--model.encoder", "FailingEncoder", code=2)
    assert "encoder FailingEncoder (vaekit-broken 0.0.1) could not be imported" in error
    assert "the flux capacitor is missing" in error
    assert (tmp_path / "marker").read_text() == "imported\n"  # once
    error = vaekit("fit", "--model.encoder", "NoEncoder", code=2)
    assert "(vaekit-broken 0.0.1)" in error
    assert "is no Encoder" in error
    error = vaekit("fit", "--model.prior", "DemoPrior", code=2)
    assert "Several packages claim the prior DemoPrior" in error
    assert "vaekit-demo 1.2.3" in error
    assert "vaekit-broken 0.0.1" in error
