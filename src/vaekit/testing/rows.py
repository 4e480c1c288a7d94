"""The law that rows do not see one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.core import Core
from vaekit.contracts.draw import Draw
from vaekit.testing.subject import DRAWS, ROWS, Excused, Subject, few, require, retyped


def a_row_depends_on_no_other(s: Subject) -> None:
    """The terms of a row are the same alone and among others, with its own context."""
    info = s.conditional(s.info)
    model = s.model(info).double().eval()
    if model.core.likelihood.couples_rows:
        raise Excused("its likelihood says that it couples rows")
    batch = retyped(s.batch(info), torch.float64)
    noise = s.noise(model.core, batch)
    _compare_rows(s, model.core, batch, noise)
    model.train()
    fixed = noise is not None and _is_fixed(s, model.core, batch, noise)
    if fixed and not any(hasattr(m, "num_batches_tracked") for m in model.modules()):
        _compare_rows(s, model.core, batch, noise)


def _is_fixed(s: Subject, core: Core, batch: Batch, noise: Any) -> bool:
    """Whether nothing is random in training but the noise that is given."""
    with torch.no_grad():
        found = [_term(s, core, core.draw(batch, DRAWS, noise=noise))[1] for _ in range(2)]
    return torch.equal(*found)


def _term(s: Subject, core: Core, draw: Draw) -> tuple[str, Tensor]:
    """What the noise that is given decides: all but a prior that is estimated with its own."""
    if not s.estimates(core):
        return "log p(x, z) - log q(z|x)", s.weight(core, draw)
    return "log p(x|z) - log q(z|x)", s.weight(core, draw) - draw.log_prior


def _compare_rows(s: Subject, core: Core, batch: Batch, noise: Any) -> None:
    mode = "training" if core.training else "evaluation"
    for row in range(ROWS):
        for name, whole, alone in _both(s, core, batch, slice(row, row + 1), noise):
            same = torch.allclose(whole, alone, rtol=1e-9, atol=1e-9)
            told = f"{few(whole)} among {ROWS} rows but {few(alone)} alone, in {mode}"
            require(same, f"{name} of row {row} is {told}")


def _both(
    s: Subject, core: Core, batch: Batch, at: slice, noise: Any
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each term of a row among the others, and alone."""
    own = batch[at]
    with torch.no_grad():
        if noise is not None:
            cut = tuple(level[:, at] for level in (noise if isinstance(noise, tuple) else [noise]))
            alone = cut if isinstance(noise, tuple) else cut[0]
            draws = core.draw(batch, DRAWS, noise=noise), core.draw(own, DRAWS, noise=alone)
            (name, whole), (_, single) = (_term(s, core, draw) for draw in draws)
            yield name, whole[:, at], single
            return
        many, one = (core.infer(b.x, b.context, b.mask) for b in (batch, own))
        point = core.posterior.point(many)
        yield "the point of q(z|x)", point[at], core.posterior.point(one)
        if s.evaluates(core):
            yield "log q(z|x)", many.log_prob(point)[at], one.log_prob(point[at])
        if (prior := getattr(core, "prior", None)) and not s.estimates(core):
            contexts = (core.prior_context(b.context) for b in (batch, own))
            of_all, of_one = (prior(context, core.infer) for context in contexts)
            yield "log p(z)", of_all.log_prob(point)[at], of_one.log_prob(point[at])
        whole = core.likelihood.log_prob(core.decode(point[None], batch.context), batch.x)
        single = core.likelihood.log_prob(core.decode(point[at][None], own.context), own.x)
        yield "log p(x|z)", whole[:, at], single
