"""Data modules: rows in memory, cut into batches."""

from typing import TYPE_CHECKING

from vaekit.registry.lazy import lazy_names

if TYPE_CHECKING:
    from vaekit.data.base import DataModule
    from vaekit.data.datasets.cifar10 import CIFAR10
    from vaekit.data.datasets.digits import Digits
    from vaekit.data.datasets.dsprites import DSprites
    from vaekit.data.datasets.frey_faces import FreyFaces
    from vaekit.data.datasets.mnist import KMNIST, MNIST, FashionMNIST
    from vaekit.data.datasets.omniglot import Caltech101Silhouettes, Omniglot
    from vaekit.data.rows.batches import Rows
    from vaekit.data.rows.splits import split
    from vaekit.data.user.arrays import Arrays
    from vaekit.data.user.counts import Counts
    from vaekit.data.user.huggingface import HuggingFace
    from vaekit.data.user.images import ImageFolder
    from vaekit.data.user.sequences import Sequences
    from vaekit.data.user.tables import Table

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
    "Rows",
    "Sequences",
    "Table",
    "split",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DataModule": "vaekit.data.base",
        "Rows": "vaekit.data.rows.batches",
        "split": "vaekit.data.rows.splits",
        "CIFAR10": "vaekit.data.datasets.cifar10",
        "Digits": "vaekit.data.datasets.digits",
        "DSprites": "vaekit.data.datasets.dsprites",
        "FreyFaces": "vaekit.data.datasets.frey_faces",
        "FashionMNIST": "vaekit.data.datasets.mnist",
        "KMNIST": "vaekit.data.datasets.mnist",
        "MNIST": "vaekit.data.datasets.mnist",
        "Caltech101Silhouettes": "vaekit.data.datasets.omniglot",
        "Omniglot": "vaekit.data.datasets.omniglot",
        "Arrays": "vaekit.data.user.arrays",
        "Counts": "vaekit.data.user.counts",
        "HuggingFace": "vaekit.data.user.huggingface",
        "ImageFolder": "vaekit.data.user.images",
        "Sequences": "vaekit.data.user.sequences",
        "Table": "vaekit.data.user.tables",
    },
)
