"""`python killed.py STEP ARGUMENTS`: vaekit, which ends without a word once it saved that step."""

from __future__ import annotations

import os
import sys
from typing import Any

from vaekit.cli.main import main
from vaekit.training.callbacks.checkpoint import BestCheckpoint

STEP = int(sys.argv[1])
save = BestCheckpoint._save_last


def save_and_end(self: BestCheckpoint, trainer: Any) -> None:
    before = self._saved_at
    save(self, trainer)
    if before != self._saved_at == STEP:
        os._exit(9)


if __name__ == "__main__":
    BestCheckpoint._save_last = save_and_end  # type: ignore[method-assign]
    main(sys.argv[2:])
