"""Scores in the place of likelihoods: what is minimised is the log-density of nothing."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import avg_pool2d, conv2d

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.part import Build
from vaekit.contracts.trees import Shapes, each, leaves
from vaekit.numerics.precision import cast


class Score(Likelihood):
    """Base of scores of images: minus a distance between x and what the decoder gives, in nats.

    The decoder's output goes through a sigmoid onto the data's range, where that is finite. What
    is hidden by a mask is taken to be what the decoder gives. What stands for p, and every sample
    of it, is that too.

    Arguments:
        weight: What one unit of the distance costs, in nats.
    """

    normalized = False
    discrete = None

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) == 3

    def __init__(self, event_shape: tuple[int, ...], data: DataInfo, weight: float) -> None:
        super().__init__()
        if not 0 < weight < inf:
            raise ValueError(f"Expected weight to be positive but got {weight!r}.")
        self.weight = weight
        self.output_shape = tuple(event_shape)
        self.low, self.high = data.data_range
        self.finite = self.high - self.low < inf

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Of rows x and y, (N, *event) both, (N,); 0 where they are equal."""
        raise NotImplementedError

    def forward(self, y: Tensor, context: Tensor | None = None) -> Distribution:
        return Point(self._within(y), self._score, len(self.output_shape))

    def _within(self, y: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * y.sigmoid() if self.finite else y

    def _score(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(x, y)
        event = len(self.output_shape)
        batch = x.shape[: x.dim() - event]
        found = self.distance(x.flatten(0, -event - 1), y.flatten(0, -event - 1))
        return -self.weight * found.reshape(batch)

    def elements(self, p: Distribution, x: Any) -> Any:
        raise ValueError(f"{type(self).__name__} does not factorise over elements.")

    def log_prob(self, p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return p.log_prob(x if mask is None else torch.where(mask, x, p.mean))

    def output_of(self, mean: Tensor, variance: Tensor) -> Tensor:
        if not self.finite:
            return mean
        return ((mean - self.low) / (self.high - self.low)).clamp(1e-3, 1 - 1e-3).logit()


class Point(Distribution):
    """One point, and a score of others by their distance from it.

    Arguments:
        at: The point, with shape `(*, *event)`.
        score: x and the points -> scores, (*) in nats.
        event_dims: How many dimensions the event has.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, at: Tensor, score: Any, event_dims: int) -> None:
        self.at, self.score = at, score
        split = at.dim() - event_dims
        super().__init__(at.shape[:split], at.shape[split:], validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.at

    @property
    def mode(self) -> Tensor:
        """The point."""
        return self.at

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.at.detach().expand(*sample_shape, *self.at.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.score(value, self.at)


class MSSSIM(Score):
    r"""Minus the multi-scale structural dissimilarity of images: a score, no likelihood.

    .. math:: -w\,(1 - \prod_j \mathrm{cs}_j^{\beta_j} \cdot l_M^{\beta_M})

    Luminance l, contrast and structure cs are compared in Gaussian windows, at each scale of an
    image that is halved from one to the next. The decoder's output goes through a sigmoid onto the
    data's range.

    Arguments:
        weight: What two images that have nothing in common cost, in nats; None for the number of
            elements.
        scales: How many scales, from 1 to 5; None for as many as the window fits into.
        window: Width of the window, in pixels, an odd number; at most the image's shorter side.

    Raises:
        ValueError: If the weight is not positive, there are more scales than the image allows, or
            the window is no odd number.

    References:
        Multiscale structural similarity for image quality assessment (Wang, Simoncelli and Bovik,
        2003), doi 10.1109/ACSSC.2003.1292216; Learning to Generate Images with Perceptual
        Similarity Metrics (Snell et al., 2017), https://arxiv.org/abs/1511.06409

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> score = MSSSIM((1, 28, 28), DataInfo((1, 28, 28), (0, 1)))
        >>> p = score(torch.zeros(1, 1, 1, 28, 28))
        >>> p.log_prob(torch.full((1, 1, 28, 28), 0.5)) == 0, p.log_prob(torch.zeros(1, 1, 28, 28))
        (tensor([[True]]), tensor([[-783.0943]]))
    """

    expects = "images (C, H, W) of a finite range"
    kernel: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo,
        weight: float | None = None,
        scales: int | None = None,
        window: int = 11,
    ) -> None:
        elements = torch.Size(event_shape).numel()
        super().__init__(event_shape, data, float(elements) if weight is None else weight)
        side = min(event_shape[1:])
        if window < 1 or window % 2 == 0:
            raise ValueError(f"Expected window to be an odd number but got {window}.")
        window = min(window, side - (side + 1) % 2)
        most = next(m for m in range(len(_BETAS), 0, -1) if side >> (m - 1) >= window)
        if scales is not None and not 1 <= scales <= most:
            raise ValueError(
                f"Expected scales from 1 to {most}, with a window of {window} on images of "
                f"{side} pixels, but got {scales}."
            )
        betas = torch.tensor(_BETAS[: scales or most])
        self.betas = (betas / betas.sum()).tolist()
        at = torch.arange(window) - window // 2
        line = (-(at**2) / (2 * 1.5**2)).exp()
        line = line / line.sum()
        self.register_buffer("kernel", line[:, None] * line, persistent=False)
        span = self.high - self.low
        self.constants = (0.01 * span) ** 2, (0.03 * span) ** 2

    @classmethod
    def takes(cls, data: DataInfo) -> bool:
        return all(high - low < inf for low, high in leaves(data.data_range))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        found = x.new_ones(x.shape[:2])  # (N, C)
        for scale, beta in enumerate(self.betas):
            if scale:
                x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
            luminance, structure = self._compare(x, y)
            last = scale == len(self.betas) - 1
            # Below 0 for images that are each other's negative, where no power is real.
            term = (luminance * structure if last else structure).flatten(2).mean(2)
            found = found * term.clamp(min=1e-4) ** beta
        return 1 - found.mean(1)

    def _compare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Luminance, and contrast with structure, in each window."""

        def blurred(image: Tensor) -> Tensor:
            kernel = self.kernel.to(image.dtype)[None, None].expand(image.shape[1], 1, -1, -1)
            return conv2d(image, kernel, groups=image.shape[1])

        mx, my = blurred(x), blurred(y)
        vx, vy = blurred(x * x) - mx * mx, blurred(y * y) - my * my
        both = blurred(x * y) - mx * my
        c1, c2 = self.constants
        luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
        return luminance, (2 * both + c2) / (vx + vy + c2)


_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class FeatureSpace(Score):
    r"""Minus half the squared distance in a network's features: a score, no likelihood.

    .. math:: -\frac w2 \sum_l \lVert f_l(x) - f_l(\hat x) \rVert^2

    A perceptual loss. The network is frozen, and in evaluation mode. The decoder's output goes
    through a sigmoid onto the data's range, where that is finite.

    Arguments:
        network: An encoder, by name or spec, with whose first weights it is made: one that brings
            trained weights, say. In Python any torch module from x to features, or to a dict of
            them, one for each layer; the likelihood is then given to `Model` as an instance.
        weight: What one unit costs, in nats.

    Raises:
        ValueError: If the weight is not positive, or there is no network.

    References:
        Deep Feature Consistent Variational Autoencoder (Hou et al., 2017),
        https://arxiv.org/abs/1610.00291; Autoencoding beyond pixels using a learned similarity
        metric (Larsen et al., 2016), https://arxiv.org/abs/1512.09300

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> network = torch.nn.Conv2d(1, 8, 3)
        >>> score = FeatureSpace((1, 8, 8), DataInfo((1, 8, 8), (0, 1)), network=network)
        >>> score(torch.zeros(1, 1, 1, 8, 8)).log_prob(torch.full((1, 1, 8, 8), 0.5)) == 0
        tensor([[True]])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo,
        build: Build | None = None,
        network: Any = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(event_shape, data, weight)
        if isinstance(network, nn.Module) == (build is not None) or network is None:
            raise ValueError(
                "Expected as network the name of an encoder, or in Python a torch module in a "
                f"likelihood that is given as an instance, but got {network!r:.100}."
            )
        if build is not None:
            network = build("encoder", network, context_features=0)
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FeatureSpace:
        super().train(mode)
        self.network.eval()
        return self

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        def squares(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).square().flatten(1).sum(1)

        found = each(squares, *(self.network(cast(image, self.network)) for image in (x, y)))
        return sum(leaves(found)[1:], leaves(found)[0]) / 2
