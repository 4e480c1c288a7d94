"""The likelihood of rows, estimated by importance sampling, in memory that does not grow."""

from __future__ import annotations

import inspect
from dataclasses import replace
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.part import Noise
from vaekit.contracts.trees import first, leaves
from vaekit.numerics.precision import exact
from vaekit.numerics.random import fixed_noise, later_draws


class Estimate(NamedTuple):
    """What importance sampling says of rows.

    Arguments:
        log_likelihood: An estimate of log p(x), (B,) in nats. In the mean it is a lower bound.
        effective_samples: To how many draws of equal weight the K draws amount, (B,), from 1 to
            K: the square of the weights' sum over the sum of their squares. Where it is small
            the estimate rests on few draws.
    """

    log_likelihood: Tensor
    effective_samples: Tensor


@torch.no_grad()
def log_likelihood(
    core: Core,
    batch: Batch,
    samples: int,
    budget: int = 2**26,
    noise: Noise | None = None,
) -> Estimate:
    r"""log p(x) of each row, from K draws of q(z|x).

    .. math:: \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

    Draws are made as many at a time as the budget allows, of as many rows, and their weights are
    summed as they come: memory does not grow with K. The core's modules stay in the mode they are
    in (`Model.using` sets eval mode).

    Arguments:
        core: The core. One whose `draw` takes `features` runs its encoder once per row.
        batch: The rows, as the model sees them; elements that its mask hides do not count.
        samples: K, the number of draws per row.
        budget: Bytes that the draws under way may take, about; at least one draw of one row is
            made.
        noise: Standard normal noise (K, B, *Z) to draw with, in the place of fresh noise; then the
            value is the same, up to rounding, for every budget.

    Raises:
        ValueError: If samples or budget is below one, the noise is of another number of draws, or
            a posterior has no density.

    References:
        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2016),
        https://arxiv.org/abs/1509.00519; Kong (1992) for the effective sample size.

    Example:
        >>> from vaekit import Model, data
        >>> digits = data.Digits()
        >>> model = Model(digits, latent_shape=2)
        >>> batch = next(digits.rows("val", 5))
        >>> log_likelihood(model.core, batch, samples=100).log_likelihood.shape
        torch.Size([5])
    """
    if samples < 1 or budget < 1:
        raise ValueError(
            f"Expected samples and budget of at least 1 but got {samples} and {budget}."
        )
    if not all(getattr(part, "density", True) for part in core.modules()):
        raise ValueError("Expected a posterior with a density, to weigh its draws by.")
    scores = [m for m in core.modules() if isinstance(m, Likelihood) and not m.normalized]
    if scores:  # the innermost, where one is made of others
        raise ValueError(f"Expected a likelihood but {type(scores[-1]).__name__} is a score.")
    rows = len(batch)
    for level in _levels(noise):
        if level.shape[:2] != (samples, rows):
            raise ValueError(
                f"Expected noise of {samples} draws of {rows} rows but got {tuple(level.shape)}."
            )
    at_once = max(1, budget // _bytes_of_a_draw(core, batch[:1]))
    some = min(rows, at_once)  # rows
    parts = [
        _of_rows(core, batch[at], samples, max(1, at_once // some), _cut(noise, slice(None), at))
        for at in (slice(start, start + some) for start in range(0, rows, some))
    ]
    return Estimate(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _of_rows(core: Core, batch: Batch, samples: int, chunk: int, noise: Noise | None) -> Estimate:
    once = "features" in inspect.signature(core.draw).parameters
    given: dict[str, Any] = {}
    keys, top = batch.keys, None
    for start in range(0, samples, chunk):
        at = slice(start, min(samples, start + chunk))
        own = _cut(noise, at, slice(None))
        here = batch if keys is None else replace(batch, keys=later_draws(keys, start))
        draw = core.draw(here, at.stop - at.start, noise=own, **given)
        given = {"features": draw.features} if once else {}
        weight = draw.log_weight  # (k, b)
        if top is None:
            top = weight.new_full(weight.shape[1:], -torch.inf, dtype=exact(weight.device))
            total, squares = torch.zeros_like(top), torch.zeros_like(top)
        highest = torch.maximum(top, weight.amax(0))
        # Where no draw has any weight yet, infinity less infinity would be no number.
        level = torch.where(highest == -torch.inf, 0.0, highest)
        share, weight = (top - level).exp(), (weight - level).exp()
        total = total * share + weight.sum(0)
        squares = squares * share.square() + weight.square().sum(0)
        top = highest
    assert top is not None
    kind = draw.log_weight.dtype
    value = torch.where(top == -torch.inf, top, top + total.log() - log(samples))
    return Estimate(value.to(kind), (total.square() / squares).nan_to_num(0.0).to(kind))


def _levels(noise: Noise | None) -> tuple[Tensor, ...]:
    if noise is None:
        return ()
    return noise if isinstance(noise, tuple) else (noise,)


def _cut(noise: Noise | None, draws: slice, rows: slice) -> Noise | None:
    cut = tuple(level[draws, rows] for level in _levels(noise))
    return cut if isinstance(noise, tuple) else next(iter(cut), None)


def _bytes_of_a_draw(core: Core, row: Batch) -> int:
    """What one draw of one row takes, at most: all that modules give, and terms of x's size."""
    sizes: list[int] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        given = [x for x in leaves(output) if isinstance(x, Tensor)]
        sizes.extend(x.numel() * x.element_size() for x in given)

    parts = [module for module in core.modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(note) for module in parts]
    try:
        with fixed_noise(0, first(row.x).device):
            draw = core.draw(row)
            sizes.append(draw.log_weight.element_size())  # read, since a prior's networks run then
            sizes.append(draw.z.numel() * draw.z.element_size())
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes) + sum(4 * x.numel() * x.element_size() for x in leaves(row.x))
