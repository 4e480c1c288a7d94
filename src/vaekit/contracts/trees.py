"""Trees: a tensor, or a dict of tensors by name, and their shapes and ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

Shape = tuple[int, ...]


if TYPE_CHECKING:  # a part says by its own annotations which of these it takes
    Tree: TypeAlias = Any
    Shapes: TypeAlias = Any
    Sizes: TypeAlias = Any
    Ranges: TypeAlias = Any
else:
    Tree = Tensor | dict[str, Tensor]
    """A tensor, or a dict of tensors: the modalities of a row, the columns of a table."""

    Shapes = Shape | dict[str, Shape]
    """The shape of a tree's tensor, or of each of its entries; rows are not counted."""

    Sizes = int | Shapes | dict[str, int | Shape]
    """Shapes in which a number n means (n,)."""

    Ranges = tuple[float, float] | dict[str, tuple[float, float]]
    """The smallest and largest value in a tree's tensor, or in each of its entries."""


def each(f: Callable[..., Any], tree: Any, *more: Any) -> Any:
    """f of a tree's tensor, or of each of its entries; `more` are trees with the same entries.

    Example:
        >>> each(lambda n: n + 1, 2), each(lambda n: n + 1, {"a": 3})
        (3, {'a': 4})
    """
    if isinstance(tree, dict):
        return {name: f(leaf, *(other[name] for other in more)) for name, leaf in tree.items()}
    return f(tree, *more)


def entries_of(tree: Any) -> dict[str, Any]:
    """A tree's tensors by name; a single tensor is called x.

    Example:
        >>> entries_of(2), entries_of({"a": 3, "b": 4})
        ({'x': 2}, {'a': 3, 'b': 4})
    """
    return dict(tree) if isinstance(tree, dict) else {"x": tree}


def like(tree: Any, value: Any) -> Any:
    """The value for each entry of a tree, where it is not said of each by itself.

    Example:
        >>> like({"a": 3, "b": 4}, None), like(3, None)
        ({'a': None, 'b': None}, None)
    """
    return (
        dict.fromkeys(tree, value)
        if isinstance(tree, Mapping) and not isinstance(value, Mapping)
        else value
    )


def flat(name: str, tree: Any) -> dict[str, Any]:
    """A tree's tensors under a name, as a file of arrays holds them: `name`, or `name.entry`.

    Example:
        >>> flat("x", 2), flat("x", {"a": 3, "b": 4})
        ({'x': 2}, {'x.a': 3, 'x.b': 4})
    """
    if isinstance(tree, Mapping):
        return {f"{name}.{entry}": leaf for entry, leaf in tree.items()}
    return {name: tree}


def leaves(tree: Any) -> list[Any]:
    """A tree's entries; of a single tensor, that one."""
    return list(tree.values()) if isinstance(tree, dict) else [tree]


def first(tree: Tree) -> Tensor:
    """A tree's first tensor, for what all its entries share: rows, device."""
    return next(iter(tree.values())) if isinstance(tree, dict) else tree


def shapes_of(sizes: Any) -> Any:
    """Sizes as shapes: tuples, and (n,) in the place of a number n."""
    return each(lambda size: (size,) if isinstance(size, int) else tuple(size), sizes)


def within(low: float, high: float, span: tuple[float, float], dtype: torch.dtype) -> bool:
    """Whether values from `low` to `high`, of some type, lie in a span; its ends are rounded too.

    Example:
        >>> x = torch.tensor(0.1)  # a float32, which is above .1
        >>> within(float(x), float(x), (0.0, 0.1), x.dtype)
        True
    """
    kind = dtype if dtype.is_floating_point else torch.float64
    least, most = torch.tensor(span, dtype=kind).tolist()
    return bool(least <= low <= high <= most)
