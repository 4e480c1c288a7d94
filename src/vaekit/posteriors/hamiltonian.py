"""Posteriors whose draws move along Hamiltonian dynamics, towards where p(x, z) is large."""

from __future__ import annotations

from math import inf, log, prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts.part import LogJoint
from vaekit.posteriors.leapfrog import Leapfrog, Metric
from vaekit.posteriors.normal import DiagonalNormal


class Hamiltonian(DiagonalNormal):
    r"""A diagonal Normal whose draws move by leapfrog steps on U(z) = -log p(x, z).

    From :math:`z_0 \sim q_0(z|x)` and :math:`\gamma \sim \mathcal{N}(0, I)`, the momentum being
    :math:`\rho_0 = \gamma / \sqrt{\beta_0}`, each of K steps is

    .. math:: \tilde\rho = \rho - \tfrac\varepsilon2 \odot \nabla U(z), \qquad
        z' = z + \varepsilon \odot \tilde\rho, \qquad
        \rho' = \alpha_k (\tilde\rho - \tfrac\varepsilon2 \odot \nabla U(z'))

    where the tempering :math:`\alpha_k = \sqrt{\beta_{k-1} / \beta_k}` cools the momentum, from
    :math:`\beta_0` to :math:`\beta_K = 1`:

    .. math:: \beta_k^{-1/2} = 1 + (\beta_0^{-1/2} - 1)(1 - k^2 / K^2)

    A leapfrog step keeps volume. Tempering shrinks it by :math:`\prod_k \alpha_k^d =
    \beta_0^{d/2}`, which is what :math:`\mathcal{N}(\rho_0; 0, I / \beta_0) = \beta_0^{d/2}
    \mathcal{N}(\gamma; 0, I)` has too much. So the end has the density :math:`q_0(z_0)
    \mathcal{N}(\gamma; 0, I)`, and the draw brings

    .. math:: l = \log q_0(z_0) + \log \mathcal{N}(\gamma; 0, I)
        - \log \mathcal{N}(\rho_K; 0, I), \qquad E[\exp(\log p(x, z_K) - l)] = p(x)

    This l is known of its own draws alone. The steps' sizes, one for each latent, and
    :math:`\beta_0` are learned. A step evaluates the gradient of log p(x, z), and so the decoder,
    once; the first step twice. Where nothing is drawn, the mean of q0 moves from rest.

    Arguments:
        steps: K, the number of leapfrog steps.
        step_size: Where each step's size begins, in units of z.
        max_step_size: What it stays below.
        beta0: Where the inverse temperature of the first momentum begins, in (0, 1]; of 1 nothing
            is tempered, nor learned.

    Raises:
        ValueError: If there is no step, or a size or beta0 is out of its range; when called
            without a log_joint, to which it owes its steps.

    References:
        Hamiltonian Variational Auto-Encoder (Caterini, Doucet and Sejdinovic, 2018),
        https://arxiv.org/abs/1805.11328

    Example:
        >>> import torch
        >>> posterior = Hamiltonian(features=32, latent_shape=(4,))
        >>> q = posterior(torch.randn(5, 32), None, lambda z: -z.square().sum(-1) / 2)
        >>> z, log_q = q.rsample_and_log_prob((7,))
        >>> z.shape, log_q.shape
        (torch.Size([7, 5, 4]), torch.Size([7, 5]))
    """

    evaluates: ClassVar[bool] = False
    uses_log_joint: ClassVar[bool] = True

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        steps: int = 3,
        step_size: float = 0.2,
        max_step_size: float = 0.5,
        beta0: float = 2 / 3,
    ) -> None:
        super().__init__(features, latent_shape, context_features)
        if steps < 1:
            raise ValueError(f"Expected steps to be at least 1 but got {steps}.")
        if not 0 < step_size < max_step_size < inf:
            raise ValueError(
                "Expected step_size to be positive and below max_step_size but got "
                f"{step_size!r} and {max_step_size!r}."
            )
        if not 0 < beta0 <= 1:
            raise ValueError(f"Expected beta0 to be in (0, 1] but got {beta0!r}.")
        self.steps, self.max_step_size = steps, max_step_size
        share = step_size / max_step_size
        self.step_logit = nn.Parameter(torch.full((prod(latent_shape),), _logit(share)))
        self.beta_logit = nn.Parameter(torch.tensor(_logit(beta0))) if beta0 < 1 else None

    def forward(
        self, h: Tensor, context: Tensor | None = None, log_joint: LogJoint | None = None
    ) -> Distribution:
        if log_joint is None:
            raise self.refuse("a log_joint, log p(x, z), on which the draws move", "none")
        step = self.max_step_size * self.step_logit.sigmoid()
        beta = step.new_ones(()) if self.beta_logit is None else self.beta_logit.sigmoid()
        start = super().forward(h, context)
        return Leapfrog(start, log_joint, step, beta, self.steps, self.metric())

    def metric(self) -> Metric | None:
        """How the momentum is measured; None for the identity everywhere."""
        return None


class RiemannianHamiltonian(Hamiltonian):
    r"""`Hamiltonian` with a momentum :math:`\rho \sim \mathcal{N}(0, G(z))`, G a learned metric.

    .. math:: G(z)^{-1} = \sum_i L_i L_i^\top \exp(-\|z - c_i\|^2 / T^2) + \lambda I

    Here the centroids :math:`c_i` and the lower triangular :math:`L_i` are parameters. In the
    paper they are a network's output for the batch's rows, and after training for all training
    rows: then a row's bound depends on the other rows, and a model on its data.

    The steps are those of the generalised leapfrog on :math:`H = U(z) + \tfrac12 \log\det G(z) +
    \tfrac12 \rho^\top G(z)^{-1} \rho`:

    .. math:: \tilde\rho = \rho - \tfrac\varepsilon2 \partial_z H(z, \tilde\rho), \qquad
        z' = z + \tfrac\varepsilon2 (G(z)^{-1} + G(z')^{-1}) \tilde\rho, \qquad
        \rho' = \tilde\rho - \tfrac\varepsilon2 \partial_z H(z', \tilde\rho)

    The first two are solved by fixed-point iterations, which need no decoder. Their solution keeps
    volume; what some iterations arrive at does so nearly, and the logarithm of its Jacobian's
    determinant, v, is computed, in closed form. With :math:`\gamma \sim \mathcal{N}(0, G(z_0))`,

    .. math:: l = \log q_0(z_0) + \log \mathcal{N}(\gamma; 0, G(z_0)) - v
        - \log \mathcal{N}(\rho_K; 0, G(z_K))

    It holds where the iterations come close to the solution. With steps far too large for the
    metric they do not: two starts may then have one end, and the bound falls far off. What is
    added to H by a centroid for which :math:`\rho^\top L_i L_i^\top \rho` exceeds 100 d grows like
    a logarithm from there on, so that nothing overflows.

    Arguments:
        centroids: Their number. They start as draws of a standard Normal.
        temperature: T, in units of z; None for the root of the number of latents.
        regularization: The positive λ.
        iterations: Number of fixed-point iterations.

    Raises:
        ValueError: If any of them is not positive.

    References:
        Geometry-Aware Hamiltonian Variational Auto-Encoder (Chadebec, Mantoux and Allassonnière,
        2020), https://arxiv.org/abs/2010.11518; Data Augmentation in High Dimensional Low Sample
        Size Setting Using a Geometry-Based Variational Autoencoder (Chadebec et al., 2022),
        https://arxiv.org/abs/2105.00026; Riemann manifold Langevin and Hamiltonian Monte Carlo
        methods (Girolami and Calderhead, 2011), for the generalised leapfrog.

    Example:
        >>> import torch
        >>> posterior = RiemannianHamiltonian(features=32, latent_shape=(4,), centroids=10)
        >>> q = posterior(torch.randn(5, 32), None, lambda z: -z.square().sum(-1) / 2)
        >>> q.mean.shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        features: int,
        latent_shape: tuple[int, ...],
        context_features: int = 0,
        steps: int = 3,
        step_size: float = 0.05,
        max_step_size: float = 0.2,
        beta0: float = 2 / 3,
        centroids: int = 20,
        temperature: float | None = None,
        regularization: float = 0.01,
        iterations: int = 6,
    ) -> None:
        super().__init__(
            features, latent_shape, context_features, steps, step_size, max_step_size, beta0
        )
        latents = prod(latent_shape)
        temperature = sqrt(latents) if temperature is None else temperature
        for name, value in (
            ("centroids", centroids),
            ("temperature", temperature),
            ("regularization", regularization),
            ("iterations", iterations),
        ):
            if not 0 < value < inf:
                raise ValueError(f"Expected {name} to be positive but got {value!r}.")
        self.temperature, self.regularization = temperature, regularization
        self.iterations = iterations
        self.centroids = nn.Parameter(torch.randn(centroids, latents))
        # So that the mean of the inverse metric over N(0, I) is about the identity.
        overlap = centroids * (1 + 4 / temperature**2) ** (-latents / 2)
        self.factors = nn.Parameter(torch.eye(latents).repeat(centroids, 1, 1) / sqrt(overlap))

    def metric(self) -> Metric:
        factors = self.factors.tril()
        squares = factors @ factors.mT
        return Metric(
            self.centroids, squares, self.temperature, self.regularization, self.iterations
        )


def _logit(share: float) -> float:
    return log(share) - log(1 - share)
