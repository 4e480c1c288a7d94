"""Priors: p(z), a file for each kind of latents."""

from vaekit.priors.normal import StandardNormal
from vaekit.priors.vamp import VampPrior

__all__ = ["StandardNormal", "VampPrior"]
