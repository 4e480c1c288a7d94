"""The model without a trainer: its use, and what it refuses."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.utils import skip_init

from vaekit import Model, VAEModule, register
from vaekit.contracts import Encoder, Likelihood, Prior
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.cores.vae import VAE
from vaekit.likelihoods import Gaussian
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins
from vaekit.registry.plugins import RegistryError

INFO = DataInfo((1, 8, 8), (0.0, 1.0), levels=2, data_size=100)


def made(**arguments: Any) -> VAEModule:
    """The module of some of Model's arguments and of its own."""
    own = ("optimizer", "lr_scheduler", "lr_interval")
    training = {name: arguments.pop(name) for name in own if name in arguments}
    return VAEModule(Model(INFO, **arguments), **training)


def test_encode_and_reconstruct_are_deterministic_unless_a_sample_is_asked_for() -> None:
    # pythae's reconstruct() and embed() are stochastic.
    model = Model(INFO, latent_shape=2)
    x = (torch.rand(5, 1, 8, 8) > 0.5).float()
    assert torch.equal(model.encode(x), model.encode(x))
    assert torch.equal(model.reconstruct(x), model.reconstruct(x))
    assert not torch.equal(model.encode(x, sample=True), model.encode(x, sample=True))
    assert not model.encode(x).requires_grad
    assert torch.equal(model.decode(model.encode(x)), model.reconstruct(x))
    samples = model.sample(6, sample=True)
    assert samples.shape == (6, 1, 8, 8)
    assert set(samples.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latent_shape": 0}, "latent_shape of positive sizes but got 0"),
        ({"latent_shape": []}, "latent_shape of positive sizes"),
        ({"encoder": "Nothing"}, "There is no encoder 'Nothing'"),
        ({"optimizer": "Adm"}, "a class of torch.optim but got 'Adm'"),
        ({"optimizer": "os.system"}, "a class of torch.optim but got 'os.system'"),
        ({"lr_scheduler": "Step"}, "a class of torch.optim.lr_scheduler but got 'Step'"),
        ({"lr_interval": "batch"}, "lr_interval to be epoch or step"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**arguments)


def test_an_optimizer_s_wrong_argument_is_named() -> None:
    spec = {"class_path": "Adam", "init_args": {"learning_rate": 1}}
    with pytest.raises(RegistryError, match=r"torch\.optim\.Adam:.*learning_rate"):
        VAEModule(Model(INFO), optimizer=spec).configure_optimizers()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (DataInfo((1, 9, 9), (0, 1)), r"event_shape \(1, 8, 8\) but got \(1, 9, 9\)"),
        (DataInfo((1, 8, 8), (0, 1), context_features=2), "context_features 0 but got 2"),
        (DataInfo((1, 8, 8), (-1, 1)), r"data in \[0, 1\] but got \[-1, 1\]"),
    ],
)
def test_other_data_than_the_model_was_made_for_is_refused(other: DataInfo, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Model(INFO).check_data(other)


def test_a_module_can_be_copied() -> None:
    model = Model(INFO, latent_shape=2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    x = torch.rand(2, 1, 8, 8)
    assert not torch.equal(model.encode(x), other.encode(x))


def test_only_the_bernoulli_warning_is_heard_and_once() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        Model(DataInfo((1, 8, 8), (0.0, 1.0), levels=17), latent_shape=2)
    assert len([w for w in heard if "binarise" in str(w.message)]) == 1


def test_likelihood_bases_know_no_baseline() -> None:
    assert Likelihood().output_of(torch.zeros(2), torch.ones(2)) is None


def test_a_likelihood_that_forgets_independent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its (K, B, 1) would broadcast against (K, B) to (K, B, B), and train.
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Forgetful(Gaussian):
        def forward(self, y, context=None):
            return torch.distributions.Normal(y, 1.0)

    model = Model(DataInfo((1,)), latent_shape=2, likelihood="Forgetful")
    with pytest.raises(
        ValueError, match=r"likelihood Forgetful .*event shape \(1,\).*\(1, 6, 1\).*Independent"
    ):
        model.evaluate(Batch(torch.randn(6, 1)))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m: m.sample(4), r"a context of shape \(4, 2\) but got none"),
        (lambda m: m.sample(4, torch.zeros(3, 2)), r"\(4, 2\) but got one of shape \(3, 2\)"),
        (lambda m: m.encode(torch.zeros(4, 3)), r"a context of shape \(4, 2\)"),
        (lambda m: m.sample(0), "at least one row"),
        (lambda m: m.encode(torch.full((4, 3), 255), torch.zeros(4, 2)), r"range \[0, 1\]"),
        (lambda m: m.encode(torch.zeros(4, 2), torch.zeros(4, 2)), r"rows of shape \(3,\)"),
    ],
)
def test_wrong_use_says_what_was_expected(use: Any, words: str) -> None:
    info = DataInfo((3,), (0.0, 1.0), levels=2, context_features=2)
    model = Model(info, latent_shape=2)
    assert model.encode(torch.zeros(4, 3), torch.zeros(4, 2)).shape == (4, 2)
    with pytest.raises(ValueError, match=words):
        use(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prior": Gaussian((3,))}, "Expected prior to be .*contracts.Prior but got a Gaussian"),
        (
            {"encoder": skip_init(nn.Linear, 2, 2)},  # draws no weights
            "encoder Linear: Expected Linear to take a batch",
        ),
        ({"optimizer": {"class_path": "Adam", "init_args": {"lr": -1}}}, "Invalid learning rate"),
    ],
)
def test_what_cannot_be_a_part_is_refused_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        made(**arguments)


def test_a_core_may_ask_for_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Shaped(VAE):
        def __init__(self, build: Any, latent_shape: Any, size: int = 3) -> None:
            super().__init__(build)
            self.latent_shape, self.size = latent_shape, size

    core = {"class_path": "Shaped", "init_args": {"size": 5}}
    model = Model(INFO, latent_shape=[2, 2], core=core)
    assert (model.core.latent_shape, model.core.size) == ((2, 2), 5)


def test_a_model_trains_and_is_used_without_lightning() -> None:
    code = (
        "import sys, torch; from vaekit import Batch, DataInfo, Model\n"
        "model = Model(DataInfo((6,), (0.0, 1.0), levels=2), latent_shape=2)\n"
        "x = (torch.rand(200, 1) > 0.5).float().expand(-1, 6)\n"
        "adam, losses = torch.optim.Adam(model.parameters(), 1e-2), []\n"
        "for step in range(100):\n"
        "    loss = model.objective(model.core, Batch(x), step)['loss'].mean()\n"
        "    adam.zero_grad(); loss.backward(); adam.step(); losses.append(loss.item())\n"
        "assert losses[-1] < losses[0] / 2, losses\n"
        "assert (model.reconstruct(x) - x).abs().mean() < 0.1\n"
        "assert model.sample(3).shape == (3, 6)\n"
        "assert 'lightning' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_use_leaves_each_module_in_its_mode() -> None:
    model = Model(INFO, latent_shape=2).train()
    model.core.encoder.eval()  # frozen, say
    model.sample(2)
    assert model.training
    assert model.core.decoder.training
    assert not any(module.training for module in model.core.encoder.modules())


def test_a_model_in_training_mode_is_evaluated_as_any_other() -> None:
    model = Model(DataInfo((6,), (0.0, 1.0), levels=2), latent_shape=2)
    model.core.encoder.net.append(nn.Dropout(0.5))
    x = torch.ones(4, 6)
    seen = [model.eval().encode(x), model.train().encode(x)]
    assert torch.equal(*seen)
    terms = []
    for mode in (False, True):
        with fixed_noise(1):
            terms.append(model.train(mode).evaluate(Batch(x))["elbo"])
    assert torch.equal(*terms)
    assert model.training


def test_parameters_are_made_in_float32_at_least() -> None:
    with pl.Trainer(precision="bf16-true", accelerator="cpu", logger=False).init_module():
        model = Model(INFO, latent_shape=2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_part_that_gives_another_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    @register
    class Pair(Encoder):
        features = 3

        def forward(self, x: Any, context: Any = None, mask: Any = None) -> Any:
            return x, x

    @register
    class NoPrior(Prior):
        def forward(self, context: Any = None, infer: Any = None) -> Any:
            return 3

    info = DataInfo((3,), (0.0, 1.0), levels=2, context_features=2)
    x, context = torch.zeros(4, 3), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"encoder Pair .*expected features as a tensor .*tuple"):
        Model(info, encoder="Pair").encode(x, context)
    with pytest.raises(ValueError, match=r"prior NoPrior .*expected a torch.*Distribution but"):
        Model(info, prior="NoPrior").sample(4, context)
