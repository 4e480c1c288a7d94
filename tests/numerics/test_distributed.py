"""What ranks share, with the other rank played by fixed tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vaekit.numerics import distributed


class TwoRanks:
    """torch.distributed as rank 1 of two sees it.

    Arguments:
        rows: The other rank's rows.
        grad: The gradient that the other rank has of all rows, (2, B, ...).
    """

    def __init__(self, rows: Tensor, grad: Tensor) -> None:
        self.rows, self.grad = rows, grad

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return 1

    def all_gather(self, found: list[Tensor], x: Tensor) -> None:
        found[1].copy_(x)
        found[0].copy_(x if x.dtype == torch.int64 else self.rows)

    def all_reduce(self, x: Tensor) -> None:
        x += self.grad


def test_gathered_rows_have_the_gradients_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this rank's alone, the penalties of DIP-VAE, InfoVAE and WAE halve on two ranks."""
    torch.manual_seed(0)
    mine, other = torch.randn(2, 3, 4).double()
    weights = torch.randn(2, 6, 4).double()  # of the loss of each rank, over all rows
    grads = weights.unflatten(1, (2, 3))
    fake: Any = TwoRanks(other, grads[0])
    monkeypatch.setattr(distributed, "dist", fake)
    x = mine.clone().requires_grad_()
    rows = distributed.gather_over_ranks(x)
    assert torch.equal(rows, torch.cat([other, mine]))
    (rows * weights[1]).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, grads[0, 1] + grads[1, 1])
