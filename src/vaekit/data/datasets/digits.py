"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from typing import Literal

import torch

from vaekit.data.base import DataModule
from vaekit.data.rows.batches import Rows
from vaekit.data.rows.splits import split


class Digits(DataModule):
    """1,797 grey images of handwritten digits, 8x8, embedded in scikit-learn: no file, no network.

    Grey values 0 to 16 become x from 0 to 1, and these 0 or 1 unless `binarize` is "none".

    Arguments:
        val: Share of the rows held out for validation.
        test: Share of the rows held out for testing.

    Example:
        >>> Digits().info.event_shape, Digits().info.data_size
        ((1, 8, 8), 1437)

    References:
        Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI, doi
        10.24432/C50P49
    """

    levels = 17

    def __init__(
        self,
        val: float = 0.1,
        test: float = 0.1,
        batch_size: int = 64,
        binarize: Literal["none", "dynamic", "static"] = "dynamic",
        dequantize: bool = False,
        seed: int = 0,
        missing: float = 0.0,
    ) -> None:
        super().__init__(batch_size, binarize, dequantize, seed, missing)
        self.shares = val, test

    def load(self) -> dict[str, Rows]:
        from sklearn.datasets import load_digits  # slow to import, and only needed here

        digits = load_digits()
        x = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)  # (N, 1, 8, 8)
        rows = Rows(x, label=torch.from_numpy(digits.target).long(), top=16)
        return split(rows, *self.shares, seed=self.seed)
