"""Priors that are fitted to a trained model's codes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    register_kl,
)
from torch.distributions import Normal as TorchNormal

from vaekit.contracts.part import Infer
from vaekit.contracts.prior import FittedPrior
from vaekit.distributions.base import normal
from vaekit.distributions.mixture import Mixture
from vaekit.networks.blocks import vector_size


class CodesPrior(FittedPrior):
    """Base of priors of a vector of latents that are the standard Normal until they are fitted.

    Given a context c, p(z|c) is that of z = A c + r: A by least squares, and r is what is fitted.

    Attributes:
        slope: A, with shape `(Z, C)`.
    """

    slope: Tensor

    def __init__(self, latent_shape: tuple[int, ...], context_features: int = 0) -> None:
        super().__init__()
        self.size = vector_size(latent_shape)
        self.latent_shape = tuple(latent_shape)
        self.register_buffer("slope", torch.zeros(self.size, context_features))

    @property
    def least(self) -> int:
        """How many rows it takes to fit it."""
        return 2

    def shift(self, context: Tensor | None) -> Tensor | None:
        """A c, with shape `(B, Z)`."""
        return None if context is None else context.to(self.slope) @ self.slope.T

    def fit(self, z: Tensor, context: Tensor | None = None) -> None:
        """Fits p(z) to draws of q(z|x), one for each of n training rows.

        Arguments:
            z: The draws, with shape `(n, Z)`.
            context: Of the rows, with shape `(n, C)`.

        Raises:
            ValueError: If `check_codes` refuses them.
        """
        columns = self.slope.shape[1]
        self.check_codes(z, context, columns, self.least + columns)
        z = z.detach().cpu().double()  # in this order, since MPS has no float64
        if context is not None:
            c = context.detach().cpu().double()
            # By singular values, since the columns of a one-hot context sum to one.
            found = torch.linalg.lstsq(c - c.mean(0), z - z.mean(0), driver="gelsd").solution
            self.slope.copy_(found.T)
            z = z - c @ found
        self.fit_rest(z)

    def fit_rest(self, r: Tensor) -> None:
        """Fits what the context does not explain, (n, Z) in float64 on the CPU."""
        raise NotImplementedError


def _standardized(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, Z) less their mean, in units of their spread; the mean, and the spread.

    The spread of a latent that hardly varies is a thousandth of the largest: it stays a density.
    """
    mean, scale = r.mean(0), r.std(0)
    scale = scale.clamp(min=max(1e-3 * float(scale.max()), 1e-6))
    return (r - mean) / scale, mean, scale


class FittedNormal(CodesPrior):
    r"""The Normal of the codes' mean and full covariance; until it is fitted, the standard Normal.

    .. math:: p(z) = \mathcal{N}(z; \bar z, S), \qquad S = \tfrac1{n - 1} \sum_i (z_i - \bar z)
        (z_i - \bar z)^\top

    Arguments:
        jitter: What is added to the variance of each latent, in units of that variance, so that
            latents which depend on one another, or are not used, leave it a density.

    Raises:
        ValueError: If the latents are no vector, or the jitter is not positive.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020),
        https://arxiv.org/abs/1903.12436, for fitting a density to codes after training.

    Example:
        >>> import torch
        >>> prior = FittedNormal(latent_shape=(2,))
        >>> prior().log_prob(torch.zeros(2))
        tensor(-1.8379)
        >>> prior.fit(3 + torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]))
        >>> prior().mean
        tensor([3., 3.])
    """

    loc: Tensor
    scale_tril: Tensor

    def __init__(
        self, latent_shape: tuple[int, ...], context_features: int = 0, jitter: float = 1e-6
    ) -> None:
        super().__init__(latent_shape, context_features)
        if not jitter > 0:
            raise ValueError(f"Expected jitter to be positive but got {jitter}.")
        self.jitter = jitter
        self.register_buffer("loc", torch.zeros(self.size))
        self.register_buffer("scale_tril", torch.eye(self.size))

    @property
    def least(self) -> int:
        return self.size + 1  # of fewer the covariance has no inverse

    def fit_rest(self, r: Tensor) -> None:
        y, mean, scale = _standardized(r)
        correlation = y.T @ y / (len(y) - 1)
        one = torch.eye(self.size, dtype=y.dtype, device=y.device)
        tril = torch.linalg.cholesky(correlation + self.jitter * one)
        self.loc.copy_(mean)
        self.scale_tril.copy_(scale.unsqueeze(1) * tril)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        shift = self.shift(context)
        loc = self.loc if shift is None else self.loc + shift
        return MultivariateNormal(loc, scale_tril=self.scale_tril, validate_args=False)


class GaussianMixturePrior(CodesPrior):
    r"""A mixture of Normals, fitted to the codes by expectation maximisation.

    .. math:: p(z) = \sum_m w_m \, \mathcal{N}(z; \mu_m, \Sigma_m)

    Until it is fitted it is the standard Normal. The random numbers of the fit come from torch's.

    Arguments:
        components: M, the number of Normals.
        covariance: "full", or "diag" where latents are independent within a component.
        jitter: What is added to the variance of each latent within a component, in units of its
            variance among all codes.

    Raises:
        ValueError: If the latents are no vector, there is no component, the jitter is not
            positive, or the covariance is another.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020),
        https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch
        >>> prior = GaussianMixturePrior(latent_shape=(1,), components=2)
        >>> prior.fit(torch.tensor([[-5.1], [-4.9], [4.9], [5.1]]))
        >>> prior.loc.flatten().sort().values
        tensor([-5.,  5.])
    """

    log_weights: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        components: int = 10,
        covariance: Literal["full", "diag"] = "full",
        jitter: float = 1e-6,
    ) -> None:
        super().__init__(latent_shape, context_features)
        if components < 1:
            raise ValueError(f"Expected components to be at least 1 but got {components}.")
        if covariance not in ("full", "diag"):
            raise ValueError(f"Expected covariance to be full or diag but got {covariance!r}.")
        if not jitter > 0:
            raise ValueError(f"Expected jitter to be positive but got {jitter}.")
        self.components, self.covariance, self.jitter = components, covariance, jitter
        scale = torch.eye(self.size) if covariance == "full" else torch.ones(self.size)
        self.register_buffer("log_weights", torch.zeros(components))
        self.register_buffer("loc", torch.zeros(components, self.size))
        self.register_buffer("scale", scale.repeat(components, *[1] * scale.dim()))

    @property
    def least(self) -> int:
        return max(2, self.components)

    def fit_rest(self, r: Tensor) -> None:
        from sklearn.mixture import GaussianMixture  # which takes a second to import

        y, mean, scale = _standardized(r)
        found = GaussianMixture(
            self.components,
            covariance_type=self.covariance,
            reg_covar=self.jitter,
            max_iter=500,
            random_state=int(torch.randint(2**31, ())),
        ).fit(y.numpy())
        of_each = torch.from_numpy(found.covariances_)
        full = self.covariance == "full"
        spread = torch.linalg.cholesky(of_each) if full else of_each.sqrt()
        self.log_weights.copy_(torch.from_numpy(found.weights_).log())
        self.loc.copy_(mean + scale * torch.from_numpy(found.means_))
        self.scale.copy_((scale.unsqueeze(1) if full else scale) * spread)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        loc, scale, shift = self.loc, self.scale, self.shift(context)
        if shift is not None:  # the rows of the first component before those of the second
            loc = (loc.unsqueeze(1) + shift).flatten(0, 1)
            scale = scale.repeat_interleave(len(shift), 0)
        if self.covariance == "full":
            parts: Distribution = MultivariateNormal(loc, scale_tril=scale, validate_args=False)
        else:
            parts = normal(loc, scale, 1)
        return Mixture(parts, self.log_weights, None if shift is None else len(shift))


@register_kl(Independent, MultivariateNormal)  # type: ignore[untyped-decorator]
def _(q: Independent[Distribution], p: MultivariateNormal) -> Tensor:
    if not isinstance(q.base_dist, TorchNormal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    loc, scale, tril = q.base_dist.loc, q.base_dist.scale, p.scale_tril
    one = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
    inverse = torch.linalg.solve_triangular(tril, one, upper=False)
    away = (inverse @ (loc - p.loc).unsqueeze(-1)).squeeze(-1)
    spread = (inverse * scale.unsqueeze(-2)).square().sum(-1)
    log_ratio = 2 * (tril.diagonal(dim1=-2, dim2=-1).log() - scale.log())
    return (away.square() + spread - 1 + log_ratio).sum(-1) / 2
