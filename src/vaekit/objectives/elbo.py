"""The evidence lower bound, its beta, and what holds the rate up against collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.decoder import Decoder
from vaekit.contracts.draw import Draw, Level
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.objective import Objective
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import Prior
from vaekit.contracts.schedule import Schedule, check_weights, final_weight, weight_at
from vaekit.distributions.factors import factor_rates, factorises, marginals
from vaekit.numerics.distributed import mean_over_ranks
from vaekit.numerics.precision import full_precision

Terms = dict[str, Tensor]


class ELBO(Objective):
    r"""Minus the evidence lower bound, the rate weighted by beta.

    What q brings beside its density (a commitment) is added to the loss and logged by its name.

    .. math:: \mathcal{L} = -E_{q(z|x)}[\log p(x|z)] + \beta\, R, \qquad
        R = KL(q(z|x)\,||\,p(z))

    With free bits \lambda, a latent or level j is not pressed below a rate of \lambda nats; with a
    capacity C, the whole rate is pressed towards C nats, from above and from below:

    .. math:: R = \sum_j \max(\lambda, KL_j) \qquad \text{or} \qquad R = |KL - C|

    Only the loss changes by them: elbo, distortion and rate stay those of the model. Over a batch,
    KL_j is the mean over its rows on all ranks; a latent whose mean is above \lambda has its
    gradient from every row, and one below from none. Of several draws the mean is compared.

    Validation reports elbo, distortion and rate. Unless the schedules end in the ELBO itself (beta
    1, no free bits, no capacity), it also reports the loss with schedules at their end, and this
    loss chooses the best checkpoint. The ELBO would choose the model of the step at which the rate
    passes the one that the ELBO prefers, long before a capacity has risen to its end. Free bits
    over the batch are compared with the mean over the rows of each validation batch on one rank.

    Lagging is of the inference network: of each n + 1 optimizer steps, the first n move encoder
    and posterior alone, and the last moves everything. What a part changes after a step, such as
    an optimal scale, goes on meanwhile. Different from the paper, n is given, where that goes on
    until the bound of the inner steps no longer rises, and the last step moves encoder and
    posterior too. A schedule that falls to 0 ends it.

    Arguments:
        beta: Weight of the rate, without unit; 1 gives the bound itself.
        samples: Number of draws per row.
        free_bits: \lambda, in nats; 0 holds nothing up.
        free_bits_per: What has that much free, each "latent" or each "level" of latents. The first
            wants a q and a prior that are products over the latents.
        free_bits_over: Whether the mean of the "batch" is compared, as in the paper, or each
            "row". Where a rate is estimated from draws, the batch is the better choice: one row's
            estimate is often above \lambda, or below, by chance.
        capacity: C, per row in `capacity_unit`; None for none. Beta is then the paper's \gamma. A
            rate that is estimated from draws is off by its noise from any C, which presses it
            below C: take a q and a prior of closed form.
        capacity_unit: "nats", or "log_rows" for multiples of log N, N training rows. On average a
            code cannot contain more than log N nats about which training row it encodes; a larger
            rate only moves q(z) away from the prior.
        lagging: n, in optimizer steps; of a schedule rounded to a whole number.

    Raises:
        ValueError: If a number is negative, samples is below one, a choice is another, or capacity
            and free bits come together; with "log_rows", if the number of training rows is not
            known; with lagging, if the core has nothing beside its encoders and posteriors, or
            none of these; at the first step, if q or the prior has no rates of single latents.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114; beta-VAE (Higgins et al., 2017),
        https://openreview.net/forum?id=Sy2fzU9gl; Improved Variational Inference with Inverse
        Autoregressive Flow (Kingma et al., 2016), https://arxiv.org/abs/1606.04934, for free bits;
        Understanding disentangling in beta-VAE (Burgess et al., 2018),
        https://arxiv.org/abs/1804.03599, for the capacity; Lagging Inference Networks and
        Posterior Collapse in Variational Autoencoders (He et al., 2019),
        https://arxiv.org/abs/1901.05534

    Example:
        >>> from vaekit.schedules import Linear
        >>> objective = ELBO(free_bits=0.1, lagging=Linear(steps=1000, start=5, end=0))
    """

    def __init__(
        self,
        beta: float | Schedule = 1.0,
        samples: int = 1,
        free_bits: float | Schedule = 0.0,
        free_bits_per: Literal["latent", "level"] = "latent",
        free_bits_over: Literal["batch", "row"] = "batch",
        capacity: float | Schedule | None = None,
        lagging: int | Schedule = 0,
        capacity_unit: Literal["nats", "log_rows"] = "nats",
        data_size: int | None = None,
    ) -> None:
        super().__init__()
        check_weights(beta=beta, free_bits=free_bits, capacity=capacity or 0, lagging=lagging)
        if not isinstance(lagging, int | Schedule):
            raise ValueError(f"Expected lagging to be a whole number but got {lagging!r}.")
        if samples < 1:
            raise ValueError(f"Expected samples to be at least 1 but got {samples}.")
        if free_bits_per not in ("latent", "level"):
            raise ValueError(
                f"Expected free_bits_per to be latent or level but got {free_bits_per!r}."
            )
        if free_bits_over not in ("batch", "row"):
            raise ValueError(
                f"Expected free_bits_over to be batch or row but got {free_bits_over!r}."
            )
        if free_bits and capacity is not None:
            raise ValueError(
                f"Expected free_bits or a capacity but got both: {free_bits!r} and {capacity!r}."
            )
        if capacity_unit not in ("nats", "log_rows"):
            raise ValueError(
                f"Expected capacity_unit to be nats or log_rows but got {capacity_unit!r}."
            )
        if capacity_unit == "log_rows" and data_size is None:
            raise ValueError(
                "Expected the number of training rows, which a vaekit data module knows, for "
                "capacity_unit log_rows but got none: pass DataInfo(..., data_size=...), or "
                "choose nats."
            )
        self.nats = log(data_size) if capacity_unit == "log_rows" and data_size else 1.0
        self.beta, self.samples = beta, samples
        self.free_bits, self.per, self.over = free_bits, free_bits_per, free_bits_over
        self.capacity, self.lagging = capacity, lagging
        if final_weight(beta) != 1 or final_weight(free_bits) or capacity is not None:
            self.best = ("loss", "min")

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        # No comprehension, in which torch.compile would compile the region for one step alone.
        beta, free = weight_at(self.beta, step), weight_at(self.free_bits, step)
        capacity = None if self.capacity is None else weight_at(self.capacity, step)
        draw = model.draw(batch, self.samples)
        return self._terms(draw, beta, free, capacity, mean_over_ranks)

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        draw = model.draw(batch)
        if self.best[0] == "elbo":
            return draw.bound()
        beta, free = final_weight(self.beta), final_weight(self.free_bits)
        capacity = None if self.capacity is None else final_weight(self.capacity)
        terms = self._terms(draw, beta, free, capacity, lambda kl, rows: kl[:rows].mean(0))
        depends_on_batch = self.free_bits and self.over == "batch"
        return {**terms, "loss": terms["loss"].mean() if depends_on_batch else terms["loss"]}

    def _terms(
        self,
        draw: Draw,
        beta: float | Tensor,
        free: float | Tensor,
        capacity: float | Tensor | None,
        mean: Callable[[Tensor, int], Tensor],
    ) -> Terms:
        """The terms with these weights.

        Arguments:
            mean: Computes the mean rates (J,) from rates (B, J), of which the first n rows count.
        """
        terms = draw.bound()  # each (B,)
        rate = terms["rate"]
        if capacity is not None:
            rate = (rate - self.nats * capacity).abs()
        elif self.free_bits:
            rate = self._held_up(draw, free, mean)
        loss = terms["distortion"] + beta * rate
        return {**terms, "loss": sum(draw.losses.values(), loss)}

    def _held_up(
        self, draw: Draw, free: float | Tensor, mean: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """The sum of the rates, (B,), those that are at most `free` in its place."""
        with full_precision(draw.z):
            found = [level.rate().unsqueeze(-1) for level in draw.levels]
            if self.per == "latent":
                found = [self._of_latents(level) for level in draw.levels]
            kl = torch.cat([rates.mean(0) for rates in found], 1)  # (B, J)
            compared = kl if self.over == "row" else mean(kl, draw.batch.counted)
            above = (compared > free) | (free == 0)  # free of nothing, estimates may be negative
            return torch.where(above, kl, free).sum(1)

    def _of_latents(self, level: Level) -> Tensor:
        """The rate of each latent, in closed form (1, B, J), else estimated (K, B, J)."""
        q, p, z = level.q, level.p, level.z
        if not (factorises(q) and factorises(p)):
            raise self.refuse(
                "a q and a prior that are products over the latents, for free bits of each latent",
                f"{type(q).__name__} and {type(p).__name__}: choose free_bits_per level",
            )
        if level.closed:
            # In the rows of q, which are K * B where it depends on draws of another level.
            own = z if q.batch_shape == z.shape[1:2] else z.flatten(0, 1).unsqueeze(0)
            found = factor_rates(q, p, own)
        else:
            found = _log_probs(q, z) - _log_probs(p, z)
        return found.reshape(-1, z.shape[1], z[0, 0].numel())

    # Lagging

    def check(self, model: Core) -> None:
        super().check(model)
        if not self.lagging:
            return
        generative = {id(p) for p in _generative(model)}
        moving = {id(p) for p in model.parameters() if p.requires_grad}
        if not moving & generative:
            raise self.refuse(
                "a core with more to train than encoders and posteriors, for lagging", "none"
            )
        if not moving - generative:
            raise self.refuse(
                "a core with an encoder or a posterior to train, for lagging", "none"
            )

    def resting(self, model: Core, step: int) -> Iterable[nn.Parameter]:
        if not self.lagging:
            return ()
        n = max(0, round(float(weight_at(self.lagging, step))))
        return _generative(model) if step % (n + 1) < n else ()


def _log_probs(p: Distribution, z: Tensor) -> Tensor:
    """log p of each latent, (K, B, *Z), for p of batch (B,), (K, B) or (K * B,)."""
    flat = z.flatten(0, 1)
    own = flat if p.batch_shape == flat.shape[:1] else z
    return marginals(p).log_prob(own).view_as(z)


def _generative(core: Core) -> Iterator[nn.Parameter]:
    """The core's parameters but those of its encoders and posteriors."""
    inferring = {id(p) for part in _inferring(core) for p in part.parameters()}
    return (p for p in core.parameters() if id(p) not in inferring)


def _inferring(module: nn.Module) -> Iterator[nn.Module]:
    """The encoders and posteriors in a module, but for those that a generative part has inside."""
    for child in module.children():
        if isinstance(child, Encoder | Posterior):
            yield child
        elif not isinstance(child, Prior | Decoder | Likelihood):
            yield from _inferring(child)
