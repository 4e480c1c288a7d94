"""Likelihoods: p(x|z) from the decoder's output, a file for each kind of data."""

from vaekit.likelihoods.binary import Bernoulli, ContinuousBernoulli
from vaekit.likelihoods.bounded import Beta, LogNormal
from vaekit.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.discrete import Categorical, DiscretizedLogistic
from vaekit.likelihoods.mixed import Mixed
from vaekit.likelihoods.mixtures import DiscretizedLogisticMixture
from vaekit.likelihoods.real import Gaussian, Laplace, LogCosh, StudentT
from vaekit.likelihoods.scores import MSSSIM, FeatureSpace

__all__ = [
    "MSSSIM",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FeatureSpace",
    "Gaussian",
    "Laplace",
    "LogCosh",
    "LogNormal",
    "Mixed",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
