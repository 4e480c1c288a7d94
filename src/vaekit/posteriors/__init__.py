"""Posteriors: heads from features to q(z|x), a file for each kind of latents."""

from vaekit.posteriors.bounded import DirichletPosterior, GammaPosterior, LogisticNormal
from vaekit.posteriors.delta import Delta
from vaekit.posteriors.discrete import RelaxedBernoulli, RelaxedCategorical
from vaekit.posteriors.flows import IAF, MAF, RealNVP, SplineFlow
from vaekit.posteriors.hamiltonian import Hamiltonian, RiemannianHamiltonian
from vaekit.posteriors.manifolds import (
    RiemannianNormalPosterior,
    VonMisesFisherPosterior,
    WrappedNormalPosterior,
)
from vaekit.posteriors.normal import (
    DiagonalNormal,
    FullNormal,
    LaplacePosterior,
    LowRankNormal,
    StudentTPosterior,
)
from vaekit.posteriors.planar import PlanarFlow, RadialFlow, SylvesterFlow

__all__ = [
    "IAF",
    "MAF",
    "Delta",
    "DiagonalNormal",
    "DirichletPosterior",
    "FullNormal",
    "GammaPosterior",
    "Hamiltonian",
    "LaplacePosterior",
    "LogisticNormal",
    "LowRankNormal",
    "PlanarFlow",
    "RadialFlow",
    "RealNVP",
    "RelaxedBernoulli",
    "RelaxedCategorical",
    "RiemannianHamiltonian",
    "RiemannianNormalPosterior",
    "SplineFlow",
    "StudentTPosterior",
    "SylvesterFlow",
    "VonMisesFisherPosterior",
    "WrappedNormalPosterior",
]
