"""Distributions that torch.distributions lacks, and functions of distributions."""

from vaekit.distributions.base import (
    Joint,
    Normal,
    normal,
    rate,
    sample_and_log_prob,
    soft_clamp,
    transport,
)
from vaekit.distributions.concrete import Bits, ConcreteBits, ConcreteOneHot, OneHot
from vaekit.distributions.factors import factor_rates, marginals
from vaekit.distributions.manifolds import (
    Ball,
    RiemannianNormal,
    Sphere,
    UniformSphere,
    VonMisesFisher,
    WrappedNormal,
)
from vaekit.distributions.mixture import Mixture
from vaekit.distributions.quadrature import Angle, Distance, RadialDensity

__all__ = [
    "Angle",
    "Ball",
    "Bits",
    "ConcreteBits",
    "ConcreteOneHot",
    "Distance",
    "Joint",
    "Mixture",
    "Normal",
    "OneHot",
    "RadialDensity",
    "RiemannianNormal",
    "Sphere",
    "UniformSphere",
    "VonMisesFisher",
    "WrappedNormal",
    "factor_rates",
    "marginals",
    "normal",
    "rate",
    "sample_and_log_prob",
    "soft_clamp",
    "transport",
]
