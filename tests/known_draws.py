"""A small model whose draws a test knows, by plain arithmetic and on two ranks too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit import Model
from vaekit.contracts import Core, Objective, Prior
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.draw import Draw
from vaekit.cores.vae import VAE
from vaekit.distributions.base import Normal
from vaekit.networks.blocks import Learned
from vaekit.numerics.random import fixed_noise

ROWS, GROUPS = 6, ("encoder", "posterior", "decoder", "prior")


class Known(VAE):
    """Draws each row with noise of its own, which its label numbers."""

    def draw(self, batch: Batch, samples: int = 1, stop: bool = False, noise: Any = None) -> Draw:
        with fixed_noise(3):
            of_all = torch.randn(ROWS, 2, dtype=torch.float64)
        assert batch.label is not None
        return super().draw(batch, samples, stop, of_all[batch.label].expand(samples, -1, -1))


class OneScaleAbove(Normal):
    """A Normal all of whose draws are mean + standard deviation."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return (self.loc + self.scale).expand(*sample_shape, *self.loc.shape)


class KnownPrior(Prior):
    """A Normal, linear in the context, whose draws are known."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = Learned(torch.zeros(2, 2), context_features=1)

    def forward(self, context: Tensor | None = None, infer: Any = None) -> Distribution:
        loc, log_scale = self.numbers(context).unbind(-2)
        return Independent(OneScaleAbove(loc, log_scale.exp()), 1)


def known(posterior: str = "DiagonalNormal") -> tuple[Core, Batch]:
    """The model, none of whose weights is 0, and its rows, in float64."""
    layer = {"hidden": [5], "activation": "Tanh"}
    with fixed_noise(1):
        model = Model(
            DataInfo((3,), (0.0, 1.0), levels=2, context_features=1),
            latent_shape=2,
            encoder={"class_path": "MLPEncoder", "init_args": layer},
            decoder={"class_path": "MLPDecoder", "init_args": layer},
            posterior=posterior,
            prior=KnownPrior(),
            objective="WAE",  # which serves every posterior
        ).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.3 * torch.randn_like(weight)
        x = (torch.rand(ROWS, 3, dtype=torch.float64) > 0.5).double()
        context = torch.randn(ROWS, 1, dtype=torch.float64)
    model.core.__class__ = Known
    return model.core, Batch(x, context, label=torch.arange(ROWS))


@dataclass
class ByHand:
    """What the model makes of the rows, each (B, 2) but for the distortion (B,)."""

    mean: Tensor
    variance: Tensor
    z: Tensor
    prior_mean: Tensor
    prior_scale: Tensor
    distortion: Tensor

    @property
    def prior_draws(self) -> Tensor:
        return self.prior_mean + self.prior_scale

    @property
    def rate(self) -> Tensor:
        """KL(q || p) of each row, as in any textbook."""
        ratio = self.variance / self.prior_scale**2
        distance = (self.mean - self.prior_mean) ** 2 / self.prior_scale**2
        return 0.5 * (ratio + distance - 1 - ratio.log()).sum(1)


def by_hand(core: Any, batch: Batch) -> ByHand:
    """The model with plain arithmetic."""
    x, c = batch.x, batch.context
    first, last = core.encoder.net[0], core.posterior.linear
    h = torch.tanh(torch.cat([x, c], 1) @ first.weight.T + first.bias)
    found = torch.cat([h, c], 1) @ last.weight.T + last.bias
    mean, variance = found[:, :2], found[:, 2:].exp() if found.shape[1] > 2 else 0 * found
    with fixed_noise(3):
        noise = torch.randn(ROWS, 2, dtype=torch.float64)[batch.label]
    z = mean + variance.sqrt() * noise if found.shape[1] > 2 else mean
    up, out = core.decoder.net[0], core.decoder.net[2]
    y = torch.tanh(torch.cat([z, c], 1) @ up.weight.T + up.bias) @ out.weight.T + out.bias
    pi = torch.sigmoid(y)
    numbers = core.prior.numbers.bias + c.unsqueeze(2) * core.prior.numbers.slope[:, :, 0]
    return ByHand(
        mean,
        variance,
        z,
        numbers[:, 0],
        numbers[:, 1].exp(),
        -(x * pi.log() + (1 - x) * (1 - pi).log()).sum(1),
    )


def assert_same_gradients(core: Any, loss: Tensor, expected: Tensor) -> None:
    """Of each group of parameters, and the losses themselves."""
    assert torch.allclose(loss.mean(), expected.mean(), rtol=1e-12)
    for group in GROUPS:
        weights = list(getattr(core, group).parameters())
        found, wanted = (
            torch.cat([g.flatten() for g in torch.autograd.grad(of, weights, retain_graph=True)])
            for of in (loss.mean(), expected.mean())
        )
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12), group
        assert (wanted != 0).any(), group


# Two ranks

SPLITS = {
    "of 4 and 2 rows": (slice(0, 4), slice(4, 6), (4 / 3, 2 / 3)),
    "one with a stand-in": (slice(0, 6), slice(2, 3), (2.0, 0.0)),
}


def gradient(objective: Objective, rank: int = -1, split: str = "") -> Tensor:
    """Of all weights, from the rows of a rank; of all rows where no rank is said."""
    core, batch = known()
    if split:
        first, second, weights = SPLITS[split]
        batch = replace(batch[(first, second)[rank]], weight=weights[rank])
    with fixed_noise(9):  # of the directions
        loss = objective(core, batch, 0)["loss"].mean() * batch.weight
    weights = list(core.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def on_a_rank(rank: int, folder: str, objectives: list[Objective]) -> None:
    """Saves the mean over two ranks of the gradients, of each objective and split."""
    torch.set_num_threads(1)
    store, wait = f"file://{folder}/store", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=wait)
    found = {}
    for number, objective in enumerate(objectives):
        for split in SPLITS:
            mean = gradient(objective, rank, split)
            dist.all_reduce(mean)
            found[number, split] = mean / 2
    if rank == 0:
        torch.save(found, Path(folder, "found.pt"))
    dist.destroy_process_group()
