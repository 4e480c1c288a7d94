"""Data modules for published data sets, by name."""
