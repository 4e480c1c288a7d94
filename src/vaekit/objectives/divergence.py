"""Objectives that match the draws of all rows' latents to the prior's."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.objective import Objective
from vaekit.contracts.schedule import Schedule, check_weights, final_weight, weight_at
from vaekit.numerics.distributed import gather_over_ranks
from vaekit.numerics.precision import full_precision

SCALES = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]

Kernel = Literal["imq", "rbf"]


def mmd(x: Tensor, y: Tensor, kernel: Kernel = "imq", scales: Sequence[float] = SCALES) -> Tensor:
    r"""The squared maximum mean discrepancy of two distributions, estimated from draws of each.

    .. math:: E\,k(x, x') + E\,k(y, y') - 2\, E\,k(x, y)

    The kernel is a sum over scales s. With C = 2 D s and the squared distance d² of two draws,
    "imq" is C / (C + d²), the inverse multiquadratic, and "rbf" exp(-d² / C): 2 D is the mean of
    d² where both are standard Normal. No draw is compared with itself: the estimate is unbiased,
    and may be negative. From a single draw E k(x, x') cannot be estimated, and is taken for 0.

    Arguments:
        x: N draws of D numbers each, (N, *).
        y: M draws of as many numbers, (M, *).
        kernel: "imq" or "rbf".
        scales: Of the kernel's width, without unit.

    Raises:
        ValueError: If there is no such kernel, or no scale, or one that is not positive.

    References:
        A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> mmd(x, x + 1, "rbf", [1.0])  # 2 exp(-4/2) - (3 exp(-1/2) + exp(-9/2)) / 2
        tensor(-0.6447)
    """
    check_kernel(kernel, scales)
    x, y = x.flatten(1), y.flatten(1)
    of_x, of_y, of_both = (_kernel(*pair, kernel, scales) for pair in ((x, x), (y, y), (x, y)))
    return _mean_of_others(of_x) + _mean_of_others(of_y) - 2 * of_both.mean()


def check_kernel(kernel: str, scales: Sequence[float]) -> None:
    """Refuses an unknown kernel, and widths that are none.

    Raises:
        ValueError: If it does.
    """
    if kernel not in ("imq", "rbf"):
        raise ValueError(f"Expected kernel to be imq or rbf but got {kernel!r}.")
    if not scales or not all(0 < scale < inf for scale in scales):
        raise ValueError(f"Expected scales, one or more, above 0 but got {scales!r}.")


def _kernel(x: Tensor, y: Tensor, kernel: str, scales: Sequence[float]) -> Tensor:
    """The kernel of each of x (N, D) with each of y (M, D), (N, M)."""
    # By a product of matrices, which holds no (N, M, D), around their middle: it loses what is
    # small beside the distance from 0.
    middle = y.mean(0).detach()
    x, y = x - middle, y - middle
    squares = ((x * x).sum(1, keepdim=True) + (y * y).sum(1) - 2 * x @ y.T).clamp(min=0)
    k = torch.zeros_like(squares)
    for scale in scales:
        width = 2 * x.shape[1] * scale
        k = k + (width / (width + squares) if kernel == "imq" else (-squares / width).exp())
    return k


def _mean_of_others(k: Tensor) -> Tensor:
    """The mean of what is off the diagonal; 0 where nothing is."""
    return (k.sum() - k.diagonal().sum()) / max(k.numel() - len(k), 1)


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    r"""The squared sliced Wasserstein-2 distance of two sets of draws.

    .. math:: \frac{1}{L N} \sum_l \sum_n \left(\theta_l^\top x_{(n)} - \theta_l^\top
        y_{(n)}\right)^2

    where (n) is the place in the order along each direction. Of two sets from one distribution it
    is above 0, by less the more draws there are.

    Arguments:
        x: N draws of D numbers each, (N, *).
        y: As many draws of as many numbers, (N, *).
        directions: Unit vectors, (L, D).

    Raises:
        ValueError: If there are more draws of one than of the other.

    References:
        Sliced-Wasserstein Autoencoder (Kolouri et al., 2018), https://arxiv.org/abs/1804.01947

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [2.0, 0.0]])
        >>> sliced_wasserstein(x, y, directions=torch.eye(2))  # 2² along the first, 0 the second
        tensor(2.)
    """
    if len(x) != len(y):
        raise ValueError(f"Expected as many draws of both but got {len(x)} and {len(y)}.")
    x, y = ((draws.flatten(1) @ directions.T).sort(0).values for draws in (x, y))  # (N, L)
    return (x - y).square().mean()


class _Matching(Objective):
    """Base of objectives that compare draws of q(z) with draws of p(z)."""

    best = ("loss", "min")

    def draws(self, model: Core, draw: Draw, all_ranks: bool = True) -> tuple[Tensor, Tensor]:
        """Returns draws of q(z) and of p(z), one of each for each row, (N, Z).

        Arguments:
            model: The core.
            draw: The draw of this rank's rows.
            all_ranks: Whether N counts the rows of all ranks, or only this rank's.

        Raises:
            ValueError: If there are several levels, or draws of p(z) would not train the prior.
        """
        z, p = draw.only_level.z[0], draw.only_level.p
        shape = torch.Size(() if p.batch_shape else (len(z),))  # else one for each row's context
        if not p.has_rsample and model.learned_prior is not None:
            raise self.refuse(
                "a prior without weights, or whose draws have a gradient, to train them",
                f"one that gives a {type(p).__name__}",
            )
        prior = p.rsample(shape) if p.has_rsample else p.sample(shape)
        z, prior, rows = z.flatten(1), prior.flatten(1), draw.batch.counted
        if not all_ranks:
            return z[:rows], prior[:rows]
        return gather_over_ranks(z, rows), gather_over_ranks(prior, rows)


class InfoVAE(_Matching):
    r"""The ELBO with less of the rate, and the discrepancy of q(z) from the prior.

    .. math:: \mathcal{L} = -E_{q(z|x)}[\log p(x|z)] + (1 - \alpha)\, KL(q(z|x)\,||\,p(z))
        + (\alpha + \lambda - 1)\, \mathrm{MMD}^2(q(z), p(z))

    q(z) has one draw for each row of the batch, of all ranks, and so has p(z). The discrepancy,
    `mmd`, is told without its weight.

    Validation reports the ELBO, the discrepancy of each validation batch on one rank, an unbiased
    estimate whatever the batch size, and the loss, which chooses the best checkpoint.

    Arguments:
        alpha: What the rate counts less, without unit; 0 keeps the ELBO whole, 1 leaves the rate
            out.
        weight: The paper's lambda, without unit. At alpha 0 and weight 1 this is the ELBO.
        kernel: "imq" or "rbf", see `mmd`.
        scales: Of the kernel's width, whose unit suits a prior of unit variance.

    Raises:
        ValueError: If the rate or the discrepancy has a negative weight, in the beginning or in
            the end where there are schedules; or `mmd` refuses kernel or scales; at the first
            step, if there are several levels, or a prior learns whose draws have no gradient.

    References:
        InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song and
        Ermon, 2019), https://arxiv.org/abs/1706.02262
    """

    def __init__(
        self,
        alpha: float | Schedule = 0.0,
        weight: float | Schedule = 100.0,
        kernel: Kernel = "imq",
        scales: list[float] = SCALES,
    ) -> None:
        super().__init__()
        check_kernel(kernel, scales)
        self.alpha, self.weight = alpha, weight
        self.kernel, self.scales = kernel, scales
        for at in (lambda w: weight_at(w, 0), final_weight):
            of_rate, of_mmd = _weights(at(alpha), at(weight))
            if not (0 <= of_rate < inf and 0 <= of_mmd < inf):
                raise ValueError(
                    "Expected alpha to be at most 1, and alpha + weight at least 1, but the rate "
                    f"would have the weight {of_rate:g} and the discrepancy {of_mmd:g}."
                )

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        return self._terms(model, batch, weight_at(self.alpha, step), weight_at(self.weight, step))

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        terms = self._terms(
            model, batch, final_weight(self.alpha), final_weight(self.weight), all_ranks=False
        )
        return {**terms, "loss": terms["loss"].mean()}

    def _terms(
        self,
        model: Core,
        batch: Batch,
        alpha: Any,
        weight: Any,
        all_ranks: bool = True,
    ) -> dict[str, Tensor]:
        draw = model.draw(batch)
        terms = draw.bound()
        with full_precision(draw.z):
            discrepancy = mmd(*self.draws(model, draw, all_ranks), self.kernel, self.scales)
        of_rate, of_mmd = _weights(alpha, weight)
        loss = terms["distortion"] + of_rate * terms["rate"] + of_mmd * discrepancy
        return {**terms, "mmd": discrepancy, "loss": sum(draw.losses.values(), loss)}


def _weights(alpha: Any, weight: Any) -> tuple[Any, Any]:
    """The weights of the rate and of the discrepancy."""
    return 1 - alpha, alpha + weight - 1


class WAE(_Matching):
    r"""The distortion, and the distance D of q(z) from the prior.

    .. math:: \mathcal{L} = -E_{q(z|x)}[\log p(x|z)] + \lambda\, D(q(z), p(z))

    q(z) has one draw for each row of the batch, of all ranks, and so has p(z). The distance, `mmd`
    or `sliced`, is told without its weight. No density of q is needed: it serves `Delta` too.

    Validation reports the distortion, the distance and their weighted sum, `loss`, which chooses
    the best checkpoint and is no bound. The distance is the mean over the validation batches, each
    of one rank, weighted by their rows. "mmd" is an unbiased estimate whatever the batch size.
    "sliced" is larger in smaller batches, so only values of one batch size compare.

    Arguments:
        weight: Lambda, without unit. The authors' code takes 10 where a squared error counts 0.05,
            which is 100 in the nats of a Gaussian of unit scale.
        penalty: "mmd", the squared maximum mean discrepancy, or "sliced", the squared sliced
            Wasserstein-2 distance.
        kernel: Of the discrepancy, "imq" or "rbf", see `mmd`.
        scales: Of the kernel's width, whose unit suits a prior of unit variance.
        directions: How many directions the sliced distance is taken along, each rank drawing as
            many at each step.

    Raises:
        ValueError: If the weight is negative, there is no such penalty or no direction, or `mmd`
            refuses kernel or scales; at the first step, if there are several levels, or a prior
            learns whose draws have no gradient.

    References:
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558;
        Sliced-Wasserstein Autoencoder (Kolouri et al., 2018), https://arxiv.org/abs/1804.01947
    """

    bound = False

    def __init__(
        self,
        weight: float | Schedule = 100.0,
        penalty: Literal["mmd", "sliced"] = "mmd",
        kernel: Kernel = "imq",
        scales: list[float] = SCALES,
        directions: int = 50,
    ) -> None:
        super().__init__()
        check_weights(weight=weight)
        check_kernel(kernel, scales)
        if penalty not in ("mmd", "sliced"):
            raise ValueError(f"Expected penalty to be mmd or sliced but got {penalty!r}.")
        if directions < 1:
            raise ValueError(f"Expected directions to be at least 1 but got {directions}.")
        self.weight, self.penalty, self.directions = weight, penalty, directions
        self.kernel, self.scales = kernel, scales

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        return self._terms(model, batch, weight_at(self.weight, step))

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        terms = self._terms(model, batch, final_weight(self.weight), all_ranks=False)
        return {**terms, "loss": terms["loss"].mean()}

    def _terms(
        self, model: Core, batch: Batch, weight: float | Tensor, all_ranks: bool = True
    ) -> dict[str, Tensor]:
        draw = model.draw(batch)
        with full_precision(draw.z):
            distance = self._distance(*self.draws(model, draw, all_ranks))
        loss = sum(draw.losses.values(), draw.distortion + weight * distance)
        terms = {**draw.losses, "distortion": draw.distortion, self.penalty: distance}
        return {**terms, "loss": loss}

    def _distance(self, z: Tensor, prior: Tensor) -> Tensor:
        if self.penalty == "mmd":
            return mmd(z, prior, self.kernel, self.scales)
        directions = torch.randn(self.directions, z.shape[1], dtype=z.dtype, device=z.device)
        return sliced_wasserstein(z, prior, normalize(directions))
