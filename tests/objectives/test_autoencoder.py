"""Autoencoders against analytic Jacobians, and what their encoder sees."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parts.vq import Reconstruction
from vaekit import DataInfo, Model, data
from vaekit.contracts.batch import Batch
from vaekit.evaluation import summary
from vaekit.numerics.random import fixed_noise
from vaekit.objectives import autoencoder
from vaekit.objectives.autoencoder import AE
from vaekit.schedules import Cyclical, Linear

INFO = DataInfo((3,), (0.0, 1.0), levels=2)
X = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1]]).double()
SPREAD = torch.linspace(0.3, 1.5, 15).reshape(5, 3).double()  # real numbers
TANH = {"hidden": [5], "activation": "Tanh"}
WEIGHTS = {"latent": 0.3, "decoder_l2": 0.02, "decoder_gradient": 0.7, "contractive": 0.4}


def small(objective: Any = "AE", **changes: Any) -> Model:
    parts = {
        "encoder": {"class_path": "MLPEncoder", "init_args": TANH},
        "decoder": {"class_path": "MLPDecoder", "init_args": TANH},
        "posterior": "Delta",
    }
    return Model(INFO, latent_shape=2, objective=objective, **{**parts, **changes}).double()


class Net:
    """A core's networks, written out with plain arithmetic."""

    def __init__(self, core: Any) -> None:
        first, last = core.encoder.net[0], core.posterior.linear
        self.a, self.c, self.b, self.d = first.weight, first.bias, last.weight, last.bias
        up, out = core.decoder.net[0], core.decoder.net[2]
        self.u, self.e, self.v, self.f = up.weight, up.bias, out.weight, out.bias

    def code(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.a.T + self.c) @ self.b.T + self.d

    def probability(self, z: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-(torch.tanh(z @ self.u.T + self.e) @ self.v.T + self.f)))

    def jacobian_of_code(self, x: Tensor) -> Tensor:
        """dz/dx, (B, Z, D)."""
        slope = 1 - torch.tanh(x @ self.a.T + self.c) ** 2
        return torch.einsum("zh,bh,hd->bzd", self.b, slope, self.a)

    def jacobian_of_point(self, z: Tensor) -> Tensor:
        """dD/dz, (B, D, Z)."""
        pi, slope = self.probability(z), 1 - torch.tanh(z @ self.u.T + self.e) ** 2
        return torch.einsum("bd,dh,bh,hz->bdz", pi * (1 - pi), self.v, slope, self.u)


def by_hand(net: Net, x: Tensor, seen: Tensor, probes: tuple[Tensor, Tensor] | None) -> Tensor:
    """The loss of each row; without probes with the Frobenius norms themselves."""
    z = net.code(seen)
    pi = net.probability(z)
    loss = -(x * pi.log() + (1 - x) * (1 - pi).log()).sum(1)
    of_point, of_code = net.jacobian_of_point(z), net.jacobian_of_code(x)
    if probes is not None:
        of_point = torch.einsum("bd,bdz->bz", probes[0], of_point).unsqueeze(1)
        of_code = torch.einsum("bz,bzd->bd", probes[1], of_code).unsqueeze(1)
    theta = (net.u**2).sum() + (net.e**2).sum() + (net.v**2).sum() + (net.f**2).sum()
    return (
        loss
        + WEIGHTS["latent"] * (z**2).sum(1) / 2
        + WEIGHTS["decoder_l2"] * theta
        + WEIGHTS["decoder_gradient"] * (of_point**2).sum((1, 2))
        + WEIGHTS["contractive"] * (of_code**2).sum((1, 2))
    )


def given(monkeypatch: pytest.MonkeyPatch, *probes: Tensor) -> None:
    """Lets the probes be these, by their sizes: of x, and of z."""
    by_size = {p.shape[-1]: p for p in probes}
    monkeypatch.setattr(
        autoencoder, "_signs", lambda y: by_size[y.shape[-1]].expand_as(y).to(y).clone()
    )


def assert_same_gradients(core: nn.Module, found: Tensor, wanted: Tensor) -> None:
    weights = list(core.parameters())
    assert len(weights) == 8  # of encoder, posterior and decoder
    got = torch.autograd.grad(found.mean(), weights)
    expected = torch.autograd.grad(wanted.mean(), weights)
    for a, b in zip(got, expected, strict=True):
        assert b.abs().max() > 1e-6
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def test_given_probes_loss_and_gradients_are_those_of_analytic_jacobians(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = small().core
    probes = 2 * torch.randint(2, (5, 3)).double() - 1, 2 * torch.randint(2, (5, 2)).double() - 1
    given(monkeypatch, *probes)
    loss = AE(**WEIGHTS)(core, Batch(X), 0)["loss"]
    wanted = by_hand(Net(core), X, X, probes)
    assert torch.allclose(loss, wanted, rtol=1e-12)
    assert_same_gradients(core, loss, wanted)


def over_all_probes(core: Any, objective: AE, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The mean loss over all signs that the probes can have."""
    losses = []
    for signs in product((-1.0, 1.0), repeat=5):
        signs_of_x, signs_of_z = torch.tensor(signs[:3]), torch.tensor(signs[3:])
        given(monkeypatch, signs_of_x, signs_of_z)
        losses.append(objective(core, Batch(X), 0)["loss"])
    return torch.stack(losses).mean(0)


def test_the_mean_over_all_probes_is_the_squared_frobenius_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = small().core
    loss = over_all_probes(core, AE(**WEIGHTS), monkeypatch)
    wanted = by_hand(Net(core), X, X, None)
    assert torch.allclose(loss, wanted, rtol=1e-12)
    assert_same_gradients(core, loss, wanted)


def test_probes_are_signs_of_which_each_is_as_likely_and_none_knows_another() -> None:
    v = autoencoder._signs(torch.empty(20_000, 3, dtype=torch.float64))
    assert v.dtype == torch.float64
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    assert (v.mean(0).abs() < 5 / 20_000**0.5).all()
    assert ((v.T @ v / 20_000 - torch.eye(3)).abs() < 5 / 20_000**0.5).all()


def test_the_contractive_term_is_that_of_torch_s_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    core: Any = small().core
    jacobian = torch.autograd.functional.jacobian(
        lambda x: core.posterior.point(core.infer(x)).sum(0), SPREAD
    )  # (Z, B, D)
    found = []
    for signs in product((-1.0, 1.0), repeat=2):
        given(monkeypatch, torch.tensor(signs))
        found.append(AE(contractive=1.0)(core, Batch(SPREAD), 0)["contractive"])
    assert torch.allclose(torch.stack(found).mean(0), (jacobian**2).sum((0, 2)), rtol=1e-12)


def test_pythaes_rae_gp_of_the_whole_autoencoder_is_not_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # There it is the derivative of the sum of all pixels by x, through the encoder.
    core: Any = small().core
    net = Net(core)
    of_decoder = net.jacobian_of_point(net.code(X))
    whole = of_decoder @ net.jacobian_of_code(X)
    theirs = (whole.sum(1) ** 2).sum(1)
    found = []
    for signs in product((-1.0, 1.0), repeat=3):
        given(monkeypatch, torch.tensor(signs))
        found.append(AE(decoder_gradient=1.0)(core, Batch(X), 0)["decoder_gradient"])
    mean = torch.stack(found).mean(0)
    assert torch.allclose(mean, (of_decoder**2).sum((1, 2)), rtol=1e-12)
    assert ((mean - theirs).abs() > 0.1 * mean).all()
    assert ((mean - (whole**2).sum((1, 2))).abs() > 0.1 * mean).all()


@pytest.mark.parametrize("posterior", ["Delta", "DiagonalNormal"])
def test_with_weights_of_0_it_is_the_plain_autoencoder(posterior: str) -> None:
    model, found = small(posterior=posterior), []
    for objective in (AE(), AE(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), AE(latent=0), Reconstruction()):
        with fixed_noise(3):
            terms = objective(model.core, Batch(X), 0)
            after = torch.rand(())
        gradients = torch.autograd.grad(terms["loss"].mean(), list(model.core.parameters()))
        assert set(terms) == {"loss", "distortion"}
        found.append(torch.cat([after.reshape(1), *(g.flatten() for g in gradients)]))
        assert torch.equal(found[0], found[-1])


def test_weights_may_be_schedules_and_evaluation_is_at_their_end() -> None:
    core = small().core
    with fixed_noise(1):
        last = AE(latent=0.5)(core, Batch(X), 0)["loss"]
    objective = AE(latent=Linear(10, end=0.5))
    for step, weight in ((0, 0.0), (5, 0.25), (10, 0.5)):
        terms = objective(core, Batch(X), step)
        assert torch.allclose(terms["loss"], terms["distortion"] + weight * terms["latent"])
    assert torch.equal(objective.evaluate(core, Batch(X))["loss"], last)


# Denoising


def test_the_encoder_sees_noise_and_the_likelihood_does_not() -> None:
    model = small(AE(noise=0.5, drop=0.25))
    core, seen = model.core, []
    core.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = SPREAD.repeat(4000, 1)
    p: Any = core.draw(Batch(x)).p
    terms = model.objective(core, Batch(x), 0)
    noisy = seen[-1]
    dropped = noisy == 0
    share = dropped.double().mean()
    assert abs(float(share) - 0.25) < 5 * (0.25 * 0.75 / x.numel()) ** 0.5
    noise = (noisy - x)[~dropped]
    assert abs(float(noise.mean())) < 5 * 0.5 / len(noise) ** 0.5
    assert abs(float(noise.std()) - 0.5) < 5 * 0.5 / (2 * len(noise)) ** 0.5
    net = Net(core)
    pi = net.probability(net.code(noisy))
    wanted = -(x * pi.log() + (1 - x) * (1 - pi).log()).sum(1)
    assert torch.allclose(terms["distortion"], wanted, rtol=1e-10)
    assert not torch.allclose(p.base_dist.probs[0], pi)


def test_of_the_denoising_loss_gradients_are_those_of_the_corrupted_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, noise = small().core, torch.randn(5, 3).double()
    monkeypatch.setattr(torch, "randn_like", lambda x: noise)
    probes = torch.ones(5, 3).double(), torch.ones(5, 2).double()
    given(monkeypatch, *probes)
    loss = AE(**WEIGHTS, noise=0.5)(core, Batch(X), 0)["loss"]
    wanted = by_hand(Net(core), X, X + 0.5 * noise, probes)
    assert torch.allclose(loss, wanted, rtol=1e-12)
    assert_same_gradients(core, loss, wanted)


def test_a_step_s_state_is_that_of_the_rows_and_not_of_their_noise() -> None:
    shared = {"class_path": "Gaussian", "init_args": {"scale": "optimal"}}
    model = small(AE(noise=5.0), likelihood=shared)
    core = model.core
    core.keep_draw = True
    model.objective(core, Batch(X), 0)
    draw = core.last_draw
    assert draw is not None
    assert torch.equal(draw.batch.x, X)
    assert torch.allclose(draw.log_likelihood, core.likelihood.log_prob(draw.p, X))


def test_of_several_entries_each_is_corrupted_and_counts_in_the_encoder_s_jacobian(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = DataInfo({"a": (2,), "b": (3,)})
    columns = {"class_path": "Mixed", "init_args": {"others": "Gaussian"}}
    model = Model(
        pair, latent_shape=1, posterior="Delta", likelihood=columns, objective="AE"
    ).double()
    core: Any = model.core
    x = {"a": SPREAD[:, :2], "b": SPREAD}
    jacobian = torch.autograd.functional.jacobian(
        lambda a, b: core.posterior.point(core.infer({"a": a, "b": b})).sum(0), tuple(x.values())
    )
    terms = AE(contractive=1.0)(core, Batch(x), 0)  # of one latent any probe gives the norm
    wanted = sum((of_entry[0] ** 2).sum(1) for of_entry in jacobian)
    assert torch.allclose(terms["contractive"], wanted, rtol=1e-12)
    seen: list[Any] = []
    core.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    monkeypatch.setattr(torch, "rand_like", lambda leaf: (leaf != leaf[0, 0]).to(leaf))
    AE(drop=0.5)(core, Batch(x), 0)
    assert [int((leaf == 0).sum()) for leaf in seen[-1].values()] == [1, 1]


def test_tokens_are_not_corrupted() -> None:
    tokens = DataInfo((9,), (0, 4), 5)
    for wrong in ({"noise": 0.1}, {"drop": 0.1}, {"contractive": 0.1}):
        with pytest.raises(
            ValueError, match=r"real numbers.* but x holds whole numbers from 0 to"
        ):
            Model(tokens, 2, objective=_spec(**wrong), likelihood="Categorical")
    Model(tokens, 2, objective=_spec(latent=0.1), likelihood="Categorical")
    with pytest.raises(ValueError, match=r"expected rows of real numbers .* got torch\.int64"):
        AE(noise=0.1)(small().core, Batch(X.long()), 0)


def _spec(**init_args: Any) -> dict[str, Any]:
    return {"class_path": "AE", "init_args": init_args}


# What is reported


def test_evaluation_of_a_row_is_that_of_the_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(AE(**WEIGHTS, noise=0.3, drop=0.3))
    noise = torch.rand(2, 5, 3).double()
    probes = 2 * torch.randint(2, (5, 3)).double() - 1
    at = slice(0, 5)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise[0, at])
    monkeypatch.setattr(torch, "rand_like", lambda x: noise[1, at])
    monkeypatch.setattr(
        autoencoder, "_signs", lambda y: probes[at, : y.shape[-1]].reshape(y.shape).clone()
    )
    whole = model.evaluate(Batch(X))
    with model.using():
        trained = model.objective(model.core, Batch(X), 0)
    assert set(whole) == {"loss", "distortion", *WEIGHTS}
    for row in range(5):
        at = slice(row, row + 1)
        for name, term in model.evaluate(Batch(X[at])).items():
            assert term.shape == (1,)
            assert torch.allclose(term, whole[name][at], rtol=1e-12)
    for name, term in whole.items():
        assert torch.allclose(term, trained[name].expand(5))


def test_the_penalties_leave_batch_norm_s_state_alone() -> None:
    norm = lambda i, o: nn.Sequential(nn.Linear(i, 4), nn.BatchNorm1d(4), nn.Linear(4, o))  # noqa: E731
    model = small(AE(**WEIGHTS), encoder=norm(3, 4), decoder=norm(2, 3)).train()
    model.objective(model.core, Batch(X), 0)["loss"].mean().backward()
    counts = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(n) for n in counts] == [1, 1]


def test_its_number_is_labelled_as_no_bound(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model(data.Digits(), latent_shape=2, posterior="Delta", objective="AE")
    assert not model.has_bound
    assert model.best == ("loss", "min")
    summary.show(model, data.Digits(), 30.0, [Path("best.ckpt")])
    assert "loss, which is no bound" in capsys.readouterr().out


# What it refuses


def test_a_prior_with_parameters_to_learn_is_refused() -> None:
    for prior in ("StandardNormal", "FittedNormal", "GaussianMixturePrior", "TwoStagePrior"):
        small(prior=prior)
    for prior in ("LearnedNormal", "NormalMixture", "FlowPrior"):
        with pytest.raises(ValueError, match=rf"StandardNormal.*fit-prior.*but got .*{prior}"):
            small(prior=prior)


def test_a_learned_scale_of_the_likelihood_learns() -> None:
    learned = {"class_path": "Gaussian", "init_args": {"scale": "learned"}}
    model = small(likelihood=learned)
    model.objective(model.core, Batch(X), 0)["loss"].mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("init_args", "words"),
    [
        *(({name: -1}, f"{name} to be a schedule or .* but got -1") for name in WEIGHTS),
        ({"noise": -0.1}, "noise to be at least 0 but got -0.1"),
        ({"drop": 1.0}, "drop to be from 0 to below 1 but got 1.0"),
        ({"drop": -0.1}, "drop to be from 0 to below 1 but got -0.1"),
    ],
)
def test_bad_arguments_say_what_was_expected(init_args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AE(**init_args)


@pytest.mark.parametrize(
    ("parts", "init_args"),
    [
        ({"decoder": "TransformerDecoder"}, {"decoder_gradient": 1.0}),
        ({"encoder": "TransformerEncoder"}, {"contractive": 1.0}),
    ],
)
def test_jacobians_go_through_attention(parts: Any, init_args: Any) -> None:
    spec = {k: {"class_path": v, "init_args": {"width": 8}} for k, v in parts.items()}
    objective = {"class_path": "AE", "init_args": init_args}
    info = DataInfo((4, 6), (0.0, 1.0), levels=2)
    model = Model(info, latent_shape=2, posterior="Delta", objective=objective, **spec)
    model.objective(model.core, Batch(torch.rand(3, 4, 6)), 0)["loss"].mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_weight_in_cycles_is_evaluated_at_what_it_returns_to() -> None:
    for steps in (1000, 3000):
        objective = AE(latent=Cyclical(steps=steps, end=2.0))
        model = Model(
            DataInfo((3,)), 2, posterior="Delta", objective=objective, likelihood="Gaussian"
        )
        terms = model.evaluate(Batch(torch.randn(5, 3)))
        assert torch.allclose(terms["loss"], terms["distortion"] + 2 * terms["latent"])


def test_a_decoder_without_weights_has_no_norm() -> None:
    with pytest.raises(ValueError, match=r"a decoder that has weights"):
        Model(
            DataInfo((3,)),
            3,
            posterior="Delta",
            decoder=torch.nn.Identity(),
            likelihood="Gaussian",
            objective=AE(decoder_l2=1.0),
        )
