"""From a registered name to a class, and from a spec to a part."""

from typing import TYPE_CHECKING

from vaekit.registry.lazy import lazy_names

if TYPE_CHECKING:
    from vaekit.registry.plugins import Plugin, RegistryError, list_plugins, register

__all__ = ["Plugin", "RegistryError", "list_plugins", "register"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "vaekit.registry.plugins"))
