"""Objectives that keep latents from depending on one another."""

from __future__ import annotations

from math import log
from typing import Literal

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Level
from vaekit.contracts.objective import Objective
from vaekit.contracts.schedule import Schedule, check_weights, weight_at
from vaekit.distributions.factors import factorises, marginals
from vaekit.numerics.distributed import gather_over_ranks
from vaekit.numerics.precision import full_precision


class BetaTCVAE(Objective):
    r"""The ELBO of one draw, whose rate is three terms, each with a weight of its own.

    .. math:: \mathcal{L} = -\log p(x|z) + \alpha \log \frac{q(z|x)}{q(z)}
        + \beta \log \frac{q(z)}{\prod_i q(z_i)} + \gamma \log \frac{\prod_i q(z_i)}{p(z)},
        \qquad z \sim q(z|x)

    In the mean these are the mutual information of x and z (`mi`), the total correlation of the
    latents (`tc`) and the KL of each latent from its prior (`dimension_kl`), in nats. Where all
    weights are 1, q(z) cancels.

    q(z) is the mean of q(z|x) over the N training rows, and is estimated from the B rows of the
    batch, of each rank by itself:

    .. math:: q(z) \approx \sum_b w_b\, q(z|x_b)

    The row that z was drawn for is always among them. "mss" makes up for that: the row itself has
    w = 1/N and each other (N-1) / (N (B-1)), so that the mean over batches is q(z). That is the
    paper's minibatch-stratified sampling in the mean over the order of the other rows, of which
    the paper favours all but one: the same expectation, and less variance. "mws", the paper's
    minibatch-weighted sampling, has w = 1/(N B) for all, and is biased.

    `mi`, `tc` and `dimension_kl` are estimates for the loss, not measurements: the logarithm of
    the estimate of q(z) is biased with "mss" too, so a term may be negative, or off by many nats
    with many latents. Three terms next to them have a known direction. `rate`, the mean of
    KL(q(z|x) || p(z)), is not biased, and is the sum of the three true terms. `mi_lower` compares
    q(z|x) with its mean over the batch: its expectation is at most the mutual information, and it
    is at most log B. `tc_upper` is `rate` minus `mi_lower`: its expectation is at least the KL of
    q(z) from p(z), and so at least the total correlation.

    .. math:: \mathrm{mi\_lower} = \log \frac{q(z|x)}{\frac1B \sum_b q(z|x_b)} \le \log B

    It holds B x B numbers for each latent.

    Arguments:
        data_size: N, which vaekit gives.
        alpha: Weight of the mutual information, without unit.
        beta: Weight of the total correlation, without unit.
        gamma: Weight of the latents' KL, without unit.
        estimator: Of q(z): "mss" or "mws".

    Raises:
        ValueError: If N is not known, a weight is negative, or there is no such estimator; at the
            first step, if q or p is no product over the latents, or there are several levels.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942

        On Variational Bounds of Mutual Information (Poole et al., 2019),
        https://arxiv.org/abs/1905.06922, for `mi_lower`
    """

    def __init__(
        self,
        data_size: int | None,
        alpha: float | Schedule = 1.0,
        beta: float | Schedule = 6.0,
        gamma: float | Schedule = 1.0,
        estimator: Literal["mss", "mws"] = "mss",
    ) -> None:
        super().__init__()
        if data_size is None:
            raise ValueError(
                "Expected the number of training rows, which a vaekit data module knows, but got "
                "none: say it with DataInfo(..., data_size=...)."
            )
        check_weights(alpha=alpha, beta=beta, gamma=gamma)
        if estimator not in ("mss", "mws"):
            raise ValueError(f"Expected estimator to be mss or mws but got {estimator!r}.")
        self.data_size, self.estimator = data_size, estimator
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        level = draw.only_level
        for which, p in (("a posterior", level.q), ("a prior", level.p)):
            if not factorises(p):
                raise self.refuse(f"{which} of independent latents", f"a {type(p).__name__}")
        terms = draw.bound()
        with full_precision(level.z):
            whole, product, of_batch = self._log_q(level)
        mi = draw.log_posterior[0] - whole
        tc = whole - product
        kl = product - draw.log_prior[0]
        loss = (
            terms["distortion"]
            + weight_at(self.alpha, step) * mi
            + weight_at(self.beta, step) * tc
            + weight_at(self.gamma, step) * kl
        )
        terms |= {"mi": mi, "tc": tc, "dimension_kl": kl}
        mi_lower = (draw.log_posterior[0] - of_batch).detach()
        terms |= {"mi_lower": mi_lower, "tc_upper": terms["rate"].detach() - mi_lower}
        return {**terms, "loss": sum(draw.losses.values(), loss)}

    def _log_q(self, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log q(z), the sum of log q(z_i) over the latents, and the logarithm of the mean
        of q(z|x) over the batch, for the draw of each row, each (B,)."""
        z = level.z[0].unsqueeze(1)  # (B, 1, *Z)
        log_q = marginals(level.q).log_prob(z).flatten(2)  # (B, B, Z), a column for each x
        log_w = self._log_weights(len(z), log_q)
        given = log_q.sum(2)
        product = (log_w.unsqueeze(2) + log_q).logsumexp(1).sum(1)
        return (log_w + given).logsumexp(1), product, given.detach().logsumexp(1) - log(len(z))

    def _log_weights(self, rows: int, like: Tensor) -> Tensor:
        """log w of each row (a column) for the draw of each row, (B, B)."""
        n = self.data_size
        own, other = 1 / n, (n - 1) / (n * max(rows - 1, 1))
        if self.estimator == "mws":
            own = other = 1 / (n * rows)
        w = torch.full((rows, rows), other, dtype=like.dtype, device=like.device)
        return w.fill_diagonal_(own).log()


class DIPVAE(Objective):
    r"""The ELBO, and a penalty on what the covariance C of the latents differs by from identity.

    .. math:: \mathcal{L} = -\mathrm{ELBO} + \lambda_{od} \sum_{i \ne j} C_{ij}^2
        + \lambda_d \sum_i (C_{ii} - 1)^2

    Variant "I" takes the covariance of the means of q(z|x) over the rows of the batch, of all
    ranks; "II" that of q(z), which is more by the mean of the variances of q(z|x). Both sums are
    told without their weights, as `off_diagonal` and `diagonal`.

    Arguments:
        variant: "I" or "II".
        off_diagonal: Weight of the covariances, without unit.
        diagonal: Weight of the variances, without unit. The paper takes ten times `off_diagonal`
            for variant I, and as much as that for II.

    Raises:
        ValueError: If a weight is negative, or there is no such variant; at the first step, if q
            is no product over the latents, or there are several levels.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar,
        Sattigeri and Balakrishnan, 2018), https://arxiv.org/abs/1711.00848
    """

    def __init__(
        self,
        variant: Literal["I", "II"] = "II",
        off_diagonal: float | Schedule = 10.0,
        diagonal: float | Schedule = 10.0,
    ) -> None:
        super().__init__()
        if variant not in ("I", "II"):
            raise ValueError(f"Expected variant to be I or II but got {variant!r}.")
        check_weights(off_diagonal=off_diagonal, diagonal=diagonal)
        self.variant, self.off_diagonal, self.diagonal = variant, off_diagonal, diagonal

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        draw = model.draw(batch)
        terms = draw.bound()
        with full_precision(draw.z):
            covariance = self._covariance(draw.only_level, batch.counted)
        variances = covariance.diagonal()
        off_diagonal = (covariance - variances.diag()).square().sum()
        diagonal = (variances - 1).square().sum()
        loss = (
            terms["distortion"]
            + terms["rate"]
            + weight_at(self.off_diagonal, step) * off_diagonal
            + weight_at(self.diagonal, step) * diagonal
        )
        terms |= {"off_diagonal": off_diagonal, "diagonal": diagonal}
        return {**terms, "loss": sum(draw.losses.values(), loss)}

    def _covariance(self, level: Level, rows: int) -> Tensor:
        """That of the latents (Z, Z) over the rows of all ranks, of this one the first `rows`."""
        q = level.q
        if not factorises(q):
            raise self.refuse("a posterior of independent latents", f"a {type(q).__name__}")
        both = torch.cat([q.mean.flatten(1), q.variance.flatten(1)], 1)
        mean, variance = gather_over_ranks(both, rows).chunk(2, 1)
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / len(mean)
        return covariance if self.variant == "I" else covariance + variance.mean(0).diag()
