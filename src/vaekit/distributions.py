"""What torch.distributions lacks: noise from outside, and a KL that always exists."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import singledispatch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

__all__ = ["normal", "rate", "sample_and_log_prob", "soft_clamp", "sum_over_ranks", "transport"]

_estimated: set[str] = set()


def soft_clamp(x: Tensor, bound: float = 10.0) -> Tensor:
    """The identity within ±bound; beyond it grows like a logarithm.

    Guards exp(log-variance): the value stays finite and, unlike a clamp's, the gradient never
    dies.

    Example:
        >>> import torch
        >>> soft_clamp(torch.tensor([-3.0, 10.0, 1e30]))
        tensor([-3.0000, 10.0000, 79.0776])
    """
    excess = (x.abs() - bound).clamp(min=0)
    return x.clamp(-bound, bound) + x.sign() * excess.log1p()


def normal(loc: Tensor, scale: Tensor, event_dims: int) -> Independent[Normal]:
    """A Normal of independent elements whose last `event_dims` dimensions are one event."""
    return Independent(Normal(loc, scale, validate_args=False), event_dims, validate_args=False)


@singledispatch
def transport(q: Distribution, noise: Tensor) -> Tensor:
    """Maps standard normal noise to a draw from q, differentiably in q's parameters.

    Arguments:
        noise: Standard normal noise with shape `(*, *batch, *event)`.

    Raises:
        NotImplementedError: If no such map is known for q's type. Register one with
            `transport.register`.
    """
    raise NotImplementedError(
        f"Expected a distribution that can be drawn from given noise, but got {type(q).__name__}. "
        "Register its map from standard normal noise with "
        "vaekit.distributions.transport.register."
    )


@transport.register
def _(q: Normal, noise: Tensor) -> Tensor:
    return q.loc + q.scale * noise


@transport.register(Independent)
def _(q: Independent[Distribution], noise: Tensor) -> Tensor:
    return transport(q.base_dist, noise)


def sample_and_log_prob(
    q: Distribution, samples: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Draws z (samples, *batch, *event), and log q(z) where the draw gives it, else None.

    Raises:
        TypeError: If a gradient is wanted and q has no reparametrised sample.
    """
    shape = torch.Size((samples,))
    if noise is not None:
        return transport(q, noise), None
    if hasattr(q, "rsample_and_log_prob"):
        z, log_q = q.rsample_and_log_prob(shape)
        return z, log_q
    if q.has_rsample:
        return q.rsample(shape), None
    if torch.is_grad_enabled():
        raise TypeError(
            f"Expected a posterior with a reparametrised sample, to train through its draws, but "
            f"{type(q).__name__} has none (has_rsample is False)."
        )
    return q.sample(shape), None


def rate(
    q: Distribution,
    p: Distribution,
    log_posterior: Callable[[], Tensor],
    log_prior: Callable[[], Tensor],
) -> Tensor:
    """KL(q || p): its closed form (1, B) where one is registered, else log q - log p (K, B).

    The estimate is announced by one warning for each pair of distributions.
    """
    try:
        return kl_divergence(q, p).unsqueeze(0)
    except NotImplementedError:
        pair = f"KL({_name(q)} || {_name(p)})"
        if pair not in _estimated:
            _estimated.add(pair)
            warnings.warn(
                f"{pair} has no registered closed form: it is estimated from the draws.",
                stacklevel=2,
            )
    return log_posterior() - log_prior()


def _name(p: Distribution) -> str:
    return _name(p.base_dist) if isinstance(p, Independent) else type(p).__name__


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over all processes of a distributed run, without gradient."""
    x = x.detach()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x
