"""The ELBO against an independent derivation, and the scale of its loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaekit import Model
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.cores.vae import VAE
from vaekit.numerics.random import fixed_noise
from vaekit.objectives.elbo import ELBO
from vaekit.schedules import Linear

NOISE = torch.randn(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


class Fixed(VAE):
    """A VAE that draws with noise that the test knows."""

    def draw(self, batch, samples=1, stop=False, noise=None):
        return super().draw(batch, samples, stop, NOISE[:samples, : len(batch)])


def small() -> tuple[Fixed, Tensor]:
    model = Model(
        DataInfo((3,), (0.0, 1.0), levels=2),
        latent_shape=2,
        encoder={"class_path": "MLPEncoder", "init_args": {"hidden": [5], "activation": "Tanh"}},
        decoder={"class_path": "MLPDecoder", "init_args": {"hidden": [5], "activation": "Tanh"}},
    ).double()
    core = model.core
    core.__class__ = Fixed
    assert isinstance(core, Fixed)
    return core, (torch.rand(6, 3, dtype=torch.float64) > 0.5).double()


def by_hand(core: Fixed, x: Tensor, beta: float, samples: int) -> Tensor:
    """Kingma and Welling's equation 10, written out with plain arithmetic."""
    first, last = core.encoder.net[0], core.posterior.linear
    h = torch.tanh(x @ first.weight.T + first.bias)
    mu, log_var = (h @ last.weight.T + last.bias).chunk(2, dim=1)
    rate = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(1)
    distortion = torch.zeros(6, dtype=torch.float64)
    up, out = core.decoder.net[0], core.decoder.net[2]
    for k in range(samples):
        z = mu + (log_var / 2).exp() * NOISE[k]
        pi = torch.sigmoid(torch.tanh(z @ up.weight.T + up.bias) @ out.weight.T + out.bias)
        distortion = distortion - (x * pi.log() + (1 - x) * (1 - pi).log()).sum(1) / samples
    return distortion + beta * rate


@pytest.mark.parametrize("beta", [1.0, 0.0, 4.0])
@pytest.mark.parametrize("samples", [1, 4])
def test_loss_and_gradient_equal_the_paper_s(beta: float, samples: int) -> None:
    core, x = small()
    loss = ELBO(beta, samples)(core, Batch(x), 0)["loss"]
    expected = by_hand(core, x, beta, samples)
    assert torch.allclose(loss, expected, atol=1e-13)
    weights = list(core.parameters())
    got = torch.autograd.grad(loss.mean(), weights)
    wanted = torch.autograd.grad(expected.mean(), weights)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-13)


def test_bolts_kl_averaged_over_latents_is_not_here() -> None:
    # There the effective beta depended on the sizes. Here a term repeated is a term doubled.
    core, x = small()
    terms = ELBO()(core, Batch(x), 0)
    assert terms["rate"].shape == (6,)
    draw = core.draw(Batch(x))
    per_latent = torch.distributions.kl_divergence(
        draw.q.base_dist, torch.distributions.Normal(torch.zeros(2).double(), 1)
    )
    assert torch.allclose(terms["rate"], per_latent.sum(-1))
    per_pixel = draw.p.base_dist.log_prob(x)
    assert torch.allclose(terms["distortion"], -per_pixel.sum(-1).mean(0))


def test_pytorch_vaes_kl_weight_that_differs_in_validation_is_not_here() -> None:
    # Whatever is trained, evaluation reports the bound, and says the same for all.
    info = DataInfo((3,), (0.0, 1.0), levels=2)
    x = (torch.rand(6, 3) > 0.5).float()
    values = []
    ways = ({"beta": 0.0}, {"beta": 10.0}, {"free_bits": 5.0}, {"capacity": 9.0}, {"lagging": 2})
    for name, init_args in (*(("ELBO", way) for way in ways), ("GECO", {"target": 1.0})):
        torch.manual_seed(3)
        objective = {"class_path": name, "init_args": init_args}
        model = Model(info, latent_shape=2, objective=objective)
        with fixed_noise(0):
            values.append(model.evaluate(Batch(x))["elbo"])
    assert all(torch.equal(values[0], value) for value in values)


def test_beta_may_be_a_schedule() -> None:
    core, x = small()
    objective = ELBO(beta=Linear(steps=10))
    for step, beta in ((0, 0.0), (5, 0.5), (10, 1.0), (50, 1.0)):
        terms = objective(core, Batch(x), step)
        assert torch.allclose(terms["loss"], terms["distortion"] + beta * terms["rate"])
        assert torch.allclose(terms["elbo"], -terms["distortion"] - terms["rate"])


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"beta to be a schedule or .* but got -1"):
        ELBO(beta=-1)
    with pytest.raises(ValueError, match=r"samples to be at least 1 but got 0"):
        ELBO(samples=0)
