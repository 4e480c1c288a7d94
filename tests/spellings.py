"""The paths by which a user may name a part."""

from __future__ import annotations

from vaekit.registry.moved import MODULES, NAMES
from vaekit.registry.plugins import Plugin, list_plugins

PARTS = [plugin for plugin in list_plugins() if plugin.package == "vaekit"]
OLD = {new: old for old, new in reversed([*MODULES.items(), *NAMES.items()])}


def spellings(plugin: Plugin) -> list[str]:
    """Returns the paths of a part: its old one, its new one, and through the public package."""
    module, _, name = plugin.path.rpartition(".")
    old = OLD.get(plugin.path) or f"{OLD.get(module, module)}.{name}"
    return [old, plugin.path, f"vaekit.{module.split('.')[1]}.{name}"]
