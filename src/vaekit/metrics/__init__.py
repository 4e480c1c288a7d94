"""Metrics: torchmetrics over pure functions."""
