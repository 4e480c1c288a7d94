"""Evaluation of a trained model."""

from typing import TYPE_CHECKING

from vaekit.registry.lazy import lazy_names

if TYPE_CHECKING:
    from vaekit.evaluation.importance_sampling import Estimate, log_likelihood

__all__ = ["Estimate", "log_likelihood"]

__getattr__, __dir__ = lazy_names(
    __name__, dict.fromkeys(__all__, "vaekit.evaluation.importance_sampling")
)
