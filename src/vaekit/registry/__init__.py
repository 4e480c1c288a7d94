"""From a registered name to a class, and from a spec to a part."""

from vaekit.registry.plugins import Plugin, RegistryError, list_plugins, register

__all__ = ["Plugin", "RegistryError", "list_plugins", "register"]
