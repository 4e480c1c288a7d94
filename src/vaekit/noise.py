"""Random numbers that are a function of a key, beside those that training goes on with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["fixed_noise", "generator", "seed_of"]


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
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if kind == "mps":
                torch.mps.set_rng_state(state)
