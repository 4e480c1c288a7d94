"""Objectives: a file per mechanism."""
