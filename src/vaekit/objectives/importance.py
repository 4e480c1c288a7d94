"""Importance-weighted bounds, and the ways to their gradient."""

from __future__ import annotations

from math import log
from typing import Literal, get_args

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.objective import Objective
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.schedule import Schedule, weight_at
from vaekit.numerics.precision import first_parameter, widest

Gradient = Literal["standard", "stl", "dreg"]

_LARGEST = 1e6  # alpha: beyond, float32 has no such powers


class IWAE(Objective):
    r"""Minus the importance-weighted bound of K draws, in the mean over M groups of them.

    .. math:: \mathcal{L} = -\frac{1}{M} \sum_{m=1}^{M} \log \frac{1}{K} \sum_{k=1}^{K} w_{mk},
        \qquad w_{mk} = \frac{p(x, z_{mk})}{q(z_{mk}|x)}, \qquad z_{mk} \sim q(z|x)

    More than one group makes it MIWAE(M, K). With `alpha` a group's bound is Li and Turner's

    .. math:: \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_{mk}^{1 - \alpha}

    which is IWAE's at 0, and the ELBO at 1. For the same draws it falls as alpha grows: from 0 on
    it is, in the mean, a lower bound of log p(x), and below 0 it need not be. `iwae`, the
    logarithm of the mean of all M K weights, is one whatever is minimised. `effective_samples` is
    the number of equally weighted draws that they are worth, from 1 to M K.

    Arguments:
        samples: K, the number of draws in a group.
        groups: M, the number of groups. More draws in a group make the bound tighter, and the
            signal to noise of the encoder's "standard" gradient lower; more groups make it higher.
        gradient: Of the encoder and the posterior: "standard" is the bound's own; "dreg" has the
            same mean and less variance, since it goes through z alone, with the weights squared;
            "stl" goes through z alone with the weights as they are, and so has the mean of
            "standard" only where the bound is the ELBO.
        partial: PIWAE: encoder and posterior get the gradient of the M groups, decoder, likelihood
            and prior, with whatever that infers through the encoder, that of all draws as one
            group, whose bound is then the loss.
        elbo: CIWAE's beta, the share of the ELBO of the same draws, from 0 to 1.
        alpha: Order of the Rényi divergence, without unit.

    Raises:
        ValueError: If there is no draw or no group, `gradient` is another, the share is not
            between 0 and 1, or alpha is beyond 1e6. With "stl", "dreg" or `partial`, when a model
            is built, if a posterior's density is known of its own draws alone, or it uses
            log p(x, z). With `partial`, when called, if networks run in float16.

    References:
        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2016),
        https://arxiv.org/abs/1509.00519; Tighter Variational Bounds are Not Necessarily Better
        (Rainforth et al., 2018), https://arxiv.org/abs/1802.04537, for MIWAE, CIWAE and PIWAE;
        Rényi Divergence Variational Inference (Li and Turner, 2016),
        https://arxiv.org/abs/1602.02311; Sticking the Landing (Roeder, Wu and Duvenaud, 2017),
        https://arxiv.org/abs/1703.09194; Doubly Reparameterized Gradient Estimators for Monte
        Carlo Objectives (Tucker et al., 2019), https://arxiv.org/abs/1810.04152

    Example:
        >>> from vaekit import Model, data
        >>> digits = data.Digits()
        >>> model = Model(digits, latent_shape=2, objective="IWAE")
        >>> batch = next(digits.rows("train", 5))
        >>> list(model.objective(model.core, batch, step=0))
        ['iwae', 'elbo', 'effective_samples', 'loss']
    """

    best = ("iwae", "max")

    def __init__(
        self,
        samples: int = 5,
        groups: int = 1,
        gradient: Gradient = "standard",
        partial: bool = False,
        elbo: float | Schedule = 0.0,
        alpha: float = 0.0,
    ) -> None:
        super().__init__()
        for name, count in (("samples", samples), ("groups", groups)):
            if count < 1:
                raise ValueError(f"Expected {name} to be at least 1 but got {count}.")
        if gradient not in get_args(Gradient):
            raise ValueError(
                f"Expected gradient to be standard, stl or dreg but got {gradient!r}."
            )
        if not isinstance(elbo, Schedule) and not 0 <= elbo <= 1:
            raise ValueError(f"Expected elbo to be a schedule or from 0 to 1 but got {elbo!r}.")
        if not abs(alpha) <= _LARGEST:
            raise ValueError(f"Expected alpha from -1e6 to 1e6 but got {alpha!r}.")
        self.samples, self.groups, self.gradient = samples, groups, gradient
        self.partial, self.elbo, self.alpha = partial, elbo, alpha

    def check(self, model: Core) -> None:
        super().check(model)
        if self.gradient == "standard" and not self.partial:
            return
        for part in model.modules():
            if isinstance(part, Posterior) and (part.uses_log_joint or not part.evaluates):
                raise self.refuse(
                    "a posterior whose density is known of any z and does not use log p(x, z), to "
                    "split its gradient",
                    f"{part.title or type(part).__name__}: choose gradient standard, not partial",
                )

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        if self.partial and _in_float16(model):
            raise self.refuse(
                "bfloat16 or float32, in which small weights last, for partial", "float16"
            )
        draw = model.draw(batch, self.groups * self.samples, stop=self.gradient != "standard")
        log_w, share = draw.log_weight.detach(), weight_at(self.elbo, step)  # (M * K, B)
        signal = self._signal(draw, log_w, share)
        loss = -(self._bound(log_w, share) + signal - signal.detach())
        terms = {
            "iwae": _log_mean(log_w, 0),
            "elbo": log_w.mean(0),
            "effective_samples": 1 / log_w.softmax(0).square().sum(0),
        }
        return {**draw.losses, **terms, "loss": sum(draw.losses.values(), loss)}

    def evaluate(self, model: Core, batch: Batch) -> dict[str, Tensor]:
        draw = model.draw(batch, self.groups * self.samples)
        return {**draw.bound(), "iwae": _log_mean(draw.log_weight, 0)}

    @property
    def _outer(self) -> int:
        """The number of groups of what decoder, likelihood and prior maximise."""
        return 1 if self.partial else self.groups

    def _bound(self, log_w: Tensor, share: float | Tensor) -> Tensor:
        """What decoder, likelihood and prior maximise, (B,)."""
        # Near alpha 1 what the logarithm leaves is divided by next to nothing.
        w, power = widest(log_w.unflatten(0, (self._outer, -1))), 1 - self.alpha  # (M, K, B)
        mean = w.mean(1)
        renyi = mean + _log_mean(power * (w - mean.unsqueeze(1)), 1) / power if power else mean
        return (share * mean + (1 - share) * renyi).mean(0).to(log_w)

    def _counts(
        self, log_w: Tensor, groups: int, share: float | Tensor, squared: bool = False
    ) -> Tensor:
        """The derivative (M * K, B) of the bound of so many groups by each log-weight; or squared,
        what counts of each in the doubly reparametrised gradient."""
        w = ((1 - self.alpha) * log_w.unflatten(0, (groups, -1))).softmax(1)  # (M, K, B)
        w = w * (self.alpha + (1 - self.alpha) * w) if squared else w
        return (share / w.shape[1] + (1 - share) * w).flatten(0, 1) / groups

    def _signal(self, draw: Draw, log_w: Tensor, share: float | Tensor) -> Tensor:
        """What has the gradient to follow, (B,)."""
        counts = self._counts(log_w, self._outer, share)
        if self.gradient != "dreg" and not self.partial:
            return (counts * draw.log_weight).sum(0)
        own = self._counts(log_w, self.groups, share, squared=self.gradient == "dreg")
        # What is sent back from a draw that counts for nothing could not be scaled up to what it
        # counts for in its group: each counts for a little, less than rounding.
        counts = counts.clamp(min=torch.finfo(counts.dtype).eps ** 2)
        draw.scale_latent_grad(own / counts)
        if self.gradient != "standard":
            return (counts * draw.log_weight).sum(0)
        # log q sends back through z, where that is scaled, and into q; of held draws into q alone.
        # Together each draw's counts as `own` on both ways.
        through, into = (_log_posterior(draw, held) for held in (False, True))
        joint = draw.log_likelihood + draw.log_prior
        return (counts * (joint - through) + (counts - own) * into).sum(0)


def _log_posterior(draw: Draw, held: bool) -> Tensor:
    """log q(z|x) (K, B) of all levels by q's density; of held draws no gradient goes through z."""
    first, *rest = (
        level.log_posterior_at(level.z.detach() if held else level.z) for level in draw.levels
    )
    return sum(rest, first)


def _in_float16(model: Core) -> bool:
    """Whether networks run, or weights are, in float16."""
    own = first_parameter(model)
    if own is None:
        return False
    kind = own.device.type
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return cast or any(p.dtype == torch.float16 for p in model.parameters())


def _log_mean(log_w: Tensor, dim: int) -> Tensor:
    """The logarithm of the mean of what the logarithms are of."""
    return log_w.logsumexp(dim) - log(log_w.shape[dim])
