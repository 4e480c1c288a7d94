"""Encoders of sets and of tables: rows whose elements are no image and no sequence."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.trees import Shapes, Tree, entries_of, like
from vaekit.networks.blocks import fill, logged, mlp, unbounded, widths, with_context


class DeepSets(Encoder):
    r"""A set (N, F) of N elements with F features, in whatever order they come.

    .. math:: h = \rho\big(\mathrm{pool}_n\, \phi(x_n)\big)

    Elements of which a mask hides everything do not count, so that sets of different sizes are
    padded and masked; a single feature that is hidden is read as 0. Of data from 0 to infinity it
    reads log(1 + x).

    Arguments:
        inner: Widths of phi, which reads each element; a number for one.
        hidden: Widths of rho, which reads the pool and the context; a number for one.
        pool: "mean", "sum" or "max" over the elements.
        activation: Name of an activation in torch.nn.

    Raises:
        ValueError: If the rows are no sets (N, F), a width is not positive, or there is no layer.

    References:
        Deep Sets (Zaheer et al., 2017), https://arxiv.org/abs/1703.06114

    Example:
        >>> import torch
        >>> encoder, x = DeepSets(event_shape=(30, 3)), torch.randn(5, 30, 3)
        >>> torch.allclose(encoder(x), encoder(x.flip(1)), atol=1e-6)
        True
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_features: int = 0,
        inner: int | list[int] = [64, 64],  # noqa: B006 - read only
        hidden: int | list[int] = [128],  # noqa: B006
        pool: Literal["mean", "sum", "max"] = "mean",
        activation: str = "ReLU",
        data: DataInfo | None = None,
    ) -> None:
        super().__init__()
        if len(event_shape) != 2:
            raise ValueError(f"Expected sets of shape (N, F) but got {tuple(event_shape)}.")
        if pool not in ("mean", "sum", "max"):
            raise ValueError(f"Expected pool to be mean, sum or max but got {pool!r}.")
        inner, hidden = widths(inner), widths(hidden)
        if not inner or not hidden:
            raise ValueError("Expected at least one width in inner and one in hidden.")
        self.pool, self.unbounded = pool, unbounded(data)
        self.inner = mlp([event_shape[1], *inner], activation, last=True)
        self.outer = mlp([inner[-1] + context_features, *hidden], activation, last=True)
        self.features = hidden[-1]

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) == 2

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        h = self.inner(logged(fill(x, mask), self.unbounded))  # (B, N, inner)
        seen = torch.ones_like(h[..., :1], dtype=torch.bool)
        if mask is not None:
            seen = mask.any(2, keepdim=True)
        return self.outer(with_context(self._pooled(h, seen), context))

    def _pooled(self, h: Tensor, seen: Tensor) -> Tensor:
        if self.pool == "max":
            most = torch.where(seen, h, -torch.inf).amax(1)
            return torch.where(seen.any(1), most, 0.0)
        total = torch.where(seen, h, 0.0).sum(1)
        return total if self.pool == "sum" else total / seen.sum(1).clamp(min=1)


class EmbeddingEncoder(Encoder):
    """A multilayer perceptron over a table, categories by vectors of their own.

    A categorical column is one of a known number of levels, of which each has a vector; so has
    what a mask hides. Elements of one entry share the vectors. Of entries from 0 to infinity,
    counts for example, it reads log(1 + x).

    Arguments:
        categorical: The entries that are categorical; None for all that have more than two levels.
        width: Of the vectors.
        hidden: Widths of the hidden layers, a number for one.
        activation: Name of an activation in torch.nn.

    Raises:
        ValueError: If there is no entry of some name, or the number of its levels is not known.

    References:
        Entity Embeddings of Categorical Variables (Guo and Berkhahn, 2016),
        https://arxiv.org/abs/1604.06737

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> table = DataInfo({"age": (1,), "job": (1,)}, {"age": (0, 99), "job": (0, 8)},
        ...                  {"age": None, "job": 9})
        >>> encoder = EmbeddingEncoder(data=table, hidden=[32])
        >>> encoder({"age": torch.rand(5, 1), "job": torch.zeros(5, 1)}).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        data: DataInfo,
        categorical: list[str] | None = None,
        width: int = 8,
        hidden: int | list[int] = [256],  # noqa: B006
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        entries = data.entries()
        if categorical is None:
            categorical = [n for n, info in entries.items() if _has_categories(info)]
        if unknown := set(categorical) - set(entries):
            raise ValueError(
                f"Expected categorical entries out of {', '.join(entries)} but got "
                f"{', '.join(sorted(unknown))}."
            )
        self.levels = {name: ValueGrid.of(entries[name]) for name in categorical}
        self.vectors = nn.ModuleList(
            nn.Embedding(own.count + 1, width) for own in self.levels.values()
        )
        self.unbounded = unbounded(data)
        each = {name: width if name in self.levels else 1 for name in entries}
        size = sum(each[name] * prod(info.event_shape) for name, info in entries.items())
        sizes = [size + data.context_features, *widths(hidden)]
        self.features = sizes[-1]
        self.net = mlp(sizes, activation, last=True)

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return True

    def forward(self, x: Tree, context: Tensor | None = None, mask: Tree | None = None) -> Tensor:
        masks = entries_of(like(x, mask))
        parts = [self._read(n, leaf, masks[n]) for n, leaf in entries_of(x).items()]
        return self.net(with_context(torch.cat(parts, 1), context))

    def _read(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        x = fill(x, mask)
        if name not in self.levels:
            return logged({name: x}, self.unbounded)[name].flatten(1)
        index = self.levels[name].index(x)
        if mask is not None:
            index = torch.where(mask, index, self.levels[name].count)
        return self.vectors[list(self.levels).index(name)](index).flatten(1)


def _has_categories(info: DataInfo) -> bool:
    return ValueGrid.are_known(info) and info.levels != 2
