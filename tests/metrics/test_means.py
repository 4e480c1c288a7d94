"""Means over rows: what counts, by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaekit.metrics.means import RowMeans


def test_row_means_count_rows() -> None:
    means = RowMeans()
    means.update({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(5.0)}, rows=2)
    means.update({"a": torch.tensor([9.0]), "b": torch.tensor(8.0)}, rows=1)
    means.update({"a": torch.tensor([1e9]), "b": torch.tensor(1e9)}, rows=0)  # a stand-in row
    assert means.compute() == {"a": 4.0, "b": 6.0}


def test_terms_are_told_apart_by_name_not_by_place() -> None:
    means = RowMeans()
    means.update({"loss": torch.tensor(1.0), "tc": torch.tensor(0.0)}, rows=2)
    means.update({"tc": torch.tensor(0.0), "loss": torch.tensor(1.0)}, rows=2)
    assert means.compute() == {"loss": 1.0, "tc": 0.0}


def test_what_a_stand_in_row_holds_does_not_matter() -> None:
    means = RowMeans()
    means.update({"a": torch.tensor([torch.nan])}, rows=0)
    means.update({"a": torch.tensor([2.0, 4.0])}, rows=2)
    assert means.compute() == {"a": 3.0}


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"a": torch.ones(2)}, "Expected the terms a, b in every batch but got a"),
        ({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, "but got a, b, c"),
        ({"a": torch.ones(2), "b": torch.ones(3, 2)}, r"term b of shape \(2,\).*got \(3, 2\)"),
        ({"a": torch.ones(2), "b": torch.ones(5)}, r"term b of shape \(2,\).*got \(5,\)"),
    ],
)
def test_other_terms_than_the_first_batch_s_are_refused(
    terms: dict[str, Tensor], words: str
) -> None:
    means = RowMeans()
    means.update({"a": torch.ones(2), "b": torch.tensor(1.0)}, rows=2)
    with pytest.raises(ValueError, match=words):
        means.update(terms, rows=2)
