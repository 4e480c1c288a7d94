"""Encoders and decoders: any size of image, and errors at construction."""

from __future__ import annotations

from math import inf

import pytest
import torch

from vaekit import DataInfo
from vaekit.networks.blocks import Residual
from vaekit.networks.conv import ConvDecoder, ConvEncoder, ResNetDecoder, ResNetEncoder
from vaekit.networks.mlp import MLPDecoder, MLPEncoder
from vaekit.networks.sets import EmbeddingEncoder


@pytest.mark.parametrize("height", [5, 6, 7, 28, 33])
@pytest.mark.parametrize("width", [4, 9, 31])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_convolutions_take_and_give_any_size(height: int, width: int, depth: int) -> None:
    event, channels = (3, height, width), [4, 5, 6][:depth]
    h = ConvEncoder(event, channels=channels, hidden=7)(torch.rand(2, *event))
    assert h.shape == (2, 7)
    y = ConvDecoder((2,), event, channels=channels, hidden=7)(torch.randn(2, 2))
    assert y.shape == (2, *event)


def test_a_decoder_may_give_several_numbers_an_element() -> None:
    y = ConvDecoder((2,), (2, 3, 8, 8), channels=[4])(torch.randn(5, 2))
    assert y.shape == (5, 2, 3, 8, 8)


def test_too_many_halvings_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"at most 3 channels entries for 8x8 images.*got 4"):
        ConvEncoder((1, 8, 8), channels=[4, 4, 4, 4])
    with pytest.raises(ValueError, match="at most 3 channels entries"):
        ConvDecoder((2,), (1, 8, 8), channels=[4, 4, 4, 4])


@pytest.mark.parametrize("channels", [[], [-1], [4, 0]])
def test_channels_are_at_least_one_and_positive(channels: list[int]) -> None:
    for make in (
        lambda: ConvEncoder((1, 8, 8), channels=channels),
        lambda: ConvDecoder((2,), (1, 8, 8), channels=channels),
    ):
        with pytest.raises(ValueError, match="at least one entry in channels, all positive"):
            make()


def test_a_row_is_no_image_for_a_decoder_either() -> None:
    with pytest.raises(ValueError, match=r"images of shape \(C, H, W\) but got \(64,\)"):
        ConvDecoder((2,), (2, 64), channels=[4], event_shape=(64,))


def test_convolutions_refuse_what_is_no_image() -> None:
    with pytest.raises(ValueError, match=r"images of shape \(C, H, W\) but got \(64,\)"):
        ConvEncoder((64,))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"hidden": [0]}, "at least one unit"), ({"activation": "ReLu"}, "'ReLu'")],
)
def test_bad_arguments_say_what_was_expected(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MLPEncoder((3,), **arguments)
    with pytest.raises(ValueError, match=words):
        MLPDecoder((3,), (3,), **arguments)


def test_without_hidden_layers_the_network_is_linear() -> None:
    x = torch.randn(4, 3)
    assert torch.equal(MLPEncoder((3,), hidden=[])(x), x)
    decoder = MLPDecoder((3,), (2,), hidden=[])
    assert torch.allclose(decoder(x + x), 2 * decoder(x) - decoder(torch.zeros(1, 3)), atol=1e-6)


def test_pythaes_sigmoid_at_the_end_of_the_default_decoder_is_not_here() -> None:
    for decoder in (MLPDecoder((2,), (1, 8, 8)), ConvDecoder((2,), (1, 8, 8))):
        y = decoder(100 * torch.randn(500, 2))
        assert y.min() < -1
        assert y.max() > 2


def test_counts_are_read_by_their_logarithm() -> None:
    x = torch.tensor([[0.0, 10.0, 4000.0]])
    for kind, info in ((MLPEncoder, {"data": DataInfo((3,), (0, inf))}), (MLPEncoder, {})):
        h = kind(event_shape=(3,), hidden=[], **info)(x)
        assert torch.equal(h, x.log1p() if info else x)
    table = DataInfo({"a": (2,), "b": (3,)}, {"a": (0, 1), "b": (0, inf)})
    rows = {"a": torch.rand(1, 2), "b": x}
    expected = torch.cat([rows["a"], x.log1p()], 1)
    for encoder in (
        MLPEncoder(table.event_shape, data=table, hidden=[]),
        EmbeddingEncoder(table, hidden=[]),
    ):
        assert torch.equal(encoder(rows), expected)


def test_gated_layers_are_products_of_a_line_and_a_sigmoid() -> None:
    encoder = MLPEncoder((3,), hidden=[4], activation="GLU")
    x = torch.randn(5, 3)
    y = encoder.net[0](x)
    assert torch.allclose(encoder(x), y[:, :4] * y[:, 4:].sigmoid())
    decoder = MLPDecoder((3,), (2,), hidden=[4, 6], activation="GLU")
    assert [m.out_features for m in decoder.net if hasattr(m, "out_features")] == [8, 12, 2]
    with pytest.raises(ValueError, match="'GLU'"):
        ConvEncoder((1, 8, 8), activation="GLU")


@pytest.mark.parametrize("blocks", [1, 3])
def test_residual_blocks_add_nothing_at_first(blocks: int) -> None:
    torch.manual_seed(0)
    with_blocks = ResNetEncoder((3, 9, 8), channels=[4], blocks=blocks)
    without = ConvEncoder((3, 9, 8), channels=[4], activation="SiLU")
    own, others = with_blocks.state_dict(), without.state_dict()
    without.conv[0].load_state_dict(with_blocks.conv[0].state_dict())
    without.linear.load_state_dict(with_blocks.linear.state_dict())
    x = torch.randn(2, 3, 9, 8)
    residuals = [m for m in with_blocks.modules() if isinstance(m, Residual)]
    assert len(residuals) == blocks
    assert len(own) > len(others)
    assert torch.allclose(with_blocks(x), without(x), atol=1e-6)
    decoder = ResNetDecoder((2,), (3, 9, 8), channels=[4, 5], blocks=blocks)
    assert sum(isinstance(m, Residual) for m in decoder.modules()) == 2 * blocks
    with pytest.raises(ValueError, match="blocks to be at least 0"):
        ResNetEncoder((3, 9, 8), blocks=-1)
