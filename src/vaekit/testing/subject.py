"""A part, and the small models and rows that the laws look at it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from vaekit import plugins
from vaekit.batch import Batch, DataInfo, each
from vaekit.contracts import Core
from vaekit.distributions import takes_noise
from vaekit.draw import Draw
from vaekit.model import Model
from vaekit.part import Noise

__all__ = [
    "CONTEXT",
    "DRAWS",
    "EVENTS",
    "ROWS",
    "Choice",
    "Excused",
    "Subject",
    "few",
    "rebuilt",
    "require",
    "retyped",
]

Choice = str | type | nn.Module
"""A part by its name, its class, or an instance."""

ROWS, DRAWS, CONTEXT = 5, 3, 2
EVENTS = ((1, 13, 10), (7,))
"""The shapes of rows that a part is tried on, as far as it accepts them."""

_SMALL: dict[str, Any] = {
    "latent_shape": 4,
    "encoder": {"class_path": "vaekit.encoders.MLPEncoder", "init_args": {"hidden": [16]}},
    "decoder": {"class_path": "vaekit.decoders.MLPDecoder", "init_args": {"hidden": [16]}},
}


class Excused(Exception):
    """Raised by a law that does not concern a part; the text says why."""


def require(holds: object, told: str) -> None:
    """Raises an AssertionError with this text unless something holds."""
    if not holds:
        raise AssertionError(told)


@dataclass
class Subject:
    """A part whose laws are looked at.

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

    @property
    def cls(self) -> Any:
        """Its class."""
        if isinstance(self.part, str):
            return plugins.load(plugins.find(self.kind, self.part))
        return self.part if isinstance(self.part, type) else type(self.part)

    @property
    def given(self) -> bool:
        """Whether it was given as an instance, which fits rows of one kind alone."""
        return not isinstance(self.part, str | type)

    @contextmanager
    def known(self) -> Iterator[None]:
        """Registers its class meanwhile, where no package did."""
        with plugins.known(self.part) if isinstance(self.part, type) else _nothing():
            yield

    def choice(self) -> Any:
        """It, as an argument of `Model`."""
        if self.given:
            return deepcopy(self.part)
        cls = self.cls
        path = f"{cls.__module__}.{cls.__qualname__}"
        return {"class_path": path, "init_args": dict(self.init_args)}

    # The small models

    def infos(self) -> list[DataInfo]:
        """What is known of the rows that it is tried on."""
        if self.data is not None:
            return [self.data]
        if self.given:
            raise ValueError(
                "Expected data=DataInfo(...), what is known of the rows that an instance was made "
                "for, beside the instance."
            )
        return [DataInfo(e, (0.0, 1.0), levels=2) for e in EVENTS if self.cls.accepts(e)]

    @property
    def info(self) -> DataInfo:
        """The first of them."""
        return next(iter(self.infos()))

    def model(self, info: DataInfo | None = None, **changes: Any) -> Model:
        """A small model with it in, made anew."""
        if isinstance(self.part, Model):
            return deepcopy(self.part)
        chosen = {**_SMALL, **self.around, self.kind: self.choice(), **changes}
        return Model(info or self.info, **chosen)

    # Rows and noise

    def batch(self, info: DataInfo | None = None, rows: int = ROWS) -> Batch:
        """Rows of that kind, with contexts and labels where they have any."""
        info = info or self.info
        drawn = {name: _rows(entry, rows) for name, entry in info.entries().items()}
        x = drawn if isinstance(info.event_shape, dict) else drawn["x"]
        context = torch.randn(rows, info.context_features) if info.context_features else None
        label = None if info.classes is None else torch.randint(info.classes, (rows,))
        return Batch(x, context, label=label)

    def noise(self, core: Core, batch: Batch, samples: int = DRAWS) -> Noise | None:
        """Noise to draw with, where q's map from noise is registered at every level."""
        with torch.no_grad():
            levels = core.draw(batch, samples).levels
        if not all(takes_noise(level.q) for level in levels):
            return None
        noise = tuple(torch.randn_like(level.z) for level in levels)
        return noise if len(noise) > 1 else noise[0]

    def dense(self, core: Core) -> bool:
        """Whether every posterior has a density."""
        return all(getattr(part, "density", True) for part in core.modules())

    def weight(self, core: Core, draw: Draw) -> Tensor:
        """log p(x, z) - log q(z|x); without the last where q has no density. (K, B)."""
        joint = draw.log_likelihood + draw.log_prior
        return joint - draw.log_posterior if self.dense(core) else joint


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _rows(info: DataInfo, rows: int) -> Tensor:
    """Values from all over the range, or of its levels."""
    low, high = (
        end if isfinite(end) else end_of_infinite
        for end, end_of_infinite in zip(info.data_range, (-2.0, 2.0), strict=True)
    )
    shape = (rows, *info.event_shape)
    if isinstance(info.levels, int):
        return low + (high - low) * torch.randint(info.levels, shape) / (info.levels - 1)
    return low + (high - low) * torch.rand(shape)


def retyped(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with x and context of another type."""
    context = None if batch.context is None else batch.context.to(dtype)
    x = each(lambda leaf: leaf.to(dtype), batch.x)
    return Batch(x, context, batch.mask, batch.label)


def rebuilt(subject: Subject, model: Model) -> Model:
    """A model of the same description; where it holds instances, made of fresh copies."""
    return subject.model(model.info) if model.instances else Model(**model.spec)


def few(x: Tensor) -> str:
    """The first values of a tensor, for a message."""
    values = x.detach().reshape(-1)[:3].tolist()
    return ", ".join(f"{value:.6g}" for value in values) + (", ..." if x.numel() > 3 else "")
