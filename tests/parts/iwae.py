"""The importance-weighted bound, and its doubly reparametrised gradient."""

from __future__ import annotations

from math import log

from torch import Tensor

from vaekit.batch import Batch
from vaekit.contracts import Core, Objective


class IWAE(Objective):
    r"""Minus the importance-weighted bound of K draws.

    .. math:: \log \frac{1}{K} \sum_k \frac{p(x, z_k)}{q(z_k|x)}

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519;
        Doubly Reparameterized Gradient Estimators (Tucker et al., 2019),
        https://arxiv.org/abs/1810.04152, for `dreg`.
    """

    best = ("iwae", "max")

    def __init__(self, samples: int = 5, dreg: bool = False) -> None:
        super().__init__()
        self.samples, self.dreg = samples, dreg

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch, self.samples, stop=self.dreg)
        log_w = draw.log_weight  # (K, B)
        w = log_w.detach().softmax(0)
        if self.dreg:
            draw.scale_latent_grad(w)
        bound = log_w.detach().logsumexp(0) - log(self.samples)
        surrogate = (w * log_w).sum(0)  # has the bound's gradient
        loss = -bound - (surrogate - surrogate.detach())
        return {**draw.losses, "loss": sum(draw.losses.values(), loss), "iwae": bound}

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        draw = model.draw(batch, self.samples)
        return {"iwae": draw.log_weight.logsumexp(0) - log(self.samples), **draw.bound()}
