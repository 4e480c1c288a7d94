"""Rows in memory: batches, splits, preparation and sparse storage."""
