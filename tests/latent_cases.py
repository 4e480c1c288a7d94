"""What posteriors and priors are tried with, by name."""

from __future__ import annotations

from typing import Any

__all__ = ["LATENTS"]


def part(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


COOLING = part("Linear", steps=100, start=1.0, end=0.5)

LATENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DiagonalNormal": ({}, {}),
    "StandardNormal": ({}, {}),
    "VampPrior": ({"components": 10}, {}),
    # Normals and their like
    "FullNormal": ({}, {}),
    "LowRankNormal": ({"rank": 2}, {}),
    "LaplacePosterior": ({}, {}),
    "StudentTPosterior": ({}, {}),
    "Delta": ({}, {"objective": "AE"}),
    "LearnedNormal": ({}, {}),
    "NormalMixture": ({"components": 5}, {}),
    "LaplacePrior": ({"scale": 0.7}, {}),
    # Positive, on the simplex, discrete
    "GammaPosterior": ({}, {"prior": "GammaPrior"}),
    "GammaPrior": ({"concentration": 0.7, "rate": 2.0}, {"posterior": "GammaPosterior"}),
    "DirichletPosterior": ({}, {"prior": "DirichletPrior"}),
    "DirichletPrior": ({"concentration": 0.5}, {"posterior": "DirichletPosterior"}),
    "LogisticNormal": ({}, {"prior": "DirichletPrior"}),
    "RelaxedBernoulli": ({"temperature": COOLING}, {"prior": "UniformBernoulli"}),
    "UniformBernoulli": ({}, {"posterior": "RelaxedBernoulli"}),
    "RelaxedCategorical": ({"temperature": COOLING}, {"prior": "UniformCategorical"}),
    "UniformCategorical": ({}, {"posterior": "RelaxedCategorical"}),
    # On the sphere and in the ball
    "VonMisesFisher": ({}, {"prior": "UniformSphere"}),
    "UniformSphere": ({}, {"posterior": "VonMisesFisher"}),
    "WrappedNormal": ({}, {"prior": "WrappedNormalPrior"}),
    "WrappedNormalPrior": ({}, {"posterior": "WrappedNormal"}),
    "RiemannianNormal": (
        {"curvature": 0.5},
        {"prior": part("RiemannianNormalPrior", curvature=0.5)},
    ),
    "RiemannianNormalPrior": (
        {"curvature": 2.0, "scale": 0.7},
        {"posterior": part("RiemannianNormal", curvature=2.0)},
    ),
    # Flows
    "PlanarFlow": ({"transforms": 3}, {}),
    "RadialFlow": ({"transforms": 3}, {}),
    "SylvesterFlow": ({"transforms": 2}, {}),
    "IAF": ({"transforms": 2, "hidden": [16]}, {}),
    "MAF": ({"transforms": 2, "hidden": [16]}, {}),
    "RealNVP": ({"transforms": 2, "hidden": [16]}, {}),
    "SplineFlow": ({"transforms": 1, "hidden": [8], "bins": 2}, {}),
    "FlowPrior": ({"transforms": 2, "hidden": [16]}, {}),
    # Hamiltonian
    "Hamiltonian": ({"steps": 2}, {}),
    "RiemannianHamiltonian": ({"centroids": 5, "steps": 1, "iterations": 3}, {}),
    # Fitted
    "FittedNormal": ({}, {}),
    "GaussianMixturePrior": ({"components": 3}, {}),
    "TwoStagePrior": ({"hidden": [32], "draws": 16, "epochs": 60}, {}),
}
"""The first element are arguments of the part, the second those of `Model` around it."""
