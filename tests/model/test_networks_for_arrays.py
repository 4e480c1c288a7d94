"""Networks that are chosen by the number of axes of an array and by the sign of its values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaekit import Model, data
from vaekit.model.parts_for_data import networks_in_words, parts_for

Cli = Callable[..., Path]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, *shape)).astype(np.float32)


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(size=(60, *shape))


def grey(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8)


def name_of(part: Any) -> str:
    return str(part["class_path"] if isinstance(part, dict) else part)


CASES = {
    "sensors": (normal(12, 29), "Conv1d", "Gaussian", "12 channels of 29 time steps"),
    "few sensors": (normal(7, 29), "Conv1d", "Gaussian", "7 channels of 29 time steps"),
    "positive": (uniform(7, 29), "Conv1d", "Gaussian", "7 channels of 29 time steps"),
    "signal": (normal(1, 1024), "Conv1d", "Gaussian", "1 channel of 1024 time steps"),
    "half": (normal(12, 29).astype("f2"), "Conv1d", "Gaussian", "12 channels of 29"),
    "whole": (normal(12, 29).round().astype(int), "Conv1d", "Gaussian", "12 channels"),
    "image": (uniform(12, 29), "Conv", "Gaussian", "an image of 12x29"),
    "bytes": (grey(12, 29), "Conv", "DiscretizedLogistic", "an image of 12x29"),
    "centred": (normal(28, 28), "Conv", "Gaussian", "an image of 28x28"),
    "time first": (normal(29, 12), "Conv", "Gaussian", "an image of 29x12"),
    "colours": (normal(3, 16, 29), "Conv", "Gaussian", "an image of 3x16x29"),
    "small": (normal(3, 5), "MLP", "Gaussian", "numbers of 3x5"),
    "numbers": (normal(40), "MLP", "Gaussian", "numbers of 40"),
    "volume": (normal(1, 16, 16, 16), "MLP", "Gaussian", "there are no 3-d convolutions"),
    "video": (grey(3, 8, 16, 16), "MLP", "DiscretizedLogistic", "x.flatten(1, 2) is a stack"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_axes_and_the_sign_choose_the_networks(case: str) -> None:
    x, network, likelihood, words = CASES[case]
    module = data.Arrays(x)
    parts = parts_for(module)
    assert name_of(parts["encoder"]) == f"{network}Encoder"
    assert name_of(parts["decoder"]) == f"{network}Decoder"
    assert name_of(parts["likelihood"]) == likelihood
    line = networks_in_words(module)
    assert words in line
    assert "--model.encoder" in line
    assert "\n" not in line
    Model(module, **parts)


def test_the_line_names_an_option_that_works() -> None:
    module = data.Arrays(normal(12, 29))
    assert networks_in_words(module) == (
        "for 12 channels of 29 time steps; for an image: --model.encoder ConvEncoder "
        "--model.decoder ConvDecoder"
    )
    Model(module, **{**parts_for(module), "encoder": "ConvEncoder", "decoder": "ConvDecoder"})
    image = data.Arrays(uniform(12, 29))
    Model(image, **{**parts_for(image), "encoder": "Conv1dEncoder", "decoder": "Conv1dDecoder"})


def test_the_sign_is_that_of_the_values_before_they_are_standardised() -> None:
    image = data.Arrays(uniform(12, 29), standardize=True)
    assert name_of(parts_for(image)["encoder"]) == "ConvEncoder"
    signal = data.Arrays(normal(12, 29), standardize=True)
    assert name_of(parts_for(signal)["encoder"]) == "Conv1dEncoder"


def test_a_fit_prints_the_choice_of_networks(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", normal(12, 29))
    cli(
        *("fit", "--data.path", tmp_path / "x.npy", "--trainer.max_epochs", 1),
        *("--trainer.enable_progress_bar", "false"),
    )
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "networks for 12 channels of 29 time steps; for an image:" in output
    assert "Conv1dEncoder" in output
