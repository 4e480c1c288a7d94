"""Sums, means and rows over all processes of a distributed run."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over all processes of a distributed run, without gradient."""
    x = x.detach()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def mean_over_ranks(x: Tensor, rows: int | None = None) -> Tensor:
    """The mean (...) over the rows of all processes of a distributed run, without gradient.

    Arguments:
        x: This rank's rows, (B, ...).
        rows: How many of them count, the first (`Batch.counted`).
    """
    own = x[:rows]
    total = sum_over_ranks(torch.stack([own.sum(0), own.new_full(own.shape[1:], len(own))]))
    return total[0] / total[1]


def gather_over_ranks(x: Tensor, rows: int | None = None) -> Tensor:
    """The rows of all processes of a distributed run, in the order of the ranks.

    With its gradient: where the mean of the ranks' gradients is taken, as DDP does, a term of the
    gathered rows trains as it would in one process with all of them.

    Arguments:
        x: This rank's rows, (B, ...); B may differ between the ranks.
        rows: How many of them count, the first (`Batch.counted`).
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    own = torch.tensor([len(x), len(x) if rows is None else rows], device=x.device)
    sizes = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    lengths, counts = torch.stack(sizes).T
    most = int(lengths.max())
    torch._check(most >= len(x))  # which torch.compile cannot know
    padded = pad(x, (0, 0) * (x.dim() - 1) + (0, most - len(x)))
    found = _Gather.apply(padded)  # (R, B, ...)
    return found[torch.arange(most, device=x.device) < counts.unsqueeze(1)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(found, x.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return sum_over_ranks(grads[0])[dist.get_rank()]
