"""Parts are held to their contracts: an error names the part and what was expected."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, constraints, kl_divergence

from vaekit import Model, VAEModule, data, register
from vaekit.contracts import Core, Encoder
from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.draw import Level
from vaekit.contracts.part import frozen
from vaekit.contracts.trees import each
from vaekit.distributions.base import Joint, inside, normal
from vaekit.likelihoods import Bernoulli, Gaussian
from vaekit.networks.mlp import MLPDecoder, MLPEncoder
from vaekit.objectives.elbo import ELBO
from vaekit.posteriors import DiagonalNormal
from vaekit.registry import plugins
from vaekit.training import optimizers

INFO = DataInfo((1, 8, 8), (0.0, 1.0), levels=2)
ROWS = Batch((torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float())


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})


class Narrow(MLPDecoder):
    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(z, context)[..., :1]  # (N, 1, 8, 1), which broadcasts


class Wide(MLPEncoder):
    def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        return super().forward(x, context, mask)[:, :-1]


class Loose(DiagonalNormal):
    def forward(self, h: Tensor, context: Any = None, log_joint: Any = None) -> Any:
        return super().forward(h, context, log_joint).base_dist


class Many(ELBO):
    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"loss": -model.draw(batch, 3).log_likelihood}  # (K, B)


class Nothing(ELBO):
    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"elbo": torch.zeros(len(batch))}


class NoDensity(DiagonalNormal):
    density = False


@pytest.mark.parametrize(
    ("kind", "part", "words"),
    [
        (
            "decoder",
            Narrow,
            r"decoder Narrow .*output of shape \(5, 1, 8, 8\) but got \(5, 1",
        ),
        ("encoder", Wide, r"encoder Wide .*features of shape \(5, 256\) but got \(5, 255\)"),
        ("posterior", Loose, r"posterior Loose .*batch shape \(5,\) and event shape \(16,\)"),
        ("objective", Nothing, r"objective Nothing .*a term named loss but got elbo"),
    ],
)
def test_a_part_that_gives_another_shape_is_named(kind: str, part: type, words: str) -> None:
    register(part)
    model = Model(INFO, **{kind: part.__name__})
    with pytest.raises(ValueError, match=words):
        model.objective(model.core, ROWS, 0)


def test_a_loss_with_one_value_per_draw_is_refused() -> None:
    register(Many)
    model = Model(INFO, objective="Many")
    with pytest.raises(ValueError, match=r"Many .*term loss of shape \(5,\).*got \(3, 5\)"):
        model.objective(model.core, ROWS, 0)


def test_a_part_is_held_to_its_construction() -> None:
    @register
    class Short(Encoder):
        features = 3

        def forward(self, x: Tensor) -> Tensor:
            return x

    @register
    class Silent(Encoder):
        def __init__(self) -> None:
            self.width = 3

    @register
    class Bare(Encoder):
        def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
            return x

    for name, words in (
        ("Short", r"Short \(this process -\) expected a forward that takes \(x, context, mask\)"),
        ("Silent", r"Silent .*does not call super\(\).__init__\(\)"),
        ("Bare", r"Bare .*expected an attribute features"),
    ):
        with pytest.raises(ValueError, match=words):
            Model(INFO, encoder=name)


def test_a_part_that_is_given_as_a_module_is_held_too() -> None:
    class Bare(Encoder):
        def forward(self, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
            return x

    class Silent(MLPEncoder):
        def __init__(self) -> None:
            self.features = 3

    with pytest.raises(ValueError, match="encoder Bare expected an attribute features"):
        Model(INFO, encoder=Bare())
    with pytest.raises(ValueError, match=r"encoder Silent does not call super\(\).__init__"):
        Model(INFO, encoder=Silent.__new__(Silent))
    with pytest.raises(ValueError, match=r"encoder Wide: expected features of shape \(5, 256\)"):
        Model(INFO, encoder=Wide((1, 8, 8))).encode(ROWS.x)


def test_an_objective_refuses_a_posterior_without_a_density_when_the_model_is_built() -> None:
    register(NoDensity)
    with pytest.raises(ValueError, match=r"ELBO .*a posterior with a density.*NoDensity"):
        Model(INFO, posterior="NoDensity")


def test_any_part_may_name_the_data_and_make_parts_of_its_own() -> None:
    @register
    class Inner(MLPEncoder):
        def __init__(self, data: DataInfo, build: Any, inner: Any = "MLPEncoder") -> None:
            super().__init__(data.event_shape, hidden=[7])
            self.levels = data.levels
            self.inner = build("encoder", inner, event_shape=(3,))

    spec = {"class_path": "MLPEncoder", "init_args": {"hidden": [5]}}
    model = Model(INFO, encoder={"class_path": "Inner", "init_args": {"inner": spec}})
    assert model.core.encoder.levels == 2
    assert model.core.encoder.inner.features == 5
    assert model.core.encoder.inner.net[0].in_features == 3


# What q brings


class Committed(DiagonalNormal):
    """Brings a loss beside its density."""

    def forward(self, h: Tensor, context: Any = None, log_joint: Any = None) -> Any:
        q = super().forward(h, context, log_joint)
        q.losses = {"commitment": q.mean.square().sum(-1)}
        return q


def test_losses_that_q_brings_are_added_and_named() -> None:
    register(Committed)
    model = Model(INFO, posterior="Committed")
    terms = model.objective(model.core, ROWS, 0)
    wanted = model.core.infer(ROWS.x).mean.square().sum(-1)
    assert torch.allclose(terms["commitment"], wanted)
    assert torch.allclose(terms["loss"], -terms["elbo"] + wanted)
    assert torch.equal(model.evaluate(ROWS)["commitment"], terms["commitment"])


@pytest.mark.parametrize("name", ["loss", "elbo", "distortion", "rate"])
def test_a_loss_that_q_brings_does_not_take_the_name_of_the_bound_s_terms(name: str) -> None:
    @register
    class Clashing(DiagonalNormal):
        def forward(self, h: Tensor, context: Any = None, log_joint: Any = None) -> Any:
            q = super().forward(h, context, log_joint)
            q.losses = {name: q.mean.square().sum(-1)}
            return q

    model = Model(INFO, posterior="Clashing")
    with pytest.raises(ValueError, match=f"names of their own, but one is called {name}"):
        model.objective(model.core, ROWS, 0)


class Moved(Independent):
    """Moves its draws by 5; the closed form of its base would not know."""

    def rsample_and_log_prob(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        z = self.rsample(shape)
        return z + 5, self.log_prob(z)


def test_the_rate_of_a_draw_that_brought_its_own_term_is_not_a_closed_form() -> None:
    # A subclass of Independent that moves z had the rate of one that does not: 0.
    q = Moved(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 1)
    p = normal(torch.zeros(2), torch.ones(2), 1)
    z, log_q = q.rsample_and_log_prob(torch.Size([3]))
    level = Level.of(z, q, p, log_q)
    assert torch.allclose(level.rate(), log_q - p.log_prob(z))
    assert level.rate().mean() > 20


def test_kl_of_a_full_normal_to_an_independent_one() -> None:
    tril = torch.randn(4, 3, 3).double().tril(-1) + torch.diag_embed(torch.rand(4, 3).double() + 1)
    q = MultivariateNormal(torch.randn(4, 3).double(), scale_tril=tril)
    loc, scale = torch.randn(3).double(), torch.rand(3).double() + 0.5
    full = MultivariateNormal(loc, scale_tril=torch.diag(scale))
    assert torch.allclose(kl_divergence(q, normal(loc, scale, 1)), kl_divergence(q, full))


# Points, hidden elements, bits


def test_point_stands_where_there_is_no_mean() -> None:
    @register
    class Mode(DiagonalNormal):
        def point(self, q: Any) -> Tensor:
            return q.mean + 1

    @register
    class Hard(Bernoulli):
        def point(self, p: Any) -> Tensor:
            return (p.mean > 0.5).float()

    model = Model(INFO, posterior="Mode", likelihood="Hard").eval()
    with torch.no_grad():
        z = model.core.infer(ROWS.x).mean + 1
        y = model.core.decode(z.unsqueeze(0)).mean.squeeze(0) > 0.5
    assert torch.allclose(model.encode(ROWS.x), z)
    assert torch.equal(model.reconstruct(ROWS.x), y.float())
    assert set(model.sample(4).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "support",
    [
        constraints.real_vector,
        constraints.boolean,
        constraints.unit_interval,
        constraints.positive,
        constraints.nonnegative_integer,
        constraints.integer_interval(3, 9),
        constraints.less_than(-2.0),
        constraints.independent(constraints.interval(4.0, 5.0), 1),
    ],
)
def test_what_stands_for_hidden_elements_is_within_the_support(support: Any) -> None:
    assert bool(support.check(torch.full((3,), float(inside(support)))).all())


@pytest.mark.parametrize(
    ("likelihood", "levels", "width", "wanted"),
    [
        ("Bernoulli", 2, None, True),
        ("Bernoulli", 17, None, False),  # grey values: no probability of anything
        ("Gaussian", 17, None, False),  # a density of values that were not dequantised
        ("Gaussian", None, 1 / 17, True),
    ],
)
@pytest.mark.filterwarnings("ignore:Bernoulli on values between")
def test_bits_exist_only_where_bits_are_counted(
    likelihood: str, levels: int | None, width: float | None, wanted: bool
) -> None:
    info = DataInfo((1, 8, 8), (0.0, 1.0), levels=levels, bin_width=width)
    assert Model(info, likelihood=likelihood).has_bits is wanted


def test_a_likelihood_of_a_dict_sums_the_observed_elements_of_its_entries() -> None:
    class Pair(Gaussian):
        def forward(self, y: Any, context: Any = None) -> Any:
            return Joint({k: normal(v, torch.ones_like(v), 1) for k, v in y.items()})

    likelihood = Pair((2,))
    x = {"a": torch.randn(5, 2), "b": torch.randn(5, 3)}
    mask = each(lambda leaf: torch.rand_like(leaf) > 0.5, x)
    p = likelihood(each(lambda leaf: torch.zeros(4, *leaf.shape), x))
    hidden = each(lambda leaf, seen: torch.where(seen, leaf, torch.nan), x, mask)
    terms = each(lambda leaf, seen: torch.where(seen, Normal(0, 1).log_prob(leaf), 0.0), x, mask)
    wanted = terms["a"].sum(1) + terms["b"].sum(1)
    got = likelihood.log_prob(p, hidden, mask)
    assert torch.allclose(got, wanted.expand(4, 5))


# An adversary


class Opposed(ELBO):
    """Has parameters that are trained against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(16, 1)

    def adversary(self) -> dict[str, Any]:
        return {"params": self.critic.parameters(), "lr": 0.5, "clip": 1e-6}

    def forward(self, model: Core, batch: Batch, step: int) -> dict[str, Tensor]:
        z = model.infer(batch.x).mean
        fooled = frozen(self.critic)(input=z).mean()
        caught = 1e6 * self.critic(z.detach()).mean()
        terms = super().forward(model, batch, step)
        return {**terms, "loss": terms["loss"] + fooled - caught}


def test_an_adversary_has_its_own_rate_and_its_own_clipping() -> None:
    register(Opposed)
    model = Model(INFO, objective="Opposed")
    module = VAEModule(model, optimizer="SGD")
    optimizer = module.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [0.001, 0.5]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    model.objective(model.core, ROWS, 0)["loss"].mean().backward()
    before = [p.grad.clone() for p in model.core.parameters()]
    module.configure_gradient_clipping(optimizer, 1e9, "norm")
    norm = torch.cat([p.grad.flatten() for p in model.objective.critic.parameters()]).norm()
    assert norm == pytest.approx(1e-6, rel=1e-3)
    assert all(
        torch.equal(p.grad, g) for p, g in zip(model.core.parameters(), before, strict=True)
    )


@pytest.mark.parametrize(("algorithm", "most"), [("norm", 0.1), ("value", 1e-3)])
def test_the_trainer_s_clipping_holds_for_each_group_apart(algorithm: str, most: float) -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(9))]} for _ in range(2)])
    for scale, group in zip((1.0, 1e6), optimizer.param_groups, strict=True):
        group["params"][0].grad = scale * torch.arange(1.0, 10.0)
    optimizers.clip_groups(optimizer, most, algorithm)
    for group in optimizer.param_groups:  # a joint norm would leave the first next to nothing
        grad = group["params"][0].grad
        size = grad.norm() if algorithm == "norm" else grad.max()
        assert size.item() == pytest.approx(most, rel=1e-4)


# Processes and noise


@pytest.mark.slow
def test_the_objective_compiles_whole_in_a_fresh_process() -> None:
    code = (
        "import torch; from vaekit import Model, DataInfo, Batch\n"
        "m = Model(DataInfo((3,), (0., 1.), levels=2), latent_shape=2)\n"
        "f = torch.compile(lambda x: m.objective(m.core, Batch(x), 0)['loss'].mean(),"
        " backend='aot_eager', fullgraph=True)\n"
        "f(torch.ones(4, 3)).backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dequantised_held_out_rows_are_the_same_each_time() -> None:
    module = data.Digits(binarize="none", dequantize=True)
    state = torch.get_rng_state()
    first, second = (torch.cat([b.x for b in module.rows("val")]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(*(next(module.rows("train")).x for _ in range(2)))


def test_classes_are_counted() -> None:
    assert data.Digits().info.classes == 10
    assert data.Arrays(torch.rand(20, 3)).info.classes is None


def test_entries_of_dict_valued_data_are_described_one_by_one() -> None:
    info = DataInfo({"a": (1, 2), "b": (3,)}, {"a": (0, 1), "b": (-1, 1)}, levels=2, classes=4)
    assert info.entries()["b"] == DataInfo((3,), (-1, 1), levels=2, classes=4)
    assert DataInfo(**info.as_dict()) == info


def test_evaluation_leaves_nothing_fixed_behind() -> None:
    # After any fit, deepcopy(model) raised, and an exception in validation left the seed fixed.
    import copy

    from conftest import fit

    model = Model(data.Digits(), latent_shape=2)
    fit(model, data.Digits(), max_epochs=1)
    copy.deepcopy(model)

    model.core.posterior.forward = _raise
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no more"):
        fit(model, data.Digits(), max_epochs=1, num_sanity_val_steps=1)
    assert torch.equal(state, torch.get_rng_state())


def _raise(*args: object) -> None:
    raise RuntimeError("no more")
