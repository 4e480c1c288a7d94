"""MNIST and the data sets in the same format."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from vaekit.data.base import DataModule
from vaekit.data.readers.downloads import download, existing, folder_of
from vaekit.data.readers.idx import read_idx
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import hold_out


class MNIST(DataModule):
    """70,000 grey images of handwritten digits, 28x28: 60,000 for training, 10,000 for testing.

    The four IDX files, gzipped or not, are looked for in `root` and in its folders `mnist`,
    `MNIST` and `MNIST/raw`; else they are downloaded into the last of these. Grey values 0 to 255
    become x from 0 to 1.

    Arguments:
        root: The folder; None takes the environment variable VAEKIT_DATA, or else `data`.
        val: How many of the 60,000 rows, the last ones, are held out for validation; 0 trains on
            all.

    Raises:
        FileNotFoundError: If a file is not there and cannot be downloaded.
        ValueError: If a file is damaged, or `val` leaves no row for training.

    Example:
        >>> MNIST("images", val=0, binarize="dynamic").spec["init_args"]
        {'root': 'images', 'val': 0, 'binarize': 'dynamic'}

    References:
        Gradient-Based Learning Applied to Document Recognition (LeCun et al., 1998), doi
        10.1109/5.726791
    """

    levels = 256
    mirrors: ClassVar[list[str]] = [
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ]
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(
        self,
        root: str | Path | None = None,
        val: int = 10_000,
        batch_size: int = 128,
        binarize: Literal["none", "dynamic", "static"] = "none",
        dequantize: bool = False,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, binarize, dequantize, seed, missing)
        self.root = folder_of(root)
        self.val = val

    @property
    def _folder(self) -> Path:
        return self.root / type(self).__name__ / "raw"

    def _existing(self, name: str) -> Path | None:
        own = type(self).__name__
        folders = (self.root, self.root / own.lower(), self.root / own, self._folder)
        return existing(folders, (name, f"{name}.gz"))

    def prepare_data(self) -> None:
        for name, md5 in self.md5.items():
            if self._existing(name) is None:
                file = self._folder / f"{name}.gz"
                download(type(self).__name__, self.root, file, self.mirrors, md5)

    def load(self) -> dict[str, Rows]:
        splits = hold_out(self._images("train"), self.val)
        return {**splits, "test": self._images("t10k")}

    def _images(self, part: str) -> Rows:
        x, label = (self._read(f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        if x.dim() != 3 or label.shape != x.shape[:1]:
            raise ValueError(
                f"Expected images (N, H, W) and labels (N,) in {self.root} but got "
                f"{tuple(x.shape)} and {tuple(label.shape)}."
            )
        return Rows(x.unsqueeze(1), label=label.long(), top=255)

    def _read(self, name: str) -> Tensor:
        path = self._existing(name)
        if path is None:
            raise FileNotFoundError(
                f"{type(self).__name__} needs {name} or {name}.gz, which is not under "
                f"{self.root}. Put it there, or have it downloaded, by prepare_data() or by "
                f"--data {type(self).__name__} on the command line."
            )
        return read_idx(path)


class FashionMNIST(MNIST):
    """70,000 grey images of clothes, 28x28; files and arguments as for MNIST.

    Example:
        >>> FashionMNIST("images").spec["init_args"]
        {'root': 'images'}

    References:
        Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), https://arxiv.org/abs/1708.07747
    """

    mirrors: ClassVar[list[str]] = ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"]
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }


class KMNIST(MNIST):
    """70,000 grey images of cursive Japanese characters, 28x28; files and arguments as for MNIST.

    Example:
        >>> KMNIST("images").spec["init_args"]
        {'root': 'images'}

    References:
        Deep Learning for Classical Japanese Literature (Clanuwat et al., 2018),
        https://arxiv.org/abs/1812.01718
    """

    mirrors: ClassVar[list[str]] = ["http://codh.rois.ac.jp/kmnist/dataset/kmnist/"]
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
    }
