"""Columns of a table, and their encodings in x."""
