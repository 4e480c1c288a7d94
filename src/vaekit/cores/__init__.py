"""Cores: the computation from x through z to log p(x|z)."""

from vaekit.cores.vae import VAE

__all__ = ["VAE"]
