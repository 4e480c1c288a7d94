"""The watch for a posterior that collapses: its counts, its warning, and what it leaves alone."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from conftest import fit
from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import DataInfo, Model, VAEModule, callbacks, data
from vaekit.cli import app as cli
from vaekit.contracts import Core
from vaekit.contracts.batch import Batch
from vaekit.registry import plugins
from vaekit.training.callbacks.collapse import (
    Activity,
    CollapseWatch,
    PosteriorCollapseWarning,
    look,
)
from vaekit.training.callbacks.guard import Guard

INFO = DataInfo((3,))
NARROW = {"class_path": "LaplacePrior", "init_args": {"scale": 0.01}}


class Columns(nn.Module):
    """The rows as means; a log-variance of each latent, the same for all rows."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        self.register_buffer("log_variance", 2 * torch.tensor(scales).log())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.log_variance.expand_as(x)], 1)


def constructed(**changes: Any) -> Model:
    """q(z|x) = N(x, diag(1, .5, 2))."""
    parts = {"encoder": Columns(1.0, 0.5, 2.0), "likelihood": "Gaussian"}
    model = Model(INFO, latent_shape=3, **{**parts, **changes})
    head: Any = model.core.posterior
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(6))
        head.linear.bias.zero_()
    return model


def rows(n: int = 40) -> Tensor:
    """Columns of standard deviation 1, .11 and .09 around 0, 1 and 2."""
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    x = (x - x.mean()) / x.std(correction=0)
    return torch.stack([x, 1 + 0.11 * x, 2 + 0.09 * x], 1).float()


def numbers(model: Model, *batches: Batch) -> dict[str, float]:
    seen = look(model, batches)
    assert seen is not None
    return seen.numbers()


def digits(**changes: Any) -> data.Digits:
    return data.Digits(batch_size=300, binarize="static", **changes)


def test_counts_and_rates_are_those_of_the_posterior() -> None:
    x = rows()
    found = numbers(constructed(), Batch(x[:30]), Batch(x[30:]))
    assert found.pop("active_units") == 2  # a variance of .0121 counts, one of .0081 does not
    seen = look(constructed(), [Batch(x)])
    assert seen is not None
    assert torch.allclose(seen.variances, torch.tensor([1, 0.0121, 0.0081]).double(), rtol=1e-4)
    mean_square = x.double().square().mean(0)
    variance = torch.tensor([1.0, 0.25, 4.0]).double()
    kl = (mean_square + variance - 1 - variance.log()) / 2
    assert list(found) == ["kl/0", "kl/1", "kl/2"]
    assert torch.allclose(torch.tensor(list(found.values())).double(), kl, rtol=1e-5)


def points_of(posterior: str, prior: Any, latents: int = 4, spread: float = 1.0) -> Activity:
    """The activity of a posterior whose head multiplies standard Normal features."""
    torch.manual_seed(0)
    part = {"latent_shape": latents, "posterior": posterior, "prior": prior}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(DataInfo((20,)), likelihood="Gaussian", **part)
    with torch.no_grad():
        for parameter in model.core.posterior.parameters():
            parameter.mul_(spread)
    seen = look(model, [Batch(5 * torch.randn(300, 20))])
    assert seen is not None
    return seen


@pytest.mark.parametrize(
    ("posterior", "prior", "latents", "spread", "variance"),
    [
        ("VonMisesFisher", "UniformSphere", 128, 1.0, 1 / 128),
        ("DirichletPosterior", "DirichletPrior", 40, 1.0, 39 / (40**2 * 41)),
        ("LogisticNormal", "DirichletPrior", 40, 1.0, 39 / (40**2 * 41)),
        ("RelaxedBernoulli", "UniformBernoulli", 4, 1.0, 0.25),
        ("GammaPosterior", "GammaPrior", 4, 1.0, 1.0),
        ("DiagonalNormal", "StandardNormal", 4, 1.0, 1.0),
        ("DiagonalNormal", NARROW, 4, 0.02, 2e-4),
    ],
)
def test_active_units_are_not_0_for_healthy_latents_whose_prior_is_narrow(
    posterior: str, prior: Any, latents: int, spread: float, variance: float
) -> None:
    seen = points_of(posterior, prior, latents, spread)
    wanted = torch.full((latents,), variance).double()
    assert isinstance(seen.prior_variances, Tensor)
    torch.testing.assert_close(seen.prior_variances, wanted)
    assert seen.units == latents
    if variance < 0.01:
        assert int((seen.variances > 0.01).sum()) < latents  # as they were counted before


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("LogisticNormal", "DirichletPrior"),
        ("DiagonalNormal", "StandardNormal"),
        ("WrappedNormal", "WrappedNormalPrior"),
    ],
)
def test_latents_that_hardly_vary_under_their_prior_are_not_active(
    posterior: str, prior: str
) -> None:
    assert points_of(posterior, prior, spread=0.01).units == 0
    assert points_of(posterior, prior, spread=4.0).units == 4


def test_the_variance_of_a_prior_without_a_closed_form_is_estimated_from_draws() -> None:
    mixture = {"class_path": "NormalMixture", "init_args": {"components": 1}}
    seen = points_of("DiagonalNormal", mixture, 3)
    assert torch.allclose(torch.as_tensor(seen.prior_variances), torch.ones(3).double(), rtol=0.2)


@torch.no_grad()
def test_the_variance_of_a_conditional_prior_is_that_over_all_rows() -> None:
    model = Model(
        DataInfo((3,), context_features=1),
        latent_shape=2,
        prior="LearnedNormal",
        likelihood="Gaussian",
    )
    numbers_of: Any = model.core.prior.numbers
    numbers_of.slope[0] = torch.tensor([[3.0], [0.0]])  # means 3 c and 0
    context = torch.tensor([[-1.0], [1.0]]).repeat(10, 1)
    seen = look(model, [Batch(torch.randn(10, 3), c) for c in (context[:10], context[10:])])
    assert seen is not None
    assert torch.allclose(torch.as_tensor(seen.prior_variances), torch.tensor([10.0, 1]).double())


def test_the_rates_add_up_to_the_rate() -> None:
    model = Model(digits(), latent_shape=(2, 3))  # type: ignore[arg-type]
    batch = next(digits().rows("val", batch_size=180))
    found = numbers(model, batch)
    rate = model.evaluate(batch)["rate"].mean()
    assert sum(v for k, v in found.items() if "kl" in k) == pytest.approx(float(rate), rel=1e-5)
    assert len(found) == 7


def test_where_p_or_q_does_not_factorise_only_units_are_counted() -> None:
    for parts in ({"prior": "VampPrior"}, {"posterior": "FullNormal"}, {"latent_shape": 257}):
        model = Model(INFO, likelihood="Gaussian", **{"latent_shape": 3, **parts})
        assert set(numbers(model, Batch(rows()))) == {"active_units"}
    with plugins.known(ConditionalNormal), plugins.known(TwoLevel):
        model = Model(INFO, latent_shape=3, likelihood="Gaussian", core="TwoLevel")
        assert set(numbers(model, Batch(rows()))) == {"active_units"}


def test_of_one_row_and_of_a_core_that_infers_nothing_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = constructed()
    assert look(model, [Batch(rows()[:1])]) is None
    assert look(model, []) is None
    monkeypatch.setattr(type(model.core), "infer", Core.infer)
    assert look(model, [Batch(rows())]) is None


def test_contexts_masks_and_several_entries_reach_the_encoder() -> None:
    n = 30
    x = {"a": torch.randn(n, 2), "b": torch.randn(n, 3)}
    shown = {name: torch.rand(leaf.shape) > 0.3 for name, leaf in x.items()}
    hidden = {name: torch.where(shown[name], leaf, torch.nan) for name, leaf in x.items()}
    info = DataInfo({"a": (2,), "b": (3,)}, context_features=2)
    columns = {"class_path": "Mixed", "init_args": {"others": "Gaussian"}}
    model = Model(info, latent_shape=2, likelihood=columns)
    batch = Batch(hidden, torch.randn(n, 2), shown)
    found = numbers(model, batch)
    assert all(value == value for value in found.values())
    assert found != numbers(model, Batch(hidden, torch.zeros(n, 2), shown))
    assert found == pytest.approx(numbers(model, batch[:20], batch[20:]), rel=1e-4)


# The warning


def activity(*variances: float) -> Activity:
    return Activity(torch.tensor(variances), None)


def news(posterior: Any, *seen: Activity) -> list[bool]:
    watch = CollapseWatch()
    return [watch.is_news(posterior, one) for one in seen]


OFF, ON = activity(0.009, 0.0), activity(0.011, 0.0)


def test_the_second_of_two_validations_tells_and_no_other() -> None:
    real = constructed().core.posterior
    assert news(real, OFF, OFF, OFF) == [False, True, False]
    assert news(real, OFF, ON, OFF, OFF, ON, OFF, OFF) == [False] * 3 + [True] + [False] * 3


def test_a_model_that_begins_to_learn_has_not_collapsed() -> None:
    rising = [activity(0.001 * k, 0.0) for k in (1, 2, 3, 4)]
    posterior = constructed().core.posterior
    assert news(posterior, *rising, ON) == [False] * 5
    assert news(posterior, *rising, rising[2]) == [False] * 4 + [True]


def test_what_is_no_density_of_real_numbers_never_collapses() -> None:
    for parts in (
        {"posterior": "Delta", "objective": "AE"},
        {"posterior": "GammaPosterior", "prior": "GammaPrior"},
    ):
        model = Model(INFO, latent_shape=3, likelihood="Gaussian", **parts)
        assert news(model.core.posterior, OFF, OFF, OFF) == [False] * 3


@pytest.mark.parametrize(("latents", "most"), [(9, 0), (10, 1), (25, 2)])
def test_most_latents_are_off_where_no_more_than_a_tenth_is_on(latents: int, most: int) -> None:
    posterior = constructed().core.posterior
    for active in (most, most + 1):
        one = activity(*[1.0] * active, *[0.0] * (latents - active))
        assert news(posterior, one, one)[1] == (active == most)


# In a fit


COLLAPSED = {"class_path": "ELBO", "init_args": {"beta": 100.0}}
STILL = {"class_path": "SGD", "init_args": {"lr": 1e-30}}


def told(model: Model, source: Any, **settings: Any) -> tuple[list[str], pl.Trainer]:
    """The warnings of a fit, and its trainer."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        optimizer = settings.pop("optimizer", None)
        watch = CollapseWatch(patience=settings.pop("patience", 0))
        trainer = fit(VAEModule(model, optimizer), source, callbacks=[watch], **settings)
    return [str(w.message) for w in found if w.category is PosteriorCollapseWarning], trainer


def test_a_fit_tells_it_once_and_shows_the_units() -> None:
    own = data.Arrays(rows(), val=0.5, test=0, batch_size=20)
    for scale, units in ((1.0, 2), (0.01, 0)):
        model = constructed(encoder=Columns(1.0, 1.0, 1.0))
        with torch.no_grad():
            model.core.posterior.linear.weight[:3] *= scale  # type: ignore[index, union-attr]
        said, trainer = told(model, own, optimizer=STILL, max_epochs=4)
        assert len(said) == (units == 0)
        assert trainer.progress_bar_metrics["val/active_units"] == units
        assert {f"val/kl/{i}" for i in range(3)} <= trainer.callback_metrics.keys()
    assert "0 of 3 latents vary" in said[0]
    for remedy in ("free_bits 0.1", "beta Linear", "GECO", "min_scale"):
        assert remedy in said[0]


@pytest.mark.slow
def test_a_collapsed_model_is_told_and_a_healthy_one_is_not() -> None:
    said, _ = told(Model(digits(), latent_shape=4, objective=COLLAPSED), digits(), max_epochs=4)
    assert len(said) == 1
    for latents in (2, 4, 16):
        assert not told(Model(digits(), latent_shape=latents), digits(), max_epochs=8)[0]


@pytest.mark.slow
def test_the_averaged_weights_are_looked_at_wherever_the_watch_stands() -> None:
    values = []
    for order in (1, -1):
        torch.manual_seed(0)
        model = Model(digits(), latent_shape=3)

        class Look(pl.Callback):
            def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
                self.found = numbers(module.model, *digits().rows("val", 2000))

        own = Look()
        both: list[pl.Callback] = [callbacks.EMA(0.9), CollapseWatch()]
        trainer = fit(model, digits(), max_epochs=1, callbacks=[*both[::order], own])
        found = {f"val/{name}": value for name, value in own.found.items()}
        values.append({k: float(trainer.callback_metrics[k]) for k in found})
        assert values[-1] == pytest.approx(found, rel=1e-6)
        assert numbers(model, *digits().rows("val", 2000)) == pytest.approx(own.found, rel=1e-4)
    assert values[0] == values[1]


@pytest.mark.slow
def test_it_draws_no_random_number_of_training_and_can_be_turned_off() -> None:
    weights = []
    for watch in ([], [CollapseWatch(0)]):
        pl.seed_everything(1, verbose=False)
        model = Model(data.Digits(batch_size=500), latent_shape=3)
        trainer = fit(model, data.Digits(batch_size=500), max_epochs=2, callbacks=watch)
        assert ("val/active_units" in trainer.callback_metrics) is (not watch)
        watches = [c for c in trainer.callbacks if isinstance(c, CollapseWatch)]  # type: ignore[attr-defined]
        assert len(watches) == 1
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def test_without_validation_rows_of_ours_and_in_a_sanity_check_it_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "vaekit.training.callbacks.collapse.look", lambda *_: seen.append("looked")
    )
    x = torch.rand(20, 3)
    model = Model(INFO, latent_shape=2, likelihood="Gaussian")
    loaders = [DataLoader(x, batch_size=10) for _ in range(2)]  # type: ignore[arg-type]
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "max_epochs": 1}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(**settings, num_sanity_val_steps=1)
    trainer.fit(VAEModule(model), *loaders)
    none = data.Arrays(x, val=0, test=0, batch_size=10)
    own = data.Arrays(x, val=0.5, test=0, batch_size=10)
    fit(model, none, max_epochs=1)
    fit(model, own, max_epochs=1, limit_val_batches=0)
    module = VAEModule(model)
    pl.Trainer(**settings).validate(module, own, verbose=False)
    assert not seen
    fit(module, own, max_epochs=2, num_sanity_val_steps=2)
    assert len(seen) == 2


@pytest.mark.slow
def test_a_fit_that_goes_on_says_no_more_than_one_that_was_not_stopped(tmp_path: Path) -> None:
    def run(epochs: int, at: Any = None) -> tuple[int, Path]:
        torch.manual_seed(0)
        module = VAEModule(Model(digits(), latent_shape=4, objective=COLLAPSED))
        keep = callbacks.BestCheckpoint()
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            default_root_dir=tmp_path / f"{epochs}",
            callbacks=[keep, CollapseWatch(patience=0)],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trainer.fit(module, digits(), ckpt_path=at, weights_only=True)
        said = [w for w in found if w.category is PosteriorCollapseWarning]
        return len(said), Path(keep.last_model_path)

    said, one = run(1)
    assert said == 0
    said, two = run(2, one)  # the second of two validations, of which the first was before
    assert said == 1
    said, _ = run(4, two)
    assert said == 0


def test_a_fit_that_has_hardly_begun_is_not_told() -> None:
    own = data.Arrays(rows(), val=0.5, test=0, batch_size=10)  # 2 steps an epoch
    model = constructed(encoder=Columns(1.0, 1.0, 1.0))
    with torch.no_grad():
        model.core.posterior.linear.weight[:3] *= 0.01  # type: ignore[index, union-attr]
    for patience, epochs, times in ((7, 4, 0), (6, 4, 1), (1000, 4, 0)):
        changes = {"patience": patience, "max_epochs": epochs, "optimizer": STILL}
        assert len(told(model, own, **changes)[0]) == times


@pytest.mark.parametrize("name", ["rows", "patience"])
def test_numbers_below_0_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} to be at least 0 but got -1"):
        CollapseWatch(**{name: -1})


# From the command line


@pytest.fixture
def metrics(cli: Callable[..., Path]) -> Callable[..., list[dict[str, str]]]:
    def run(*args: object) -> list[dict[str, str]]:
        quiet = ("--trainer.enable_progress_bar", "false", "--pictures.rows", 50)
        folder = cli("fit", "--trainer.max_epochs", 1, "--data.batch_size", 500, *quiet, *args)
        with (folder / "runs/version_0/metrics.csv").open() as file:
            return list(csv.DictReader(file))

    return run


@pytest.mark.slow
def test_metrics_csv_has_them(metrics: Callable[..., list[dict[str, str]]]) -> None:
    validated = [row for row in metrics("--model.latent_shape", 3) if row["val/elbo"]]
    assert len(validated) == 1
    names = {name for name in validated[0] if name.startswith(("val/active", "val/kl"))}
    assert names == {"val/active_units", "val/kl/0", "val/kl/1", "val/kl/2"}
    total = sum(float(validated[0][f"val/kl/{i}"]) for i in range(3))
    assert total == pytest.approx(float(validated[0]["val/rate"]), rel=1e-4)


@pytest.mark.slow
def test_an_argument_turns_it_off(metrics: Callable[..., list[dict[str, str]]]) -> None:
    found = metrics("--collapse.rows", 0)
    assert "val/elbo" in found[0]
    assert "val/active_units" not in found[0]


@pytest.mark.slow
def test_its_numbers_can_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["fit", "--trainer.fast_dev_run=true", "--trainer.callbacks=EarlyStopping"]
    args.append("--trainer.callbacks.monitor=val/active_units")
    with cli.names_lead_to_plugins():
        monkeypatch.setattr(pl.Trainer, "fit", lambda *args, **kwargs: None)
        trainer: Any = cli.CLI(args).trainer
        order = [type(c) for c in trainer.callbacks]
        assert {CollapseWatch, Guard} <= set(order)
        with pytest.raises(SystemExit):
            cli.CLI([*args, "--collapse.rows=0"])


def test_a_small_latent_that_carries_nats_is_not_off() -> None:
    posterior, small = constructed().core.posterior, torch.tensor([0.0025, 0.0025])
    for nats, said in ((2.8, False), (0.01, True)):
        one = Activity(small, torch.tensor([nats, nats]))
        assert news(posterior, one, one) == [False, said]


@pytest.mark.slow
def test_where_the_prior_learns_and_rates_are_unknown_nothing_is_said() -> None:
    for prior, times in (("VampPrior", 0), ("StandardNormal", 1)):
        model = Model(digits(), latent_shape=4, objective=COLLAPSED, prior=prior)
        assert len(told(model, digits(), max_epochs=4)[0]) == times
