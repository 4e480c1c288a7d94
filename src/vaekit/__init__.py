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

__all__ = [
    "Batch",
    "DataInfo",
    "Model",
    "VAEModule",
    "__version__",
    "callbacks",
    "data",
    "load",
    "log_likelihood",
    "register",
    "testing",
]

__version__ = version("vaekit")

_HOME = {
    "Batch": "batch",
    "DataInfo": "batch",
    "Model": "model",
    "VAEModule": "module",
    "load": "checkpoints",
    "log_likelihood": "importance",
    "register": "plugins",
}


def __getattr__(name: str) -> Any:
    # Lazily: `vaekit --version` and `vaekit plugins` must not wait for torch.
    if name in _HOME:
        return getattr(import_module(f"vaekit.{_HOME[name]}"), name)
    if name in ("callbacks", "data", "testing"):
        return import_module(f"vaekit.{name}")
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
