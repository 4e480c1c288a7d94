"""A model without a trainer: construction, checkpoints, and parts that fit data."""

from typing import TYPE_CHECKING

from vaekit.registry.lazy import lazy_names

if TYPE_CHECKING:
    from vaekit.model.checkpoints import load
    from vaekit.model.fitted_priors import fit_prior, load_prior, write_prior
    from vaekit.model.model import Model
    from vaekit.model.parts_for_data import parts_for

__all__ = ["Model", "fit_prior", "load", "load_prior", "parts_for", "write_prior"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Model": "vaekit.model.model",
        "load": "vaekit.model.checkpoints",
        "parts_for": "vaekit.model.parts_for_data",
        "fit_prior": "vaekit.model.fitted_priors",
        "load_prior": "vaekit.model.fitted_priors",
        "write_prior": "vaekit.model.fitted_priors",
    },
)
