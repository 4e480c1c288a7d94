"""The commands, for the help, the command line and README."""

from __future__ import annotations

COMMANDS = {
    "fit": "train a model; bare, a VAE on handwritten digits",
    "validate": "the bound on the validation rows",
    "test": "the bound on the test rows",
    "predict": "bounds, latents and reconstructions of rows, to predictions.npz",
    "sample": "rows from the prior, to samples.png, samples.npz and the form of the data",
    "reconstruct": "held-out rows and their reconstructions, to reconstructions.png",
    "encode": "what stands for q(z|x) of rows, its mean by default, to codes.npz and latent.png",
    "fit-prior": "fit a prior to a trained model's codes, to a file that sample and test read",
    "new-plugin": "write a package with a part of your own and its test into a new folder",
    "plugins": "list the plugins that are installed; --check imports them",
    "doctor": "what is installed and whether it works, for a report of a fault",
}

ASIDE = {"new-plugin", "plugins", "doctor"}
"""Those that take no options and look at no model."""
