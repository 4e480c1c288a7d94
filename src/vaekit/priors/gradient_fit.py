"""Fitting by gradient what is fitted to codes after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite

import torch
from torch import Tensor, nn


def fit_by_gradient(
    parameters: Iterable[nn.Parameter],
    loss: Callable[..., Tensor],
    *rows: Tensor,
    epochs: int = 200,
    batch_size: int = 256,
    lr: float = 1e-3,
    patience: int = 10,
) -> None:
    """Minimises the mean loss of rows by Adam, and stops when held-out rows gain no more.

    A tenth of the rows is held out; the weights that were best on it come back in the end, those
    of the start among them. All that is random comes from torch's seed.

    Arguments:
        parameters: What is fitted.
        loss: Minibatches of the tensors `rows` -> a loss for each row, `(n,)`.
        rows: Tensors of N rows each, such as codes and contexts.
        epochs: At most so many passes through the rows.
        batch_size: Rows in a minibatch.
        lr: Adam's step size, which decays to 0 along a cosine.
        patience: Passes without a gain on the held-out rows after which it stops.

    Raises:
        ValueError: If there are fewer than ten rows, or the mean loss of the held-out ones is not
            finite before the first step.

    Example:
        >>> mean = nn.Parameter(torch.zeros(()))
        >>> fit_by_gradient([mean], lambda x: (x - mean) ** 2, torch.full((50,), 3.0), lr=0.1)
        >>> round(mean.item(), 1)
        3.0
    """
    count, weights = len(rows[0]), list(parameters)
    if count < 10:
        raise ValueError(f"Expected at least ten rows to fit to but got {count}.")
    held, kept = torch.randperm(count).tensor_split([count // 10])

    def losses(at: Tensor) -> Tensor:
        return loss(*[leaf[at.to(leaf.device)] for leaf in rows])

    @torch.no_grad()
    def score() -> float:
        return float(torch.cat([losses(at) for at in held.split(4096)]).mean())

    optimizer = torch.optim.Adam(weights, lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    least, best, waited = score(), [p.detach().clone() for p in weights], 0
    if not isfinite(least):
        raise ValueError(f"Expected a finite loss of the held-out rows but got {least}.")
    for _ in range(epochs):
        for at in kept[torch.randperm(len(kept))].split(batch_size):
            with torch.enable_grad():
                mean = losses(at).mean()
                optimizer.zero_grad()
                mean.backward()
            optimizer.step()
        decay.step()
        now, waited = score(), waited + 1
        if now < least:
            least, best, waited = now, [p.detach().clone() for p in weights], 0
        if waited == patience:
            break
    optimizer.zero_grad()
    with torch.no_grad():
        for p, value in zip(weights, best, strict=True):
            p.copy_(value)
