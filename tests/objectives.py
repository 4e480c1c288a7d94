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
    # IWAE below this line
    #
    # Divergences
    # BetaTCVAE, DIPVAE, InfoVAE, WAE below this line
    #
    # Adversaries
    # FactorVAE, AdversarialAE, VAEGAN, PatchGAN below this line
    #
    # Autoencoders
    "AE": [
        ({}, {"posterior": "Delta"}),
        ({"latent": 0.1, "decoder_l2": 1e-4}, {"posterior": "Delta"}),
        ({"latent": 0.1, "decoder_gradient": 0.1}, {"posterior": "Delta"}),
        (
            {"noise": 0.3, "drop": 0.2, "contractive": part("Linear", steps=10)},
            {"prior": "GaussianMixturePrior"},
        ),
    ],
}
"""Of each way: arguments of the objective, and those of `Model` around it. The first is tried in
the quick set."""
