"""Priors: p(z), a file for each kind of latents."""

from vaekit.priors.bounded import DirichletPrior, GammaPrior
from vaekit.priors.discrete import UniformBernoulli, UniformCategorical
from vaekit.priors.fitted import FittedNormal, GaussianMixturePrior
from vaekit.priors.flows import FlowPrior
from vaekit.priors.manifolds import RiemannianNormalPrior, UniformSpherePrior, WrappedNormalPrior
from vaekit.priors.normal import LaplacePrior, LearnedNormal, NormalMixture, StandardNormal
from vaekit.priors.two_stage import TwoStagePrior
from vaekit.priors.vamp import VampPrior

__all__ = [
    "DirichletPrior",
    "FittedNormal",
    "FlowPrior",
    "GammaPrior",
    "GaussianMixturePrior",
    "LaplacePrior",
    "LearnedNormal",
    "NormalMixture",
    "RiemannianNormalPrior",
    "StandardNormal",
    "TwoStagePrior",
    "UniformBernoulli",
    "UniformCategorical",
    "UniformSpherePrior",
    "VampPrior",
    "WrappedNormalPrior",
]
