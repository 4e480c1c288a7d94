"""`compile`: the same numbers, one region, no compilation after the first epoch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from test_cli import vaekit
from torch import Tensor, nn
from torch._dynamo.utils import counters

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, callbacks, data, load
from vaekit.contracts.batch import Batch
from vaekit.contracts.schedule import weight_at
from vaekit.distributions import base as distributions
from vaekit.networks.mlp import MLPEncoder
from vaekit.schedules import Linear
from vaekit.training import compile as compiled
from vaekit.training.non_finite import NonFiniteError

Cli = Callable[..., Path]
QUICK = {"backend": "eager"}  # what is traced, run as it is
SCHEDULE = {"class_path": "Sigmoid", "init_args": {"steps": 12}}
PARTS: dict[str, Any] = {  # a part with state that changes after a step, a weight with the step
    "likelihood": {"class_path": "Gaussian", "init_args": {"scale": "optimal"}},
    "objective": {"class_path": "ELBO", "init_args": {"beta": SCHEDULE}},
}


class Graphs(pl.Callback):
    """How many regions were compiled by the end of each epoch."""

    def __init__(self) -> None:
        counters.clear()
        self.after: list[int] = []

    def on_train_epoch_end(self, *args: Any) -> None:
        self.after.append(counters["stats"]["unique_graphs"])


def trained(
    compile: Any, callback: Any = (), precision: str = "32-true", **parts: Any
) -> tuple[VAEModule, dict[str, Tensor]]:
    """Three epochs over digits, whose last batch is smaller, in training and in validation."""
    torch.manual_seed(0)
    rows = data.Digits(binarize="none" if "likelihood" in parts else "static", batch_size=150)
    module = VAEModule(Model(rows, latent_shape=2, **parts), compile=compile)
    settings: Any = {"max_epochs": 3, "log_every_n_steps": 1, "precision": precision}
    trainer = fit(module, rows, callbacks=list(callback), **settings)
    return module, trainer.callback_metrics


def test_a_compiled_model_trains_to_the_same_numbers(caplog: pytest.LogCaptureFixture) -> None:
    graphs = Graphs()
    plain, expected = trained(False, **PARTS)
    fast, found = trained(QUICK, [graphs], **PARTS)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.allclose(value, found[key], rtol=1e-4), key
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.allclose(value, fast.state_dict()[key], rtol=1e-3, atol=1e-5), key
    # Training and evaluation, each with its full and its last batch, and none again.
    assert graphs.after == [4, 4, 4]
    said = [record.getMessage() for record in caplog.records]
    assert any("Compiling the core and the objective" in line for line in said)
    assert sum(bool(re.match(r"The first step took \d+\.\d s", line)) for line in said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_so_it_does_with_the_cpp_compiler(precision: str) -> None:
    found = [trained(compile, precision=precision, **PARTS)[1] for compile in (False, True)]
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], rtol=2e-3), key


@pytest.mark.slow
def test_a_checkpoint_of_a_compiled_model_loads_as_any_other(tmp_path: Path) -> None:
    rows = data.Digits(batch_size=512)
    fast = VAEModule(Model(rows, latent_shape=2), compile=QUICK)
    fit(
        fast,
        rows,
        max_epochs=1,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        callbacks=[callbacks.BestCheckpoint()],
    )
    path = next(tmp_path.rglob("best.ckpt"))
    x = torch.rand(5, 1, 8, 8)
    assert load(path).encode(x).shape == (5, 2)
    loaded = VAEModule.load_from_checkpoint(path)
    assert loaded.compiled is None
    again = VAEModule(loaded.model, compile=QUICK)
    assert again.state_dict().keys() == fast.state_dict().keys()


def test_a_number_that_is_not_finite_is_found_in_a_compiled_model() -> None:
    rows = data.Digits(binarize="static")
    optimizer = {"class_path": "SGD", "init_args": {"lr": 1e25}}
    module = VAEModule(Model(rows, latent_shape=2), optimizer, compile=QUICK)
    with pytest.raises(NonFiniteError, match=r"Step \d+ .*is not finite.*core\."):
        fit(module, rows, max_epochs=1)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"backnd": "inductor"}, "arguments of torch.compile .*backend.* but got"),
        ("yes", "Expected compile to be true"),
        ({"mode": "fastest"}, "Expected a mode of compile out of default, .* but got 'fastest'"),
        ({"backend": "os.system"}, "Expected a backend of compile out of .*aot_eager"),
        ({"options": {"cpp.cxx": ["/tmp/evil"]}}, "others may name programs that are run"),
        ({"options": "cpp.cxx"}, "others may name programs that are run, but got 'cpp.cxx'"),
    ],
)
def test_arguments_of_torch_compile_are_looked_at(wanted: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAEModule(Model(data.Digits(), latent_shape=2), compile=wanted)


def test_one_region_with_the_noise_of_what_is_not_compiled() -> None:
    arguments = compiled._arguments(compiled.accepted({"mode": "reduce-overhead"}) or {})
    assert arguments["fullgraph"] is True
    assert arguments["options"]["fallback_random"] is True
    assert arguments["options"]["triton.cudagraphs"] is True
    assert "mode" not in arguments


class Breaking(MLPEncoder):
    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Any:
        torch._dynamo.graph_break()
        return super().forward(x, context, mask)


def test_a_part_that_cannot_be_compiled_whole_is_said_in_one_line() -> None:
    rows = data.Digits(binarize="static", batch_size=512)
    whole = VAEModule(
        Model(rows, latent_shape=2, encoder=Breaking((1, 8, 8), hidden=4)), compile=QUICK
    )
    with pytest.raises(ValueError, match=r"cannot compile this model whole.*fullgraph") as raised:
        fit(whole, rows, max_epochs=1)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_it_is_compiled_in_pieces_where_that_is_wanted() -> None:
    rows = data.Digits(binarize="static", batch_size=512)
    model = Model(rows, latent_shape=2, encoder=Breaking((1, 8, 8), hidden=4))
    pieces = VAEModule(model, compile={**QUICK, "fullgraph": False})
    assert fit(pieces, rows, max_epochs=1).global_step == 3


def test_a_schedule_is_a_tensor_only_where_a_model_is_compiled() -> None:
    weight = Linear(steps=4)
    weight.place(1, torch.device("cpu"))
    assert weight_at(weight, 2) == 0.5
    of_step = torch.compile(lambda x: x * weight_at(weight, 2), backend="eager", fullgraph=True)
    assert of_step(torch.ones(3)).tolist() == [0.25] * 3  # what was placed


@pytest.mark.slow
def test_compile_from_the_command_line(cli: Cli) -> None:
    args = ("--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false")
    small = ("--model.latent_shape", 2, "--data.batch_size", 512)
    folder = cli("fit", *args, *small, "--model.compile.backend", "eager")
    run = folder / "runs" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["compile"] == {"backend": "eager"}
    counters.clear()
    on = (
        "--ckpt_path",
        "last",
        "--trainer.max_epochs",
        2,
        "--trainer.enable_progress_bar",
        "false",
    )
    cli("fit", *on)  # as it was
    assert counters["stats"]["unique_graphs"] > 0
    counters.clear()
    cli("fit", *on[:2], "--trainer.max_epochs", 3, *on[4:], "--model.compile", "false")
    cli("test", "--ckpt_path", "best")
    assert counters["stats"]["unique_graphs"] == 0


def test_any_model_keeps_the_names_of_its_weights() -> None:
    module = VAEModule(Model(data.Digits(), latent_shape=2), compile=True)
    assert isinstance(module.compiled, compiled.Compiled)
    assert not any("_orig_mod" in name or "compiled" in name for name in module.state_dict())
    assert not any(
        isinstance(x, nn.Module) for x in vars(module.compiled).values() if x is not module.model
    )


@pytest.mark.slow
def test_two_ranks_train_a_compiled_model_to_the_same_numbers(tmp_path: Path) -> None:
    found = []
    for compile in ("false", "{backend: aot_eager}"):
        folder = tmp_path / f"{len(found)}"
        folder.mkdir()
        vaekit(
            *(folder, "fit", "--trainer.max_epochs", 2, "--trainer.accelerator", "cpu"),
            *("--trainer.devices", 2, "--trainer.strategy", "ddp", "--model.latent_shape", 2),
            *("--model.compile", compile, "--data.batch_size", 75, "--pictures.rows", 20),
        )
        path = folder / "runs" / "version_0" / "best.ckpt"
        found.append(torch.load(path, weights_only=True)["state_dict"])
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], rtol=1e-3, atol=1e-5), key


@pytest.mark.slow
def test_the_schedule_of_a_part_that_was_exchanged_is_followed() -> None:
    rows = data.Digits(binarize="static")
    bits: Any = {"posterior": "RelaxedBernoulli", "prior": "UniformBernoulli"}
    module = VAEModule(Model(rows, latent_shape=2, **bits), compile=QUICK)
    cooling = {"class_path": "Linear", "init_args": {"steps": 4, "start": 1.0, "end": 0.5}}
    spec = {"class_path": "UniformBernoulli", "init_args": {"temperature": cooling}}
    prior: Any = module.model.new_prior(spec)
    module.model.use_prior(prior)
    fit(module, rows, max_steps=2, limit_val_batches=0)
    assert prior.temperature == 0.75
    assert module.compiled is not None
    assert prior.schedule in module.compiled.schedules


def test_an_estimated_rate_is_announced_from_within_a_compilation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch.compile cannot follow a warning, and refused the model where it was the first.
    monkeypatch.setattr(distributions, "_estimated", set())
    torch._dynamo.reset()
    model = Model(DataInfo((3,), (0, 1), levels=2), latent_shape=2, prior="NormalMixture")
    region = compiled.Compiled(model, {"backend": "aot_eager"})
    with pytest.warns(
        UserWarning, match=r"KL\(Normal \|\| Mixture\) has no registered closed form"
    ):
        region.terms(Batch(torch.ones(5, 3)), 0)


def test_a_refusal_at_the_first_step_is_told_as_it_stands() -> None:
    objective = {"class_path": "ELBO", "init_args": {"free_bits": 0.1}}
    model = Model(DataInfo((3,), (0, 1), levels=2), 2, posterior="RealNVP", objective=objective)
    whole = compiled.Compiled(model, QUICK)
    with pytest.raises(ValueError, match="choose free_bits_per level"):
        whole.terms(Batch(torch.ones(4, 3)), 0)


@pytest.mark.slow
def test_rows_of_all_ranks_are_gathered_in_what_is_compiled(tmp_path: Path) -> None:
    ranks = ("--trainer.devices", 2, "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp")
    few = ("--trainer.max_steps", 3, "--trainer.limit_val_batches", 1, "--pictures.rows", 50)
    small = ("--model.latent_shape", 4, "--trainer.enable_progress_bar", "false")
    whole = ("--model.compile.backend", "aot_eager")
    said = vaekit(tmp_path, "fit", "-c", "info_vae_mmd", *ranks, *few, *small, *whole)
    assert said.count("ELBO of last.ckpt") == 1
