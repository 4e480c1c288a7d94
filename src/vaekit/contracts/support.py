"""Compares the supports of posteriors and priors."""

from __future__ import annotations

from typing import Any

from torch.distributions import constraints


def same_support(one: Any, other: Any) -> bool:
    """Whether two constraints of torch.distributions are the same, however they are reshaped.

    Example:
        >>> same_support(constraints.real, constraints.real_vector)
        True
        >>> same_support(constraints.positive, constraints.greater_than(1.0))
        False
    """
    return of_one_kind(one, other) and vars(_element(one)) == vars(_element(other))


def of_one_kind(one: Any, other: Any) -> bool:
    """Whether two constraints differ in their numbers at most."""
    return type(_element(one)) is type(_element(other))


def _element(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _space(support: Any) -> str:
    """A constraint in words."""
    if same_support(support, constraints.positive):
        return "the positive numbers"
    element = _element(support)
    return _SPACES.get(type(element)) or str(getattr(element, "words", element))


_SPACES: dict[type, str] = {
    type(constraints.real): "the real numbers",
    type(constraints.simplex): "the simplex",
    type(constraints.boolean): "{0, 1}",
    type(constraints.one_hot): "one-hot vectors",
    type(constraints.unit_interval): "the unit interval",
}
