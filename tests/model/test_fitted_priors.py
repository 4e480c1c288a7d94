"""Priors that are fitted to a trained model: from the command line, in files, and in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import Model, VAEModule, data, fit_prior, load, load_prior, write_prior
from vaekit.contracts import FittedPrior, Prior
from vaekit.evaluation import summary
from vaekit.model.fitted_priors import log_priors
from vaekit.priors import FittedNormal, GaussianMixturePrior
from vaekit.registry import plugins
from vaekit.training.trainer import Trainer

Cli = Callable[..., Path]
FAST = ("--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false")
MIXTURE = ("--prior", "GaussianMixturePrior", "--prior.components", 3)


@pytest.fixture
def trained(cli: Cli) -> Path:
    """The folder of a short run."""
    return cli("fit", *FAST, "--model.latent_shape", 2) / "runs" / "version_0"


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(data.Digits(), latent_shape=2).eval()


def bounds(said: str) -> list[float]:
    """The ELBOs of the table that fit-prior shows."""
    rows = [line.split("│") for line in said.splitlines() if "prior," in line]
    return [float(row[2].split("±")[0]) for row in rows]


# From the command line


def test_a_fitted_prior_raises_the_validation_elbo_and_samples(
    trained: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    cli("fit-prior", "--ckpt_path", "best", *MIXTURE)
    said = capsys.readouterr().out
    file = "runs/version_0/fit-prior/GaussianMixturePrior.ckpt"
    assert {path.name for path in (trained / "fit-prior").iterdir()} == {Path(file).name}
    assert f"Next: vaekit sample --ckpt_path runs/version_0/best.ckpt --prior {file}" in said
    assert "replaced" not in said
    own, fitted = bounds(said)
    cli("validate", "--ckpt_path", "best")
    line = next(x for x in capsys.readouterr().out.splitlines() if "val/elbo" in x)
    assert own == pytest.approx(float(line.split("│")[2]), abs=0.006)
    assert fitted > own
    better = re.search(r"better than the model's by ([\d.]+) ± [\d.]+ nats", said)
    assert better is not None
    assert float(better[1]) == pytest.approx(fitted - own, abs=0.011)
    found = []
    for more in ((), ("--prior", file)):
        cli("sample", "--ckpt_path", "best", "--n", 9, *more)
        with np.load(trained / "sample/samples.npz") as arrays:
            found.append(arrays["x"])
    assert found[0].shape == found[1].shape == (9, 1, 8, 8)
    assert not np.allclose(*found)
    capsys.readouterr()
    told = []
    for more in ((), ("--prior", file)):
        cli("test", "--ckpt_path", "best", *more)
        line = next(x for x in capsys.readouterr().out.splitlines() if "test/elbo" in x)
        told.append(float(line.split("│")[2]))
    assert told[1] > told[0]
    cli("fit-prior", "--ckpt_path", "best", *MIXTURE[:2], "--prior.components", 2)
    assert f"{file} (replaced the file of an earlier fit)\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "prior", [("FittedNormal",), MIXTURE[1:], ("TwoStagePrior", "--prior.epochs", 3)]
)
def test_the_seed_alone_decides_the_file(trained: Path, cli: Cli, prior: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        more = ("--seed_everything", seed, "--out", trained / "out")
        cli("fit-prior", "--ckpt_path", "best", "--prior", *prior, *more)
        found.append((trained / f"out/{prior[0]}.ckpt").read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.slow
def test_other_data_may_be_named_to_fit_to(trained: Path, cli: Cli) -> None:
    x = (np.random.default_rng(0).random((50, 1, 8, 8)) > 0.5).astype("float32")
    np.save(trained / "rows.npy", x)
    other = ("--data", "Arrays", "--data.x", trained / "rows.npy")
    cli("fit-prior", "--ckpt_path", "best", "--prior", "FittedNormal", *other)
    held = torch.load(trained / "fit-prior/FittedNormal.ckpt", weights_only=True)["vaekit"]
    assert held["data"]["init_args"]["x"] == str(trained / "rows.npy")
    assert held["rows"] == 40
    assert held["prior"] == {"class_path": "FittedNormal", "init_args": {"jitter": 1e-6}}
    assert held["packages"].keys() == {"prior 'FittedNormal'"}


@pytest.mark.slow
def test_a_conditional_model_has_a_prior_given_the_context(cli: Cli, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = {"x": (torch.rand(90, 3) > 0.5).float(), "context": torch.randn(90, 2)}
    torch.save(rows, tmp_path / "rows.pt")
    cli("fit", *FAST, "--data", "Arrays", "--data.x", tmp_path / "rows.pt")
    for prior in (("FittedNormal",), MIXTURE[1:]):
        cli("fit-prior", "--ckpt_path", "best", "--prior", *prior)
        file = f"runs/version_0/fit-prior/{prior[0]}.ckpt"
        cli("sample", "--ckpt_path", "best", "--prior", file, "--n", 20)
        found: Any = load_prior(tmp_path / file, load(tmp_path / "runs/version_0/best.ckpt"))
        assert found.slope.abs().sum() > 0


@pytest.mark.slow
def test_a_prior_of_another_model_is_refused(
    trained: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trained / "fit-prior/FittedNormal.ckpt"
    cli("fit-prior", "--ckpt_path", "best", "--prior", "FittedNormal")
    for more, words in (
        (
            (2, "--seed_everything", 5),
            "this model's codes, but .* was fitted to those of runs/version_0",
        ),
        ((3,), r"of latent_shape \[3\], as the model's, but that of .* has \[2\]\. Fit one"),
    ):
        cli("fit", *FAST, "--model.latent_shape", *more)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli("sample", "--ckpt_path", "best", "--prior", file)
        assert re.search(words, capsys.readouterr().err)
        assert not list(trained.parent.glob("version_[12]/sample/*"))


# In Python


def test_a_model_takes_a_fitted_prior_and_a_checkpoint_keeps_it(
    model: Model, tmp_path: Path
) -> None:
    digits = data.Digits()
    prior = fit_prior(model, digits, "FittedNormal")
    assert type(model.core.prior).__name__ == "StandardNormal"
    torch.manual_seed(3)
    plain = model.sample(5)
    before = model.use_prior(prior)
    torch.manual_seed(3)
    assert not torch.equal(plain, model.sample(5))  # type: ignore[arg-type]
    assert model.spec["prior"]["class_path"] == "FittedNormal"
    again = Model(**model.spec)
    again.load_state_dict(model.state_dict())
    found: Any = again.core.prior
    assert torch.equal(found.scale_tril, prior.scale_tril)  # type: ignore[arg-type]
    assert model.use_prior(before) is prior
    assert model.spec["prior"]["class_path"] == "StandardNormal"
    torch.manual_seed(3)
    assert torch.equal(plain, model.sample(5))  # type: ignore[arg-type]


def test_codes_are_one_draw_of_each_training_row(model: Model) -> None:
    digits = data.Digits()
    prior: Any = fit_prior(model, digits, "FittedNormal")
    draws = [model.encode(b.x, sample=True) for b in digits.rows("train") for _ in range(9)]
    z = torch.cat(draws)
    p = prior()
    assert torch.allclose(p.mean, z.mean(0), atol=0.15)
    assert torch.allclose(p.covariance_matrix, z.T.cov(), atol=0.15)


def test_the_gain_is_that_of_the_bound(model: Model) -> None:
    digits = data.Digits()
    prior = fit_prior(model, digits, "FittedNormal")
    own: Any = model.core.prior
    torch.manual_seed(0)
    before, after = log_priors(model, digits, [own, prior], samples=400).mean(1)
    plain = summary.bound(model, digits).mean()
    model.use_prior(prior)
    # Both bounds have their KL in closed form.
    gain = float(summary.bound(model, digits).mean() - plain)
    assert gain == pytest.approx(float(after - before), abs=0.02)


def test_a_prior_comes_back_from_its_file(model: Model, tmp_path: Path) -> None:
    digits = data.Digits()
    spec = {"class_path": "GaussianMixturePrior", "init_args": {"components": 4}}
    prior = fit_prior(model, digits, spec)
    write_prior(prior, model, tmp_path / "p.ckpt")
    again = load_prior(tmp_path / "p.ckpt", model)
    assert isinstance(again, GaussianMixturePrior)
    z = torch.randn(7, 2)
    assert torch.equal(again().log_prob(z), prior().log_prob(z))
    other = Model(digits, latent_shape=2)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():  # whatever comes after the codes may change
        next(other.core.decoder.parameters()).zero_()  # type: ignore[union-attr]
    load_prior(tmp_path / "p.ckpt", other)
    with torch.no_grad():
        next(other.core.encoder.parameters()).zero_()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"but .* was fitted to those of another\. Fit one"):
        load_prior(tmp_path / "p.ckpt", other)


def test_a_checkpoint_that_would_be_loaded_over_a_prior_is_refused(model: Model) -> None:
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    rows, module = data.Digits(), VAEModule(model)
    for args, given in (
        ((None, "best.ckpt"), {"datamodule": rows}),
        ((rows,), {"ckpt_path": "b"}),
    ):
        with pytest.raises(
            ValueError, match=r"Expected a prior or a ckpt_path but got p\.ckpt and"
        ):
            trainer.test(module, *args, prior="p.ckpt", **given)


def test_what_does_not_fit_the_model_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    class Elsewhere(FittedNormal):
        support = torch.distributions.constraints.positive

    plugins.register(Elsewhere)
    plugins.register(TwoLevel)
    plugins.register(ConditionalNormal)
    digits = data.Digits()
    with pytest.raises(ValueError, match=r"of the prior Elsewhere in .* Choose one of them"):
        fit_prior(model, digits, "Elsewhere")
    with pytest.raises(ValueError, match="For latents of this model there are: FittedNormal"):
        fit_prior(model, digits, "VampPrior")
    with pytest.raises(ValueError, match=r"The model was made for data of event_shape"):
        fit_prior(model, data.Arrays(torch.rand(30, 4).round()), "FittedNormal")
    wide = Model(digits, latent_shape=3).new_prior("FittedNormal")
    with pytest.raises(ValueError, match=r"of latent_shape \(2,\) but got one of \(3,\)"):
        model.use_prior(wide)
    with pytest.raises(ValueError, match="fit_prior made, of which the file holds a spec"):
        write_prior(FittedNormal((2,)), model, tmp_path / "p.ckpt")
    with pytest.raises(
        ValueError, match="one prior, such as VAE, but TwoLevel has prior, top_prior"
    ):
        fit_prior(Model(digits, latent_shape=2, core="TwoLevel"), digits, "FittedNormal")


def test_codes_that_depend_on_the_prior_have_none_fitted_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Model(data.Digits(), latent_shape=2, posterior="Hamiltonian").eval()
    monkeypatch.setattr(data.Digits, "rows", None)
    words = r"the draws of Hamiltonian move on log p\(x, z\): with a prior"
    with pytest.raises(ValueError, match=words):
        fit_prior(own, data.Digits(), "FittedNormal")
    prior: Any = own.new_prior("FittedNormal")
    write_prior(prior, own, tmp_path / "p.ckpt")
    load_prior(tmp_path / "p.ckpt", own)
    with torch.no_grad():
        next(own.core.decoder.parameters()).zero_()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="was fitted to those of another"):
        load_prior(tmp_path / "p.ckpt", own)


def test_a_prior_of_outside_authors_may_be_fitted(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugins, "_registered", {})

    class Outside(FittedPrior):
        """A Normal of one spread."""

        def __init__(self, latent_shape: tuple[int, ...], event_shape: tuple[int, ...]) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(latent_shape))

        def fit(self, z: torch.Tensor, context: torch.Tensor | None = None) -> None:
            if len(z) < 2:
                raise ValueError(f"Expected two rows but got {len(z)}.")
            self.scale.copy_(z.std().expand_as(self.scale))

        def forward(self, context: Any = None, infer: Any = None) -> Any:
            normal = torch.distributions.Normal(torch.zeros_like(self.scale), self.scale)
            return torch.distributions.Independent(normal, 1)

    plugins.register(Outside)
    prior = fit_prior(model, data.Digits(), "Outside")
    write_prior(prior, model, tmp_path / "p.ckpt")
    assert torch.equal(load_prior(tmp_path / "p.ckpt", model).scale, prior.scale)  # type: ignore[arg-type]
    monkeypatch.setattr(plugins, "_registered", {})
    with pytest.raises(plugins.RegistryError, match=r"There is no prior 'Outside'.*registered it"):
        load_prior(tmp_path / "p.ckpt", model)


def test_damaged_files_are_told(model: Model, tmp_path: Path) -> None:
    prior, path = fit_prior(model, data.Digits(), "FittedNormal"), tmp_path / "p.ckpt"
    write_prior(prior, model, path)
    whole = torch.load(path, weights_only=True)
    for key, value, words in (
        ("state_dict", {}, "Expected weights of the checkpoint's model but"),
        ("state_dict", 3, "wrote but .* holds something else"),
        ("vaekit", {**whole["vaekit"], "prior": 3}, "wrote but .* holds something else"),
        ("vaekit", {**whole["vaekit"], "latent_shape": "x"}, "wrote but .* holds something else"),
        ("vaekit", [1], "wrote but .* holds something else"),
    ):
        torch.save({**whole, key: value}, path)
        with pytest.raises(ValueError, match=words):
            load_prior(path, model)
    assert isinstance(model.core.prior, Prior)


def test_codes_are_computed_with_the_mask() -> None:
    torch.manual_seed(0)
    x, mask = torch.rand(300, 6), torch.rand(300, 6) < 0.5
    rows = [
        data.Arrays(torch.where(mask, x, hidden), mask=mask, data_range=(-9, 9), val=0.3, test=0)
        for hidden in (0.0, 8.0)
    ]
    model = Model(rows[0], 2, likelihood="Gaussian").eval()
    priors, found = [], []
    for own in rows:
        torch.manual_seed(0)
        priors.append(fit_prior(model, own, "FittedNormal"))
        found.append(log_priors(model, own, [priors[0]]))
    assert torch.equal(priors[0]().mean, priors[1]().mean)
    assert torch.equal(*found)
