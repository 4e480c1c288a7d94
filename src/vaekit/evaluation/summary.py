"""Prints what a user reads before and after a fit."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, nan, sqrt
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelSummary
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from vaekit.contracts.prior import Prior
from vaekit.data.base import DataModule
from vaekit.evaluation.baseline import baseline
from vaekit.model.fitted_priors import log_priors
from vaekit.model.model import Model
from vaekit.model.parts_for_data import networks_in_words
from vaekit.numerics.precision import exact
from vaekit.numerics.random import fixed_noise

_CAPTION = (
    "The baseline is the same likelihood without latents: one output for all rows, fitted to the "
    "training rows."
)


def bound(
    model: Model,
    data: DataModule,
    split: str = "val",
    every: int = 1,
    name: str | None = None,
) -> Tensor:
    """A number that `validate` reports, of each row of a split, (n,).

    Where it is a number of a whole batch, their mean stands for each row.

    Arguments:
        every: Every so many-th row only.
        name: The number; by default the one that chooses the best checkpoint.
    """
    found = []
    name = name or model.best[0]
    for batch in data.rows(split, batch_size=data.batch_size, every=every):
        with fixed_noise(batch.start or 0, model.device):
            own = model.evaluate(batch.to(model.device).keyed())[name]
        found.append(own.expand(len(batch)).to(exact(model.device)))
    rows = torch.cat(found)
    return rows if own.dim() else rows.mean().expand(len(rows))


def _mean_and_error(rows: Tensor) -> tuple[float, float]:
    """The mean over rows, and its standard error."""
    error = float(rows.std()) / sqrt(len(rows)) if len(rows) > 1 else nan
    return float(rows.mean()), error


def _shown(value: float, error: float) -> str:
    """A mean and its error, where that is known: not of one row, nor of numbers of batches."""
    return f"{value:.2f} ± {error:.2f}" if error > 0 else f"{value:.2f}"


def _compared(gain: float, error: float) -> str:
    """Whether a model beats the baseline, in words."""
    if gain > 0 and not gain <= 2 * error:
        return f"The model beats the baseline by {_shown(gain, error)} nats a row."
    if gain > 0:
        return (
            f"The model is as good as the baseline: the difference, {_shown(gain, error)} nats a "
            "row, is within two standard errors. Train for longer, or try another learning rate."
        )
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
    if "encoder" in parts or "decoder" in parts:
        table.add_row("networks", escape(networks_in_words(data)))
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


def show(model: Model, data: DataModule, best: float | None, files: list[Path]) -> None:
    """Prints what the checkpoint was chosen by beside the baseline, the files, and what is next.

    Errors are standard errors over the validation rows; that of the gain is of the differences
    row by row.

    Arguments:
        model: The model of the checkpoint.
        best: The number that chose it, the validation ELBO by default, in nats; None where there
            are no validation rows.
        files: What was written, the checkpoint first.
    """
    checkpoint = files[0]
    console = Console(soft_wrap=True)
    console.print("")
    if best is None:
        console.print(f"There are no validation rows: {checkpoint.name} is the newest model.")
    else:
        # Of many rows a part is enough for the errors.
        n = len(data.numbers("val"))
        every = ceil(n / _FOR_ERRORS)
        # Bits per dimension would have to count the observed elements of each row.
        counted = model.has_bits and next(data.rows("val", 1)).mask is None
        name, direction = model.best
        reported, elbo = model.bound_name, None
        chosen = (best, bound(model, data, every=every))
        shown = [(_label(model, name, checkpoint.name), *chosen, reported == name)]
        if reported == name:
            elbo = chosen
        elif reported is not None:
            rows = bound(model, data, name=reported)
            elbo = (float(rows.mean()), rows[::every])
            shown.append((_label(model, reported, checkpoint.name), *elbo, True))
        # Of what is least where it is best, such as an autoencoder's loss, it is no measure.
        base = baseline(model, data) if direction == "max" or elbo is not None else None
        if base is not None:
            shown.append(("baseline: no latents", float(base.mean()), base[::every], True))
        caption = "± is the standard error over rows." + ("" if base is None else f" {_CAPTION}")
        table = Table("validation", "nats", "bits per dimension", caption=caption)
        for label, nats, some, is_density in shown:
            bits = f"{model.info.bits_per_dimension(nats):.4f}" if counted and is_density else "-"
            table.add_row(label, _shown(nats, float(some.std()) / sqrt(n)), bits)
        console.print(table)
        if base is not None and elbo is not None:
            error = float((elbo[1] - base[::every]).std()) / sqrt(n)
            console.print(_compared(elbo[0] - float(base.mean()), error))
        if model.objective.keeps_newest:
            console.print(
                f"{checkpoint.name} is the newest model: the target of "
                f"{type(model.objective).__name__} moves until the fit ends, so no validation "
                "number compares earlier models with it."
            )
    for file in files:
        console.print(f"  {file}")
    console.print(f"Next: vaekit sample --ckpt_path {checkpoint}")


_FOR_ERRORS = 10_000


def show_prior(model: Model, prior: Prior, data: DataModule) -> None:
    """Prints how the validation rows fare under another prior, beside the model's own."""
    console = Console(soft_wrap=True)
    if "val" not in data.splits:
        console.print("There are no validation rows to compare it on.")
        return
    own: Any = model.core
    under = log_priors(model, data, [own.prior, prior])
    gain, error = _mean_and_error(under[1] - under[0])
    columns = {"log p(z)": [_shown(*_mean_and_error(rows)) for rows in under]}
    if model.has_bound and model.bound_name == "elbo":
        # Of which log p(z) is a term; the same draws of z give the difference with less noise.
        before = bound(model, data, name="elbo")
        elbos = (before, before + under[1] - under[0])
        columns = {"ELBO": [_shown(*_mean_and_error(rows)) for rows in elbos], **columns}
    caption = "± is the standard error over rows."
    table = Table("validation, in nats", *columns, caption=caption)
    names = [
        f"the model's prior, {type(own.prior).__name__}",
        f"this prior, {type(prior).__name__}",
    ]
    for name, *values in zip(names, *columns.values(), strict=True):
        table.add_row(name, *values)
    console.print(table)
    if gain > 0:
        said = f"This prior is better than the model's by {_shown(gain, error)} nats a row."
    else:
        said = f"This prior is worse than the model's by {_shown(-gain, error)} nats a row: keep "
        said += "that."
    console.print(said)


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
