"""Variational autoencoders built from interchangeable parts, on PyTorch Lightning."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaekit import callbacks, data, testing
    from vaekit.batch import Batch, DataInfo
    from vaekit.checkpoints import load
    from vaekit.importance import log_likelihood
    from vaekit.model import Model
    from vaekit.module import VAEModule
    from vaekit.plugins import register
    from vaekit.prior_files import fit_prior, load_prior, write_prior

__all__ = [
    "Batch",
    "DataInfo",
    "Model",
    "VAEModule",
    "__version__",
    "callbacks",
    "data",
    "fit_prior",
    "load",
    "load_prior",
    "log_likelihood",
    "register",
    "testing",
    "write_prior",
]

__version__ = version("vaekit")

_HOME = {
    "Batch": "batch",
    "DataInfo": "batch",
    "Model": "model",
    "VAEModule": "module",
    "fit_prior": "prior_files",
    "load": "checkpoints",
    "load_prior": "prior_files",
    "log_likelihood": "importance",
    "register": "plugins",
    "write_prior": "prior_files",
}


def __getattr__(name: str) -> Any:
    # Lazily: `vaekit --version` and `vaekit plugins` must not wait for torch.
    if name in _HOME:
        return getattr(import_module(f"vaekit.{_HOME[name]}"), name)
    if name in ("callbacks", "data", "testing"):
        return import_module(f"vaekit.{name}")
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
