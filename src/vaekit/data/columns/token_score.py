"""Whether whole numbers of sequences are tokens or a signal, by a score of held-out sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

_WEIGHTS = 4.0 ** np.arange(1, 8)
"""Weights of the frequencies of single tokens, in time steps, among the frequencies of pairs."""

_LAGS = 2
_LITTLE = 0.02  # nats per time step
_EVERY = 5  # every fifth sequence is held out
_MOST = 10**6  # time steps that are scored


@dataclass(frozen=True)
class TokenScore:
    """Mean log-probabilities of a held-out time step, in nats.

    Arguments:
        tokens: If the values are tokens without an order.
        signal: If they are the values of a signal, rounded to whole numbers.
        unordered: As signal, without the previous values.
    """

    tokens: float
    signal: float
    unordered: float

    @property
    def are_tokens(self) -> bool:
        """Whether tokens predict as well as a signal, or previous values predict nothing."""
        return self.tokens >= self.signal or self.signal - self.unordered < _LITTLE


def token_score(values: np.ndarray, lengths: np.ndarray) -> TokenScore:
    """Scores both readings of whole numbers on every fifth sequence; the others are fitted.

    The tokens are those of a Markov chain: a value is drawn by how often it follows the previous
    one, smoothed by how often it occurs. The weight of the latter is fitted by leaving out each
    time step. The signal is an autoregression on two previous values with Normal noise, integrated
    over the interval around each value. Both give probabilities of the multiples of the largest
    common step, such as 1, or 100 if all values are hundreds.

    Arguments:
        values: The time steps of all sequences, one sequence after the other, (S,). The first
            million is scored.
        lengths: The number of time steps of each sequence, (N,).
    """
    lengths = lengths[: max(2, int(np.searchsorted(lengths.cumsum(), _MOST)))]
    values = _multiples(values[: lengths.sum()])
    number = np.repeat(np.arange(len(lengths)), lengths)
    if len(lengths) == 1:  # its last fifth is held out
        held_out = np.arange(len(values)) >= len(values) * (_EVERY - 1) // _EVERY
    else:
        held_out = number % min(_EVERY, len(lengths)) == min(_EVERY, len(lengths)) - 1
    position = np.arange(len(values)) - np.repeat(lengths.cumsum() - lengths, lengths)
    numbers = values.astype(np.float64)
    return TokenScore(
        float(_of_tokens(values, position, held_out).mean()),
        float(_of_signal(numbers, position, held_out, _LAGS).mean()),
        float(_of_signal(numbers, position, held_out, 0).mean()),
    )


def _multiples(values: np.ndarray) -> np.ndarray:
    """Counts the largest common steps from the smallest value to each, (S,), from 0."""
    above = values.astype(np.uint64) - values.min().astype(np.uint64)  # exact: modulo 2^64
    return np.asarray(above // max(np.gcd.reduce(above), np.uint64(1)))


def _of_tokens(values: np.ndarray, position: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Log-probabilities of the held-out steps as tokens, (H,)."""
    tokens, token = np.unique(values, return_inverse=True)
    fitted = np.bincount(token[~held_out], minlength=len(tokens))
    observed = fitted > 0
    # Each other number within the span of all values has the same probability.
    unseen = max(1, int(values.max()) + 1 - int(observed.sum()))
    total = fitted.sum() + 0.5 * (observed.sum() + 1)
    single = np.where(observed, fitted + 0.5, 0.5 / unseen) / total
    before = np.where(position > 0, np.r_[0, token[:-1]], len(tokens))
    pairs, pair = np.unique(before * len(tokens) + token, return_inverse=True)
    of_pair = np.bincount(pair[~held_out], minlength=len(pairs))[pair]
    of_before = np.bincount(before[~held_out], minlength=len(tokens) + 1)[before]

    def score(weight: float, rows: np.ndarray, left_out: int = 0) -> np.ndarray:
        mass = of_pair[rows] - left_out + weight * single[token[rows]]
        return np.asarray(np.log(mass / (of_before[rows] - left_out + weight)))

    return score(max(_WEIGHTS, key=lambda w: score(w, ~held_out, 1).sum()), held_out)


def _of_signal(
    values: np.ndarray, position: np.ndarray, held_out: np.ndarray, most_lags: int
) -> np.ndarray:
    """Log-probabilities of the held-out steps as rounded values of a signal, (H,)."""
    scores = np.empty(len(values))
    for lags in range(most_lags + 1):
        rows = position == lags if lags < most_lags else position >= lags
        if not (rows & held_out).any():
            continue
        columns = [np.ones(len(values)), *(np.roll(values, lag) for lag in range(1, lags + 1))]
        inputs = np.stack(columns, 1)
        fitted = rows & ~held_out
        if fitted.sum() > 2 * inputs.shape[1]:
            weights = np.linalg.lstsq(inputs[fitted], values[fitted], rcond=None)[0]
        else:
            weights = np.r_[values[~held_out].mean(), np.zeros(lags)]
            fitted = ~held_out
        mean = inputs @ weights
        std = max(0.3, float((values - mean)[fitted].std()))
        low, high = (values - mean - 0.5) / std, (values - mean + 0.5) / std
        side = np.where(low > 0, -1.0, 1.0)  # the tail in which the difference is exact
        mass = np.abs(ndtr(side * high) - ndtr(side * low))
        scores[rows] = np.log(np.maximum(mass, 1e-300))[rows]
    return np.asarray(scores[held_out])
