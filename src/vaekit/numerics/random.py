"""Random numbers: those that are a function of a key, and the states of those that go on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
