"""Runs the command line as `python -m vaekit`."""

import os
import sys

if __name__ == "__main__" and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]  # the working folder, where `python -m` and torchrun put it

from vaekit.cli.main import main

if __name__ == "__main__":
    main()
