"""Classes that are not what their entry points say."""

from vaekit.contracts import Encoder


class NoEncoder:
    """Extends nothing."""


class Other(Encoder):
    """Has another name than its entry point."""
