"""The one LightningModule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import IO, Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from vaekit import plugins
from vaekit.batch import Batch, DataInfo
from vaekit.checkpoints import missing, read_checkpoint
from vaekit.contracts import Core, Decoder, Encoder, Likelihood, Objective, Part, Posterior, Prior
from vaekit.metrics.means import RowMeans
from vaekit.noise import fixed_noise
from vaekit.optim import make, torch_spec
from vaekit.plugins import RegistryError

__all__ = ["PARTS", "VAEModule"]

PARTS = ("encoder", "posterior", "prior", "decoder", "likelihood")
Spec = str | Mapping[str, Any] | nn.Module


class VAEModule(LightningModule):
    """Trains and evaluates a core made of the parts that are named here.

    A part is `Name`, or `{"class_path": Name, "init_args": {...}}`, or in Python a module, which
    then has to be passed again when the model is loaded from a checkpoint.

    Losses are in nats: sums over dimensions, means over rows. Validation and test report the bound
    itself (beta 1, full KL), whatever is minimised in training, or what else the objective says.

    Arguments:
        latent_shape: Shape of z; a number n means (n,).
        encoder: From x to features.
        posterior: From features to q(z|x).
        prior: p(z).
        decoder: From z to what the likelihood needs.
        likelihood: p(x|z).
        objective: What is minimised.
        core: How the parts make a model.
        optimizer: A class of torch.optim; None is Adam with its own defaults.
        lr_scheduler: A class of torch.optim.lr_scheduler; ReduceLROnPlateau watches the validation
            ELBO.
        lr_interval: Whether the scheduler steps each "epoch" or each "step".
        data: What is known of the data; None takes it from the data module when training begins.
            Under strategies that fork or spawn it has to be given.

    Raises:
        RegistryError: If a name leads to no part, or a part refuses its arguments.
        ValueError: If the parts do not fit the data.

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> data = DataInfo(event_shape=(1, 8, 8), data_range=(0, 1), levels=2)
        >>> model = VAEModule(latent_shape=2, data=data)
        >>> model.encode(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2])
    """

    core: Core
    objective: Objective

    def __init__(
        self,
        latent_shape: int | list[int] = 16,
        encoder: Spec = "MLPEncoder",
        posterior: Spec = "DiagonalNormal",
        prior: Spec = "StandardNormal",
        decoder: Spec = "MLPDecoder",
        likelihood: Spec = "Bernoulli",
        objective: Spec = "ELBO",
        core: Spec = "VAE",
        optimizer: str | Mapping[str, Any] | None = None,
        lr_scheduler: str | Mapping[str, Any] | None = None,
        lr_interval: str = "epoch",
        data: DataInfo | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        parts: dict[str, Spec] = {
            "encoder": encoder,
            "posterior": posterior,
            "prior": prior,
            "decoder": decoder,
            "likelihood": likelihood,
            "objective": objective,
            "core": core,
        }
        self.parts = {kind: _resolved(kind, part) for kind, part in parts.items()}
        sizes = [latent_shape] if isinstance(latent_shape, int) else list(latent_shape)
        if not sizes or any(size < 1 for size in sizes):
            raise ValueError(
                f"Expected a latent_shape of positive sizes but got {latent_shape!r}."
            )
        if lr_interval not in ("epoch", "step"):
            raise ValueError(f"Expected lr_interval to be epoch or step but got {lr_interval!r}.")
        self.latent_shape = tuple(sizes)
        self.optimizer = torch_spec(optimizer or "Adam", "torch.optim")
        self.lr_scheduler = (
            torch_spec(lr_scheduler, "torch.optim.lr_scheduler") if lr_scheduler else None
        )
        # Made for nothing, so that bad arguments are refused now and not when training begins.
        trial = make(self.optimizer, [nn.Parameter(torch.zeros(1, 1))])
        if self.lr_scheduler:
            make(self.lr_scheduler, trial)
        self.lr_interval = lr_interval
        self._means: dict[str, RowMeans] = {}  # of a split's epoch under way; no submodules
        self.info: DataInfo | None = None
        self._checked = self._masked = False
        self.hparams.update(
            latent_shape=sizes,
            **{kind: _plain(part) for kind, part in self.parts.items()},
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            lr_interval=lr_interval,
        )
        if data is not None:
            self.build(data if isinstance(data, DataInfo) else DataInfo(**data))

    # Building

    def build(self, data: DataInfo) -> None:
        """Makes the parts for this data, and checks their names and arguments.

        Raises:
            RegistryError: If a part refuses its arguments.
            ValueError: If the likelihood has no density for such data.
        """
        given = {
            "event_shape": data.event_shape,
            "latent_shape": self.latent_shape,
            "context_features": data.context_features,
            "data_size": data.data_size,
            "data": data,
        }

        def build(kind: str, spec: Any = None, **more: Any) -> Part:
            part = self.parts[kind] if spec is None else spec
            arguments = {**given, "build": build, **more}
            if not isinstance(part, nn.Module):
                part = plugins.build(kind, part, arguments)
            return _declared(part, arguments)

        with _full_precision_parameters():
            self.core = build("core")  # type: ignore[assignment]
            self.objective = build("objective")  # type: ignore[assignment]
        self.core.likelihood.check(data)
        self.objective.check(self.core)
        self.info = data
        self.hparams["data"] = data.as_dict()
        parts = [m for m in self.modules() if isinstance(m, Part)]
        self._stepped = [m for m in parts if type(m).after_step is not Part.after_step]
        self._started = [m for m in parts if type(m).start is not Part.start]
        self.core.keep_draw = bool(self._stepped)

    def configure_model(self) -> None:
        if self.info is None:
            self.build(self._given_info())

    def _given_info(self) -> DataInfo:
        if getattr(self.trainer.strategy.launcher, "_start_method", None):  # fork or spawn
            raise ValueError(
                "Expected a model that is built before processes are forked or spawned, else its "
                "weights would be lost with them: make it with VAEModule(..., "
                "data=datamodule.info)."
            )
        data = self._data
        if not hasattr(data, "info"):
            raise ValueError(
                "Expected a vaekit data module, which says what its data are, or "
                "VAEModule(..., data=DataInfo(event_shape=..., data_range=...)), but got neither."
            )
        return data.info

    def configure_optimizers(self) -> Any:
        optimizer = make(self.optimizer, self._groups())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = {
            "scheduler": make(self.lr_scheduler, optimizer),
            "interval": self.lr_interval,
            "monitor": f"val/{self.objective.best[0]}",
        }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _groups(self) -> list[dict[str, Any]]:
        """The parameters as groups of an optimizer: the model's, and an adversary's."""
        group = self.objective.adversary()
        if group is None:
            return [{"params": list(self.parameters())}]
        theirs = list(group["params"])
        known = {id(p) for p in theirs}
        own = [p for p in self.parameters() if id(p) not in known]
        return [{"params": own}, {**group, "params": theirs}]

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if len(optimizer.param_groups) == 1:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # A joint norm would let the adversary shrink the model's step.
        clip: Any = nn.utils.clip_grad_norm_
        if gradient_clip_algorithm == "value":
            clip = nn.utils.clip_grad_value_
        for group in optimizer.param_groups:
            if group.get("clip"):
                nn.utils.clip_grad_norm_(group["params"], group["clip"])
            elif gradient_clip_val:
                clip(group["params"], gradient_clip_val)

    # Training

    @property
    def _log_every(self) -> int:
        return int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    @property
    def _data(self) -> Any:
        """The trainer's data module, if there is one."""
        return getattr(self._trainer, "datamodule", None)

    def setup(self, stage: str) -> None:
        data = self._data
        if self.info is not None and hasattr(data, "info"):
            self.check_data(data.info)

    def on_train_start(self) -> None:
        if self.trainer.world_size > 1:
            # seed_everything gives all ranks one seed, and with it all ranks' rows the same noise.
            fresh = int(torch.randint(2**62, ()))  # on every rank the same
            torch.manual_seed(fresh + self.global_rank)
        if self._started and self.global_step == 0:
            data = self._data
            if not hasattr(data, "rows"):
                names = ", ".join(type(part).__name__ for part in self._started)
                raise ValueError(
                    f"Expected a vaekit data module, for {names} to look at its rows."
                )
            with torch.no_grad(), fixed_noise(0, self.device):  # all ranks see the same rows
                for part in self._started:
                    part.start(b.to(self.device) for b in data.rows("train"))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch = self._batch(batch)
        terms = self.objective(self.core, batch, self.global_step)
        self._count("train", terms, batch)
        if (self.global_step + 1) % self._log_every == 0:
            shown = {name: term.detach().mean() for name, term in terms.items()}
            self.log_dict({f"step/{name}": x for name, x in shown.items()}, batch_size=len(batch))
        return terms["loss"].mean() * batch.weight

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        draw, self.core.last_draw = self.core.last_draw, None
        if draw is not None:
            with torch.no_grad():
                for part in self._stepped:
                    part.after_step(draw)

    def on_train_epoch_end(self) -> None:
        self._log_means("train")

    # Evaluation

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """What the objective reports of rows, each (B,) in nats: the bound itself, by default."""
        terms = self.objective.evaluate(self.core, batch)
        return self.objective.hold_terms(terms, self.objective.best[0], len(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step("test", batch, batch_idx)

    def _evaluation_step(self, split: str, batch: Any, batch_idx: int) -> None:
        batch = self._batch(batch)
        with self._noise_of(batch, batch_idx):
            terms = self.evaluate(batch)
        self._count(split, terms, batch)

    def _noise_of(self, batch: Batch, batch_idx: int) -> AbstractContextManager[None]:
        # The same noise in every epoch: checkpoints are compared on it, and training's own random
        # numbers do not depend on how often one looks.
        place = batch_idx * self.trainer.world_size + self.global_rank
        return fixed_noise(place if batch.start is None else batch.start, self.device)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        batch = self._batch(batch)
        q = self.core.infer(batch.x, batch.context, batch.mask)
        z = self.core.posterior.point(q)
        p = self.core.decode(z.unsqueeze(0), batch.context)
        with self._noise_of(batch, batch_idx):
            terms = self.evaluate(batch)
        rows = {name: term for name, term in terms.items() if term.dim()}
        rows |= {"z": z, "reconstruction": self.core.reading(p)}
        if batch.label is not None:
            rows["label"] = batch.label
        return {name: x[: len(batch) if batch.weight else 0] for name, x in rows.items()}

    # Use

    @property
    def instances(self) -> dict[str, nn.Module]:
        """The parts that were given as modules, which no checkpoint can make again."""
        return {kind: part for kind, part in self.parts.items() if isinstance(part, nn.Module)}

    def sample(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tensor:
        """n rows x (n, *event) from the prior: the point of p(x|z), or a sample of it."""
        with self.using():
            if n < 1:
                raise ValueError(f"Expected at least one row to sample but got n={n}.")
            return self.core.generate(n, self._context(context, n), sample)

    def encode(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        sample: bool = False,
    ) -> Tensor:
        """z (B, *Z) of rows x (B, *event): the point of q(z|x), or a sample of it."""
        with self.using():
            self._check(x, mask)
            mask = None if mask is None else mask.to(self.device)
            q = self.core.infer(x.to(self.device), self._context(context, len(x)), mask)
            return q.sample() if sample else self.core.posterior.point(q)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, *event) of latents z (B, *Z): the point of p(x|z)."""
        with self.using():
            z, context = z.to(self.device), self._context(context, len(z))
            return self.core.reading(self.core.decode(z.unsqueeze(0), context))

    def reconstruct(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        sample: bool = False,
    ) -> Tensor:
        """x (B, *event) through z and back: p(x|z)'s point at q(z|x)'s, or at a sample of it."""
        return self.decode(self.encode(x, context, mask, sample), context)

    @contextmanager
    def using(self) -> Iterator[None]:
        """Eval mode without gradient; afterwards the mode is what it was."""
        if self.info is None:
            raise ValueError(
                "Expected a model that is built: train it first, load it from a checkpoint, or "
                "make it with VAEModule(..., data=datamodule.info)."
            )
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = self._data_spec()
        named = {kind: p for kind, p in self.parts.items() if not isinstance(p, nn.Module)}
        if data is not None:
            named["data"] = data
        checkpoint["vaekit"] = {"packages": plugins.provenance(named), "data": data}

    def _data_spec(self) -> Any:
        """The data module as plain data; None if it is not registered or was made of tensors."""
        spec = getattr(self._data, "spec", None)
        with suppress(RegistryError):
            return spec and plugins.resolve("data", spec)
        return None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = "cpu",
        **changes: Any,
    ) -> Self:
        """The model of a checkpoint, with its weights; only tensors and plain data are read.

        Arguments:
            map_location: The device for its tensors.
            changes: Arguments of the class to change, and the modules that were given as
                instances.

        Raises:
            RegistryError: If a part is not installed; the package that it came from is named.
            ValueError: If the file is no checkpoint of vaekit, or an instance is missing.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        arguments = {**checkpoint["hyper_parameters"], **changes}
        for name, value in arguments.items():
            if isinstance(value, Mapping) and "instance" in value:
                raise ValueError(
                    f"The checkpoint was made around an instance of {value['instance']}: pass "
                    f"that module again, as load_from_checkpoint(path, {name}=...)."
                )
        try:
            model = cls(**arguments)
        except RegistryError as error:
            raise RegistryError(missing(error, checkpoint["vaekit"]["packages"])) from error
        model.load_state_dict(checkpoint["state_dict"])
        return model.eval()

    # Helpers

    def _batch(self, batch: Any) -> Batch:
        if not isinstance(batch, Batch):
            x, *label = batch if isinstance(batch, list | tuple) else [batch]
            if not isinstance(x, Tensor):
                raise ValueError(
                    "Expected batches that are a vaekit Batch, a tensor x or a pair (x, label) "
                    f"but got {type(batch).__name__}."
                )
            batch = Batch(x, label=label[0] if label else None)
        if not self._checked:
            self._check(batch.x, batch.mask)
            self._checked = True
        self._masked = batch.mask is not None  # the same on every rank, also of a stand-in row
        if batch.weight == 0 and self.core.likelihood.couples_rows:
            # A stand-in row counts for nothing, also where rows share a number.
            batch.mask = torch.zeros_like(batch.x, dtype=torch.bool)
        return batch

    def check_data(self, data: DataInfo) -> None:
        """Refuses data that is not of the kind that the model was made for.

        Raises:
            ValueError: If its shape, its number of context columns or its range is another.
        """
        assert self.info is not None
        for name in ("event_shape", "context_features"):
            expected, got = getattr(self.info, name), getattr(data, name)
            if expected != got:
                raise ValueError(
                    f"The model was made for data of {name} {expected} but got {got}."
                )
        (low, high), (least, most) = self.info.data_range, data.data_range
        if least < low or most > high:
            raise ValueError(
                f"The model was made for data in [{low:g}, {high:g}] but got [{least:g}, "
                f"{most:g}]."
            )

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        """Holds rows to what was declared of the data."""
        assert self.info is not None
        if tuple(x.shape[1:]) != self.info.event_shape:
            raise ValueError(
                f"Expected rows of shape {self.info.event_shape} but got {tuple(x.shape[1:])}."
            )
        seen = x if mask is None else x[mask]
        if seen.numel() == 0:
            return
        low, high = (float(v) for v in torch.aminmax(seen))
        least, most = self.info.data_range
        if not (isfinite(low) and isfinite(high) and least <= low and high <= most):
            raise ValueError(
                f"Expected finite values in the data's range [{least:g}, {most:g}] but these rows "
                f"span [{low:g}, {high:g}]. uint8 images are divided by 255 first."
            )

    def _context(self, context: Tensor | None, rows: int) -> Tensor | None:
        """The context on the model's device, checked."""
        assert self.info is not None
        wanted = (rows, self.info.context_features)
        got = None if context is None else tuple(context.shape)
        if got != (wanted if wanted[1] else None):
            raise ValueError(
                f"Expected {f'a context of shape {wanted}' if wanted[1] else 'no context'} but "
                f"got {'none' if got is None else f'one of shape {got}'}."
            )
        return None if context is None else context.to(self.device)

    def _count(self, split: str, terms: dict[str, Tensor], batch: Batch) -> None:
        if split not in self._means:
            exact = torch.float32 if self.device.type == "mps" else torch.float64
            self._means[split] = RowMeans(exact).to(self.device)
        self._means[split].update(terms, rows=len(batch) if batch.weight else 0)

    @property
    def has_bits(self) -> bool:
        """Whether what chooses the best checkpoint counts bits, of rows that no mask hides."""
        assert self.info is not None
        return self.objective.bound and self.core.likelihood.gives_bits(self.info)

    def _log_means(self, split: str) -> None:
        values = self._means.pop(split).compute()
        assert self.info is not None
        best = self.objective.best[0]
        if best in values and self.has_bits and not self._masked:
            values["bpd"] = self.info.bits_per_dimension(values[best])
        named = {f"{split}/{name}": x for name, x in values.items()}
        for name, value in named.items():
            # The value is that of all ranks already: the mean over them is itself.
            self.log(name, value, prog_bar=name.endswith(f"/{best}"), sync_dist=True)


@contextmanager
def _full_precision_parameters() -> Iterator[None]:
    """Parameters are made in float32 at least; under bf16-true Lightning casts them afterwards."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.promote_types(default, torch.float32))
    try:
        yield
    finally:
        torch.set_default_dtype(default)


_HELD_TO: dict[type[Part], str] = {
    Posterior: "latent_shape",
    Prior: "latent_shape",
    Decoder: "output_shape",
    Likelihood: "event_shape",
}
_DECLARES: dict[type[Part], str] = {Encoder: "features", Likelihood: "output_shape"}


def _declared(part: Any, given: Mapping[str, Any]) -> Any:
    """The part with the shapes that its contract will be held to."""
    for base, name in _HELD_TO.items():
        if isinstance(part, base) and name in given:
            setattr(part, name, given[name])
    for base, name in _DECLARES.items():
        if isinstance(part, base) and not hasattr(part, name):
            raise part.refuse(f"an attribute {name}, for which the next part is built", "none")
    return part


def _resolved(kind: str, part: Spec) -> Any:
    if not isinstance(part, nn.Module):
        return plugins.resolve(kind, part)
    base = plugins.base(kind)
    if not isinstance(part, base):
        raise RegistryError(
            f"Expected {kind} to be a name, a spec or a {base.__module__}.{base.__name__} but got "
            f"a {type(part).__name__}."
        )
    return part


def _plain(part: Any) -> Any:
    if isinstance(part, nn.Module):
        return {"instance": f"{type(part).__module__}.{type(part).__qualname__}"}
    return part
