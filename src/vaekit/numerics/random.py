"""Random numbers: those that are a function of a key, and the states of those that go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def seed_of(*key: object) -> int:
    """A seed that is a function of its key: keys that lie close give unrelated streams."""
    return random.Random(repr(key)).getrandbits(63)


def generator(*key: object) -> torch.Generator:
    """A generator on the CPU that is a function of its key."""
    return torch.Generator().manual_seed(seed_of(*key))


@contextmanager
def fixed_noise(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Random numbers from a seed; afterwards they go on as if nothing had been drawn."""
    kind = torch.device(device).type
    if kind == "mps":  # of which fork_rng does not know
        state = torch.mps.get_rng_state()
    with torch.random.fork_rng([device] if kind == "cuda" else []):
        # Not by torch.manual_seed, which seeds all devices, and takes two milliseconds for it.
        torch.default_generator.manual_seed(seed)
        if kind == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif kind == "mps":
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if kind == "mps":
                torch.mps.set_rng_state(state)


def states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators, of the CPU and of a device."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    return found


def other_states() -> dict[str, Any]:
    """The states of Python's and NumPy's generators, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    numpy = (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest)
    return {"python": random.getstate(), "numpy": numpy}


def restore(found: dict[str, Any], device: torch.device) -> None:
    """Lets random numbers go on from states."""
    torch.set_rng_state(found["cpu"])
    if "cuda" in found and device.type == "cuda":
        torch.cuda.set_rng_state(found["cuda"], device)
    if "mps" in found and device.type == "mps":
        torch.mps.set_rng_state(found["mps"])
    if "python" in found:
        random.setstate(found["python"])
        name, keys, *rest = found["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


# Noise of rows: a function of the row, whatever batch it is in

_STEP = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's, as int64
_DRAW = 2**32
"""The place of a draw's first number in its row's noise."""


def row_keys(seed: int, first: int, rows: int, device: torch.device | str = "cpu") -> Tensor:
    """Keys (rows,) of the noise of rows that lie one after the other, in int64."""
    place = torch.arange(first, first + rows, device=device)
    return _mixed(_mixed(place * _STEP) + seed)


def later_draws(keys: Tensor, draws: int) -> Tensor:
    """The keys with which the noise goes on after so many draws."""
    return keys + ((draws * _DRAW * _STEP + 2**63) % 2**64 - 2**63)


def row_uniform(keys: Tensor, samples: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uniform noise (samples, B, *shape) between 0 and 1, both excluded: each row's by its key.

    References:
        Fast Splittable Pseudorandom Number Generators (Steele, Lea and Flood, 2014), doi
        10.1145/2660193.2660195

    Example:
        >>> keys = row_keys(0, 0, 5)
        >>> alone = row_uniform(keys[2:3], 1, (4,), torch.float32)
        >>> bool((row_uniform(keys, 1, (4,), torch.float32)[:, 2:3] == alone).all())
        True
    """
    draws = torch.arange(samples, device=keys.device) * _DRAW
    place = draws[:, None] + torch.arange(prod(shape), device=keys.device)
    bits = _mixed(keys[:, None] + (place * _STEP)[:, None])  # (K, B, numbers)
    # As many bits as the type holds, at the middle of their intervals.
    held = 52 if dtype == torch.float64 else 23
    whole = (bits >> (64 - held)) & (2**held - 1)
    return ((whole.to(dtype) + 0.5) * 2.0**-held).reshape(samples, len(keys), *shape)


def row_normal(keys: Tensor, samples: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Standard normal noise (samples, B, *shape), each row's by its key."""
    kind = torch.promote_types(dtype, torch.float32)
    return torch.special.ndtri(row_uniform(keys, samples, shape, kind)).to(dtype)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's function of int64, whose multiplications wrap around."""
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    return (x >> by) & (2 ** (64 - by) - 1)


class RowByRow(TorchFunctionMode):
    """Lets torch's own random functions draw the noise of each row by its key.

    For distributions that no map from given noise is known for. It is slow: one call a row.

    Arguments:
        keys: Of the rows, (B,).
        samples: K, where random numbers have the shape (K, B, *); of those of another shape, the
            first dimension is the rows'. Where neither is, all rows share their noise.
    """

    def __init__(self, keys: Tensor, samples: int) -> None:
        super().__init__()
        self.keys, self.shape, self.calls = keys.tolist(), (samples, len(keys)), 0
        self.device = keys.device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and args:
            *_, size = (tuple(a) if isinstance(a, Sequence) else args for a in args)
            return self._drawn(size, lambda cut: func(cut(size), **kwargs))
        if func in _FUNCTIONS:
            like = torch.broadcast_tensors(*(a for a in args if isinstance(a, Tensor)))
            rest = [a for a in args if not isinstance(a, Tensor)]
            return self._drawn(
                tuple(like[0].shape), lambda cut: func(*map(cut, like), *rest, **kwargs)
            )
        if func in _METHODS:
            x = args[0]
            self._drawn(tuple(x.shape), lambda cut: func(cut(x), *args[1:], **kwargs))
            return x
        return func(*args, **kwargs)

    def _drawn(self, shape: tuple[int, ...], draw: Callable[[Any], Tensor]) -> Tensor:
        self.calls += 1
        dim = 1 if shape[:2] == self.shape else 0
        if len(shape) <= dim or shape[dim] != self.shape[1]:
            return draw(lambda whole: whole)
        rows = []
        for row, key in enumerate(self.keys):

            def cut(whole: Any, row: int = row) -> Any:
                if isinstance(whole, Tensor):
                    return whole.narrow(dim, row, 1)
                return (*whole[:dim], 1, *whole[dim + 1 :])

            with fixed_noise((key + self.calls * _STEP) % 2**63, self.device):
                rows.append(draw(cut))
        return torch.cat(rows, dim)


_FACTORIES = {torch.rand, torch.randn}
_METHODS = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_}
_FUNCTIONS = {
    torch.rand_like,
    torch.randn_like,
    torch.normal,
    torch.bernoulli,
    torch.multinomial,
    torch.poisson,
    torch._standard_gamma,
    torch._sample_dirichlet,
}
