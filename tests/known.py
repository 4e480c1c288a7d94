"""A core whose draws a test knows, and its terms with plain arithmetic."""

from __future__ import annotations

import multiprocessing
from math import lgamma, log, pi
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributions import Independent, StudentT

from parts.two_level import ConditionalNormal, TwoLevel
from vaekit import Model, register
from vaekit.contracts import Objective, Prior
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.cores.vae import VAE
from vaekit.numerics.random import fixed_noise
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.geco import GECO

INFO = DataInfo((3,), (0.0, 1.0), levels=2)
SEEDED = torch.Generator().manual_seed(4)
NOISE = torch.randn(4, 6, 2, dtype=torch.float64, generator=SEEDED)
TOP = torch.randn(4, 6, 2, dtype=torch.float64, generator=SEEDED)
X = (torch.rand(6, 3, dtype=torch.float64, generator=SEEDED) > 0.5).double()
SPLITS = [((0, 4), (4, 6)), ((0, 6), (2, 3))]
"""Which of the six rows two ranks have; in the second case the other's is a stand-in."""


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


class Known(VAE):
    """Draws each row with noise that the test knows, by the row's place."""

    def draw(self, batch, samples=1, stop=False, noise=None):
        own = NOISE[:samples, batch.start : batch.start + len(batch)]
        return super().draw(batch, samples, stop, own.to(batch.x.dtype))


class KnownTwo(TwoLevel):
    """Draws both levels with noise that the test knows."""

    def draw(self, batch, samples=1, stop=False, noise=None):
        return super().draw(batch, samples, stop, (TOP[:samples], NOISE[:samples]))


class Heavy(Prior):
    """Independent t's: a product, but without a closed form of the rate."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.full(latent_shape, 0.3))

    def forward(self, context: Any = None, infer: Any = None) -> Any:
        return Independent(StudentT(5.0, self.loc), 1)


def registered() -> None:
    for cls in (TwoLevel, ConditionalNormal, Known, KnownTwo, Heavy):
        register(cls)


def made(prior: str = "LearnedNormal", core: str = "Known") -> Any:
    """A core whose latents have rates well apart."""
    network: dict[str, Any] = {"hidden": [5], "activation": "Tanh"}
    with fixed_noise(2):
        model = Model(
            INFO,
            latent_shape=2,
            core=core,
            prior=prior,
            encoder=part("MLPEncoder", **network),
            decoder=part("MLPDecoder", **network),
        ).double()
        with torch.no_grad():
            for p in model.core.parameters():
                p += 0.3 * torch.randn_like(p)
    return model.core


def first_step(core: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """q's mean and log-variance, with plain arithmetic."""
    first, last = core.encoder.net[0], core.posterior.linear
    h = torch.tanh(x @ first.weight.T + first.bias)
    return (h @ last.weight.T + last.bias).chunk(2, dim=1)


def distortion(core: Any, z: Tensor) -> Tensor:
    """Of draws z (K, B, Z), with plain arithmetic: (B,)."""
    up, out = core.decoder.net[0], core.decoder.net[2]
    share = torch.sigmoid(torch.tanh(z @ up.weight.T + up.bias) @ out.weight.T + out.bias)
    return -(X * share.log() + (1 - X) * (1 - share).log()).sum(-1).mean(0)


def latent_rates(core: Any, samples: int) -> tuple[Tensor, Tensor]:
    """KL_j of each row and latent (B, J), with plain arithmetic, and the draws."""
    mu, log_var = first_step(core, X)
    z = mu + (log_var / 2).exp() * NOISE[:samples]
    if isinstance(core.prior, Heavy):
        log_q = -0.5 * (log(2 * pi) + log_var + NOISE[:samples] ** 2)
        t = z - core.prior.loc
        norm = lgamma(3.0) - lgamma(2.5) - 0.5 * log(5 * pi)
        return (log_q - norm + 3 * (1 + t**2 / 5).log()).mean(0), z
    loc, prior_log_var = core.prior.numbers(None)
    ratio = ((mu - loc) ** 2 + log_var.exp()) / prior_log_var.exp()
    return 0.5 * (prior_log_var - log_var + ratio - 1), z


def level_rates(core: Any, samples: int) -> list[Tensor]:
    """Of two levels, each (B, J): the upper in closed form, the lower from its draws."""
    mu, log_var = first_step(core, X)
    z = mu + (log_var / 2).exp() * NOISE[:samples]
    h = core.top_encoder(z.flatten(0, 1))
    top_mu, top_log_var = core.top_posterior.linear(h).view(samples, 6, 4).chunk(2, dim=2)
    top = top_mu + (top_log_var / 2).exp() * TOP[:samples]
    loc, spread = core.prior.linear(top).chunk(2, dim=2)
    log_q = -0.5 * (log_var + NOISE[:samples] ** 2)
    log_p = -0.5 * (spread + (z - loc) ** 2 / spread.exp())
    upper = 0.5 * (top_mu**2 + top_log_var.exp() - 1 - top_log_var)
    return [upper.mean(0), (log_q - log_p).mean(0)]


def same_gradients(core: Any, loss: Tensor, expected: Tensor) -> None:
    """Of each parameter, of each part; some of every part are not nought."""
    assert torch.allclose(loss, expected, atol=1e-13)
    names, weights = zip(*core.named_parameters(), strict=True)
    got = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(expected, weights, allow_unused=True, materialize_grads=True)
    for name, a, b in zip(names, got, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-13), name
    reached = {n.split(".")[0] for n, g in zip(names, wanted, strict=True) if g.abs().max() > 1e-6}
    assert reached == {n.split(".")[0] for n in names}


# Two ranks


def ways() -> list[dict[str, Any]]:
    """Free bits between the means of the two ranks for some latent, and for the level."""
    rates = latent_rates(made(), 1)[0].detach()
    one, other = (rates[slice(*rows)].mean(0) for rows in SPLITS[0])
    apart = (one - other).abs().argmax()
    free, whole = float((one + other)[apart] / 2), float((one + other).sum() / 2)
    return [{"free_bits": free}, {"free_bits": whole, "free_bits_per": "level"}]


def gradients(objective: Objective, rows: tuple[int, int], weight: float) -> Tensor:
    """Of the loss of some rows, whose mean counts so much."""
    core = made()
    batch = Batch(X[slice(*rows)], weight=weight, start=rows[0])
    (objective(core, batch, 0)["loss"].mean() * weight).backward()
    return nn.utils.parameters_to_vector([p.grad for p in core.parameters()])


def followed(objective: GECO, rows: tuple[int, int], weight: float) -> Tensor:
    """GECO's state after three steps with the same draws."""
    batch = Batch(X[slice(*rows)], weight=weight, start=rows[0])
    with torch.no_grad():
        for _ in range(3):
            objective.after_step(made().draw(batch))
    return torch.stack(list(objective.buffers()))


def on_two_ranks(folder: Path) -> None:
    """Saves what two processes find, in a file of each."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vaekit.testing"])  # as the laws do
    ranks = [context.Process(target=_on_a_rank, args=(r, folder), daemon=True) for r in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()


def _on_a_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    registered()
    init = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
    found = []
    for split in SPLITS:
        sizes = [b - a for a, b in split] if split == SPLITS[0] else [6, 0]
        for init_args in ways():
            grad = gradients(ELBO(**init_args), split[rank], sizes[rank] / 3)
            dist.all_reduce(grad)
            found.append(grad / 2)
        found.append(followed(GECO(1.0).double(), split[rank], sizes[rank] / 3))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
