"""Data modules: rows in memory, cut into batches."""

from vaekit.data.arrays import Arrays
from vaekit.data.base import DataModule
from vaekit.data.counts import Counts
from vaekit.data.digits import Digits
from vaekit.data.frey import FreyFaces
from vaekit.data.idx import KMNIST, MNIST, FashionMNIST
from vaekit.data.sequences import Sequences

__all__ = [
    "KMNIST",
    "MNIST",
    "Arrays",
    "Counts",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "FreyFaces",
    "Sequences",
]
