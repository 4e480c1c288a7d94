"""The built-in schedules."""

from __future__ import annotations

from math import exp

from vaekit.contracts.schedule import Schedule


class Constant(Schedule):
    """The same value at every step."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, step: int) -> float:
        return self.value


class Step(Schedule):
    """`start` up to an optimizer step, and from there on `end`.

    Example:
        >>> [Step(at=3)(step) for step in (0, 2, 3, 9)]
        [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, at: int, start: float = 0.0, end: float = 1.0) -> None:
        if at < 0:
            raise ValueError(f"Expected a step of at least 0 but got at={at}.")
        self.at, self.start, self.end = at, start, end

    def __call__(self, step: int) -> float:
        return self.start if step < self.at else self.end


class _Ramp(Schedule):
    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0) -> None:
        if steps < 1:
            raise ValueError(f"Expected a schedule of at least one step but got steps={steps}.")
        self.steps, self.start, self.end = steps, start, end

    def _between(self, share: float) -> float:
        return self.start + (self.end - self.start) * share


class Linear(_Ramp):
    """From `start` to `end` in a straight line over `steps` optimizer steps, then `end`.

    Example:
        >>> [Linear(steps=4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    def __call__(self, step: int) -> float:
        return self._between(min(step / self.steps, 1.0))


class Sigmoid(_Ramp):
    """From `start` to `end` along a logistic curve over `steps` optimizer steps, then `end`.

    The curve is that of 12 (step / steps - 1/2), stretched to begin and end exactly.

    Example:
        >>> [round(Sigmoid(steps=4)(step), 3) for step in (0, 1, 2, 4, 9)]
        [0.0, 0.045, 0.5, 1.0, 1.0]
    """

    def __call__(self, step: int) -> float:
        def curve(share: float) -> float:
            return 1 / (1 + exp(-12 * (share - 0.5)))

        share = min(step / self.steps, 1.0)
        return self._between((curve(share) - curve(0.0)) / (curve(1.0) - curve(0.0)))


class Cyclical(_Ramp):
    """Cycles of `steps` optimizer steps: a straight line for the share `rise` of each, then `end`.

    References:
        Cyclical Annealing Schedule (Fu et al., 2019), https://arxiv.org/abs/1903.10145

    Example:
        >>> [Cyclical(steps=4)(step) for step in (0, 1, 2, 3, 4, 5)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """

    def __init__(
        self, steps: int, start: float = 0.0, end: float = 1.0, rise: float = 0.5
    ) -> None:
        super().__init__(steps, start, end)
        if not 0 < rise <= 1:
            raise ValueError(f"Expected rise to be in (0, 1] but got {rise}.")
        self.rise = rise

    def __call__(self, step: int) -> float:
        return self._between(min(step % self.steps / self.steps / self.rise, 1.0))

    def final(self) -> float:
        return self.end
