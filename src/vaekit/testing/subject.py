"""What is held to the laws: a part in small models, or a schedule or data module by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.contracts.part import Noise
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import FittedPrior, Prior
from vaekit.contracts.trees import each
from vaekit.distributions.base import takes_noise
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise
from vaekit.registry import plugins

Choice = str | type | nn.Module
"""A part by its name, its class, or an instance."""

Law = Callable[[Any], None]
"""Raises an error where what it is given breaks the law."""

ROWS, DRAWS, _CONTEXT, _CODES = 5, 3, 2, 64
_EVENTS = ((1, 13, 10), (7,), (3, 16, 16), (4, 6))

_SMALL: dict[str, Any] = {
    "latent_shape": 4,
    "encoder": {"class_path": "vaekit.networks.mlp.MLPEncoder", "init_args": {"hidden": [16]}},
    "decoder": {"class_path": "vaekit.networks.mlp.MLPDecoder", "init_args": {"hidden": [16]}},
}


class Excused(Exception):
    """Raised by a law that does not concern a part; the text says why."""


class UsageError(ValueError):
    """A part cannot be checked as it was given."""


def require(holds: object, told: str) -> None:
    """Raises an AssertionError with this text unless something holds."""
    if not holds:
        raise AssertionError(told)


class _Named:
    """What has a part by its name, its class or an instance."""

    kind: str
    part: Any

    @property
    def cls(self) -> Any:
        """Its class."""
        if isinstance(self.part, str):
            return plugins.load(plugins.find(self.kind, self.part))
        return self.part if isinstance(self.part, type) else type(self.part)

    @property
    def is_instance(self) -> bool:
        """Whether it was given as an instance."""
        return not isinstance(self.part, str | type)

    @contextmanager
    def known(self) -> Iterator[None]:
        """Registers its class for the time of a block, where no package did."""
        if isinstance(self.part, type):
            with plugins.known(self.part):
                yield
        else:
            yield


@dataclass
class Subject(_Named):
    """A part that stands in models.

    Arguments:
        kind: Its kind; "model" for a whole model.
        part: Its name, its class or an instance; an instance is copied before it is used.
        init_args: Arguments of its own.
        data: What is known of the rows that it is tried on; None for small binary rows.
        around: Other arguments of `Model`, where the part needs others than the usual.
    """

    kind: str
    part: Choice
    init_args: Mapping[str, Any] = field(default_factory=dict)
    data: DataInfo | None = None
    around: Mapping[str, Any] = field(default_factory=dict)

    def choice(self) -> Any:
        """It, as an argument of `Model`."""
        if self.is_instance:
            return deepcopy(self.part)
        path = f"{self.cls.__module__}.{self.cls.__qualname__}"
        return {"class_path": path, "init_args": dict(self.init_args)}

    # The small models

    def infos(self) -> list[DataInfo]:
        """What is known of the rows that it is tried on, one shape of rows or two.

        Raises:
            UsageError: If it accepts none of the usual rows, or is an instance, for which nobody
                knows the rows.
        """
        if self.data is not None:
            return [self.data]
        usual = [DataInfo(e, (0.0, 1.0), 2, data_size=100) for e in _EVENTS if self.accepts(e)]
        if self.is_instance or not usual:
            why = "was made for" if self.is_instance else "accepts"
            raise UsageError(
                f"Expected data=DataInfo(...), what is known of rows that the {self.kind} {why}."
            )
        return usual[:2]

    def accepts(self, event: tuple[int, ...]) -> bool:
        """Whether its class is for rows of this shape."""
        return bool(self.cls.accepts(event))

    @property
    def info(self) -> DataInfo:
        """The first of `infos`."""
        return self.infos()[0]

    def conditional(self, info: DataInfo) -> DataInfo:
        """The same with a context, unless it was said what the rows are."""
        return info if self.data is not None else replace(info, context_features=_CONTEXT)

    def model(self, info: DataInfo | None = None, **changes: Any) -> Model:
        """A small model with it in, made anew, whose parts have looked at rows; a prior that can
        be fitted is fitted to some codes."""
        info = info or self.info
        if isinstance(self.part, Model):
            return deepcopy(self.part)
        chosen = {**_SMALL, **self.around, self.kind: self.choice(), **changes}
        model = Model(info, **chosen)
        starting = model.overriding("start")
        if starting:
            with fixed_noise(5), torch.no_grad():
                batch = self.batch(info, 20)
                for part in starting:
                    part.start(iter([batch]))
        prior = getattr(model.core, "prior", None)
        if self.kind == "prior" and isinstance(prior, FittedPrior):
            with fixed_noise(6):
                context = model.core.prior_context(self.batch(info, _CODES).context)
                prior.fit(self.codes(model), context)
        return model

    def codes(self, model: Model, n: int = _CODES) -> Tensor:
        """Correlated codes (n, *Z) to fit a prior to, around 1, in units from 0.3 to 2."""
        with fixed_noise(7):
            noise = torch.randn(n, *model.latent_shape).flatten(1)
        scale = torch.linspace(0.3, 2.0, noise.shape[1])
        z = 1 + scale * (0.8 * noise + 0.6 * noise.roll(1, 1))
        return z.reshape(n, *model.latent_shape)

    def rebuilt(self, model: Model) -> Model:
        """A model of the same description, which was text in between."""
        if model.instances:
            return self.model(model.info)
        return Model(**json.loads(json.dumps(model.spec)))

    # Rows, noise and terms

    def batch(self, info: DataInfo | None = None, rows: int = ROWS) -> Batch:
        """Rows of that kind, with contexts and labels where they have any."""
        info = info or self.info
        whole = self.kind == "likelihood" and self.cls.discrete is True
        drawn = {name: _rows(entry, rows, whole) for name, entry in info.entries().items()}
        x = drawn if isinstance(info.event_shape, dict) else drawn["x"]
        context = torch.randn(rows, info.context_features) if info.context_features else None
        label = None if info.classes is None else torch.randint(info.classes, (rows,))
        return Batch(x, context, label=label)

    def noise(self, core: Core, batch: Batch, samples: int = DRAWS) -> Noise | None:
        """Noise to draw with; None where q's map from noise is not registered at every level."""
        with torch.no_grad():
            levels = core.draw(batch, samples).levels
        if not all(takes_noise(level.q) for level in levels):
            return None
        noise = tuple(torch.randn_like(level.z) for level in levels)
        return noise if len(noise) > 1 else noise[0]

    def dense(self, core: Core) -> bool:
        """Whether every posterior has a density."""
        return all(part.density for part in core.modules() if isinstance(part, Posterior))

    def evaluates(self, core: Core) -> bool:
        """Whether every posterior knows the density of any z."""
        parts = [part for part in core.modules() if isinstance(part, Posterior)]
        return all(part.density and part.evaluates for part in parts)

    def estimates(self, core: Core) -> bool:
        """Whether a prior estimates log p(z) with draws of its own."""
        return any(part.estimates for part in core.modules() if isinstance(part, Prior))

    def weight(self, core: Core, draw: Draw) -> Tensor:
        """log p(x, z) - log q(z|x); without the last where q has no density. (K, B)."""
        joint = draw.log_likelihood + draw.log_prior
        return joint - draw.log_posterior if self.dense(core) else joint


@dataclass
class Made(_Named):
    """A schedule or a data module, made anew each time.

    Arguments:
        kind: "schedule" or "data".
        part: Its name, its class or an instance.
        init_args: Its arguments.
    """

    kind: str
    part: Any
    init_args: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        """It, as if nobody had used it."""
        return deepcopy(self.part) if self.is_instance else self.cls(**self.init_args)


def _rows(info: DataInfo, rows: int, whole: bool) -> Tensor:
    """Values from all over the range, or of its levels; of an open end, up to 4 away."""
    low, high = info.data_range
    if not isfinite(low):
        low = high - 4 if isfinite(high) else -2.0
    if not isfinite(high):
        high = low + 4
    shape = (rows, *info.event_shape)
    if isinstance(info.levels, int):
        return low + (high - low) * torch.randint(info.levels, shape) / (info.levels - 1)
    x = low + (high - low) * torch.rand(shape)
    return x.round() if whole else x


def retyped(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with x and context of another type."""
    context = None if batch.context is None else batch.context.to(dtype)
    return replace(batch, x=each(lambda leaf: leaf.to(dtype), batch.x), context=context)


def few(x: Tensor) -> str:
    """The first values of a tensor, for a message."""
    values = x.detach().reshape(-1)[:3].tolist()
    return ", ".join(f"{value:.6g}" for value in values) + (", ..." if x.numel() > 3 else "")
