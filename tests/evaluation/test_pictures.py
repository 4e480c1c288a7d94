"""Pictures: what stands where, and that training is not disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from conftest import fit
from vaekit import Model, VAEModule, callbacks, data
from vaekit.contracts import Posterior
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.evaluation import pictures


def test_a_grid_shows_row_after_row() -> None:
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 2, 3) / 5
    grid = pictures.image_grid(x, columns=4, low=0.0, high=1.0)
    assert grid.shape == (2 * 3 - 1, 4 * 4 - 1, 3)
    assert grid[0, [0, 4, 8, 12], 0] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert grid[3, [0, 4, 8], 0] == pytest.approx([0.8, 1.0, 1.0])  # two rows, then white


def test_a_grid_keeps_colours_and_scales_the_range() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    grid = pictures.image_grid(x, columns=1, low=-1.0, high=1.0)
    assert grid[0, 0].tolist() == [0.0, 0.5, 1.0]


EVENTS = [(1, 5, 4), (3, 5, 4), (5, 4), (7,), (2, 3, 4, 5), (2, 40)]
LATENTS = [[1], [2], [5], [2, 2]]


@pytest.mark.parametrize(
    ("event", "latent", "context"),
    [
        *((event, [2], 0) for event in EVENTS),
        *(((1, 5, 4), latent, context) for latent in LATENTS for context in (0, 3)),
    ],
)
def test_every_model_can_be_drawn(
    event: tuple[int, ...], latent: list[int], context: int, tmp_path: Path
) -> None:
    info = DataInfo(event, context_features=context)
    model = Model(info, latent_shape=latent, likelihood="Gaussian")
    rows = torch.randn(20, context) if context else None
    batch = Batch(torch.randn(20, *event), rows, label=torch.arange(20) % 10)
    for name, figure in pictures.draw_all(model, batch).items():
        pictures.save(figure, tmp_path / f"{name}.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_hidden_elements_are_drawn_black_and_set_no_range(tmp_path: Path) -> None:
    x = torch.rand(6, 1, 4, 4) + 1
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[..., 0] = False
    model = Model(DataInfo((1, 4, 4)), latent_shape=2, likelihood="Gaussian")
    batch = Batch(torch.where(mask, x, torch.nan), mask=mask)
    picture = (
        pictures.reconstructions(model, batch)["reconstructions"].axes[0].images[0].get_array()
    )
    assert np.isfinite(picture).all()
    assert picture[:4, 0].max() == 0
    assert picture[:4, 1:4].max() == pytest.approx(1, abs=0.3)


def drawn(event: tuple[int, ...]) -> dict[str, Figure]:
    model = Model(DataInfo(event), latent_shape=2, likelihood="Gaussian")
    return pictures.draw_all(model, Batch(torch.randn(20, *event)))


def test_signals_are_drawn_as_lines() -> None:
    figures = drawn((2, 40))
    assert [len(axes.lines) for axes in figures["samples"].axes] == [2] * 16
    first, *_ = figures["reconstructions"].axes
    assert [len(line.get_xdata()) for line in first.lines] == [40] * 4  # x and y of two channels


def test_rows_of_a_table_are_drawn_as_a_heat_map_that_can_be_read() -> None:
    figures = drawn((7,))
    (shown,) = figures["samples"].axes[0].images
    assert shown.get_array().shape == (64, 7)
    arrays = [axes.images[0].get_array() for axes in figures["reconstructions"].axes[:2]]
    assert [a.shape for a in arrays] == [(20, 7), (20, 7)]
    for name, figure in figures.items():
        assert min(figure.get_size_inches()) > 4, name


@pytest.mark.slow
def test_a_picture_shows_the_first_of_many_rows_and_of_large_ones() -> None:
    model = Model(DataInfo((1, 8, 8), (0.0, 1.0), levels=2), latent_shape=2)
    many = torch.rand(25_000, 1, 8, 8)
    figure = pictures.samples(model, many)["samples"]
    (axes,) = figure.axes
    assert axes.images[0].get_array().shape[0] == 256 / 8 * 9 - 1
    figure = pictures.reconstructions(model, Batch(many), n=25_000)["reconstructions"]
    assert figure.get_size_inches()[1] < 30
    large = torch.rand(1, 1, 2048, 2048).expand(300, -1, -1, -1)
    (axes,) = pictures.samples(model, large)["samples"].axes  # it looks at the range alone
    assert axes.images[0].get_array().shape[:2] == (2048, 8 * 2049 - 1)


def test_a_data_module_may_draw_its_rows_itself(tmp_path: Path) -> None:
    class Own(data.Digits):
        def draw(self, x: torch.Tensor, y: torch.Tensor | None = None) -> Figure:
            figure = Figure()
            figure.suptitle(f"{len(x)} rows{'' if y is None else ' and theirs'}")
            return figure

    module = Own(binarize="static")
    batch = next(module.rows("val"))
    figures = pictures.draw_all(Model(module, latent_shape=2), batch, module)
    titles = {name: figure.get_suptitle() for name, figure in figures.items()}
    assert titles["samples"] == "64 rows"
    assert titles["reconstructions"] == "32 rows and theirs"


def test_each_label_stands_in_the_middle_of_its_colour() -> None:
    model = Model(DataInfo((4,)), latent_shape=5, likelihood="Gaussian")
    label = torch.tensor([3, 5, 9, -1] * 10)
    axes, bar = pictures.latent_plane(model, Batch(torch.randn(40, 4), label=label)).axes
    assert [text.get_text() for text in bar.get_yticklabels()] == ["-1", "3", "5", "9"]
    low, high = bar.get_ylim()
    edges = np.linspace(low, high, 5)
    assert np.allclose(bar.get_yticks(), (edges[1:] + edges[:-1]) / 2)
    dots = axes.collections[0]
    colours = dots.to_rgba(dots.get_array())
    assert len(np.unique(colours, axis=0)) == 4
    # Labels that are no classes lie along a scale.
    axes, bar = pictures.latent_plane(model, Batch(torch.randn(40, 4), label=torch.rand(40))).axes
    assert len(np.unique(axes.collections[0].to_rgba(axes.collections[0].get_array()), axis=0)) > 4


def test_the_plane_says_what_share_of_the_variance_it_shows() -> None:
    model = Model(DataInfo((4,)), latent_shape=5, likelihood="Gaussian")
    x = torch.randn(40, 4)
    values = torch.linalg.eigvalsh(torch.cov(model.encode(x).double().T))
    share = float(values[-2:].sum() / values.sum())
    title = pictures.latent_plane(model, Batch(x)).axes[0].get_title()
    assert f"PCA of 5 latents, {share:.0%}".replace("%", " %") in title


def test_a_model_that_diverged_can_be_drawn() -> None:
    model = Model(DataInfo((4,)), latent_shape=5, likelihood="Gaussian")
    with torch.no_grad():
        model.core.posterior.linear.bias.fill_(torch.nan)
    figures = pictures.draw_all(model, Batch(torch.randn(9, 4), label=torch.arange(9)))
    assert set(figures) == {"samples", "reconstructions", "latent"}


def test_one_row_can_be_drawn() -> None:
    model = Model(DataInfo((4,)), latent_shape=5, likelihood="Gaussian")
    assert set(pictures.draw_all(model, Batch(torch.randn(1, 4)))) == {
        "samples",
        "reconstructions",
        "latent",
    }


def test_two_latents_show_the_decoded_plane() -> None:
    model = Model(DataInfo((1, 4, 4), (0, 1), levels=2), latent_shape=2)
    figure = pictures.latent_plane(model, Batch(torch.rand(20, 1, 4, 4)))
    plane = figure.axes[-1].images[0].get_array()
    # The top left corner: the lowest first latent, the highest second.
    z = torch.special.ndtri(torch.tensor([[0.025, 0.975]]))
    assert np.allclose(plane[:4, :4, 0], model.decode(z)[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("DirichletPosterior", "DirichletPrior"),
        ("VonMisesFisher", "UniformSphere"),
        ("WrappedNormal", "WrappedNormalPrior"),
        ("GammaPosterior", "GammaPrior"),
        ("RelaxedBernoulli", "UniformBernoulli"),
    ],
)
def test_of_latents_elsewhere_than_in_the_plane_none_are_decoded_but_their_own(
    posterior: str, prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DataInfo((1, 4, 4), (0, 1), levels=2)
    model = Model(info, latent_shape=2, posterior=posterior, prior=prior)
    batch = Batch(torch.rand(20, 1, 4, 4), label=torch.arange(20) % 3)
    decoded: list[torch.Tensor] = []

    def watched(z: torch.Tensor, *args: Any) -> Any:
        decoded.append(z)
        return decode(z, *args)

    decode = model.core.decode
    monkeypatch.setattr(model.core, "decode", watched)
    figure = pictures.draw_all(model, batch)["latent"]
    support = model.core.posterior.support
    assert len(decoded) == 2  # samples and reconstructions
    assert all(support.check(z).all() for z in decoded)
    assert not any(axes.images for axes in figure.axes)
    points = figure.axes[0].collections[0].get_offsets()
    assert np.allclose(points, model.encode(batch.x))


def test_latents_of_which_no_support_is_known_count_as_real(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(DataInfo((1, 4, 4), (0, 1), levels=2), latent_shape=2)
    monkeypatch.delattr(Posterior, "support")
    assert pictures.latent_plane(model, Batch(torch.rand(20, 1, 4, 4))).axes[-1].images


def test_pictures_during_training_leave_it_as_it_is(tmp_path: Path) -> None:
    weights = []
    for every in (0, 1):
        pl.seed_everything(0, verbose=False)
        module = data.Digits()
        model = Model(module, latent_shape=3)
        settings = {"logger": pl.loggers.CSVLogger(tmp_path, name=str(every))}
        fit(model, module, max_epochs=2, callbacks=[callbacks.Pictures(every)], **settings)
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)
    assert (tmp_path / "1/version_0/samples.png").is_file()


def test_final_pictures_show_the_best_model_and_leave_the_last_alone(tmp_path: Path) -> None:
    class Worse(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 2:
                with torch.no_grad():
                    for p in pl_module.parameters():
                        p.zero_()

    drawn: list[Model] = []

    class Watched(callbacks.Pictures):
        def _draw(self, trainer: pl.Trainer, model: Model) -> None:
            drawn.append(model)

    module = data.Digits()
    model = VAEModule(Model(module, latent_shape=3), optimizer="SGD")
    keep = callbacks.BestCheckpoint()
    logger = pl.loggers.CSVLogger(tmp_path)
    settings = {"enable_checkpointing": True, "logger": logger}
    fit(model, module, max_epochs=3, callbacks=[keep, Worse(), Watched()], **settings)
    assert torch.load(keep.best_model_path, weights_only=True)["epoch"] == 1
    best = nn.utils.parameters_to_vector(drawn[0].parameters())
    assert not torch.equal(best, nn.utils.parameters_to_vector(model.parameters()))
