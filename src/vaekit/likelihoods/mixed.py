"""A likelihood for rows of several entries, each with a likelihood of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.draw import Draw
from vaekit.contracts.likelihood import Likelihood, OutOfRange
from vaekit.contracts.part import Build, Spec
from vaekit.contracts.trees import Shapes, Tree
from vaekit.distributions.base import Joint


class Mixed(Likelihood):
    r"""A likelihood for each entry of x, by name: the columns of a table, modalities.

    .. math:: \log p(x|z) = \sum_c \log p_c(x_c|z)

    Arguments:
        columns: The likelihood of each entry.
        others: That of the entries that `columns` does not name; None where there is none such.

    Raises:
        ValueError: If the rows are no dict, an entry has no likelihood, or there is no entry of
            some name.

    References:
        Handling incomplete heterogeneous data using VAEs (Nazabal et al., 2020),
        https://arxiv.org/abs/1807.03653

    Example:
        >>> import torch
        >>> from vaekit import DataInfo, Model
        >>> table = DataInfo({"age": (1,), "visits": (1,)}, {"age": (-3, 3), "visits": (0, 99)})
        >>> columns = {"age": "Gaussian", "visits": "Poisson"}
        >>> mixed = {"class_path": "Mixed", "init_args": {"columns": columns}}
        >>> model = Model(table, 2, likelihood=mixed)
        >>> {name: x.shape for name, x in model.sample(5).items()}
        {'age': torch.Size([5, 1]), 'visits': torch.Size([5, 1])}
    """

    def __init__(
        self,
        data: DataInfo,
        build: Build,
        columns: dict[str, Spec] = {},  # noqa: B006 - read only
        others: Spec | None = None,
    ) -> None:
        super().__init__()
        entries = data.entries()
        if not isinstance(data.event_shape, Mapping):
            raise ValueError("Expected rows of several entries by name but got rows of one.")
        if unknown := set(columns) - set(entries):
            raise ValueError(
                f"Expected columns out of {', '.join(entries)} but got {', '.join(unknown)}."
            )
        chosen = {name: columns.get(name, others) for name in entries}
        if bare := [name for name, spec in chosen.items() if spec is None]:
            raise ValueError(
                f"Expected a likelihood for {', '.join(bare)} too: name it in columns, or one for "
                "all others in others."
            )
        parts = {
            name: build("likelihood", chosen[name], data=info, event_shape=info.event_shape)
            for name, info in entries.items()
        }
        self.names, self.columns = tuple(parts), nn.ModuleList(parts.values())
        self.output_shape = {name: part.output_shape for name, part in parts.items()}
        self.couples_rows = any(part.couples_rows for part in parts.values())
        self.normalized = all(part.normalized for part in parts.values())  # type: ignore[misc]
        kinds = {part.discrete for part in parts.values()}
        self.discrete = kinds.pop() if len(kinds) == 1 else None

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return isinstance(event_shape, Mapping)

    @property
    def looks(self) -> bool:  # type: ignore[override]
        """Whether one of its parts looks at the training rows."""
        return bool(self._looking())

    def _looking(self) -> dict[str, Any]:
        own = {n: p for n, p in self.parts() if type(p).start is not Likelihood.start}
        return {name: part for name, part in own.items() if part.looks}

    def parts(self) -> list[tuple[str, Any]]:
        """The likelihoods by the names of their entries."""
        return list(zip(self.names, self.columns, strict=True))

    def forward(self, y: Any, context: Tensor | None = None) -> Distribution:
        return Joint({name: part(y[name], context) for name, part in self.parts()})

    def point(self, p: Distribution) -> Tree:
        assert isinstance(p, Joint)
        return {n: part.point(p.parts[n]) for n, part in self.parts()}

    def elements(self, p: Distribution, x: Any) -> Any:
        assert isinstance(p, Joint)
        return {n: part.elements(p.parts[n], x[n]) for n, part in self.parts()}

    def log_prob(self, p: Distribution, x: Any, mask: Any = None) -> Tensor:
        assert isinstance(p, Joint)
        seen = dict.fromkeys(x) if mask is None else mask
        parts = self.parts()
        return torch.stack([part.log_prob(p.parts[n], x[n], seen[n]) for n, part in parts]).sum(0)

    def start(self, data: Iterable[Batch]) -> None:
        looking = self._looking()
        if len(looking) > 1 and iter(data) is data:
            data = list(data)  # can be passed through once alone
        for name, part in looking.items():
            part.start(_entry(batch, name) for batch in data)

    def check_rows(self, x: Any, mask: Any = None) -> None:
        for name, part in self.parts():
            try:
                part.check_rows(x[name], None if mask is None else mask[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def after_step(self, draw: Draw) -> None:
        for name, part in self.parts():
            part.after_step(draw.entry(name))

    def moments(self, data: Iterable[Batch]) -> tuple[Any, Any]:
        """Those of each entry."""
        rows = list(data) if iter(data) is data else data
        found = {n: part.moments(_entry(batch, n) for batch in rows) for n, part in self.parts()}
        return {n: own[0] for n, own in found.items()}, {n: own[1] for n, own in found.items()}

    def output_of(self, mean: Any, variance: Any) -> Tree | None:
        found = {n: part.output_of(mean[n], variance[n]) for n, part in self.parts()}
        return None if any(y is None for y in found.values()) else found

    def without_latents(self, mean: Any, variance: Any) -> Likelihood:
        own: Any = super().without_latents(mean, variance)
        parts = [part.without_latents(mean[n], variance[n]) for n, part in self.parts()]
        own.columns = nn.ModuleList(parts)
        return own

    def gives_bits(self, data: DataInfo) -> bool:
        infos = data.entries()
        return all(part.gives_bits(infos[n]) for n, part in self.parts())

    @classmethod
    def takes(cls, data: DataInfo) -> bool:
        return isinstance(data.event_shape, Mapping)

    def check(self, data: DataInfo) -> None:
        super().check(data)
        infos = data.entries()
        for name, part in self.parts():
            try:
                part.check(infos[name])
            except OutOfRange as error:
                raise OutOfRange(f"{name}: {error}", error.data, error.mend) from error


def _entry(batch: Batch, name: str) -> Batch:
    """The rows as the likelihood of one entry sees them."""
    assert isinstance(batch.x, dict)
    mask = batch.mask[name] if isinstance(batch.mask, dict) else None
    return replace(batch, x=batch.x[name], mask=mask)
