"""The model without a trainer: parts, what is known of the data, and what a user does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import Batch, DataInfo, moved
from vaekit.contracts.core import Core
from vaekit.contracts.objective import Objective, name_of, named
from vaekit.contracts.part import Part
from vaekit.contracts.prior import Prior
from vaekit.contracts.trees import Tree, each, entries_of, first, flat, within
from vaekit.numerics.precision import parameters_in_full_precision
from vaekit.registry import specs
from vaekit.registry.alternatives import naming_alternatives

MODEL_KINDS = (
    "encoder",
    "posterior",
    "prior",
    "decoder",
    "likelihood",
    "objective",
    "core",
)
"""The kinds of plugin that a model is made of; each is an argument of `Model`."""

_NAMES_ALONE: dict[str, Any] = dict.fromkeys(
    ("of", "classes", "label", "stratified", "levels", "top", "pages")
)
"""Keys of a schema on labels, splits, the data module, and how images are stored: rows become the
same x in [0, 1] without them."""

_UNITS = {"elbo": -1, "iwae": -1, "log_likelihood": -1, "distortion": 1}
"""Terms that change with the units of x, and by which multiple of `DataInfo.log_units`."""

_DIRECTIONS = {
    **dict.fromkeys(("elbo", "iwae", "score", "log_likelihood"), "max"),
    **dict.fromkeys(("loss", "distortion", "bpd"), "min"),
}
"""Whether "max" or "min" is best of a number."""

Choice = str | Mapping[str, Any] | nn.Module


class Model(nn.Module):
    """A core and an objective, made of the parts that are named here.

    A part is `Name`, or `{"class_path": Name, "init_args": {...}}`, or a module, which then has to
    be passed again when the model is loaded from a checkpoint. Encoder and decoder may be any
    torch module: from x, with what a mask hides 0, to features, and from z to what the likelihood
    needs.

    Arguments:
        data: What is known of the data, or a data module, which knows it.
        latent_shape: Shape of z; a number n means (n,).
        encoder: From x to features.
        posterior: From features to q(z|x).
        prior: p(z).
        decoder: From z to what the likelihood needs.
        likelihood: p(x|z).
        objective: What is minimised.
        core: How the parts make a model.

    Raises:
        RegistryError: If a name leads to no part, or a part refuses its arguments.
        ValueError: If the parts do not fit the data or one another.

    Example:
        >>> import torch
        >>> from vaekit import DataInfo
        >>> data = DataInfo(event_shape=(1, 8, 8), data_range=(0, 1), levels=2)
        >>> model = Model(data, latent_shape=2)
        >>> model.encode(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2])
    """

    core: Core
    objective: Objective
    started = False
    """Whether its parts have looked at training rows; a loaded model's have."""

    def __init__(
        self,
        data: DataInfo | Mapping[str, Any] | Any,
        latent_shape: int | list[int] = 16,
        encoder: Choice = "MLPEncoder",
        posterior: Choice = "DiagonalNormal",
        prior: Choice = "StandardNormal",
        decoder: Choice = "MLPDecoder",
        likelihood: Choice = "Bernoulli",
        objective: Choice = "ELBO",
        core: Choice = "VAE",
    ) -> None:
        super().__init__()
        sizes = [latent_shape] if isinstance(latent_shape, int) else list(latent_shape)
        if not sizes or any(size < 1 for size in sizes):
            raise ValueError(
                f"Expected a latent_shape of positive sizes but got {latent_shape!r}."
            )
        chosen = (encoder, posterior, prior, decoder, likelihood, objective, core)
        self.parts = {
            kind: specs.resolve(kind, part) for kind, part in zip(MODEL_KINDS, chosen, strict=True)
        }
        self.latent_shape = tuple(sizes)
        self.info = _known_of(data)
        with parameters_in_full_precision(), naming_alternatives():
            self.core = self._part("core")
            self.objective = self._part("objective")
            self.core.likelihood.check(self.info)
        self.objective.check(self.core)

    def _part(self, kind: str, spec: Any = None, **changes: Any) -> Any:
        """A part of the model: the one that was chosen, or the one of a spec.

        Arguments:
            changes: What takes the place of what is given to it otherwise.
        """
        given = {
            "data": self.info,
            "event_shape": self.info.event_shape,
            "context_features": self.info.context_features,
            "data_size": self.info.data_size,
            "latent_shape": self.latent_shape,
            "build": self._part,
        }
        return specs.build(kind, self.parts[kind] if spec is None else spec, {**given, **changes})

    # What is known of it

    @property
    def spec(self) -> dict[str, Any]:
        """The model as plain data: `Model(**model.spec)`, if no part was given as a module."""
        parts = {kind: specs.plain(part) for kind, part in self.parts.items()}
        return {"data": self.info.as_dict(), "latent_shape": list(self.latent_shape), **parts}

    @property
    def instances(self) -> dict[str, nn.Module]:
        """The parts that were given as modules, which no checkpoint can make again."""
        return {kind: part for kind, part in self.parts.items() if isinstance(part, nn.Module)}

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def has_bits(self) -> bool:
        """Whether the reported bound counts bits, for rows without a mask."""
        return self.has_bound and self.core.likelihood.gives_bits(self.info)

    @property
    def has_bound(self) -> bool:
        """Whether validation reports a lower bound of log p(x)."""
        return self.objective.bound and self.core.likelihood.normalized

    @property
    def bound_name(self) -> str | None:
        """The name of the reported bound, or of the score in place of a bound; None without."""
        if not self.objective.bound:
            return None
        name, direction = self.best
        return name if direction == "max" else name_of("elbo", self.core.likelihood)

    @property
    def best(self) -> tuple[str, str]:
        """The number that chooses the best checkpoint, and whether "max" or "min" is best."""
        name, direction = self.objective.best
        return name_of(name, self.core.likelihood), direction

    def direction(self, monitor: str) -> str | None:
        """Whether "max" or "min" is best of a number that is logged, such as val/elbo.

        None of a number that has no best, such as val/rate.
        """
        split, _, name = monitor.rpartition("/")
        best, direction = self.best
        known = {**_DIRECTIONS, best: direction}
        return known.get(name) if split in ("train", "val", "test", "step") else None

    def overriding(self, method: str) -> list[Part]:
        """The parts with a method of their own, such as `start` or `after_step`, each once.

        One speaks for the parts inside it, but a core for itself alone.
        """
        return list(dict.fromkeys(_overriding(self, method)))

    # Another prior

    def new_prior(self, spec: str | Mapping[str, Any]) -> Any:
        """A prior for its latents, which `use_prior` can put in the place of its own.

        Raises:
            RegistryError: If the name leads to no prior, or that refuses its arguments.
            ValueError: If its latents lie elsewhere than the posterior's.
        """
        with parameters_in_full_precision(), naming_alternatives():
            core = self._core_with_prior()
            prior = self._part("prior", spec, **core.given_to_prior())
            prior.check(core.posterior)
        return prior.to(next(self.parameters(), torch.empty(0)))

    def use_prior(self, prior: Prior) -> Prior:
        """Puts a prior in the place of its own, which it returns; a checkpoint holds the new one.

        The new one is put in the mode of the old, training or evaluation. Nothing calls its
        `start` in a model that has begun to train (`started`).

        Raises:
            ValueError: If the prior is one of other latents.
        """
        core = self._core_with_prior()
        own, prior.latent_shape = core.prior, prior.latent_shape or core.prior.latent_shape
        if prior.latent_shape != own.latent_shape:
            raise ValueError(
                f"Expected a prior of latent_shape {own.latent_shape} but got one of "
                f"{prior.latent_shape}."
            )
        with naming_alternatives():
            prior.check(core.posterior)
        core.prior, self.parts["prior"] = prior.train(own.training), prior.spec or prior
        return own

    def _core_with_prior(self) -> Any:
        """The core, which has one prior; those of a hierarchy belong together."""
        found = [name for name, part in self.core.named_modules() if isinstance(part, Prior)]
        if not found or any(name.partition(".")[0] != "prior" for name in found):
            raise ValueError(
                f"Expected a core with one prior, such as VAE, but {type(self.core).__name__} has "
                f"{', '.join(found) or 'none'}."
            )
        return self.core

    # Use

    def sample(self, n: int, context: Tensor | None = None, sample: bool = False) -> Tree:
        """n rows x (n, *event) from the prior: the point of p(x|z), or a sample of it."""
        if n < 1:
            raise ValueError(f"Expected at least one row to sample but got n={n}.")
        with self.using():
            return self.core.generate(n, self._context(context, n), sample)

    def encode(
        self,
        x: Tree,
        context: Tensor | None = None,
        mask: Tree | None = None,
        sample: bool = False,
    ) -> Tensor:
        """z (B, *Z) of rows x (B, *event): the point of q(z|x), or a sample of it."""
        self.check_rows(x, mask)
        x, mask = self._moved(x), None if mask is None else self._moved(mask)
        with self.using():
            q = self.core.infer(x, self._context(context, len(first(x))), mask)
            return q.sample() if sample else self.core.posterior.point(q)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tree:
        """x (B, *event) of latents z (B, *Z): the point of p(x|z)."""
        with self.using():
            p = self.core.decode(self._moved(z).unsqueeze(0), self._context(context, len(z)))
            return self.core.reading(p)

    def reconstruct(
        self,
        x: Tree,
        context: Tensor | None = None,
        mask: Tree | None = None,
        sample: bool = False,
    ) -> Tree:
        """x (B, *event) through z and back: p(x|z)'s point at q(z|x)'s, or at a sample of it."""
        return self.decode(self.encode(x, context, mask, sample), context)

    def evaluate(
        self, batch: Batch, by: Callable[[Batch], dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """What the objective reports of rows, each (B,) in nats: the bound itself, by default.

        Arguments:
            by: The objective's `evaluate` of this model, compiled, in its place.
        """
        with self.using():
            terms = by(batch) if by else self.objective.evaluate(self.core, batch)
        terms = self.objective.hold_terms(terms, self.objective.best[0], len(batch))
        return self.in_units(named(terms, self.core.likelihood), batch)

    def in_units(self, terms: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Terms of rows in which a density of x is one of the user's values, before their scaling.

        So models of differently scaled columns can be compared. The loss stays as it is.
        """
        units = self.info.log_units(batch.x, batch.mask)
        if units is None or not self.core.likelihood.normalized:
            return terms
        return {n: t + _UNITS[n] * units if n in _UNITS else t for n, t in terms.items()}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """What the model says of each row: the terms of `evaluate`, z, reconstruction and label.

        Where x is a dict of tensors, there is a reconstruction of each entry, by the name
        `reconstruction.entry`.
        """
        rows = {name: term for name, term in self.evaluate(batch).items() if term.dim()}
        with self.using():
            rows["z"] = self.core.posterior.point(
                self.core.infer(batch.x, batch.context, batch.mask)
            )
            p = self.core.decode(rows["z"].unsqueeze(0), batch.context)
            rows |= flat("reconstruction", self.core.reading(p))
        return rows if batch.label is None else {**rows, "label": batch.label}

    @contextmanager
    def using(self) -> Iterator[None]:
        """Eval mode without gradient; afterwards each module's mode is what it was."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    # What it refuses

    def check_data(self, data: DataInfo) -> None:
        """Refuses data that is not of the kind that the model was made for.

        Raises:
            ValueError: If its shape, its number of context columns or its range is another.
        """
        for name in ("event_shape", "context_features"):
            expected, got = getattr(self.info, name), getattr(data, name)
            if expected != got:
                raise ValueError(
                    f"The model was made for data of {name} {expected} but got {got}."
                )
        ours, theirs = ({**(i.schema or {}), **_NAMES_ALONE} for i in (self.info, data))
        says = all(
            set(i.schema or ()) - {"of", "stratified", "levels", "top", "pages"}
            for i in (self.info, data)
        )
        if says and ours != theirs:
            raise ValueError(
                "The model was made for data of other columns, units or categories: let these "
                "follow them, with data.follow(model.info.schema) before they are loaded."
            )
        by_class = bool(data.schema and data.schema.get("stratified"))
        if by_class and self.info.schema and "stratified" not in self.info.schema:
            raise ValueError(
                "Expected rows that are split as the model's were, by an earlier version without "
                "regard to their classes, but got rows that were split by classes, some of which "
                "the model may have been trained on: let them follow the model, with "
                "data.follow(model.info.schema) before they are loaded."
            )
        self._check_scaled(data)
        others = data.entries()
        for name, own in self.info.entries().items():
            (low, high), (least, most) = own.data_range, others[name].data_range
            if least < low or most > high:
                raise ValueError(
                    f"The model was made for {'data' if name == 'x' else name} in [{low:g}, "
                    f"{high:g}] but got [{least:g}, {most:g}]."
                )

    def _check_scaled(self, data: DataInfo) -> None:
        """Refuses grey values that were divided by 255 if the model's were not."""
        tops = (data.schema or {}).get("top") or {}
        tops = tops if isinstance(tops, dict) else {"x": tops}
        entries = self.info.entries()
        for name in tops:
            if name in entries and entries[name].data_range != (0.0, 1.0):
                low, high = entries[name].data_range
                raise ValueError(
                    f"The model was made for values in [{low:g}, {high:g}] but these were divided "
                    f"by {tops[name]:g}: let the data follow the model, with "
                    "data.follow(model.info.schema) before they are loaded."
                )

    def check_rows(self, x: Tree, mask: Tree | None = None) -> None:
        """Holds rows to what was declared of the data.

        Raises:
            ValueError: If their shape is another, or a value is not finite or out of the range.
        """
        shapes = each(lambda leaf: tuple(leaf.shape[1:]), x)
        if shapes != self.info.event_shape:
            raise ValueError(f"Expected rows of shape {self.info.event_shape} but got {shapes}.")
        seen = x if mask is None else each(lambda leaf, shown: leaf[shown], x, mask)
        values = entries_of(seen)
        for name, info in self.info.entries().items():
            if values[name].numel():
                _check_range(values[name], info.data_range)
        self.core.likelihood.check_rows(x, mask)

    def _context(self, context: Tensor | None, rows: int) -> Tensor | None:
        """The context on the model's device, checked."""
        wanted = (rows, self.info.context_features)
        got = None if context is None else tuple(context.shape)
        if got != (wanted if wanted[1] else None):
            raise ValueError(
                f"Expected {f'a context of shape {wanted}' if wanted[1] else 'no context'} but "
                f"got {'none' if got is None else f'one of shape {got}'}."
            )
        return None if context is None else context.to(self.device)

    def _moved(self, tree: Tree) -> Tree:
        return each(lambda leaf: moved(leaf, self.device), tree)


def _overriding(module: nn.Module, method: str) -> Iterator[Part]:
    for child in module.children():
        found = isinstance(child, Part) and getattr(type(child), method) != getattr(Part, method)
        if found:
            yield child  # type: ignore[misc]
        if not found or isinstance(child, Core):
            yield from _overriding(child, method)


def _known_of(data: Any) -> DataInfo:
    """What is known of the data, from what the user gave."""
    info = getattr(data, "info", data)
    if isinstance(info, Mapping):
        info = DataInfo(**info)
    if not isinstance(info, DataInfo):
        raise ValueError(
            "Expected a vaekit data module, which says what its data are, or "
            f"DataInfo(event_shape=..., data_range=...), but got {type(data).__name__}."
        )
    return info


def _check_range(x: Tensor, data_range: tuple[float, float]) -> None:
    low, high = torch.stack(torch.aminmax(x)).tolist()
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(
            f"Expected finite values but these rows hold NaN or infinity, in {x.dtype}: leave "
            "them out, or give a mask that is False there."
        )
    least, most = data_range
    if not within(low, high, data_range, x.dtype):
        raise ValueError(
            f"Expected values in the data's range [{least:g}, {most:g}] but these rows "
            f"span [{low:g}, {high:g}]. uint8 images are divided by 255 first."
        )
