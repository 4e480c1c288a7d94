"""Posteriors: heads from features to q(z|x), a file for each kind of latents."""

from vaekit.posteriors.normal import DiagonalNormal

__all__ = ["DiagonalNormal"]
