"""The laws that parts obey, for the tests of whoever writes one.

    from vaekit.testing import check_encoder

    def test_the_encoder_obeys_the_laws():
        check_encoder(SineEncoder)

Each `check_*` takes a part's name, its class, or an instance of it, looks at every law of its kind
and raises a `LawError` that names those that it breaks. Random numbers of the caller are left as
they were. `laws(kind)` gives the laws themselves, one function each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from vaekit.batch import DataInfo
from vaekit.model import Model
from vaekit.noise import fixed_noise
from vaekit.plugins import blame
from vaekit.testing import densities, kinds, models, others
from vaekit.testing.others import Made
from vaekit.testing.ranks import two_ranks_end_with_one_model
from vaekit.testing.subject import Choice, Excused, Subject

__all__ = [
    "LawError",
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

Law = Callable[[Any], None]

_RANKS = (two_ranks_end_with_one_model,)
_LAWS: dict[str, tuple[Law, ...]] = {
    "encoder": (*models.EVERY, *_RANKS),
    "posterior": (*models.EVERY, *densities.POSTERIOR, *_RANKS),
    "prior": (*models.EVERY, *densities.PRIOR, *_RANKS),
    "decoder": (*models.EVERY, *_RANKS),
    "likelihood": (*models.EVERY, *kinds.LIKELIHOOD, *densities.DENSITY, *_RANKS),
    "objective": (*models.OBJECTIVE, *kinds.BOUND, *_RANKS),
    "core": (*models.EVERY, *kinds.CORE, *_RANKS),
    "model": (*models.EVERY, kinds.rates_agree_with_the_draws, *_RANKS),
    "schedule": others.SCHEDULE,
    "data": others.DATA,
}


class LawError(AssertionError):
    """A part breaks laws of its kind.

    Attributes:
        laws: The names of those that it breaks.
    """

    def __init__(self, who: str, broken: Mapping[str, str]) -> None:
        self.laws = tuple(broken)
        count = "a law" if len(broken) == 1 else f"{len(broken)} laws"
        lines = [f"{who} breaks {count} of its kind:"]
        super().__init__("\n  ".join([*lines, *(f"{n}: {told}" for n, told in broken.items())]))


def laws(kind: str) -> tuple[Law, ...]:
    """The laws of a kind of part, in the order in which they are looked at.

    Each takes what `check` looks at, and raises an AssertionError, or the part's own error, where
    the part breaks it.
    """
    first = models.FIRST if kind not in ("schedule", "data") else ()
    return (*first, *_LAWS[kind])


def check(
    subject: Subject | Made, without: Collection[str] = (), only: Iterable[Law] = ()
) -> None:
    """Looks at the laws of a part.

    Arguments:
        without: Names of laws that are not looked at.
        only: The laws that are, in the place of all of its kind.

    Raises:
        LawError: If it breaks any of them.
        ValueError: If `without` names no law of its kind.
    """
    chosen = tuple(only) or laws(subject.kind)
    names = [law.__name__ for law in laws(subject.kind)]
    if unknown := set(without) - set(names):
        raise ValueError(
            f"Expected laws of a {subject.kind} ({', '.join(names)}) but got "
            f"{', '.join(sorted(unknown))}."
        )
    broken: dict[str, str] = {}
    with subject.known() if isinstance(subject, Subject) else nullcontext():
        for law in chosen:
            if law.__name__ in without:
                continue
            if told := _told(law, subject):
                broken[law.__name__] = told
                if law in models.FIRST:
                    break  # what comes after could not be looked at
    if broken:
        raise LawError(f"The {subject.kind} {_name(subject)}", broken)


def _told(law: Law, subject: Any) -> str:
    """How a part breaks a law; nothing where it does not."""
    with fixed_noise(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            law(subject)
        except Excused:
            return ""
        except AssertionError as error:
            return str(error) or "an assertion failed"
        except Exception as error:  # noqa: BLE001 - of whatever the part does
            return blame(error) or f"{type(error).__name__}: {error}"
    return ""


def _name(subject: Subject | Made) -> str:
    if isinstance(subject.part, str):
        return subject.part
    return subject.part.__name__ if isinstance(subject.part, type) else type(subject.part).__name__


def _check_part(
    kind: str,
    part: Choice,
    init_args: Mapping[str, Any] | None,
    data: DataInfo | None,
    without: Collection[str],
    around: Mapping[str, Any],
) -> None:
    check(Subject(kind, part, init_args or {}, data, around), without)


def check_encoder(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of an encoder. The arguments are those of each of these functions.

    Arguments:
        part: Its name, its class, or an instance (which needs `data`).
        init_args: Arguments of its own, where it is no instance.
        data: What is known of the rows that it is tried on; by default small binary rows, an
            image and a plain one, as far as it accepts them.
        without: Names of laws that it is excused from.
        around: Arguments of `Model`: the parts around it, where it needs others than the usual,
            or another `latent_shape`.

    Raises:
        LawError: If it breaks a law.
    """
    _check_part("encoder", part, init_args, data, without, around)


def check_posterior(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of a posterior; as `check_encoder`."""
    _check_part("posterior", part, init_args, data, without, around)


def check_prior(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of a prior; as `check_encoder`."""
    _check_part("prior", part, init_args, data, without, around)


def check_decoder(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of a decoder; as `check_encoder`."""
    _check_part("decoder", part, init_args, data, without, around)


def check_likelihood(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of a likelihood; as `check_encoder`.

    One for other values than 0 and 1 needs `data`; with rows of one element, or of two, its sum
    or integral is looked at too.
    """
    _check_part("likelihood", part, init_args, data, without, around)


def check_objective(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of an objective; as `check_encoder`."""
    _check_part("objective", part, init_args, data, without, around)


def check_model(
    part: Choice,
    init_args: Mapping[str, Any] | None = None,
    data: DataInfo | None = None,
    without: Collection[str] = (),
    **around: Any,
) -> None:
    """Looks at every law of a core, or of a whole `Model`, on rows of its kind."""
    if isinstance(part, Model):
        check(Subject("model", part, data=part.info), without)
    else:
        _check_part("core", part, init_args, data, without, around)


def check_schedule(
    part: Choice, init_args: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> None:
    """Looks at every law of a schedule: its name or its class with `init_args`, or an instance.

    Raises:
        LawError: If it breaks a law.
    """
    check(Made("schedule", part, dict(init_args or {})), without)


def check_data(
    part: Choice, init_args: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> None:
    """Looks at every law of a data module; as `check_schedule`."""
    check(Made("data", part, dict(init_args or {})), without)
