"""Variational autoencoders built from interchangeable parts, on PyTorch Lightning."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from vaekit.registry.lazy import lazy_names
from vaekit.registry.moved import report_moved_names

if TYPE_CHECKING:
    from vaekit import (
        callbacks,
        contracts,
        cores,
        data,
        distributions,
        evaluation,
        likelihoods,
        loggers,
        metrics,
        model,
        networks,
        objectives,
        posteriors,
        priors,
        schedules,
        testing,
        training,
    )
    from vaekit.contracts.batch import Batch, DataInfo
    from vaekit.evaluation.importance_sampling import log_likelihood
    from vaekit.model.checkpoints import load
    from vaekit.model.fitted_priors import fit_prior, load_prior, write_prior
    from vaekit.model.model import Model
    from vaekit.registry.plugins import list_plugins, register
    from vaekit.training.module import VAEModule

__all__ = [
    "Batch",
    "DataInfo",
    "Model",
    "VAEModule",
    "__version__",
    "callbacks",
    "contracts",
    "cores",
    "data",
    "distributions",
    "evaluation",
    "fit_prior",
    "likelihoods",
    "list_plugins",
    "load",
    "load_prior",
    "log_likelihood",
    "loggers",
    "metrics",
    "model",
    "networks",
    "objectives",
    "posteriors",
    "priors",
    "register",
    "schedules",
    "testing",
    "training",
    "write_prior",
]

__version__ = version("vaekit")

report_moved_names()

# Lazy: `vaekit --version` and `vaekit plugins` must not wait for torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Batch": "vaekit.contracts.batch",
        "DataInfo": "vaekit.contracts.batch",
        "Model": "vaekit.model.model",
        "VAEModule": "vaekit.training.module",
        "fit_prior": "vaekit.model.fitted_priors",
        "list_plugins": "vaekit.registry.plugins",
        "load": "vaekit.model.checkpoints",
        "load_prior": "vaekit.model.fitted_priors",
        "log_likelihood": "vaekit.evaluation.importance_sampling",
        "register": "vaekit.registry.plugins",
        "write_prior": "vaekit.model.fitted_priors",
        "callbacks": "vaekit.callbacks",
        "contracts": "vaekit.contracts",
        "cores": "vaekit.cores",
        "data": "vaekit.data",
        "distributions": "vaekit.distributions",
        "evaluation": "vaekit.evaluation",
        "likelihoods": "vaekit.likelihoods",
        "loggers": "vaekit.loggers",
        "metrics": "vaekit.metrics",
        "model": "vaekit.model",
        "networks": "vaekit.networks",
        "objectives": "vaekit.objectives",
        "posteriors": "vaekit.posteriors",
        "priors": "vaekit.priors",
        "schedules": "vaekit.schedules",
        "testing": "vaekit.testing",
        "training": "vaekit.training",
    },
)
