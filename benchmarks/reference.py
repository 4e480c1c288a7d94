"""The models that benchmarks time, and the loop by hand that everything is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from vaekit import Model, data


@dataclass
class Case:
    """One row of a table."""

    event: tuple[int, ...]
    batch: int
    steps: int
    latent: int = 16
    samples: int = 1
    conv: bool = False
    sizes: tuple[int, ...] = ()

    def parts(self) -> dict[str, Any]:
        """The model, as the arguments of `Model` and as options of the command line."""
        kind, name, own = (
            ("Conv", "channels", (16, 32)) if self.conv else ("MLP", "hidden", (512,))
        )
        sizes = {name: list(self.sizes or own)}
        return {
            "latent_shape": self.latent,
            "encoder": {"class_path": f"{kind}Encoder", "init_args": sizes},
            "decoder": {"class_path": f"{kind}Decoder", "init_args": sizes},
            "objective": {"class_path": "ELBO", "init_args": {"samples": self.samples}},
        }

    def rows(self, folder: Path | None) -> np.ndarray:
        """uint8 rows: MNIST's, or random images where another shape or no folder is given."""
        n = self.batch * self.steps
        if self.event == (1, 28, 28) and folder is not None:
            mnist = data.MNIST(folder, val=0)
            mnist.prepare_data()
            x = mnist.load()["train"].x
            return x.repeat(-(-n // len(x)), 1, 1, 1)[:n].numpy()
        return np.random.default_rng(0).integers(256, size=(n, *self.event), dtype=np.uint8)


class Plain(nn.Module):
    """The VAE by hand: the same layers, closed-form terms, no parts and no distributions."""

    def __init__(self, case: Case, x: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        core = Model(data.Arrays(x[:100].cpu(), val=0, test=0), **case.parts()).core
        encoder, decoder = core.encoder, core.decoder
        layers = [encoder.conv, encoder.linear] if case.conv else [nn.Flatten(), encoder.net]
        self.encoder, self.head = nn.Sequential(*layers), core.posterior.linear
        layers = [decoder.linear, decoder.conv] if case.conv else [decoder.net]
        self.decoder, self.samples = nn.Sequential(*layers), case.samples

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.head(self.encoder(x)).float().chunk(2, dim=1)
        noise = torch.randn(self.samples, *mean.shape, device=x.device)
        z = mean + (log_variance / 2).exp() * noise
        logits = self.decoder(z.flatten(0, 1)).float()
        target = x.expand(self.samples, *x.shape).reshape(logits.shape)
        distortion = binary_cross_entropy_with_logits(logits, target, reduction="sum")
        kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
        return distortion / (self.samples * len(x)), kl / len(x)


ALONE: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
"""Settings of a trainer that does nothing beside training."""


def ratio(above: list[float], below: list[float]) -> str:
    """The ratio of the medians, and the least and the largest of a round."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return f"{median(above) / median(below):.2f} ({min(each):.2f}-{max(each):.2f})"


def step_of(forward: Callable[[Tensor], tuple[Tensor, Tensor]], optimizer: Any) -> Any:
    """A step of training by hand, as a function of its rows."""

    def step(rows: Tensor) -> None:
        distortion, rate = forward(rows)
        loss = distortion + rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def second_epoch(
    case: Case,
    rows: Tensor,
    step: Callable[[Tensor], Any],
    wait: Callable[[], None] = lambda: None,
) -> float:
    """Seconds a step of the second of two epochs over rows that lie in memory."""
    for _ in range(2):
        wait()
        start = time.perf_counter()
        for at in torch.randperm(len(rows), device=rows.device).split(case.batch):
            step(rows[at])
        wait()
    return (time.perf_counter() - start) / case.steps
