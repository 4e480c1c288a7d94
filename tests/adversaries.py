"""What tests of objectives with an adversary share: gradients by group, and a step of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from test_objectives import NOISE, Fixed
from torch import Tensor, nn

from vaekit import Model
from vaekit.contracts.batch import Batch
from vaekit.data import DataModule
from vaekit.numerics.random import fixed_noise
from vaekit.training import optimizers

Losses = Callable[[Any, Any, Batch], Iterator[tuple[list[nn.Parameter], Tensor]]]
"""(core, objective, batch) -> parameters, each with the loss that a paper minimises by them."""


def own(*parts: nn.Module) -> list[nn.Parameter]:
    return [p for part in parts for p in part.parameters() if p.requires_grad]


@dataclass
class Encoded:
    """What a small model makes of rows, by plain arithmetic."""

    z: Tensor
    rate: Tensor

    @classmethod
    def by_hand(cls, core: Fixed, x: Tensor) -> Encoded:
        """For one hidden layer of Tanh, DiagonalNormal, and a Normal prior."""
        first, last = core.encoder.net[0], core.posterior.linear
        h = torch.tanh(x.flatten(1) @ first.weight.T + first.bias)
        mu, log_var = (h @ last.weight.T + last.bias).chunk(2, dim=1)
        p = core.prior().base_dist
        square = (log_var.exp() + (mu - p.loc) ** 2) / p.scale**2
        rate = 0.5 * (square - 1 - log_var + 2 * p.scale.log()).sum(1)
        return cls(mu + (log_var / 2).exp() * NOISE[0, : len(x)], rate)


def decoded(core: Fixed, z: Tensor) -> Tensor:
    """The decoder's output, by plain arithmetic."""
    up, out = core.decoder.net[0], core.decoder.net[2]
    return torch.tanh(z @ up.weight.T + up.bias) @ out.weight.T + out.bias


def trained(model: Model, rows: DataModule, steps: int) -> dict[str, float]:
    """What evaluation makes of held-out rows after some steps."""
    x = next(rows.rows("train", batch_size=2000)).x
    optimizer = torch.optim.Adam(optimizers.groups(model, model.objective), lr=1e-3)
    for step in range(steps):
        batch = Batch(x[torch.randint(len(x), (64,))])
        optimizer.zero_grad()
        model.objective(model.core, batch, step)["loss"].mean().backward()
        optimizer.step()
    terms = model.evaluate(next(rows.rows("val", batch_size=500)))
    return {name: float(term.mean()) for name, term in terms.items()}


def wanted(losses: Losses, core: Any, objective: Any, batch: Batch) -> dict[nn.Parameter, Tensor]:
    """The gradient that each parameter gets from the loss of its own group alone."""
    found: dict[nn.Parameter, Tensor] = {}
    for parameters, loss in losses(core, objective, batch):
        gradients = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found |= dict(zip(parameters, gradients, strict=True))
    return found


def holds_gradients(
    losses: Losses, core: Any, objective: Any, batch: Batch, step: int = 0
) -> None:
    """The one loss gives each group the gradient of its own loss, and nothing else."""
    with fixed_noise(3):
        expected = wanted(losses, core, objective, batch)
    with fixed_noise(3):
        loss = objective(core, batch, step)["loss"].mean()
    parameters = own(core, objective)
    assert set(expected) == set(parameters)
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(g, expected[p], rtol=1e-10, atol=1e-12)


def holds_a_step(losses: Losses, core: Any, objective: Any, batch: Batch) -> None:
    """Two batches are accumulated; then each group is clipped and steps by itself."""
    both = nn.ModuleList([core, objective])
    halves = batch[slice(0, 3)], batch[slice(3, 6)]
    adversary = objective.adversary()
    model, theirs = own(core), list(adversary["params"])
    with fixed_noise(3):
        gradients = [wanted(losses, core, objective, half) for half in halves]
    expected = {}
    for group, rate, most in ((model, 0.1, 1e-2), (theirs, adversary["lr"], adversary["clip"])):
        mean = [sum(found[p] for found in gradients) / 2 for p in group]
        norm = torch.cat([g.flatten() for g in mean]).norm()
        shrunk = min(1.0, float(most / norm))
        expected |= {p: p - rate * shrunk * g for p, g in zip(group, mean, strict=True)}
    optimizer = optimizers.make(
        {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        optimizers.groups(both, objective),
    )
    with fixed_noise(3):
        for half in halves:
            (objective(core, half, 0)["loss"].mean() / 2).backward()
    optimizers.clip_groups(optimizer, 1e-2, "norm")
    optimizer.step()
    for p, value in expected.items():
        assert torch.allclose(p, value, rtol=1e-5, atol=1e-9)  # torch adds 1e-6 to a norm
