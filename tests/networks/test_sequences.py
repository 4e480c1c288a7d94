"""Encoders and decoders of sequences and sets: lengths, tokens, order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaekit import DataInfo, Model
from vaekit.contracts.batch import Batch
from vaekit.networks.conv1d import Conv1dDecoder, Conv1dEncoder
from vaekit.networks.sequences import (
    GRUDecoder,
    GRUEncoder,
    TransformerDecoder,
    TransformerEncoder,
)
from vaekit.networks.sets import DeepSets, EmbeddingEncoder

TOKENS = DataInfo((12,), (0.0, 4.0), levels=5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("make", [GRUEncoder, TransformerEncoder])
def test_a_padded_row_is_read_as_it_would_be_without_its_padding(make: Any, layers: int) -> None:
    long = make((2, 12), layers=layers).double().eval()
    short = make((2, 7), layers=layers).double().eval()
    state = long.state_dict()
    if "places" in state:
        state["places"] = state["places"][:8]
    short.load_state_dict(state)
    x = torch.randn(5, 2, 12).double()
    mask = (torch.arange(12) < 7).expand(5, 2, -1)
    padded = torch.where(mask, x, torch.nan)
    assert torch.allclose(long(padded, None, mask), short(x[:, :, :7]), atol=1e-9)
    assert not torch.allclose(long(x), short(x[:, :, :7]))


@pytest.mark.parametrize("make", [GRUEncoder, TransformerEncoder, Conv1dEncoder, DeepSets])
def test_a_row_that_shows_nothing_has_finite_features(make: Any) -> None:
    encoder = make((2, 12)).eval()
    x = torch.full((3, 2, 12), torch.nan)
    h = encoder(x, None, torch.zeros_like(x, dtype=torch.bool))
    assert h.isfinite().all()
    h.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("make", [GRUEncoder, TransformerEncoder])
def test_the_order_of_steps_counts(make: Any) -> None:
    encoder, x = make((2, 12)).eval(), torch.randn(5, 2, 12)
    assert not torch.allclose(encoder(x), encoder(x.flip(2)), atol=1e-3)


@pytest.mark.parametrize("make", [GRUEncoder, TransformerEncoder, Conv1dEncoder])
def test_tokens_have_vectors_of_their_own_and_so_has_what_is_hidden(make: Any) -> None:
    encoder = make((12,), data=TOKENS, tokens=True).eval()
    assert encoder.steps.vectors.num_embeddings == 6
    x = torch.randint(5, (4, 12)).float()
    mask = torch.rand(4, 12) > 0.3
    mask[:, -1] = True  # no padding at the end
    assert not torch.allclose(encoder(x, None, mask), encoder(x))
    assert torch.equal(
        encoder(torch.where(mask, x, torch.nan), None, mask), encoder(x, None, mask)
    )
    with pytest.raises(ValueError, match="known number of levels"):
        make((12,), data=DataInfo((12,)), tokens=True)
    with pytest.raises(ValueError, match=r"tokens of shape \(T,\) but got \(2, 12\)"):
        make((2, 12), data=TOKENS, tokens=True)


@pytest.mark.parametrize("make", [GRUDecoder, TransformerDecoder, Conv1dDecoder])
@pytest.mark.parametrize("shape", [(9,), (2, 9), (5, 2, 13), (3, 8)])
def test_decoders_give_any_number_of_parameters_at_each_step(
    make: Any, shape: tuple[int, ...]
) -> None:
    y = make((2, 2), shape)(torch.randn(5, 2, 2))
    assert y.shape == (5, *shape)
    assert not torch.allclose(y[..., 0], y[..., -1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: TransformerEncoder((12,), heads=3),
            "heads that divide the width but got 3 of 64",
        ),
        (lambda: TransformerDecoder((2,), (12,), width=30), "got 4 of 30"),
        (lambda: Conv1dEncoder((12,), kernel=4), "odd number of steps but got 4"),
        (lambda: Conv1dDecoder((2,), (3,), channels=[4] * 5), "at most 2 channels entries"),
        (lambda: GRUDecoder((2,), ()), r"sequences of shape \(T,\) or \(C, T\) but got \(\)"),
        (lambda: DeepSets((12,)), r"sets of shape \(N, F\) but got \(12,\)"),
        (lambda: DeepSets((12, 2), pool="median"), "'median'"),
        (lambda: DeepSets((12, 2), inner=[]), "at least one width in inner"),
        (lambda: EmbeddingEncoder(TOKENS, categorical=["job"]), "out of x but got job"),
    ],
)
def test_bad_arguments_say_what_was_expected(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
def test_a_set_has_no_order_and_padding_is_no_element(pool: Any) -> None:
    encoder = DeepSets((9, 3), pool=pool).double().eval()
    x = torch.randn(4, 9, 3).double()
    whole = encoder(x)
    assert torch.allclose(encoder(x[:, torch.randperm(9)]), whole)
    mask = (torch.arange(9) < 5)[:, None].expand(4, 9, 3)
    small = DeepSets((5, 3), pool=pool).double()
    small.load_state_dict(encoder.state_dict())
    padded = torch.where(mask, x, torch.nan)
    assert torch.allclose(encoder(padded, None, mask), small(x[:, :5]))
    assert not torch.allclose(encoder(padded, None, mask), whole)


def test_categories_are_embedded_and_a_missing_one_is_a_category() -> None:
    table = DataInfo(
        {"age": (2,), "job": (3,)}, {"age": (-9, 9), "job": (0, 4)}, {"age": None, "job": 5}
    )
    encoder = EmbeddingEncoder(table, width=4, hidden=[])
    assert encoder.features == 2 + 3 * 4
    x = {"age": torch.randn(6, 2), "job": torch.randint(5, (6, 3)).float()}
    mask = {n: torch.rand(leaf.shape) > 0.5 for n, leaf in x.items()}
    h = encoder(x, None, mask)
    vectors = encoder.vectors[0].weight
    index = torch.where(mask["job"], x["job"].long(), 5)
    expected = torch.cat([torch.where(mask["age"], x["age"], 0.0), vectors[index].flatten(1)], 1)
    assert torch.equal(h, expected)


def test_a_model_of_padded_sequences_sees_no_padding() -> None:
    """The bound of a padded row does not depend on what stands in its padding."""
    model = Model(
        TOKENS,
        2,
        encoder={"class_path": "GRUEncoder", "init_args": {"tokens": True, "width": 8}},
        decoder={"class_path": "GRUDecoder", "init_args": {"width": 8}},
        likelihood="Categorical",
    )
    x = torch.randint(5, (6, 12)).float()
    mask = torch.arange(12) < torch.randint(1, 12, (6, 1))
    found = []
    for padding in (0.0, 3.0, torch.nan):
        torch.manual_seed(0)
        batch = Batch(torch.where(mask, x, padding), mask=mask)
        found.append(model.evaluate(batch)["elbo"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
