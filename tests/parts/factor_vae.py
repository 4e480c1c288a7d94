"""FactorVAE: an adversary that tells draws of q(z) from draws of its marginals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaekit.batch import Batch
from vaekit.contracts import Core, Objective
from vaekit.part import frozen
from vaekit.precision import full_precision


class FactorVAE(Objective):
    """The ELBO and `gamma` times the total correlation of q(z), as a critic estimates it.

    The marginals' draws are those of the same batch with each latent permuted.

    References:
        Disentangling by Factorising (Kim and Mnih, 2018), https://arxiv.org/abs/1802.05983
    """

    def __init__(
        self, latent_shape: tuple[int, ...], gamma: float = 6.0, lr: float = 1e-4
    ) -> None:
        super().__init__()
        self.gamma, self.lr = gamma, lr
        self.critic = nn.Sequential(
            nn.Linear(latent_shape[0], 64), nn.LeakyReLU(0.2), nn.Linear(64, 2)
        )

    def adversary(self) -> dict[str, Any]:
        return {"params": self.critic.parameters(), "lr": self.lr, "clip": 1.0}

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        z, terms = draw.z[0], draw.bound()
        with full_precision(z):  # as a density, which its difference is the ratio of
            joint, product = frozen(self.critic)(z).unbind(1)
            critic = self._taught(z.detach())
        tc = joint - product  # log of the density ratio
        loss = terms["distortion"] + terms["rate"] + self.gamma * tc + critic
        return {**terms, "tc": tc, "critic": critic, "loss": sum(draw.losses.values(), loss)}

    def _taught(self, free: Tensor) -> Tensor:
        """The critic's own loss, on draws that send nothing back."""
        apart = torch.stack([column[torch.randperm(len(free))] for column in free.unbind(1)], 1)
        rows = torch.cat([free, apart])
        kinds = torch.arange(2, device=free.device).repeat_interleave(len(free))
        return nn.functional.cross_entropy(self.critic(rows), kinds)
