"""Objectives: what a model minimises, one file per mechanism."""

from vaekit.objectives.autoencoder import AE
from vaekit.objectives.correlation import DIPVAE, BetaTCVAE
from vaekit.objectives.data_adversary import VAEGAN, PatchGAN
from vaekit.objectives.divergence import WAE, InfoVAE
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.geco import GECO
from vaekit.objectives.importance import IWAE
from vaekit.objectives.latent_adversary import AdversarialAE, FactorVAE

__all__ = [
    "AE",
    "DIPVAE",
    "ELBO",
    "GECO",
    "IWAE",
    "VAEGAN",
    "WAE",
    "AdversarialAE",
    "BetaTCVAE",
    "FactorVAE",
    "InfoVAE",
    "PatchGAN",
]
