"""Metrics: torchmetrics classes over pure functions."""

from vaekit.metrics.means import RowMeans

__all__ = ["RowMeans"]
