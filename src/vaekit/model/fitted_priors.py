"""Priors that are fitted to a trained model's codes: made, written beside it, and read again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import FittedPrior, Prior
from vaekit.contracts.support import same_support
from vaekit.data.base import DataModule
from vaekit.distributions.base import sample_and_log_prob
from vaekit.model.checkpoints import fill, missing
from vaekit.model.model import Model
from vaekit.numerics.precision import exact
from vaekit.registry import plugins, specs
from vaekit.storage.files import CheckpointError, read, write

_AFTER = ("prior.", "decoder.", "likelihood.")
"""Parts of a core that codes do not depend on, where the posterior does not use log p(x, z)."""


def fit_prior(model: Model, data: DataModule, prior: str | Mapping[str, Any]) -> FittedPrior:
    """A prior that is fitted to one draw of q(z|x) for each training row.

    The model stays as it is: `model.use_prior` puts the prior in the place of its own. Random
    numbers are torch's.

    Arguments:
        model: A trained model.
        data: Rows of the kind that it was made for.
        prior: The name of a prior that can be fitted, or its spec.

    Raises:
        RegistryError: If there is no such prior, it cannot be fitted, or it refuses an argument.
        ValueError: If its latents lie elsewhere than the posterior's, rows are too few, or codes
            depend on the prior.

    Example:
        >>> from vaekit import Model, data
        >>> digits = data.Digits()
        >>> model = Model(digits, latent_shape=2)
        >>> prior = fit_prior(model, digits, "FittedNormal")
        >>> before = model.use_prior(prior)
        >>> model.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """
    if not prior:
        raise ValueError(f"Expected a prior to fit but got none. {_choice(model)}")
    cls = plugins.load(plugins.find("prior", specs.as_spec(prior)["class_path"]))
    if not issubclass(cls, FittedPrior):
        raise plugins.RegistryError(
            f"Expected a prior that can be fitted after training, but {cls.__name__} is trained "
            f"with the model. {_choice(model)}"
        )
    moving = _using_log_joint(model)
    if moving:
        raise ValueError(
            "Expected a posterior whose codes do not depend on the prior, but the draws of "
            f"{moving} move on log p(x, z): with a prior that is fitted to them they would be "
            "others. Train the model with that prior, or with another posterior."
        )
    made: FittedPrior = model.new_prior(prior)
    model.check_data(data.info)
    z, contexts = zip(*_draws(model, data, "train"), strict=True)
    made.fit(torch.cat([of[0] for of in z]), None if contexts[0] is None else torch.cat(contexts))
    return made


def _using_log_joint(model: Model) -> str | None:
    """The name of a posterior whose q depends on log p(x, z), if there is one."""
    parts = [m for m in model.core.modules() if isinstance(m, Posterior) and m.uses_log_joint]
    return type(parts[0]).__name__ if parts else None


def _choice(model: Model) -> str:
    """The priors that can be fitted to a model's codes, in words."""
    own = getattr(getattr(model.core, "posterior", None), "support", None)
    fitted = {n: c for n, c in specs.classes("prior").items() if issubclass(c, FittedPrior)}
    names = ", ".join(name for name, c in fitted.items() if same_support(c.support, own))
    return f"For latents of this model there are: {names or 'none'}."


def _draws(
    model: Model, data: DataModule, split: str, samples: int = 1
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields draws of q(z|x) for each row, (K, B, *Z), and the prior's context, per batch."""
    for rows in data.rows(split, batch_size=data.batch_size):
        with model.using():
            batch = rows.to(model.device)
            q = model.core.infer(batch.x, batch.context, batch.mask)
            keys = None if split == "train" else batch.keyed().keys
            z, _ = sample_and_log_prob(q, samples, keys=keys)
        yield z, model.core.prior_context(batch.context)


def log_priors(
    model: Model, data: DataModule, priors: Sequence[Prior], samples: int = 16
) -> Tensor:
    """log p(z) of the validation rows' codes under P priors, (P, n) in nats.

    Arguments:
        samples: Of how many draws of q(z|x) it is the mean, the same for every prior.
    """
    found = []
    for z, context in _draws(model, data, "val", samples):
        with model.using():
            rows = [p(context, model.core.infer).log_prob(z).mean(0) for p in priors]
        found.append(torch.stack(rows).to(exact(model.device)))
    return torch.cat(found, 1)


# Files


def write_prior(prior: FittedPrior, model: Model, path: str | Path, **told: Any) -> None:
    """Writes a fitted prior, with a checksum: plain data and tensors alone.

    Arguments:
        model: The model to whose codes it was fitted.
        told: What else there is to say of the fit, as plain data.

    Raises:
        ValueError: If the prior was given as a module, or the file cannot be written.
    """
    if prior.spec is None:
        raise ValueError("Expected a prior that fit_prior made, of which the file holds a spec.")
    held = {
        "prior": prior.spec,
        "latent_shape": list(model.latent_shape),
        "context_features": model.info.context_features,
        "codes": _mark(model),
        "packages": specs.provenance({"prior": prior.spec}),
        **told,
    }
    state = {name: value.cpu() for name, value in prior.state_dict().items()}
    write({"vaekit": held, "state_dict": state}, path)


_FORM = {"prior": Mapping, "latent_shape": list, "context_features": int, "codes": str}


_FORM |= {"packages": Mapping}


def load_prior(path: str | Path, model: Model) -> Prior:
    """The prior of a file that `vaekit fit-prior` or `write_prior` wrote, for `model.use_prior`.

    Only tensors and plain data are read.

    Raises:
        ValueError: If the file is none of these, is damaged, or was fitted to the codes of another
            model.
        RegistryError: If the prior is not installed; the package that it came from is named.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from vaekit import Model, data
        >>> digits = data.Digits()
        >>> model = Model(digits, latent_shape=2)
        >>> with TemporaryDirectory() as folder:
        ...     write_prior(fit_prior(model, digits, "FittedNormal"), model, f"{folder}/p.ckpt")
        ...     prior = load_prior(f"{folder}/p.ckpt", model)
        >>> type(model.use_prior(prior)).__name__, type(model.core.prior).__name__
        ('StandardNormal', 'FittedNormal')
    """
    held, state = _read(path)
    for name, own in (
        ("latent_shape", list(model.latent_shape)),
        ("context_features", model.info.context_features),
    ):
        if held[name] != own:
            raise CheckpointError(
                f"Expected a prior of {name} {own}, as the model's, but that of {path} has "
                f"{held[name]}. {_MEND}"
            )
    if held["codes"] != _mark(model):
        raise CheckpointError(
            f"Expected a prior that was fitted to this model's codes, but {path} was fitted to "
            f"those of {held.get('checkpoint', 'another')}. {_MEND}"
        )
    try:
        prior: Prior = model.new_prior(held["prior"])
    except plugins.RegistryError as error:
        raise plugins.RegistryError(missing(error, held["packages"])) from error
    try:
        fill(prior, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return prior


_MEND = "Fit one to this model: vaekit fit-prior --ckpt_path ... --prior ..."


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of its prior, and the prior's state."""
    try:
        found = read(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Expected a prior that vaekit fit-prior wrote but there is no file {path}."
        ) from error
    except CheckpointError as error:
        inner = error.__cause__ if isinstance(error.__cause__, CheckpointError) else error
        said = str(inner).replace("a checkpoint", "a prior that vaekit fit-prior wrote")
        raise CheckpointError(f"{path}: {said}") from error
    held, state = found.get("vaekit"), found.get("state_dict")
    if isinstance(held, Mapping) and "model" in held:
        raise CheckpointError(
            f"Expected a prior that vaekit fit-prior wrote but {path} is a checkpoint of a whole "
            "model: priors lie in the folder fit-prior beside it."
        )
    whole = isinstance(held, Mapping) and all(
        isinstance(held.get(name), kind) for name, kind in _FORM.items()
    )
    if not (whole and isinstance(state, Mapping)):
        raise CheckpointError(
            f"Expected a prior that vaekit fit-prior wrote but {path} holds something else."
        )
    return dict(held), dict(state)  # type: ignore[arg-type]


def _mark(model: Model) -> str:
    """A number that is another where the model's codes are."""
    digest, after = hashlib.sha256(), () if _using_log_joint(model) else _AFTER
    for name, value in sorted(model.core.state_dict().items()):
        if not name.startswith(after):
            digest.update(name.encode())
            digest.update(value.detach().cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def using_prior(model: Model, path: str | Path | None) -> Iterator[None]:
    """Puts a file's prior in the place of the model's own, for the time of a block."""
    if path is None:
        yield
        return
    before = model.use_prior(load_prior(path, model))
    try:
        yield
    finally:
        model.use_prior(before)
