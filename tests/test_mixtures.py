"""Mixtures: density, mean and draws, against torch's and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import Normal as TorchNormal

from vaekit.distributions import normal
from vaekit.mixtures import Mixture

M, B, Z = 4, 3, (2, 5)


def family(name: str, *batch: int) -> tuple[Tensor, Tensor, type[Distribution]]:
    torch.manual_seed(0)
    loc, scale = torch.randn(*batch, *Z).double(), torch.rand(*batch, *Z).double() + 0.1
    return loc, scale, TorchNormal if name == "Normal" else TorchLaplace


def built(name: str, loc: Tensor, scale: Tensor) -> Distribution:
    if name == "Normal":  # whose densities are products of matrices
        return normal(loc, scale, len(Z))
    return Independent(TorchLaplace(loc, scale), len(Z))


@pytest.mark.parametrize("name", ["Normal", "Laplace"])
def test_a_mixture_is_torchs(name: str) -> None:
    loc, scale, kind = family(name, M)
    weights = torch.randn(M).double()
    p = Mixture(built(name, loc, scale), weights)
    wanted = MixtureSameFamily(
        Categorical(logits=weights),
        Independent(kind(loc, scale), len(Z)),  # type: ignore[call-arg]
    )
    z = 3 * torch.randn(7, 6, *Z).double()
    assert torch.allclose(p.log_prob(z), wanted.log_prob(z), rtol=1e-12)
    assert torch.allclose(p.mean, wanted.mean)
    assert p.sample((7, 6)).shape == z.shape
    assert p.sample().shape == Z


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["Normal", "Laplace"])
def test_there_may_be_a_mixture_for_each_row(name: str, shared: bool) -> None:
    loc, scale, kind = family(name, M * B)
    weights = torch.randn(M).double() if shared else torch.randn(M, B).double()
    p = Mixture(built(name, loc, scale), weights, B)
    z = torch.randn(7, B, *Z).double()
    for row in range(B):
        at = torch.arange(M) * B + row  # the rows of the first component come first
        logits = weights if shared else weights[:, row]
        wanted = MixtureSameFamily(
            Categorical(logits=logits),
            Independent(kind(loc[at], scale[at]), len(Z)),  # type: ignore[call-arg]
        )
        assert torch.allclose(p.log_prob(z)[:, row], wanted.log_prob(z[:, row]), rtol=1e-12)
        assert torch.allclose(p.mean[row], wanted.mean)
    assert p.sample((7,)).shape == z.shape


def test_draws_come_from_components_by_their_weights() -> None:
    loc = torch.arange(4.0).unsqueeze(1)
    weights = torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    torch.manual_seed(0)
    p = Mixture(normal(loc, torch.full_like(loc, 1e-3), 1), weights.log(), 2)
    drawn = p.sample((20_000,)).round().squeeze(2)
    for row in range(2):  # components 0 and 2 are those of row 0
        first = (drawn[:, row] == row).double().mean()
        assert drawn[:, row].unique().tolist() == [row, row + 2]
        assert abs(float(first) - float(weights[0, row])) < 0.01


def test_narrow_normals_far_from_the_origin_keep_their_digits_in_float32() -> None:
    loc, scale = torch.tensor([[50.0], [51.0]]), torch.tensor([[1e-2], [2e-2]])
    z = torch.tensor([[50.005], [50.98]])
    found = Mixture(normal(loc, scale, 1), torch.zeros(2)).log_prob(z)
    exact = Mixture(normal(loc.double(), scale.double(), 1), torch.zeros(2)).log_prob(z.double())
    assert torch.allclose(found.double(), exact, atol=1e-4)


def test_its_gradients_are_those_of_the_plain_formula() -> None:
    loc, scale, _ = family("Normal", M)
    loc.requires_grad_(), scale.requires_grad_()
    z = torch.randn(6, *Z, dtype=torch.float64, requires_grad=True)

    def log_prob(loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        return Mixture(normal(loc, scale, 2), torch.zeros(M).double()).log_prob(z)

    assert torch.autograd.gradcheck(log_prob, (loc, scale, z))
