"""What objectives are tried with, by name."""

from __future__ import annotations

from typing import Any

__all__ = ["OBJECTIVES"]

Case = tuple[dict[str, Any], dict[str, Any]]


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


OBJECTIVES: dict[str, list[Case]] = {
    # The ELBO and its constraints
    "ELBO": [
        ({}, {}),
        ({"free_bits": part("Linear", steps=9, start=0.2)}, {}),
        ({"free_bits": 0.3, "free_bits_per": "level", "free_bits_over": "row"}, {}),
        ({"capacity": part("Linear", steps=9), "lagging": part("Linear", steps=9)}, {}),
    ],
    # GECO below this line
    "GECO": [({"target": 2.0}, {}), ({"target": -1.0, "samples": 3}, {})],
    #
    # Importance-weighted
    # IWAE below this line
    #
    # Divergences
    # BetaTCVAE, DIPVAE, InfoVAE, WAE below this line
    #
    # Adversaries
    # FactorVAE, AdversarialAE, VAEGAN, PatchGAN below this line
    #
    # Autoencoders
    # AE below this line
    #
}
"""Of each way: arguments of the objective, and those of `Model` around it. The first is tried in
the quick set."""
