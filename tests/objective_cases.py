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
    "FactorVAE": [({"hidden": [16]}, {}), ({"hidden": 16}, {"latent_shape": [2, 3]})],
    "AdversarialAE": [
        ({"hidden": [16]}, {"posterior": "Delta"}),
        ({"hidden": [16], "saturating": True}, {}),
    ],
    "VAEGAN": [
        ({"discriminator": part("MLPEncoder", hidden=[16])}, {}),
        (
            {"gamma": 0.1, "discriminator": part("MLPEncoder", hidden=[16])},
            {"likelihood": "Gaussian", "prior": "LearnedNormal"},
        ),
    ],
    "PatchGAN": [
        ({"width": 4}, {}),
        (
            {"width": 4, "network": part("ConvEncoder", channels=[4], hidden=8)},
            {
                "likelihood": part("Laplace", scale="learned"),
                "decoder": part("ConvDecoder", channels=[4]),
            },
        ),
        ({"width": 4, "kl_weight": 0.0, "start": 2}, {"posterior": "Delta"}),
    ],
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
