"""Names that users write down: the help lists them, and the command line takes each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from spellings import PARTS, spellings
from vaekit.cli.allowed_imports import limited
from vaekit.cli.parser import Parser, names_lead_to_plugins
from vaekit.registry import plugins, specs
from vaekit.registry.plugins import Plugin

Cli = Callable[..., Path]
NEEDED = {  # arguments without a default
    "GECO": {"target": 9},
    "Step": {"at": 3},
    "Arrays": {"x": "rows.npy"},
    **{name: {"steps": 3} for name in ("Cyclical", "Linear", "Sigmoid")},
    **{name: {"path": "p"} for name in ("Counts", "HuggingFace", "ImageFolder", "Table")},
    "Sequences": {"path": "p"},
}
# A package that is missing, or (Timer) a default value that YAML cannot hold.
BESIDE_THE_NAME = "is not installed|cannot represent an object"


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    """The options of parts, each kind under its own name."""
    with ExitStack() as stack:
        stack.enter_context(limited())
        stack.enter_context(names_lead_to_plugins())
        parser = Parser(exit_on_error=False)
        for kind in plugins.KINDS:
            if kind != "schedule":  # it is an argument of objectives
                parser.add_subclass_arguments(
                    plugins.base(kind),
                    kind,
                    skip=specs.reserved(kind),
                    instantiate=False,
                    required=False,
                    fail_untyped=False,
                )
        yield parser


def _parsed(parser: Parser, plugin: Plugin, path: str) -> str:
    """Returns the name of a part in the configuration that a command line resolves to."""
    key = "objective.init_args.beta" if plugin.kind == "schedule" else plugin.kind
    option = "--" + key.replace(".init_args", "")
    args = [] if plugin.kind != "schedule" else ["--objective", "ELBO"]
    args += [option, path]
    for name, value in NEEDED.get(plugin.name, {}).items():
        args += [f"{option}.{name}", str(value)]
    value: Any = yaml.safe_load(parser.dump(parser.parse_args(args), skip_validation=True))
    for name in key.split("."):
        value = value[name]
    return str(value["class_path"])


@pytest.mark.parametrize("plugin", PARTS, ids=str)
def test_a_part_is_parsed_by_its_public_path(parser: Parser, plugin: Plugin) -> None:
    assert _parsed(parser, plugin, spellings(plugin)[2]) == plugin.name


@pytest.mark.slow
@pytest.mark.parametrize("plugin", PARTS, ids=str)
def test_a_part_is_parsed_by_its_name_and_all_its_paths(parser: Parser, plugin: Plugin) -> None:
    for path in (plugin.name, *spellings(plugin)):
        assert _parsed(parser, plugin, path) == plugin.name


def _listed(text: str) -> list[str]:
    """Returns the names that a help text lists."""
    lists = re.findall(r"known\s+subclasses:\s+([^)]+)\)", text)
    return [re.sub(r"\s", "", name) for names in lists for name in names.split(",")]


def test_the_help_of_a_fit_lists_names_and_no_path_of_a_part(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    text = capsys.readouterr().out
    names = _listed(text)
    of_fit = {p.name for p in PARTS if p.kind != "schedule"}
    assert of_fit <= set(names)
    packages = {name.split(".")[1] for name in names if name.startswith("vaekit.")}
    assert packages <= {"callbacks", "loggers"}
    assert set(re.findall(r"class_path':\s+'([^']+)'", text)) <= of_fit | {"torch.optim.Adam"}


@pytest.mark.parametrize("option", ["--model.objective.help=ELBO", "--model.posterior.help=IAF"])
def test_the_help_of_a_part_lists_names_of_parts(
    option: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli("fit", option)
    names = _listed(capsys.readouterr().out)
    assert {"Constant", "Linear"} <= set(names) or "IAF" in option
    assert not [name for name in names if name.startswith("vaekit.")]


def _options(text: str) -> dict[str, list[str]]:
    """Returns the names that a help text lists under each option."""
    blocks = re.split(r"\n  ARG:\s+", text)
    listed = {block.split()[0].rstrip(","): _listed(block) for block in blocks[1:]}
    return {option: names for option, names in listed.items() if names}


def _refused(
    cli: Cli, capsys: pytest.CaptureFixture[str], option: str, names: Iterable[str]
) -> dict[str, str]:
    """Returns the error for each name that the command line does not take."""
    errors = {}
    for name in names:
        with pytest.raises(SystemExit):
            cli("fit", option, name, "--print_config")
        output = capsys.readouterr()
        # The error may name an argument or a package that the class needs.
        short = re.escape(name.rpartition(".")[2])
        needs = rf"^vaekit: error: {short} needs --|{BESIDE_THE_NAME}"
        if f": {name}\n" not in output.out and not re.search(needs, output.err):
            errors[f"{option} {name}"] = output.err
    return errors


def test_the_callbacks_that_the_help_lists_can_be_typed(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    listed = _options(capsys.readouterr().out)["--trainer.callbacks"]
    callbacks = [name for name in listed if name.startswith("vaekit.")]
    assert {"vaekit.callbacks.EMA", "vaekit.callbacks.CollapseWatch"} <= set(callbacks)
    assert _refused(cli, capsys, "--trainer.callbacks", callbacks) == {}


@pytest.mark.slow
def test_every_name_that_the_help_lists_can_be_typed(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    options = _options(capsys.readouterr().out)
    assert {"--model.encoder", "--model.lr_scheduler", "--trainer.strategy"} <= set(options)
    refused = [_refused(cli, capsys, option, names) for option, names in options.items()]
    assert {name: error for errors in refused for name, error in errors.items()} == {}


def test_a_printed_configuration_and_the_one_of_the_run_hold_registered_names(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--model.posterior", "vaekit.posteriors.VonMisesFisher", "--model.latent_shape", 3]
    args += ["--model.prior", "vaekit.priors.manifolds.UniformSphere"]
    args += ["--model.encoder", "vaekit.encoders.ConvEncoder", "--data", "vaekit.data.Digits"]
    args += ["--model.objective.beta", "vaekit.schedules.Linear"]
    args += ["--model.objective.beta.steps", 10]
    with pytest.raises(SystemExit):
        cli("fit", *args, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    folder = cli("fit", *args, "--trainer.fast_dev_run=false", "--trainer.max_epochs", 1)
    written = yaml.safe_load((folder / "runs/version_0/config.yaml").read_text())
    for config in (printed, written):
        model = config["model"]
        assert model["posterior"]["class_path"] == "VonMisesFisher"
        assert model["prior"]["class_path"] == "UniformSphere"
        assert model["encoder"]["class_path"] == "ConvEncoder"
        assert model["objective"]["init_args"]["beta"]["class_path"] == "Linear"
        assert config["data"]["class_path"] == "Digits"
