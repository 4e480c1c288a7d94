"""Training with Lightning."""

from typing import TYPE_CHECKING

from vaekit.registry.lazy import lazy_names

if TYPE_CHECKING:
    from vaekit.training.module import VAEModule
    from vaekit.training.non_finite import NonFiniteError
    from vaekit.training.trainer import Trainer

__all__ = ["NonFiniteError", "Trainer", "VAEModule"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "NonFiniteError": "vaekit.training.non_finite",
        "Trainer": "vaekit.training.trainer",
        "VAEModule": "vaekit.training.module",
    },
)
