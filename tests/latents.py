"""What posteriors and priors are tried with, by name."""

from __future__ import annotations

from typing import Any

__all__ = ["LATENTS"]


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


LATENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DiagonalNormal": ({}, {}),
    "StandardNormal": ({}, {}),
    "VampPrior": ({"components": 10}, {}),
    # Normals and their like
    # Positive, on the simplex, discrete
    # On the sphere and in the ball
    # Flows
    # Hamiltonian
    # Fitted
}
"""The first element are arguments of the part, the second those of `Model` around it."""
