"""Likelihoods: p(x|z) from the decoder's output, a file for each kind of data."""

from vaekit.likelihoods.base import FromBaseline
from vaekit.likelihoods.binary import Bernoulli, ContinuousBernoulli
from vaekit.likelihoods.bounded import Beta, LogNormal
from vaekit.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.discrete import Categorical, DiscretizedLogistic
from vaekit.likelihoods.logistic_mixture import DiscretizedLogisticMixture
from vaekit.likelihoods.mixed import Mixed
from vaekit.likelihoods.perceptual import MSSSIM, FeatureSpace
from vaekit.likelihoods.real import Gaussian, Laplace, LogCosh, StudentT

__all__ = [
    "MSSSIM",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FeatureSpace",
    "FromBaseline",
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
