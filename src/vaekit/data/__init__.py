"""Data modules: rows in memory, cut into batches."""

from vaekit.data.arrays import Arrays
from vaekit.data.base import DataModule
from vaekit.data.cifar import CIFAR10
from vaekit.data.counts import Counts
from vaekit.data.digits import Digits
from vaekit.data.dsprites import DSprites
from vaekit.data.frey import FreyFaces
from vaekit.data.huggingface import HuggingFace
from vaekit.data.idx import KMNIST, MNIST, FashionMNIST
from vaekit.data.images import ImageFolder
from vaekit.data.mat import Caltech101Silhouettes, Omniglot
from vaekit.data.sequences import Sequences
from vaekit.data.tables import Table

__all__ = [
    "CIFAR10",
    "KMNIST",
    "MNIST",
    "Arrays",
    "Caltech101Silhouettes",
    "Counts",
    "DSprites",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "FreyFaces",
    "HuggingFace",
    "ImageFolder",
    "Omniglot",
    "Sequences",
    "Table",
]
