"""The prior that is a second VAE, fitted to a trained model's codes."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from vaekit.contracts.part import Infer
from vaekit.distributions.base import Normal, normal, soft_clamp
from vaekit.networks.blocks import mlp, widths
from vaekit.priors.fitted import FittedNormal
from vaekit.priors.gradient_fit import fit_by_gradient


class TwoStagePrior(FittedNormal):
    r"""A second VAE, of the codes; until it is fitted, the standard Normal.

    .. math:: z = \bar z + L y, \qquad p(y) = \int \mathcal{N}(u; 0, I) \,
        \mathcal{N}(y; \mu(u), \gamma^2 I) \, du

    L is the Cholesky factor of the codes' covariance, so that the second VAE has to learn no more
    than how they differ from a Normal. There are as many u as z, and \gamma is learned. Draws are
    ancestral. log p(z) is estimated by importance sampling, with new draws each time:

    .. math:: \log p(y) \approx \log \frac1S \sum_{s=1}^S \frac{p(u_s) \, p(y|u_s)}{q(u_s|y)},
        \qquad u_s \sim q(u|y)

    In the mean that is a lower bound of log p(z), and an ELBO with it stays one of log p(x).

    Arguments:
        hidden: Widths of the hidden layers of both networks; a number is one layer.
        draws: S. With more the bound is tighter, and takes longer.
        epochs: How often the fit goes through the codes, at most.
        lr: Its learning rate.
        jitter: What is added to the variance of each latent, in units of that variance.

    Raises:
        ValueError: If the latents are no vector, or a number is not positive.

    References:
        Diagnosing and Enhancing VAE Models (Dai and Wipf, 2019),
        https://arxiv.org/abs/1903.05789

    Example:
        >>> import torch
        >>> prior = TwoStagePrior(latent_shape=(2,))
        >>> prior().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    estimates = True

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        hidden: int | list[int] = [256, 256],  # noqa: B006
        draws: int = 64,
        epochs: int = 200,
        lr: float = 1e-3,
        jitter: float = 1e-6,
    ) -> None:
        super().__init__(latent_shape, context_features, jitter)
        for name, value in {"draws": draws, "epochs": epochs, "lr": lr}.items():
            if not value > 0:
                raise ValueError(f"Expected {name} to be positive but got {value}.")
        self.draws, self.epochs, self.lr = draws, epochs, lr
        inner = widths(hidden)
        self.encoder = mlp([self.size, *inner, 2 * self.size], "ReLU")
        self.decoder = mlp([self.size, *inner, self.size], "ReLU")
        self.log_gamma = nn.Parameter(torch.zeros(()))  # a tenth of it, which moves faster so
        for network in (self.encoder, self.decoder):
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)
        self.requires_grad_(False)  # nothing is learned but by `fit`

    @property
    def least(self) -> int:
        return max(10, super().least)  # of which one is held out

    def fit_rest(self, r: Tensor) -> None:
        super().fit_rest(r)
        # Below 1, since near it the VAE would do as well without u, and stay there.
        nn.init.constant_(self.log_gamma, -0.1)
        for module in [*self.encoder, *self.decoder]:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        y = self.whitened(r.to(self.loc) - self.loc)
        self.requires_grad_(True)
        try:
            fit_by_gradient(
                self.parameters(), self._loss, y, epochs=self.epochs, lr=self.lr, patience=30
            )
        finally:
            self.requires_grad_(False)

    def whitened(self, away: Tensor) -> Tensor:
        """y of z less the mean of codes, with shape `(*, Z)`."""
        columns = away.reshape(-1, self.size).mT  # so that the factor is not copied for each z
        y = torch.linalg.solve_triangular(self.scale_tril, columns, upper=False)
        return y.mT.reshape(away.shape)

    def infer(self, y: Tensor) -> Independent[Normal]:
        """q(u|y)."""
        loc, log_variance = self.encoder(y).chunk(2, -1)
        return normal(loc, (soft_clamp(log_variance) / 2).exp(), 1)

    def decode(self, u: Tensor) -> Independent[Normal]:
        """p(y|u)."""
        loc = self.decoder(u)
        return normal(loc, soft_clamp(10 * self.log_gamma, 7.0).exp().expand_as(loc), 1)

    def _loss(self, y: Tensor) -> Tensor:
        """The negative ELBO of each row, (B,) in nats."""
        q = self.infer(y)
        u = q.rsample()
        return kl_divergence(q, _standard(u)) - self.decode(u).log_prob(y)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        shift = self.shift(context)
        return _TwoStage(self, self.loc if shift is None else self.loc + shift)


def _standard(u: Tensor) -> Independent[Normal]:
    return normal(torch.zeros_like(u), torch.ones_like(u), 1)


class _TwoStage(Distribution):
    """p(z) of a TwoStagePrior.

    Arguments:
        loc: The mean, (Z,), or (B, Z) where a context moves it.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, prior: TwoStagePrior, loc: Tensor) -> None:
        self.prior, self.loc = prior, loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        with torch.no_grad():
            u = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.loc + self.prior.decode(u).sample() @ self.prior.scale_tril.mT

    def log_prob(self, value: Tensor) -> Tensor:
        y = self.prior.whitened(value - self.loc)
        q = self.prior.infer(y)
        u = q.rsample(torch.Size((self.prior.draws,)))  # (S, *, Z)
        log_weight = _standard(u).log_prob(u) + self.prior.decode(u).log_prob(y) - q.log_prob(u)
        log_volume = self.prior.scale_tril.diagonal().log().sum()
        return log_weight.logsumexp(0) - log(self.prior.draws) - log_volume
