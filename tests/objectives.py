"""What objectives are tried with, by name."""

from __future__ import annotations

from typing import Any

__all__ = ["OBJECTIVES"]

Case = tuple[dict[str, Any], dict[str, Any]]


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


OBJECTIVES: dict[str, list[Case]] = {
    # The ELBO and its constraints
    "ELBO": [({}, {})],
    # GECO below this line
    #
    # Importance-weighted
    "IWAE": [
        ({}, {}),
        ({"groups": 2, "gradient": "dreg"}, {}),
        ({"groups": 2, "samples": 3, "partial": True}, {"posterior": part("RealNVP", hidden=[8])}),
        ({"gradient": "stl", "elbo": part("Linear", steps=10)}, {"prior": "VampPrior"}),
        ({"groups": 2, "gradient": "dreg", "partial": True, "elbo": 0.2, "alpha": 0.5}, {}),
        ({"alpha": -1.0}, {}),
    ],
    # Divergences
    # BetaTCVAE, DIPVAE, InfoVAE, WAE below this line
    "BetaTCVAE": [({}, {}), ({"estimator": "mws"}, {})],
    "DIPVAE": [({}, {}), ({"variant": "I"}, {})],
    "InfoVAE": [({}, {}), ({"kernel": "rbf"}, {"prior": "LearnedNormal"})],
    "WAE": [
        ({}, {"posterior": "Delta"}),
        ({"penalty": "sliced"}, {}),
        ({"kernel": "rbf"}, {"prior": "LearnedNormal"}),
    ],
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
