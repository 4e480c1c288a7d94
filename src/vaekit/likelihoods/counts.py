"""Likelihoods for counts, with the size of a row's library as an offset."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions import Poisson as PoissonDistribution
from torch.nn.functional import logsigmoid, softplus

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.trees import Tree
from vaekit.distributions.base import soft_clamp, soft_unclamp
from vaekit.likelihoods.base import FromBaseline, broken, elementwise
from vaekit.networks.blocks import fill
from vaekit.numerics.precision import widest

_LEAST, _MOST_LOG = 1e-4, 30.0


class _Counts(FromBaseline):
    """Base of likelihoods of counts: exp of what the decoder gives is their mean.

    Arguments:
        library: Which column of the context holds the logarithm of the row's library size (its
            total, or its exposure): means are multiplied by that size. None where there is none.
    """

    data_range = (0.0, inf)
    expects = "whole numbers from 0"
    discrete = True

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        library: int | None = None,
    ) -> None:
        super().__init__()
        columns = 0 if data is None else data.context_features
        if library is not None and not 0 <= library < columns:
            raise ValueError(
                f"Expected library to be a column of the context, which has {columns}, but got "
                f"{library}."
            )
        self.event, self.library = tuple(event_shape), library

    @classmethod
    def takes(cls, data: DataInfo) -> bool:
        # Whole numbers have ends that are whole, and as many levels as there are numbers.
        for entry in data.entries().values():
            low, high = entry.data_range
            whole = all(end == inf or end == round(end) for end in (low, high) if end > -inf)
            counted = high > 1 if entry.levels is None else entry.levels == high - low + 1
            if not whole or not counted or entry.bin_width:
                return False
        return super().takes(data)

    def log_library(self, context: Tensor | None, like: Tensor) -> Tensor:
        """The logarithm of each row's library size, of a shape that broadcasts against `like`.

        Raises:
            ValueError: If one is 0, or beyond all counts; not looked at under torch.compile.
        """
        if self.library is None or context is None:
            return like.new_zeros(())
        size = context[..., self.library].to(like.dtype)
        if not torch.compiler.is_compiling():
            least, most = (float(end) for end in size.aminmax())
            if not -_MOST_LOG < least <= most < _MOST_LOG:
                wrong = least if not least > -_MOST_LOG else most
                raise self.refuse(
                    f"the logarithm of a library size in column {self.library} of the context",
                    f"{wrong:g}, " + _blame(wrong),
                )
        return size.reshape(*size.shape, *[1] * len(self.event))

    def check_rows(self, x: Tensor, mask: Tensor | None = None) -> None:
        if (value := broken(x, mask, (x != x.round()) | (x < 0))) is not None:
            raise ValueError(
                f"{type(self).__name__} expected whole numbers from 0 but the rows hold {value:g}."
                " Give counts, or choose Gaussian or LogNormal for what is no count."
            )

    def moments(self, data: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Of each element, the mean, the share of zeros, and the mean library size; and the
        variance, twice over zeros; the mean and the variance are those at a library of mean size.

        The variance of a count with mean l m is l m + (l m)² / r, and m and r are found from the
        sums over rows, each with its own l.
        """
        total: Tensor | None = None
        for batch in data:
            x = widest(fill(batch.x, batch.mask))
            seen = torch.ones_like(x) if batch.mask is None else batch.mask.to(x)
            size = self.log_library(batch.context, x).exp().expand_as(x)
            pairs = ((seen, seen), (x, seen), (x, x), (x, size), (size, seen), (size, size))
            # One product at a time: rows of many elements are large.
            parts = [(one * other * seen).sum(0) for one, other in pairs]
            parts.append(((x == 0) * seen).sum(0))
            sums = torch.stack(parts).cpu().double()
            total = sums if total is None else total + sums
        assert total is not None
        rows = total[0].clamp(min=1)
        x, square, product, size, size_square, zeros = total[1:] / rows
        size, size_square = (torch.where(total[0] > 0, s, 1.0) for s in (size, size_square))
        share = x / size  # m
        spread = square - 2 * share * product + share * share * size_square  # E (x - l m)²
        excess = (spread - share * size) / size_square  # m² / r
        mean = share * size
        variance = mean + excess * size * size
        nothing = torch.zeros_like(mean)
        return torch.stack([mean, zeros, size]), torch.stack([variance, nothing, nothing])


def _blame(log_size: float) -> str:
    if log_size == -inf:
        return "the logarithm of a library size of 0: leave that row out"
    return "which is no logarithm of one: give log(size), not the size itself"


class Poisson(_Counts):
    r"""Independent Poisson counts; the decoder gives the logarithm of their rates.

    .. math:: \log p(x|z) = \sum_i x_i \log \lambda_i - \lambda_i - \log x_i!, \qquad \lambda_i =
        l\, e^{y_i}

    Training begins at the mean of the training rows.

    Arguments:
        library: Which column of the context holds the logarithm of l, the row's library size (its
            total, or its exposure); None where l is 1.

    Raises:
        ValueError: If there is no such column; before the first step, if a value is no whole
            number; in a call, if a library size is 0.

    Example:
        >>> import torch
        >>> likelihood = Poisson(event_shape=(2,))
        >>> p = likelihood(torch.tensor([[[0.0, 1.0]]]))
        >>> p.mean, likelihood.log_prob(p, torch.tensor([[0.0, 3.0]]))
        (tensor([[[1.0000, 2.7183]]]), tensor([[-2.5100]]))
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        library: int | None = None,
    ) -> None:
        super().__init__(event_shape, data, library)
        self.output_shape = self.event
        self.begin_at(self.event)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        rate = (soft_clamp(y) + self.log_library(context, y)).exp()
        return elementwise(ExactPoisson(rate, validate_args=False), self.event)

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        return soft_unclamp((mean[0].clamp(min=_LEAST) / mean[2]).log())


class NegativeBinomial(_Counts):
    r"""Independent counts whose variance exceeds their mean.

    .. math:: \log p(x|z) = \sum_i \log \frac{\Gamma(x_i + r_i)}{\Gamma(r_i)\, x_i!} + r_i \log
        \frac{r_i}{r_i + \mu_i} + x_i \log \frac{\mu_i}{r_i + \mu_i}, \qquad \mu_i = l\, e^{y_i}

    with variance mu + mu² / r: a Poisson count whose rate is Gamma distributed with shape r, which
    is called the inverse dispersion. Training begins at the moments of the training rows.

    Arguments:
        library: Which column of the context holds the logarithm of l, the row's library size (its
            total, or its exposure); None where l is 1.
        dispersion: "learned", one r for each element; or "elementwise", one for each element of
            each row, from the decoder.

    Raises:
        ValueError: If there is no such column, or dispersion is another word; before the first
            step, if a value is no whole number; in a call, if a library size is 0.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), doi
        10.1038/s41592-018-0229-2

    Example:
        >>> import torch
        >>> likelihood = NegativeBinomial(event_shape=(2,))
        >>> p = likelihood(torch.tensor([[[0.0, 1.0]]]))
        >>> p.mean, round(float(likelihood.log_prob(p, torch.tensor([[0.0, 3.0]]))), 4)
        (tensor([[[1.0000, 2.7183]]]), -2.9462)
    """

    inflated = False
    """Whether the decoder also gives the logit of a zero that no count explains."""

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        library: int | None = None,
        dispersion: Literal["learned", "elementwise"] = "learned",
    ) -> None:
        super().__init__(event_shape, data, library)
        if dispersion not in ("learned", "elementwise"):
            raise ValueError(
                f"Expected dispersion to be learned or elementwise but got {dispersion!r}."
            )
        self.dispersion = dispersion
        self.numbers = 1 + self.inflated + (dispersion == "elementwise")
        self.output_shape = self.event if self.numbers == 1 else (self.numbers, *self.event)
        if dispersion == "learned":
            self.log_r = nn.Parameter(torch.zeros(self.event))
        self.begin_at(self.output_shape)

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        parts = list(y.unbind(dim=2)) if self.numbers > 1 else [y]
        log_mean = soft_clamp(parts[0]) + self.log_library(context, parts[0])
        log_r = parts[-1] if self.dispersion == "elementwise" else self.log_r.to(y.dtype)
        zero = parts[1] if self.inflated else None
        base = GammaPoisson(log_mean, soft_clamp(log_r), zero)
        return elementwise(base, self.event)

    def begin(self, mean: Tensor, variance: Tensor) -> None:
        super().begin(mean, variance)
        if self.dispersion == "learned":
            self.log_r.copy_(soft_unclamp(self._of_moments(mean, variance)[1]))

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        log_mean, log_r, zero = self._of_moments(mean, variance)
        numbers = [soft_unclamp(log_mean), *([zero] if self.inflated else [])]
        if self.dispersion == "elementwise":
            numbers.append(soft_unclamp(log_r))
        return torch.stack(numbers) if self.numbers > 1 else numbers[0]

    def without_latents(self, mean: Tree, variance: Tree) -> Likelihood:
        own: Any = super().without_latents(mean, variance)
        if self.dispersion == "learned":
            own.log_r = nn.Parameter(soft_unclamp(self._of_moments(mean, variance)[1]))
        return own

    def _of_moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log mu at a library of size 1, log r and the logit of an extra zero."""
        (first, zeros, size), variance = mean.unbind(0), variance[0]
        first = first.clamp(min=_LEAST)
        # For each share of extra zeros the first two moments give mu and r; without any it is 0.
        share = torch.linspace(0, 0.99, 100 if self.inflated else 1).to(first)
        share = share.view(-1, *[1] * first.dim())
        mu = first / (1 - share)
        excess = variance / (1 - share) - mu - share * mu.square()
        r = (mu.square() / excess.clamp(min=1e-12)).clamp(1e-2, 1e4)
        away = (share + (1 - share) * (-r * torch.log1p(mu / r)).exp() - zeros).abs()
        # A share with which the variance would fall below a Poisson count's is none.
        away = torch.where((excess < 0) & (share > 0), torch.inf, away)
        best = away.argmin(0, keepdim=True)
        mu, r = (x.take_along_dim(best, 0)[0] for x in (mu, r))
        share = share.expand(-1, *first.shape).take_along_dim(best, 0)[0]
        return (mu / size).log(), r.log(), share.clamp(min=1e-2).logit()


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Independent negative binomial counts, some of which are lost and read as 0.

    .. math:: p(x_i|z) = \pi_i [x_i = 0] + (1 - \pi_i)\, \mathrm{NB}(x_i; \mu_i, r_i)

    The decoder gives the logarithm of the mean and the logit of pi, the probability of a dropout.
    Training begins at the moments, and the share of zeros, of the training rows.

    Arguments:
        library: Which column of the context holds the logarithm of the row's library size, by
            which means are multiplied; None where there is none.
        dispersion: Of the counts that are not lost: "learned", one r for each element; or
            "elementwise", one for each element of each row, from the decoder.

    Raises:
        ValueError: As of `NegativeBinomial`.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), doi
        10.1038/s41592-018-0229-2

    Example:
        >>> import torch
        >>> likelihood = ZeroInflatedNegativeBinomial(event_shape=(2,))
        >>> p = likelihood(torch.zeros(1, 1, *likelihood.output_shape))
        >>> likelihood.output_shape, p.mean
        ((2, 2), tensor([[[0.5000, 0.5000]]]))
    """

    inflated = True


class ExactPoisson(PoissonDistribution):
    """torch's Poisson, with a log-probability in float64: its terms are large and cancel."""

    def log_prob(self, value: Tensor) -> Tensor:
        x, rate = widest(value), widest(self.rate)
        return (x.xlogy(rate) - rate - torch.lgamma(x + 1)).to(self.rate.dtype)


class GammaPoisson(Distribution):
    """Negative binomial counts by their mean, with or without extra zeros.

    Arguments:
        log_mean: The logarithm of the mean of counts that are not lost.
        log_r: That of the inverse dispersion, of a shape that broadcasts against `log_mean`.
        zero: The logit of a count that is lost; None where none is.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, log_r: Tensor, zero: Tensor | None = None) -> None:
        self.log_mean, self.log_r, self.zero = log_mean, log_r, zero
        super().__init__(log_mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        mean = self.log_mean.exp()
        return mean if self.zero is None else mean * (-self.zero).sigmoid()

    @property
    def mode(self) -> Tensor:
        """The most probable count."""
        r = self.log_r.exp()
        kept = ((r - 1).clamp(min=0) / r * self.log_mean.exp()).floor()
        if self.zero is None:
            return kept
        none = torch.zeros_like(kept)
        return torch.where(self.log_prob(none) >= self.log_prob(kept), none, kept)

    @property
    def variance(self) -> Tensor:
        mean = self.log_mean.exp()
        variance = mean + (2 * self.log_mean - self.log_r).exp()
        if self.zero is None:
            return variance
        kept = (-self.zero).sigmoid()
        return kept * (variance + (1 - kept) * mean.square())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.log_mean.shape)
        r, mean = self.log_r.exp().expand(shape), self.log_mean.exp().expand(shape)
        with torch.no_grad():
            x = torch.poisson(Gamma(r, r / mean, validate_args=False).sample())
            return (
                x
                if self.zero is None
                else x * torch.bernoulli((-self.zero).sigmoid().expand(shape))
            )

    def log_prob(self, value: Tensor) -> Tensor:
        # In float64: its terms are large and cancel.
        x, log_mean, log_r = widest(value), widest(self.log_mean), widest(self.log_r)
        r, ratio = log_r.exp(), log_mean - log_r
        ways = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        log_p = ways - r * softplus(ratio) + x * logsigmoid(ratio)
        if self.zero is not None:
            zero = widest(self.zero)
            kept = log_p + logsigmoid(-zero)
            log_p = torch.where(x == 0, torch.logaddexp(logsigmoid(zero), kept), kept)
        return log_p.to(self.log_mean.dtype)
