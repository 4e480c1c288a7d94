"""Likelihoods for real elements: a location and a scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import inf, log, pi, sqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints
from torch.distributions import Laplace as LaplaceDistribution
from torch.distributions import StudentT as StudentTDistribution
from torch.nn.functional import softplus

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.draw import Draw
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.trees import Tree
from vaekit.distributions.base import Normal, soft_clamp, soft_unclamp
from vaekit.likelihoods.base import FromBaseline, elementwise
from vaekit.numerics.distributed import sum_over_ranks

_Map = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, tuple[_Map, _Map, tuple[float, float]]] = {
    "identity": (lambda y: y, lambda x: x, (-inf, inf)),
    "sigmoid": (torch.sigmoid, lambda x: x.clamp(1e-3, 1 - 1e-3).logit(), (0.0, 1.0)),
    "tanh": (torch.tanh, lambda x: x.clamp(-1 + 1e-3, 1 - 1e-3).atanh(), (-1.0, 1.0)),
}
"""By name: the map, its inverse, and where its values lie."""


class LocationScale(FromBaseline):
    """Base of likelihoods of independent elements, each with a location and a scale.

    Arguments:
        scale: In units of x: a number; "learned", one for all elements; or "elementwise", one for
            each element of each row, from the decoder.
        mean: Activation that gives the location: "identity", "sigmoid" or "tanh".
        min_scale: Floor of a scale that is not fixed, in units of x. Without one the density of
            data that the decoder can fit exactly grows without bound.
        from_baseline: Add the training rows' mean, and the logarithm of an elementwise scale, to
            the decoder's output.

    Attributes:
        modes: The words that stand for a scale that is not fixed.
        spread: The standard deviation of an element whose scale is 1.

    Raises:
        ValueError: If a scale or its floor is not positive, or the activation is another.
    """

    modes: ClassVar[tuple[str, ...]] = ("learned", "elementwise")
    spread: float = 1.0

    def __init__(
        self,
        event_shape: tuple[int, ...],
        scale: float | Literal["learned", "elementwise"] = 1.0,
        mean: Literal["identity", "sigmoid", "tanh"] = "identity",
        min_scale: float = 1e-3,
        from_baseline: bool = False,
    ) -> None:
        super().__init__()
        if scale not in self.modes and not (isinstance(scale, int | float) and 0 < scale < inf):
            raise ValueError(
                f"Expected scale to be positive or one of {self.modes} but got {scale!r}."
            )
        if mean not in _ACTIVATIONS:
            raise ValueError(f"Expected mean to be one of {tuple(_ACTIVATIONS)} but got {mean!r}.")
        if not min_scale > 0:
            raise ValueError(f"Expected min_scale to be positive but got {min_scale!r}.")
        self.scale: float | str = scale
        self.mean, self.min_scale = mean, min_scale
        self.event = tuple(event_shape)
        self.output_shape = (2, *self.event) if scale == "elementwise" else self.event
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        if from_baseline:
            self.begin_at(self.output_shape)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """The distribution of elements with these locations and scales."""
        raise NotImplementedError

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        if self.scale == "elementwise":
            y, log_scale = y.unbind(dim=2)
            scale = self.floored(log_scale)
        else:
            scale = self.shared_scale(y)
        activation, _, _ = _ACTIVATIONS[self.mean]
        return self.around(activation(y), scale)

    def shared_scale(self, y: Tensor) -> Tensor:
        """The scale that all elements have."""
        if self.scale == "learned":
            return self.floored(self.log_scale)
        return y.new_tensor(self.scale)

    def around(self, loc: Tensor, scale: Tensor) -> Independent[Any]:
        """p of elements with these locations, and scales that may be one for all."""
        return elementwise(self.family(loc, scale.to(loc.dtype).expand_as(loc)), self.event)

    def floored(self, log_scale: Tensor) -> Tensor:
        """The scale, at least `min_scale`."""
        return self.min_scale + soft_clamp(log_scale).exp()

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        _, inverse, _ = _ACTIVATIONS[self.mean]
        if self.scale != "elementwise":
            return inverse(mean)
        return torch.stack([inverse(mean), self._log_scale(variance)])

    def _log_scale(self, variance: Tensor) -> Tensor:
        """What `floored` turns into the scale of elements with this variance."""
        scale = (variance.sqrt() / self.spread - self.min_scale).clamp(min=self.min_scale)
        return soft_unclamp(scale.log())

    def without_latents(self, mean: Tree, variance: Tree) -> Likelihood:
        own: Any = super().without_latents(mean, variance)
        if isinstance(self.scale, str) and self.scale != "elementwise":
            own.scale = "learned"
            own.log_scale = nn.Parameter(self._log_scale(variance.mean()))
        return own

    def check(self, data: DataInfo) -> None:
        super().check(data)
        _, _, (low, high) = _ACTIVATIONS[self.mean]
        least, most = data.data_range
        who = type(self).__name__
        if least < low or most > high:
            raise ValueError(
                f"{who}'s mean is a {self.mean}, in [{low:g}, {high:g}], and cannot reach data "
                f"in [{least:g}, {most:g}]. Rescale the data, or choose mean: identity."
            )
        if self.mean != "identity" and (least, most) != (low, high):
            warnings.warn(
                f"{who}'s mean is a {self.mean}, in [{low:g}, {high:g}], but the data's range "
                f"is [{least:g}, {most:g}]: a part of the mean's range stands for no data.",
                stacklevel=2,
            )


class Gaussian(LocationScale):
    r"""Independent Normal elements.

    .. math:: \log p(x|z) = -\sum_i \frac{(x_i - \mu_i)^2}{2 \sigma_i^2} + \log \sigma_i + \tfrac12
    \log 2\pi

    With a fixed scale this is half the squared error over scale², plus `D (log scale + log(2 pi) /
    2)`.

    Arguments:
        scale: The standard deviation, in units of x: a number; "learned", one for all elements;
            "elementwise", one for each element of each row, from the decoder; or "optimal", one
            for all elements, the root of the mean squared error, which maximises the likelihood:
            that of the batch over all ranks in training, a running value elsewhere.
        mean: Activation that gives the mean: "identity", "sigmoid" or "tanh".
        min_scale: Floor of a scale that is not fixed, in units of x. Without one the density of
            data that the decoder can fit exactly grows without bound.
        from_baseline: Add the training rows' mean, and the logarithm of an elementwise scale, to
            the decoder's output.

    Raises:
        ValueError: If a scale or its floor is not positive, or the activation is another.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin, Daniilidis and Levine,
        2021), https://arxiv.org/abs/2006.13202, for "optimal".

    Example:
        >>> import torch
        >>> likelihood = Gaussian(event_shape=(2,), scale=1.0)
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 2)), torch.tensor([[0.0, 1.0]]))
        tensor([[-2.3379]])
    """

    modes = (*LocationScale.modes, "optimal")
    variance: Tensor
    seen: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        scale: float | Literal["learned", "elementwise", "optimal"] = 1.0,
        mean: Literal["identity", "sigmoid", "tanh"] = "identity",
        min_scale: float = 1e-3,
        from_baseline: bool = False,
    ) -> None:
        super().__init__(event_shape, scale, mean, min_scale, from_baseline)  # type: ignore[arg-type]
        self.couples_rows = scale == "optimal"
        if scale == "optimal":
            self.register_buffer("variance", torch.ones(()))
            self.register_buffer("seen", torch.zeros(()))

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale)

    def shared_scale(self, y: Tensor) -> Tensor:
        if self.scale == "optimal":
            return self.variance.sqrt().clamp(min=self.min_scale)
        return super().shared_scale(y)

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.scale == "optimal" and self.training:
            # At its optimum the bound does not change with the scale, so no gradient goes through
            # it.
            scale = self._mean_square(p, x, mask)[0].sqrt().clamp(min=self.min_scale)
            p = self.around(p.mean, scale)
        return super().log_prob(p, x, mask)

    def _mean_square(
        self, p: Distribution, x: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The mean squared error over all ranks, and of how many elements; of none it is 0."""
        square = (x - p.mean.detach()) ** 2
        count = torch.ones_like(square) if mask is None else mask.expand_as(square).to(square)
        square = square if mask is None else torch.where(mask, square, 0.0)
        total, number = sum_over_ranks(torch.stack([square.sum(), count.sum()])).unbind()
        return total / number.clamp(min=1), number

    def after_step(self, draw: Draw) -> None:
        if self.scale != "optimal":
            return
        now, number = self._mean_square(draw.p, draw.batch.x, draw.batch.mask)
        share = 0.01 * (number > 0).to(self.seen)  # a batch that shows nothing changes nothing
        self.seen.lerp_(torch.ones_like(self.seen), share)
        self.variance.lerp_(now.to(self.variance), share / self.seen.clamp(min=0.01))


class Laplace(LocationScale):
    r"""Independent Laplace elements: the absolute error, with the scale that makes it a density.

    .. math:: \log p(x|z) = -\sum_i \frac{|x_i - \mu_i|}{b_i} + \log 2 b_i

    Arguments:
        scale: b, in units of x: a number; "learned", one for all elements; or "elementwise", one
            for each element of each row, from the decoder.
        mean: Activation that gives the location: "identity", "sigmoid" or "tanh".
        min_scale: Floor of a scale that is not fixed, in units of x.
        from_baseline: Add the training rows' mean, and the logarithm of an elementwise scale, to
            the decoder's output.

    Raises:
        ValueError: If a scale or its floor is not positive, or the activation is another.

    Example:
        >>> import torch
        >>> likelihood = Laplace(event_shape=(2,))
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 2)), torch.tensor([[0.0, 1.0]]))
        tensor([[-2.3863]])
    """

    spread = sqrt(2)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return LaplaceDistribution(loc, scale, validate_args=False)


class StudentT(LocationScale):
    r"""Independent elements of Student's t, whose heavy tails bear outliers.

    .. math:: \log p(x|z) = \sum_i \log \Gamma(\tfrac{\nu + 1}2) - \log \Gamma(\tfrac\nu2)
        - \tfrac12 \log(\pi \nu \sigma_i^2) - \tfrac{\nu + 1}2 \log(1 + \tfrac{(x_i - \mu_i)^2}
        {\nu \sigma_i^2})

    Arguments:
        df: The degrees of freedom: below 2 there is no variance, and of 1 or less no mean; what
            stands for p is then the location, as always.
        scale: In units of x: a number; "learned", one for all elements; or "elementwise", one for
            each element of each row, from the decoder.
        mean: Activation that gives the location: "identity", "sigmoid" or "tanh".
        min_scale: Floor of a scale that is not fixed, in units of x.
        from_baseline: Add the training rows' mean, and the logarithm of an elementwise scale, to
            the decoder's output.

    Raises:
        ValueError: If df, a scale or its floor is not positive, or the activation is another.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018),
        doi 10.24963/ijcai.2018/374

    Example:
        >>> import torch
        >>> likelihood = StudentT(event_shape=(1,), df=1.0)
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 1)), torch.tensor([[100.0]]))
        tensor([[-10.3552]])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        df: float = 4.0,
        scale: float | Literal["learned", "elementwise"] = 1.0,
        mean: Literal["identity", "sigmoid", "tanh"] = "identity",
        min_scale: float = 1e-3,
        from_baseline: bool = False,
    ) -> None:
        super().__init__(event_shape, scale, mean, min_scale, from_baseline)
        if not 0 < df < inf:
            raise ValueError(f"Expected df, degrees of freedom, to be positive but got {df!r}.")
        self.df = float(df)
        # Without a variance there is no spread: the scale is then taken to be the rows' own.
        self.spread = sqrt(df / (df - 2)) if df > 2 else 1.0

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return StudentTDistribution(self.df, loc, scale, validate_args=False)

    def point(self, p: Distribution) -> Tensor:
        return p.base_dist.loc  # type: ignore[attr-defined]


class LogCosh(LocationScale):
    r"""Independent elements whose error counts by log cosh: squared if small, absolute if large.

    .. math:: \log p(x|z) = -\sum_i \log \cosh \frac{x_i - \mu_i}{s_i} + \log \pi s_i

    The last term makes it the density of a hyperbolic secant distribution, so that its ELBO is
    one; the log-cosh loss of other packages leaves it out.

    Arguments:
        scale: s, in units of x: a number; "learned", one for all elements; or "elementwise", one
            for each element of each row, from the decoder.
        mean: Activation that gives the location: "identity", "sigmoid" or "tanh".
        min_scale: Floor of a scale that is not fixed, in units of x.
        from_baseline: Add the training rows' mean, and the logarithm of an elementwise scale, to
            the decoder's output.

    Raises:
        ValueError: If a scale or its floor is not positive, or the activation is another.

    References:
        Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder (Chen, Chen and Nie, 2018),
        https://openreview.net/forum?id=rkglvsC9Ym

    Example:
        >>> import torch
        >>> likelihood = LogCosh(event_shape=(2,))
        >>> likelihood.log_prob(likelihood(torch.zeros(1, 1, 2)), torch.tensor([[0.0, 1.0]]))
        tensor([[-2.7232]])
    """

    spread = pi / 2

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return HyperbolicSecant(loc, scale)


class HyperbolicSecant(Distribution):
    """The density sech((x - loc) / scale) / (pi scale).

    Arguments:
        loc: Where it is symmetrical.
        scale: With the shape of `loc`.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(u.dtype).eps
        return self.loc + self.scale * (pi / 2 * u.clamp(tiny, 1 - tiny)).tan().log()

    def log_prob(self, value: Tensor) -> Tensor:
        d = ((value - self.loc) / self.scale).abs()
        log_cosh = d + softplus(-2 * d) - log(2)
        return -log_cosh - self.scale.log() - log(pi)
