"""What torch.distributions lacks: given noise, dict-valued draws, a KL that always exists."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import singledispatch
from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    kl_divergence,
    register_kl,
)
from torch.distributions import Normal as _TorchNormal
from torch.nn.functional import softshrink

from vaekit.numerics.random import RowByRow, row_normal

_estimated: set[str] = set()

_LOG_ROOT = log(2 * pi) / 2


def soft_clamp(x: Tensor, bound: float = 10.0) -> Tensor:
    """The identity within ±bound; beyond it grows like a logarithm.

    Guards exp(log-variance): the value stays finite and, unlike a clamp's, the gradient never
    dies.

    Example:
        >>> import torch
        >>> soft_clamp(torch.tensor([-3.0, 10.0, 1e30]))
        tensor([-3.0000, 10.0000, 79.0776])
    """
    excess = softshrink(x, bound)
    return x.clamp(-bound, bound) + excess.detach().sign() * excess.abs().log1p()


def soft_unclamp(y: Tensor, bound: float = 10.0) -> Tensor:
    """The x whose `soft_clamp` is y.

    Example:
        >>> import torch
        >>> soft_clamp(soft_unclamp(torch.tensor([-12.0, 3.0])))
        tensor([-12.,   3.])
    """
    excess = softshrink(y, bound)
    return y.clamp(-bound, bound) + excess.sign() * excess.abs().expm1()


class Normal(_TorchNormal):
    """torch's Normal, of a location and a scale of one shape, in fewer operations.

    Arguments:
        loc: The mean of each element.
        scale: Their standard deviations, with the shape of `loc`.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        Distribution.__init__(self, loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Normal:
        return Normal(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.scale, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        distance = (value - self.loc) / self.scale
        return -_LOG_ROOT - torch.add(self.scale.log(), distance * distance, alpha=0.5)


@register_kl(Normal, Normal)  # type: ignore[untyped-decorator]
def _(q: Normal, p: Normal) -> Tensor:
    ratio, distance = q.scale / p.scale, (q.loc - p.loc) / p.scale
    squares = torch.addcmul(distance * distance, ratio, ratio)
    return torch.add(-0.5 - ratio.log(), squares, alpha=0.5)


def normal(loc: Tensor, scale: Tensor, event_dims: int) -> Independent[Normal]:
    """A Normal of independent elements whose last `event_dims` dimensions are one event.

    Arguments:
        loc: The means.
        scale: The standard deviations, with the shape of `loc`.
    """
    return Independent(Normal(loc, scale), event_dims, validate_args=False)


class Joint(Distribution):
    """Independent distributions by name: p of a dict-valued x. All have one batch shape.

    Example:
        >>> import torch
        >>> p = Joint({"a": normal(torch.zeros(4, 2), torch.ones(4, 2), 1)})
        >>> p.log_prob(p.sample()).shape
        torch.Size([4])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it

    def __init__(self, parts: Mapping[str, Distribution]) -> None:
        self.parts = dict(parts)
        shapes = {part.batch_shape for part in self.parts.values()}
        if len(shapes) != 1:
            raise ValueError(f"Expected distributions of one batch shape but got {shapes}.")
        super().__init__(shapes.pop(), validate_args=False)

    @property
    def mean(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: part.mean for name, part in self.parts.items()}

    @property
    def mode(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: part.mode for name, part in self.parts.items()}

    def sample(self, sample_shape: Any = ()) -> dict[str, Tensor]:  # type: ignore[override]
        shape = torch.Size(sample_shape)
        return {name: part.sample(shape) for name, part in self.parts.items()}

    def log_prob(self, value: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
        first, *rest = (part.log_prob(value[name]) for name, part in self.parts.items())
        return sum(rest, first)


def elements(p: Distribution, x: Any) -> Any:
    """log p of each element of x, with shape (*batch, *event); for a Joint, of each entry.

    Raises:
        ValueError: If p does not factorise over the elements of x.
    """
    if isinstance(p, Joint):
        return {name: elements(part, x[name]) for name, part in p.parts.items()}
    if not isinstance(p, Independent):
        raise ValueError(
            "Expected a likelihood that factorises over elements, to leave out the masked ones, "
            f"but got a {type(p).__name__}."
        )
    return p.base_dist.log_prob(x)


def inside(support: Any) -> Any:
    """A value within a constraint of torch.distributions, to stand where nothing is observed.

    Example:
        >>> from torch.distributions import constraints
        >>> inside(constraints.unit_interval), inside(constraints.positive)
        (0.5, 1.0)
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is not None and (support.is_discrete or high is None):
        return low if support.is_discrete else low + 1.0
    if high is not None:
        return high - 1.0 if low is None else (low + high) / 2
    return 0.0


def filled(p: Distribution, x: Any, mask: Any) -> Any:
    """x with a value of p's support in the place of what the mask hides.

    Hidden elements may hold anything, NaN too, and a NaN would reach the gradient through `where`.
    """
    if isinstance(p, Joint):
        return {name: filled(part, x[name], mask[name]) for name, part in p.parts.items()}
    return torch.where(mask, x, inside(p.support))


@register_kl(MultivariateNormal, Independent)  # type: ignore[untyped-decorator]
@register_kl(LowRankMultivariateNormal, Independent)  # type: ignore[untyped-decorator]
def _(q: Any, p: Independent[Distribution]) -> Tensor:
    if not isinstance(p.base_dist, _TorchNormal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    spread = (q.variance / p.base_dist.scale.square()).sum(-1)
    return spread / 2 - p.log_prob(q.mean) - q.entropy()


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
def _(q: _TorchNormal, noise: Tensor) -> Tensor:
    return torch.addcmul(q.loc, q.scale, noise)


@transport.register
def _(q: Laplace, noise: Tensor) -> Tensor:
    # By the distribution function's logarithm, which is right in the tails too.
    return q.loc - q.scale * noise.sign() * (log(2) + torch.special.log_ndtr(-noise.abs()))


@transport.register
def _(q: MultivariateNormal, noise: Tensor) -> Tensor:
    return q.loc + torch.einsum("...ij,...j->...i", q.scale_tril, noise)


@transport.register
def _(q: LowRankMultivariateNormal, noise: Tensor) -> Tensor:
    # As many numbers as there are latents are enough: with V = D^(-1/2) W, and C the Cholesky
    # factor of 1 + V'V, a root of 1 + VV' is 1 + V (1 + C)^(-1) V'.
    scale = q.cov_diag.sqrt()
    v = q.cov_factor / scale.unsqueeze(-1)
    one = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    c = torch.linalg.cholesky(one + v.mT @ v)
    left = torch.linalg.solve_triangular(one + c, v, upper=False, left=False)
    inner = torch.einsum("...ir,...i->...r", v, noise)
    return q.loc + scale * (noise + torch.einsum("...ir,...r->...i", left, inner))


@transport.register(Independent)
def _(q: Independent[Distribution], noise: Tensor) -> Tensor:
    return transport(q.base_dist, noise)


def takes_noise(q: Distribution) -> bool:
    """Whether a map from standard normal noise is registered for q.

    Example:
        >>> import torch
        >>> takes_noise(normal(torch.zeros(2), torch.ones(2), 1))
        True
    """
    if isinstance(q, Independent):
        return takes_noise(q.base_dist)
    return transport.dispatch(type(q)) is not transport.dispatch(object)


def sample_and_log_prob(
    q: Distribution,
    samples: int,
    noise: Tensor | None = None,
    keys: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Draws z (samples, *batch, *event), and log q(z) where the draw gives it, else None.

    A q that maps noise to a draw and its density at once has `transport_and_log_prob(noise)`,
    beside the map that is registered.

    Arguments:
        q: With batch shape (B,), where there are keys.
        samples: How many draws of each row.
        noise: Standard normal noise to draw with, in the place of fresh noise.
        keys: Those of a batch, (B,), where noise is that of the rows.

    Raises:
        TypeError: If a gradient is wanted and q has no reparametrised sample.
    """
    shape = torch.Size((samples,))
    if keys is not None and noise is None:
        if takes_noise(q):
            noise = row_normal(keys, samples, q.event_shape, _dtype(q))
        elif not torch.compiler.is_compiling():
            with RowByRow(keys, samples):
                return sample_and_log_prob(q, samples)
    if noise is not None:
        if hasattr(q, "transport_and_log_prob"):
            z, log_q = q.transport_and_log_prob(noise)
            return z, log_q
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


def _dtype(q: Distribution) -> torch.dtype:
    """That of q's parameters."""
    for value in vars(q).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.dtype
        if isinstance(value, Distribution):
            return _dtype(value)
    return torch.get_default_dtype()


def rate(
    q: Distribution,
    p: Distribution,
    log_posterior: Callable[[], Tensor],
    log_prior: Callable[[], Tensor],
) -> Tensor:
    """KL(q || p) in closed form, with q's batch shape, else log q - log p, with the draws' shape.

    The estimate is announced by one warning for each pair of distributions.
    """
    if torch.compiler.is_compiling():
        _find_closed_form(type(q), type(p))
        if isinstance(q, Independent) and isinstance(p, Independent):
            _find_closed_form(type(q.base_dist), type(p.base_dist))
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        _tell_estimated(f"KL({_name(q)} || {_name(p)})")
    return log_posterior() - log_prior()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tell_estimated(pair: str) -> bool:
    # torch.compile cannot follow a warning: it is given while that looks at the model.
    if pair not in _estimated:
        _estimated.add(pair)
        warnings.warn(
            f"{pair} has no registered closed form: it is estimated from the draws.",
            stacklevel=3,
        )
    return True


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _find_closed_form(q: type[Distribution], p: type[Distribution]) -> None:
    # torch remembers which KL belongs to two types, and torch.compile can follow it only where it
    # remembers already. It looks before it computes, so that empty distributions do.
    with suppress(Exception):
        kl_divergence(q.__new__(q), p.__new__(p))


def _name(p: Distribution) -> str:
    return _name(p.base_dist) if isinstance(p, Independent) else type(p).__name__
