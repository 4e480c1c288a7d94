"""Prints what a user reads before and after a fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelSummary
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from vaekit.contracts.prior import Prior
from vaekit.contracts.trees import each
from vaekit.data.base import DataModule
from vaekit.metrics.means import RowMeans
from vaekit.model.fitted_priors import log_priors
from vaekit.model.model import Model
from vaekit.numerics.precision import exact
from vaekit.numerics.random import fixed_noise

_CAPTION = "The baseline is the likelihood alone, without latents, matched to the training rows."


def baseline(model: Model, data: DataModule, split: str = "val") -> float | None:
    """Mean log p(x) of a split's rows, in nats, for independent elements matched to training rows.

    None where the likelihood knows no such model.
    """
    likelihood, terms = model.core.likelihood, []

    def placed(x: Tensor) -> Tensor:
        return x.to(model.device, exact(model.device))

    with model.using(), fixed_noise(0, model.device):
        mean, variance = (each(placed, m) for m in likelihood.moments(data.rows("train")))
        for batch in (rows.to(model.device) for rows in data.rows(split)):
            given = () if batch.context is None else (batch.context,)
            p = likelihood.independent(mean, variance, *given)
            if p is None:
                return None
            terms.append(likelihood.log_prob(p, each(placed, batch.x), batch.mask).flatten())
    return float(torch.cat(terms).mean())


def bound(model: Model, data: DataModule, split: str = "val", name: str | None = None) -> float:
    """Computes the mean over a split's rows of a number that `validate` reports.

    Arguments:
        name: The number; by default the one that chooses the best checkpoint.
    """
    means = RowMeans(alone=True)
    for batch in data.rows(split, batch_size=data.batch_size):
        with fixed_noise(batch.start or 0, model.device):
            means.update(model.evaluate(batch.to(model.device)), len(batch))
    return means.compute()[name or model.best[0]]


def _compared(gain: float) -> str:
    """Whether a model beats the baseline, in words."""
    if gain > 0:
        return f"The model beats the baseline by {gain:.2f} nats a row."
    return (
        "The model is worse than the baseline: it has learned nothing from its latents. Train for "
        "longer, or try another learning rate."
    )


def _label(model: Model, name: str, checkpoint: str) -> str:
    is_bound = model.has_bound and name == model.bound_name
    return f"{name.upper()} of {checkpoint}" if is_bound else f"{name}, which is no bound"


def show_data(data: DataModule, parts: Mapping[str, Any]) -> None:
    """Prints what data were taken for, and what was chosen for them.

    Arguments:
        parts: The arguments of the model that were chosen.
    """
    table = Table("data", type(data).__name__)
    for name, what in data.told().items():
        table.add_row(escape(name), escape(what))
    table.add_section()
    for name, part in parts.items():
        table.add_row(name, escape(_in_words(part)))
    table.caption = "--data.X says otherwise of the data, --model.X of what was chosen."
    Console().print(table)


def _in_words(part: Any) -> str:
    """A part in one line: its name, and its arguments where it has any."""
    if not isinstance(part, Mapping) or "class_path" not in part:
        return str(part)
    found = []
    for name, value in part["init_args"].items():
        inner = value.items() if isinstance(value, Mapping) else [(name, value)]
        found += [f"{n} {_in_words(v)}" for n, v in inner]
    return f"{part['class_path']}({', '.join(found)})" if found else str(part["class_path"])


def show(
    model: Model,
    data: DataModule,
    best: float | None,
    files: list[Path],
    elbo: float | None = None,
) -> None:
    """Prints what the checkpoint was chosen by beside the baseline, the files, and what is next.

    Arguments:
        best: The number that chose the checkpoint, the validation ELBO by default, in nats; None
            where there are no validation rows.
        files: What was written, the checkpoint first.
        elbo: The reported bound of the checkpoint, in nats, if another number chose it.
    """
    checkpoint = files[0]
    console = Console(soft_wrap=True)
    console.print("")
    if best is None:
        console.print(f"There are no validation rows: {checkpoint.name} is the newest model.")
    else:
        # Bits per dimension would have to count the observed elements of each row.
        counted = model.has_bits and next(data.rows("val", 1)).mask is None
        name, direction = model.best
        if model.bound_name == name:
            elbo = best
        # Of what is least where it is best, such as an autoencoder's loss, it is no measure.
        base = baseline(model, data) if direction == "max" or elbo is not None else None
        caption = None if base is None else _CAPTION
        table = Table("validation", "nats", "bits per dimension", caption=caption)
        rows = {_label(model, name, checkpoint.name): best}
        if elbo is not None and model.bound_name is not None:
            rows[_label(model, model.bound_name, checkpoint.name)] = elbo
        if base is not None:
            rows["baseline: independent elements"] = base
        for label, nats in rows.items():
            is_bound = nats in (elbo, base)
            bits = model.info.bits_per_dimension(nats) if counted and is_bound else None
            table.add_row(label, f"{nats:.2f}", "-" if bits is None else f"{bits:.4f}")
        console.print(table)
        if base is not None and elbo is not None:
            console.print(_compared(elbo - base))
        if model.objective.keeps_newest:
            console.print(
                f"{checkpoint.name} is the newest model: the target of "
                f"{type(model.objective).__name__} moves until the fit ends, so no validation "
                "number compares earlier models with it."
            )
    for file in files:
        console.print(f"  {file}")
    console.print(f"Next: vaekit sample --ckpt_path {checkpoint}")


def show_prior(model: Model, prior: Prior, data: DataModule) -> None:
    """Prints how the validation rows fare under another prior, beside the model's own."""
    console = Console(soft_wrap=True)
    if "val" not in data.splits:
        console.print("There are no validation rows to compare it on.")
        return
    own: Any = model.core
    priors: list[Prior] = [own.prior, prior]
    columns = {"log p(z)": log_priors(model, data, priors)}
    gain = columns["log p(z)"][1] - columns["log p(z)"][0]
    if model.has_bound and model.bound_name == "elbo":
        # Of which log p(z) is a term; the same draws of z give the difference with less noise.
        before = bound(model, data, name="elbo")
        columns = {"ELBO": [before, before + gain], **columns}
    table = Table("validation, in nats", *columns)
    names = [
        f"the model's prior, {type(own.prior).__name__}",
        f"this prior, {type(prior).__name__}",
    ]
    for name, *values in zip(names, *columns.values(), strict=True):
        table.add_row(name, *(f"{value:.2f}" for value in values))
    console.print(table)
    if gain > 0:
        console.print(f"This prior is better than the model's by {gain:.2f} nats a row.")
    else:
        console.print(
            f"This prior is worse than the model's by {-gain:.2f} nats a row: keep that."
        )


def in_place_of(summary: ModelSummary, model: Model) -> ModelSummary:
    """A callback that shows the parts where Lightning's own shows one row, and no operations."""
    own = type(summary)()  # of this very type, else Lightning shows both
    own.summarize = lambda *_, **__: show_parts(model)  # type: ignore[method-assign]
    return own


def show_parts(model: Model) -> None:
    """Prints the parts of a model, each with the number of its parameters."""
    table = Table("part", "class", "parameters")
    for name, part in {**dict(model.core.named_children()), "objective": model.objective}.items():
        table.add_row(name, type(part).__name__, f"{_size(part):,}")
    table.add_row("all", type(model.core).__name__, f"{_size(model):,}")
    Console().print(table)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
