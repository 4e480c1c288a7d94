"""The callbacks of a fit."""

from vaekit.training.callbacks.checkpoint import BestCheckpoint
from vaekit.training.callbacks.collapse import CollapseWatch, PosteriorCollapseWarning
from vaekit.training.callbacks.config import ConfigWriter
from vaekit.training.callbacks.ema import EMA
from vaekit.training.callbacks.guard import Guard
from vaekit.training.callbacks.pictures import Pictures
from vaekit.training.callbacks.predictions import PredictionWriter
from vaekit.training.callbacks.progress import Progress

__all__ = [
    "EMA",
    "BestCheckpoint",
    "CollapseWatch",
    "ConfigWriter",
    "Guard",
    "Pictures",
    "PosteriorCollapseWarning",
    "PredictionWriter",
    "Progress",
]

for _name in __all__:  # the public path, which config.yaml contains
    globals()[_name].__module__ = __name__
