"""The baseline: the likelihood without latents, fitted to the training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.contracts.likelihood import Likelihood
from vaekit.contracts.trees import Tree, each, leaves
from vaekit.data.base import DataModule
from vaekit.model.model import Model
from vaekit.numerics.precision import exact
from vaekit.numerics.random import fixed_noise

_MOST_NUMBERS = 2**24
"""At most so many numbers in one pass of the fit."""


@dataclass
class Baseline:
    """A likelihood whose decoder gives every row the same output.

    Arguments:
        likelihood: A copy of the model's likelihood, whose own weights are fitted too.
        output: What takes the place of the decoder's output, (*output_shape).
    """

    likelihood: Likelihood
    output: Tree

    def log_prob(self, batch: Batch) -> Tensor:
        """log p(x) of each row, (B,) in nats."""
        p = self._p(1 if batch.context is None else len(batch), batch.context)
        return self.likelihood.log_prob(p, batch.x, batch.mask)[0]

    def elements(self, x: Tensor) -> Tensor:
        """log p of each element of rows x (n, *event), with the shape of x.

        Raises:
            ValueError: If p does not factorise over elements.
        """
        return self.likelihood.elements(self._p(1), x)[0]

    def _p(self, rows: int, context: Tensor | None = None) -> torch.distributions.Distribution:
        y = each(lambda y: y[None, None].expand(1, rows, *y.shape), self.output)
        return self.likelihood(y, None if context is None else context[None])


def baseline(model: Model, data: DataModule, split: str = "val") -> Tensor | None:
    """log p(x) of each row of a split under the baseline, (n,) in nats.

    None where the likelihood has none: it gives no output for the moments of the training rows.
    """
    with model.using():
        fitted = fit_baseline(model, data)
        return None if fitted is None else _log_probs(fitted, model, data, split)


def fit_baseline(model: Model, data: DataModule) -> Baseline | None:
    """Fits the constant output, and the likelihood's own weights, to the training rows.

    It maximises their mean log p(x) by LBFGS, from the moments of the rows. Elements with fewer
    different values than there are rows are counted, value by value. Otherwise it takes all rows
    if a pass has at most 2^24 numbers, and an evenly spread part of them if not; then it keeps the
    moments if these are better on all rows.

    None where the likelihood gives no output for moments.
    """
    with fixed_noise(0, model.device):
        mean, variance = model.core.likelihood.moments(data.rows("train"))
    output = model.core.likelihood.output_of(mean, variance)
    if output is None:
        return None
    kind = exact(model.device)
    own = model.core.likelihood.without_latents(mean, variance).eval().to(model.device, kind)
    fitted = Baseline(own, each(lambda y: y.to(model.device, kind), output))
    part = _Part(fitted, model, data)
    before = [w.detach().clone() for w in part.weights]
    with torch.enable_grad():
        better = part.fit()
    if not better:
        part.put(before)
    elif part.step > 1:
        after = [w.clone() for w in part.weights]
        found = _log_probs(fitted, model, data, "train").mean()
        part.put(before)
        if found > _log_probs(fitted, model, data, "train").mean():
            part.put(after)
    return fitted


def _log_probs(fitted: Baseline, model: Model, data: DataModule, split: str) -> Tensor:
    # Into memory that is there before, since small tensors between large ones would keep the
    # memory of these from being used again.
    found = torch.empty(len(data.numbers(split)), dtype=exact(model.device), device=model.device)
    first = 0
    for batch in _rows(model, data, split):
        terms = model.in_units({"elbo": fitted.log_prob(batch)}, batch)
        found[first : first + len(batch)] = terms["elbo"]
        first += len(batch)
    return found


def _rows(model: Model, data: DataModule, split: str, every: int = 1) -> Iterator[Batch]:
    """The rows in the precision of the fit, with the same noise in each pass."""
    with fixed_noise(0, model.device):
        for batch in data.rows(split, every=every):
            batch = batch.to(model.device)
            batch.x = each(lambda x: x.to(exact(x.device)), batch.x)
            yield batch


class _Part:
    """The training rows that a baseline is fitted to, or how often each value occurs in them."""

    def __init__(self, fitted: Baseline, model: Model, data: DataModule) -> None:
        self.fitted, info = fitted, data.info
        outputs = leaves(fitted.output)
        self.weights = [y.requires_grad_() for y in outputs]
        self.weights += [w for w in fitted.likelihood.parameters() if w.requires_grad]
        self.rows = info.data_size or 0
        numbers = max(
            sum(prod(shape) for shape in leaves(info.event_shape)), sum(y.numel() for y in outputs)
        )
        # A score may be a network over rows, as slow as the model itself.
        most = _MOST_NUMBERS if fitted.likelihood.normalized else _MOST_NUMBERS // 32
        self.step = 1
        grid = ValueGrid.of(info) if ValueGrid.are_known(info) else None
        if grid and grid.count < self.rows and not info.context_features and self._factorises():
            self.loss: Callable[[], Tensor] = self._counted(grid, _rows(model, data, "train"))
            return
        self.step = -(-self.rows * numbers // most)
        batches = list(_rows(model, data, "train", self.step))
        self.loss = lambda: self._of_rows(batches)

    def fit(self) -> bool:
        """Fits the weights, and returns whether they are better than before."""
        start = float(self.loss())
        optimizer = torch.optim.LBFGS(
            self.weights,
            max_iter=100,
            tolerance_change=1e-6 * max(1.0, abs(start)),
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            return self.loss()

        optimizer.step(closure)
        return float(self.loss()) <= start

    def put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self.weights, values, strict=True):
                weight.copy_(value)

    def _factorises(self) -> bool:
        output, event = self.fitted.output, self.fitted.likelihood.event_shape
        if not (isinstance(output, Tensor) and isinstance(event, tuple)):
            return False
        try:
            self.fitted.elements(output.new_zeros(1, *event))
        except ValueError:
            return False
        return True

    def _of_rows(self, batches: list[Batch]) -> Tensor:
        total, rows = torch.zeros(()), sum(map(len, batches))
        for batch in batches:  # one after the other, so that memory holds one batch's graph
            loss = -self.fitted.log_prob(batch).sum() / rows
            loss.backward()
            total = total.to(loss) + loss.detach()
        return total

    def _counted(self, grid: ValueGrid, batches: Iterator[Batch]) -> Callable[[], Tensor]:
        """The loss by counts of each value, (values, *event)."""
        counts: Tensor | None = None
        for batch in batches:
            x, mask = batch.x, batch.mask
            assert isinstance(x, Tensor)
            seen = torch.ones_like(x) if mask is None else mask.to(x)
            if counts is None:
                counts = x.new_zeros(grid.count, *x.shape[1:])
            counts.scatter_add_(0, grid.index(torch.where(seen > 0, x, grid.low)), seen)
        assert counts is not None
        values = grid.value(torch.arange(grid.count, device=counts.device), counts)
        x = values.view(-1, *[1] * (counts.dim() - 1)).expand_as(counts)
        share = counts / self.rows

        def loss() -> Tensor:
            terms = torch.where(share > 0, self.fitted.elements(x), 0.0)
            found = -(share * terms).sum()
            found.backward()
            return found.detach()

        return loss
