"""An objective's calls under torch.compile, each of them one region: core and objective."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from types import FunctionType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from vaekit.contracts.batch import Batch
from vaekit.contracts.schedule import Schedule
from vaekit.model.model import Model


def accepted(wanted: bool | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Arguments of torch.compile; None where nothing is to be compiled.

    Raises:
        ValueError: If torch.compile has no such argument, or one could name a program to run.
    """
    if wanted is None or wanted is False:
        return None
    given = {} if wanted is True else wanted
    known = inspect.signature(torch.compile).parameters.keys() - {"model", "disable"}
    if not isinstance(given, Mapping) or not given.keys() <= known:
        names = ", ".join(sorted(known))
        raise ValueError(
            f"Expected compile to be true, or arguments of torch.compile ({names}), but got "
            f"{wanted!r}."
        )
    options = given.get("options") or {}
    numbers = isinstance(options, Mapping) and all(
        isinstance(value, bool | int | float) for value in options.values()
    )
    if not numbers:
        raise ValueError(
            "Expected options of compile that are numbers or true or false, since others may name "
            f"programs that are run, but got {options!r}."
        )
    for name, choices in _CHOICES.items():
        if given.get(name) is not None and given[name] not in choices():
            raise ValueError(
                f"Expected a {name} of compile out of {', '.join(choices())} but got "
                f"{given[name]!r}."
            )
    return dict(given)


def _modes() -> list[str]:
    from torch._inductor import list_mode_options

    return list(list_mode_options())


_CHOICES: dict[str, Callable[[], list[str]]] = {
    "mode": _modes,
    "backend": lambda: torch.compiler.list_backends(exclude_tags=()),
}


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that torch.compile receives: one region, with the noise of what is not."""
    arguments = {"fullgraph": True, **given}
    if (arguments.get("backend") or "inductor") == "inductor":
        from torch._inductor import list_mode_options

        mode = arguments.pop("mode", None)
        options = list_mode_options(mode) if mode else {}
        # torch's own random numbers: a compiled model sees the noise that another sees.
        given_options = arguments.get("options") or {}
        arguments["options"] = {**options, "fallback_random": True, **given_options}
    return arguments


def _region(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


_numbers = count()


def _own_region() -> Callable[..., Any]:
    """`_region` with code of its own: what torch remembers of one model is of no other."""
    code = _region.__code__.replace(co_name=f"region_{next(_numbers)}")
    return FunctionType(code, globals())


class Compiled:
    """An objective's `forward` and `evaluate`, compiled when first called.

    Arguments:
        model: The model. Its modules stay as they are, and so do the keys of their weights.
        arguments: As `accepted` returns them.
    """

    def __init__(self, model: Model, arguments: Mapping[str, Any]) -> None:
        self.model, self.arguments = model, dict(arguments)
        self.look_for_schedules()
        self._calls: dict[str, Callable[..., Any]] = {}
        self._since: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calls": {}}  # which no copy can carry

    def look_for_schedules(self) -> None:
        """Notes the model's schedules, which are placed before each step."""
        self.schedules = list(_schedules(self.model))

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The terms of a training step."""
        if "terms" not in self._calls:
            rank_zero_info("Compiling the core and the objective: the first step takes its time.")
            self._since = time.monotonic()
        for schedule in self.schedules:
            schedule.place(step, self.model.device)
        return self._call("terms", self.model.objective, self.model.core, batch, step)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """What the objective reports of rows."""
        return self._call("evaluate", self.model.objective.evaluate, self.model.core, batch)

    def tell(self) -> None:
        """Says, once, how long the first step took."""
        if self._since is not None:
            took, self._since = time.monotonic() - self._since, None
            rank_zero_info(f"The first step took {took:.1f} s, with the compilation.")

    def _call(self, name: str, function: Callable[..., Any], *args: Any) -> dict[str, Tensor]:
        if name not in self._calls:
            self._calls[name] = torch.compile(_own_region(), **_arguments(self.arguments))
        try:
            found: dict[str, Tensor] = self._calls[name](function, *args)
            return found
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            with torch.no_grad():
                function(*args)  # an error of a part's own is told as it stands
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"torch.compile cannot compile this model whole: {first} Leave out compile, or "
                "give it fullgraph false (--model.compile.fullgraph false), which compiles it in "
                "pieces."
            ) from error


def _schedules(model: Model) -> Iterator[Schedule]:
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Schedule):
                yield value
