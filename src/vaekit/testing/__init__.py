"""The laws that parts obey, for the tests of whoever writes one.

    from vaekit.testing import check_encoder

    def test_the_encoder_obeys_the_laws():
        check_encoder(SineEncoder)

Each `check_*` takes a part's name, its class, or an instance of it, checks every law of its kind
and raises a `LawError` that names those that it breaks; it returns why others do not concern it.
The caller's random numbers are left as they were. `laws(kind)` gives the laws themselves, one
function each.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from vaekit.contracts.batch import DataInfo
from vaekit.model.model import Model
from vaekit.numerics.random import fixed_noise
from vaekit.registry.plugins import RegistryError, blame
from vaekit.testing.data import OF_DATA
from vaekit.testing.densities import OF_DENSITIES, OF_POSTERIORS, OF_PRIORS
from vaekit.testing.kinds import (
    OF_CORES,
    OF_LIKELIHOODS,
    OF_OBJECTIVES,
    rates_agree_with_the_draws,
    stopping_leaves_the_value_and_the_path,
)
from vaekit.testing.models import FIRST, OF_ALL, OF_PARTS
from vaekit.testing.priors import OF_FITTED
from vaekit.testing.ranks import OF_RANKS
from vaekit.testing.schedules import OF_SCHEDULES
from vaekit.testing.subject import Choice, Excused, Law, Made, Subject, UsageError

__all__ = [
    "LawError",
    "Made",
    "Subject",
    "UsageError",
    "check",
    "check_data",
    "check_decoder",
    "check_encoder",
    "check_likelihood",
    "check_model",
    "check_objective",
    "check_posterior",
    "check_prior",
    "check_schedule",
    "laws",
]

_LAWS: dict[str, tuple[Law, ...]] = {
    "encoder": (*FIRST, *OF_PARTS, *OF_RANKS),
    "posterior": (
        *FIRST,
        *OF_PARTS,
        *OF_POSTERIORS,
        stopping_leaves_the_value_and_the_path,
        *OF_RANKS,
    ),
    "prior": (*FIRST, *OF_PARTS, *OF_PRIORS, *OF_FITTED, *OF_RANKS),
    "decoder": (*FIRST, *OF_PARTS, *OF_RANKS),
    "likelihood": (*FIRST, *OF_PARTS, *OF_LIKELIHOODS, *OF_DENSITIES, *OF_RANKS),
    "objective": (*FIRST, *OF_ALL, *OF_OBJECTIVES, *OF_RANKS),
    "core": (*FIRST, *OF_PARTS, *OF_CORES, *OF_RANKS),
    "model": (*FIRST, *OF_PARTS, rates_agree_with_the_draws, *OF_RANKS),
    "schedule": OF_SCHEDULES,
    "data": OF_DATA,
}


class LawError(AssertionError):
    """A part breaks laws of its kind.

    Attributes:
        laws: The names of those that it breaks.
    """

    def __init__(self, who: str, broken: Mapping[str, str]) -> None:
        self.laws = tuple(broken)
        count = "a law" if len(broken) == 1 else f"{len(broken)} laws"
        told = [f"{name}: {text}" for name, text in broken.items()]
        super().__init__("\n  ".join([f"{who} breaks {count} of its kind:", *told]))


def laws(kind: str) -> tuple[Law, ...]:
    """The laws of a kind of part, in the order in which they are checked.

    Each takes a `Subject`, or `Made` of a schedule or a data module, and raises an error where
    that breaks it.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in _LAWS:
        raise ValueError(f"Expected a kind out of {', '.join(_LAWS)} but got {kind!r}.")
    return _LAWS[kind]


def check(
    subject: Subject | Made, without: Collection[str] = (), only: Iterable[Law] = ()
) -> dict[str, str]:
    """Checks the laws of a part.

    Arguments:
        without: Names of laws that are left out.
        only: The laws that are checked, in the place of all of its kind.

    Returns:
        The names of laws that do not concern it, and why.

    Raises:
        LawError: If it breaks any of them.
        ValueError: If `without` names no law of its kind, or it cannot be checked as it was given.
    """
    names = [law.__name__ for law in laws(subject.kind)]
    if unknown := set(without) - set(names):
        raise ValueError(
            f"Expected laws of a {subject.kind} ({', '.join(names)}) but got "
            f"{', '.join(sorted(unknown))}."
        )
    broken: dict[str, str] = {}
    excused: dict[str, str] = {}
    cause: Exception | None = None
    with subject.known():
        for law in tuple(only) or laws(subject.kind):
            if law.__name__ in without:
                continue
            error = _error_of(law, subject)
            if isinstance(error, Excused):
                excused[law.__name__] = str(error)
            elif error is not None:
                broken[law.__name__] = _told(error)
                cause = cause or error
                if law in FIRST:
                    break  # what comes after could not be checked
    if broken:
        who = subject.part if isinstance(subject.part, str) else subject.cls.__name__
        raise LawError(f"The {subject.kind} {who}", broken) from cause
    return excused


def _error_of(law: Law, subject: Subject | Made) -> Exception | None:
    """What a law raises."""
    with fixed_noise(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            law(subject)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever the part does
            return error
    return None


def _told(error: Exception) -> str:
    if isinstance(error, AssertionError | RegistryError):
        return str(error)
    return blame(error) or f"{type(error).__name__}: {error}"


class _Check(Protocol):
    def __call__(
        self,
        part: Choice,
        init_args: Mapping[str, Any] | None = None,
        data: DataInfo | None = None,
        without: Collection[str] = (),
        **around: Any,
    ) -> dict[str, str]: ...


def _checker(kind: str) -> _Check:
    def check_part(
        part: Choice,
        init_args: Mapping[str, Any] | None = None,
        data: DataInfo | None = None,
        without: Collection[str] = (),
        **around: Any,
    ) -> dict[str, str]:
        return check(Subject(kind, part, init_args or {}, data, around), without)

    article = "an" if kind[0] in "eo" else "a"
    check_part.__name__ = check_part.__qualname__ = f"check_{kind}"
    check_part.__doc__ = f"""Checks every law of {article} {kind}.

    Arguments:
        part: Its name, its class, or an instance (which needs `data`).
        init_args: Arguments of its own, where it is no instance.
        data: What is known of the rows that it is tried on; by default small binary rows, an image
            or a plain one, as it accepts them. A likelihood for other values needs it; with rows
            of one element or two its sum or integral is checked too.
        without: Names of laws that it is excused from.
        around: Arguments of `Model`: the parts around it, where it needs others than the usual, or
            another `latent_shape`, with which no density is integrated.

    Returns:
        The names of laws that do not concern it, and why.

    Raises:
        LawError: If it breaks a law.
        ValueError: If it cannot be checked as it was given.
    """
    return check_part


check_encoder = _checker("encoder")
check_posterior = _checker("posterior")
check_prior = _checker("prior")
check_decoder = _checker("decoder")
check_likelihood = _checker("likelihood")
check_objective = _checker("objective")
_check_core = _checker("core")


def check_model(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> dict[str, str]:
    """Checks every law of a core; or of a whole `Model`, on rows of its kind, with no further
    argument but `without`. As `check_encoder`."""
    if not isinstance(part, Model):
        return _check_core(part, init_args, data, without, **around)
    if init_args or data or around:
        raise UsageError("Expected nothing but laws to leave out, beside a whole model.")
    return check(Subject("model", part, data=part.info), without)


def check_schedule(
    part: Any, init_args: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> dict[str, str]:
    """Checks every law of a schedule: its name or its class with `init_args`, or an instance.

    Returns:
        The names of laws that do not concern it, and why.

    Raises:
        LawError: If it breaks a law.
    """
    return check(Made("schedule", part, init_args or {}), without)


def check_data(
    part: Any, init_args: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> dict[str, str]:
    """Checks every law of a data module; as `check_schedule`."""
    return check(Made("data", part, init_args or {}), without)
