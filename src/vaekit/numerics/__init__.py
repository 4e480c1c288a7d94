"""Precision, random numbers, and reductions over processes."""
