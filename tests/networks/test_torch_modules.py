"""Any torch module as an encoder or decoder, by instance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import fit
from vaekit import DataInfo, Model, VAEModule, data, load, testing
from vaekit.networks.mlp import MLPDecoder

IMAGE = DataInfo((1, 8, 8), (0.0, 1.0), levels=2)


def _encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU())


class WithContext(nn.Module):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size_in, size_out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.linear(torch.cat([x.flatten(1), context], 1))


def test_a_module_is_an_encoder_and_a_decoder_and_comes_back_from_a_checkpoint(
    tmp_path: Path,
) -> None:
    digits = data.Digits()
    model = Model(digits, 2, encoder=_encoder(), decoder=nn.Linear(2, 64))
    assert model.core.encoder.features == 4 * 3 * 3
    trainer = fit(VAEModule(model), digits, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"instance of .*Sequential: pass that module again"):
        load(tmp_path / "a.ckpt")
    again = load(tmp_path / "a.ckpt", encoder=_encoder(), decoder=nn.Linear(2, 64))
    x = next(digits.rows("val", 5)).x
    assert torch.equal(again.encode(x), model.encode(x))
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))


@pytest.mark.slow
def test_a_module_obeys_the_laws() -> None:
    testing.check_encoder(_encoder(), data=IMAGE)
    testing.check_decoder(nn.Linear(4, 64), data=IMAGE)


def test_a_module_is_given_the_context_as_its_second_argument() -> None:
    info = DataInfo((3,), (0.0, 1.0), levels=2, context_features=2)
    model = Model(info, 2, encoder=WithContext(5, 7), decoder=WithContext(4, 3))
    c = torch.randn(6, 2)
    assert not torch.equal(model.encode(torch.zeros(6, 3), c), model.encode(torch.zeros(6, 3), -c))
    with pytest.raises(ValueError, match="take 2 arguments, the second of which is the context"):
        Model(info, 2, encoder=nn.Linear(3, 4))


def test_what_is_no_module_of_the_right_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder of 64 numbers .*Linear gives 63"):
        Model(IMAGE, 2, decoder=nn.Linear(2, 63))
    with pytest.raises(ValueError, match="Expected posterior to be a name"):
        Model(IMAGE, 2, posterior=nn.Linear(2, 63))


class Tuples(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Tuples, "to give a tensor"),
        (lambda: nn.Sequential(nn.Flatten(0)), "to give a tensor"),
        (lambda: MLPDecoder((2,), (1, 8, 8)), "Expected encoder to be a name"),
    ],
)
def test_a_module_that_gives_no_features_is_refused(
    make: Callable[[], nn.Module], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Model(IMAGE, 2, encoder=make())


def test_a_module_in_training_is_left_so_and_its_state_unchanged() -> None:
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)).train()
    before = norm[1].running_mean.clone()
    Model(IMAGE, 2, encoder=norm)
    assert norm.training
    frozen = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64).eval()).train()
    frozen[1].eval()
    Model(IMAGE, 2, encoder=frozen)
    assert not frozen[1].training
    assert torch.equal(norm[1].running_mean, before)
