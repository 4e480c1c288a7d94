"""A fit that goes on from last.ckpt has the weights of one that nothing stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging

from vaekit import Model, VAEModule, callbacks, data

Cli = Callable[..., Path]


def trained(folder: Path, epochs: int, resume: Path | None = None, **settings: Any) -> VAEModule:
    pl.seed_everything(1, verbose=False)
    rows = data.Digits(batch_size=200)
    module = VAEModule(Model(rows, 2))
    own = [make() for make in settings.pop("own", ())]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callbacks.BestCheckpoint(), *own],
        **settings,
    )
    trainer.fit(module, rows, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.parametrize(
    ("precision", "own"),
    [("64-true", ()), ("64-true", (callbacks.EMA,)), ("32-true", ()), ("bf16-true", ())],
)
def test_a_fit_goes_on_exactly_in_every_precision(
    tmp_path: Path, precision: Any, own: tuple[Any, ...]
) -> None:
    """In 64-true the weights were rounded to float32 on their way, by up to 1.4e-8."""
    whole = trained(tmp_path / "whole", 3, precision=precision, own=own)
    trained(tmp_path / "first", 1, precision=precision, own=own)
    last = tmp_path / "first/last.ckpt"
    again = trained(tmp_path / "again", 3, last, precision=precision, own=own)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_stochastic_weight_averaging_is_not_resumed(tmp_path: Path) -> None:
    def averaging() -> StochasticWeightAveraging:
        return StochasticWeightAveraging(1e-2, swa_epoch_start=1)

    trained(tmp_path, 2, own=[averaging])
    with pytest.raises(ValueError, match=r"no StochasticWeightAveraging in a fit.* -c ema"):
        trained(tmp_path, 4, tmp_path / "last.ckpt", own=[averaging])
