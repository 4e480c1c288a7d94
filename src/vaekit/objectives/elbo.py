"""The evidence lower bound and its beta."""

from __future__ import annotations

from torch import Tensor

from vaekit.batch import Batch
from vaekit.contracts import Core, Objective
from vaekit.schedules import Schedule, weight_at

__all__ = ["ELBO"]


class ELBO(Objective):
    r"""Minus the evidence lower bound, the rate weighted by beta.

    What q brings beside its density (a commitment) is added to the loss and logged by its name.

    .. math:: \mathcal{L} = -E_{q(z|x)}[\log p(x|z)] + \beta\, KL(q(z|x)\,||\,p(z))

    Arguments:
        beta: Weight of the rate, without unit; 1 gives the bound itself.
        samples: Number of draws per row.

    Raises:
        ValueError: If beta is negative or samples is below one.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114; beta-VAE (Higgins et al., 2017),
        https://openreview.net/forum?id=Sy2fzU9gl
    """

    def __init__(self, beta: float | Schedule = 1.0, samples: int = 1) -> None:
        super().__init__()
        if not isinstance(beta, Schedule) and not beta >= 0:
            raise ValueError(f"Expected beta to be a schedule or at least 0 but got {beta!r}.")
        if samples < 1:
            raise ValueError(f"Expected samples to be at least 1 but got {samples}.")
        self.beta, self.samples = beta, samples

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch, self.samples)
        terms = draw.bound()  # each (B,)
        loss = terms["distortion"] + weight_at(self.beta, step) * terms["rate"]
        return {**terms, "loss": sum(draw.losses.values(), loss)}
