"""Discrete latents and the Concrete distributions that relax them in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
    constraints,
    register_kl,
)
from torch.nn.functional import softplus

from vaekit.distributions.base import transport
from vaekit.numerics.precision import smallest


class Bits(Bernoulli):
    """torch's Bernoulli, whose KL to another broadcasts.

    Arguments:
        logits: Of the probability of a 1.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)


@register_kl(Bits, Bits)  # type: ignore[untyped-decorator]
def _(q: Bits, p: Bits) -> Tensor:
    ones = softplus(-p.logits) - softplus(-q.logits)  # log q(1) - log p(1)
    zeros = softplus(p.logits) - softplus(q.logits)
    return q.logits.sigmoid() * ones + (-q.logits).sigmoid() * zeros


class OneHot(OneHotCategorical):
    """torch's distribution of one-hot vectors, of which it checks nothing.

    Arguments:
        logits: Of the C classes, `(*, C)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self._categorical = Categorical(logits=logits, validate_args=False)
        *batch, classes = logits.shape
        Distribution.__init__(self, torch.Size(batch), torch.Size((classes,)), False)


class ConcreteBits(Distribution):
    r"""Bits relaxed to the unit interval.

    .. math:: z = \sigma\left(\frac{\ell + L}{\tau}\right), \qquad L \sim \mathrm{Logistic}(0, 1)

    A draw that would round to 0 or 1 is put beside it, one epsilon of its type away. It stands for
    all that lie beyond, and `log_prob` is the logarithm of their probability there: so the ratio
    of two such densities is right at any temperature.

    Arguments:
        logits: l, of the probability of a 1, which stays what it is at every temperature.
        temperature: tau, without dimension.

    References:
        The Concrete Distribution (Maddison, Mnih and Teh, 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> p = ConcreteBits(torch.zeros(3), torch.tensor(0.5))
        >>> p.log_prob(torch.tensor([0.5, 0.9, 1.0]))
        tensor([-0.6931,  0.0408, -7.9715])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: Tensor) -> None:
        self.logits, self.temperature = logits, temperature
        self.end = torch.finfo(logits.dtype).eps
        super().__init__(logits.shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.logits.shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.relaxed(u.logit(self.end))

    def relaxed(self, noise: Tensor) -> Tensor:
        """Draws, from logistic noise."""
        z = ((self.logits + noise) / self.temperature).sigmoid()
        return z.clamp(self.end, 1 - self.end)

    def log_prob(self, value: Tensor) -> Tensor:
        z = value.clamp(self.end, 1 - self.end)
        y = z.logit()
        x = self.temperature * y - self.logits  # logistic noise
        density = self.temperature.log() - softplus(x) - softplus(-x) - z.log() - (-z).log1p()
        beyond = -softplus(y.sign() * x)
        return torch.where((z - 0.5).abs() < 0.5 - self.end, density, beyond)


class ConcreteOneHot(Distribution):
    r"""One-hot vectors relaxed to the simplex, with a density over its first C - 1 elements.

    .. math:: z = \mathrm{softmax}\left(\frac{\ell + G}{\tau}\right), \qquad
        G_c \sim \mathrm{Gumbel}(0, 1)

    An element of a draw that would be less than the 0.8th power of the smallest number of its type
    is put there. It stands for all that are less, and `log_prob` is the density of the n others,
    times the probability that these are less. With z there in their place it is

    .. math:: (n - 1)! \, \tau^{n - 1} \prod_{c \in n} \frac{s_c}{z_c}, \qquad
        s = \mathrm{softmax}(\ell - \tau \log z)

    So the ratio of two such densities is right at any temperature.

    Arguments:
        logits: l, of the C classes, `(*, C)`; whose element is the largest has their probabilities
            at every temperature.
        temperature: tau, without dimension.

    References:
        The Concrete Distribution (Maddison, Mnih and Teh, 2017), https://arxiv.org/abs/1611.00712;
        Categorical Reparameterization with Gumbel-Softmax (Jang, Gu and Poole, 2017),
        https://arxiv.org/abs/1611.01144

    Example:
        >>> p = ConcreteOneHot(torch.zeros(3), torch.tensor(1.0))
        >>> p.log_prob(torch.tensor([0.2, 0.3, 0.5])).exp()
        tensor(2.0140)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.simplex
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: Tensor) -> None:
        self.logits, self.temperature = logits, temperature
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.logits.shape)
        wait = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.relaxed(-wait.exponential_().log())

    def relaxed(self, noise: Tensor) -> Tensor:
        """Draws, from Gumbel noise."""
        z = ((self.logits + noise) / self.temperature).softmax(-1)
        return z.clamp(min=smallest(z))

    def log_prob(self, value: Tensor) -> Tensor:
        log_z, t = value.clamp(min=smallest(value)).log(), self.temperature
        shares = (self.logits - t * log_z).log_softmax(-1)
        above = value > smallest(value)
        n = above.sum(-1).to(log_z.dtype)
        terms = torch.where(above, shares - log_z, 0.0).sum(-1)
        return torch.lgamma(n) + (n - 1) * t.log() + terms


@transport.register
def _(q: ConcreteBits, noise: Tensor) -> Tensor:
    return q.relaxed(torch.special.log_ndtr(noise) - torch.special.log_ndtr(-noise))


@transport.register
def _(q: ConcreteOneHot, noise: Tensor) -> Tensor:
    return q.relaxed(-(-torch.special.log_ndtr(noise)).log())


def bits(logits: Tensor, temperature: Tensor | None, event_dims: int) -> Independent[Any]:
    """Independent bits, relaxed at a temperature, or discrete where that is None."""
    base = Bits(logits) if temperature is None else ConcreteBits(logits, temperature)
    return Independent(base, event_dims, validate_args=False)


def one_hots(logits: Tensor, temperature: Tensor | None, event_dims: int) -> Independent[Any]:
    """Independent one-hot vectors, relaxed at a temperature, or discrete where that is None."""
    base = OneHot(logits) if temperature is None else ConcreteOneHot(logits, temperature)
    return Independent(base, event_dims - 1, validate_args=False)
