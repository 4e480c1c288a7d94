"""Readers from a file format to arrays, frames or images."""
