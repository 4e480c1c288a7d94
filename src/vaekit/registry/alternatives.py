"""The parts that would fit, for the error about one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.likelihood import OutOfRange
from vaekit.contracts.prior import OtherSupport
from vaekit.contracts.support import of_one_kind
from vaekit.registry import specs


@contextmanager
def naming_alternatives() -> Iterator[None]:
    """Adds to the error for a part that does not fit those that do."""
    try:
        yield
    except ValueError as error:
        cause = error if isinstance(error, OutOfRange | OtherSupport) else error.__cause__
        if isinstance(cause, OutOfRange):
            what, fit = "Likelihoods for such data", _likelihoods_for(cause.data)
            mend = cause.mend
        elif isinstance(cause, OtherSupport):
            what, fit, mend = "Priors of that support", _priors_of(cause.support), ""
        else:
            raise
        kind = ValueError if error is cause else type(error)
        raise kind(
            f"{error} {what}: {', '.join(fit) or 'none'}. Choose one of them{mend}."
        ) from error


def _likelihoods_for(data: DataInfo) -> list[str]:
    def fits(likelihood: Any) -> bool:
        accepts = likelihood.accepts(data.event_shape) and likelihood.takes(data)
        return bool(accepts and likelihood.normalized)

    return [name for name, cls in specs.classes("likelihood").items() if fits(cls)]


def _priors_of(support: Any) -> list[str]:
    def fits(prior: Any) -> bool:  # with arguments that agree, such as a curvature
        return prior.support is None or of_one_kind(prior.support, support)

    return [name for name, cls in specs.classes("prior").items() if fits(cls)]
