"""Fails on import, and says when it is imported."""

import os
import pathlib

if marker := os.environ.get("BROKEN_MARKER"):
    with pathlib.Path(marker).open("a") as file:
        file.write("imported\n")

raise ImportError("the flux capacitor is missing")
