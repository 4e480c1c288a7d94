"""Scores in the place of likelihoods: what they are, and that nobody calls them bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from vaekit import DataInfo, Model
from vaekit.contracts.batch import Batch
from vaekit.evaluation.importance_sampling import log_likelihood
from vaekit.likelihoods import MSSSIM, FeatureSpace

IMAGE = DataInfo((1, 44, 48), (0.0, 1.0))


def test_ms_ssim_is_made_of_torchmetrics_windows() -> None:
    score = MSSSIM(IMAGE.event_shape, IMAGE, weight=2.0, scales=3)
    p = score.double()(torch.randn(1, 4, *IMAGE.event_shape).double())
    x = (p.mean[0] + 0.2 * torch.randn(4, *IMAGE.event_shape)).clamp(0, 1)
    images, expected = (x, p.mean[0]), torch.ones(4).double()
    for scale, beta in enumerate(score.betas):
        _, structure = ssim(
            *images, reduction="none", data_range=1.0, return_contrast_sensitivity=True
        )
        if scale == 2:
            # torchmetrics' own mean is also over windows that reach beyond the image.
            _, whole = ssim(*images, reduction="none", data_range=1.0, return_full_image=True)
            structure = whole[..., 5:-5, 5:-5].flatten(1).mean(1)
        expected = expected * structure**beta
        images = tuple(avg_pool2d(image, 2) for image in images)
    assert torch.allclose(score.log_prob(p, x)[0], -2 * (1 - expected), atol=1e-6)


def test_ms_ssim_takes_images_of_any_size_and_refuses_more_scales_than_they_allow() -> None:
    for side, scales in ((1, 1), (8, 1), (28, 2), (44, 3), (200, 5)):
        info = DataInfo((1, side, side), (0.0, 1.0))
        assert len(MSSSIM(info.event_shape, info).betas) == scales
    with pytest.raises(ValueError, match="scales from 1 to 2, with a window of 11 on"):
        MSSSIM((1, 28, 28), DataInfo((1, 28, 28), (0, 1)), scales=3)
    with pytest.raises(ValueError, match="odd number but got 4"):
        MSSSIM((1, 28, 28), DataInfo((1, 28, 28), (0, 1)), window=4)
    with pytest.raises(ValueError, match="weight to be positive"):
        MSSSIM((1, 28, 28), DataInfo((1, 28, 28), (0, 1)), weight=0.0)


def test_what_is_hidden_costs_nothing() -> None:
    score = MSSSIM((1, 12, 12), DataInfo((1, 12, 12), (0, 1)))
    p = score(torch.randn(1, 5, 1, 12, 12))
    x = torch.rand(5, 1, 12, 12)
    hidden = torch.zeros_like(x, dtype=torch.bool)
    assert score.log_prob(p, x, hidden).abs().max() < 1e-4
    some = torch.rand(x.shape) > 0.5
    assert torch.equal(
        score.log_prob(p, torch.where(some, x, torch.nan), some), score.log_prob(p, x, some)
    )


def test_diffusers_lpips_without_a_gradient_is_not_here() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten())  # four ReLUs may be dead
    info = DataInfo((1, 8, 8), (0.0, 1.0))
    model = Model(info, likelihood=FeatureSpace(info.event_shape, info, network=network))
    before = [p.clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    assert not network.training
    model.objective(model.core, Batch(torch.rand(4, 1, 8, 8)), 0)["loss"].mean().backward()
    optimizer.step()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in model.core.decoder.parameters()
    )
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


def test_the_features_distance_is_half_the_square_summed_over_layers() -> None:
    class Layers(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"one": 2 * x, "two": x.sum((1, 2, 3), keepdim=True)}

    info = DataInfo((1, 2, 2))
    score = FeatureSpace(info.event_shape, info, network=Layers(), weight=3.0)
    x, y = torch.randn(5, 1, 2, 2), torch.randn(1, 5, 1, 2, 2)
    d = (x - y[0]).flatten(1)
    expected = -1.5 * (4 * d.square().sum(1) + d.sum(1).square())
    assert torch.allclose(score.log_prob(score(y), x)[0], expected)
    with pytest.raises(ValueError, match="torch module in a"):
        FeatureSpace(info.event_shape, info)


@pytest.mark.parametrize("size", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("name", ["MSSSIM", "FeatureSpace"])
def test_values_and_gradients_are_finite_at_the_edges(name: str, size: float) -> None:
    info = DataInfo((1, 24, 24), (0.0, 1.0))
    own = {"network": "ConvEncoder"} if name == "FeatureSpace" else {}
    score = Model(info, likelihood={"class_path": name, "init_args": own}).core.likelihood
    flat = [torch.full((1, 24, 24), value) for value in (0.0, 1 / 255, 1.0)]
    x = torch.stack([*flat, torch.rand(1, 24, 24).round()])
    for dtype in (torch.float32, torch.bfloat16):
        y = (size * torch.randn(2, 4, 1, 24, 24)).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            p = score(y.float())
            for mask in (None, torch.rand(x.shape) > 0.5):
                value = score.log_prob(p, x, mask)
                assert value.isfinite().all()
                (gradient,) = torch.autograd.grad(value.sum(), y, retain_graph=True)
                assert gradient.isfinite().all()


def test_a_score_is_called_no_elbo_and_has_no_bits_and_no_likelihood() -> None:
    model = Model(DataInfo((1, 8, 8), (0.0, 1.0), levels=256), likelihood="MSSSIM")
    batch = Batch(torch.rand(4, 1, 8, 8))
    terms = {**model.evaluate(batch), **model.objective(model.core, batch, 0)}
    assert set(terms) == {"score", "distortion", "rate", "loss"}
    assert model.best == ("score", "max")
    assert not model.has_bound
    assert not model.has_bits
    with pytest.raises(ValueError, match="MSSSIM is a score"):
        log_likelihood(model.core, batch, 10)


def test_a_fit_says_that_the_score_is_no_bound(
    cli: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cli(
        "fit", "--model.likelihood", "MSSSIM", "--data.binarize", "none", "--trainer.max_epochs", 1
    )
    said = capsys.readouterr().out
    assert "score, which is no bound" in said
    assert "elbo" not in (folder / "runs/version_0/metrics.csv").read_text()
    assert "bpd" not in (folder / "runs/version_0/metrics.csv").read_text()
    with pytest.raises(SystemExit):
        cli("test", "--ckpt_path", "best", "--samples", 10)
    assert "MSSSIM is a score" in capsys.readouterr().err
