"""Encoders and decoders: any size of image, and errors at construction."""

from __future__ import annotations

import pytest
import torch

from vaekit.decoders import ConvDecoder, MLPDecoder
from vaekit.encoders import ConvEncoder, MLPEncoder


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
    with pytest.raises(ValueError, match=r"images of shape \(C, H, W\) but got \(2, 64\)"):
        ConvDecoder((2,), (2, 64), channels=[4])


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
