"""What single latents have of q and p where these factorise: marginals and rates."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.distributions.base import rate


def factorises(q: Distribution) -> bool:
    """Whether q is a product over all elements of an event.

    Example:
        >>> import torch
        >>> from vaekit.distributions import normal
        >>> factorises(normal(torch.zeros(5, 2), torch.ones(5, 2), 1))
        True
    """
    return isinstance(q, Independent) and not q.base_dist.event_shape


def marginals(q: Distribution) -> Distribution:
    """The distributions of the single elements of an event, of batch shape (*batch, *event).

    Raises:
        ValueError: If q is no product over the elements of an event.
    """
    if not factorises(q):
        raise ValueError(
            "Expected latents that are independent given x, such as those of DiagonalNormal, but "
            f"got a {type(q).__name__}."
        )
    base: Any = q
    while isinstance(base, Independent):
        base = base.base_dist
    return base


def factor_rates(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) of each latent in nats, in closed form (1, B, *Z), else estimated from the draws.

    Its sum over the latents is the rate.

    Arguments:
        q: With batch shape (B,).
        p: With batch shape () or (B,).
        z: Draws from q, (K, B, *Z).

    Raises:
        ValueError: If q or p is no product over the latents.

    Example:
        >>> import torch
        >>> from vaekit.distributions import normal
        >>> q = normal(torch.ones(5, 2), torch.ones(5, 2), 1)
        >>> p = normal(torch.zeros(2), torch.ones(2), 1)
        >>> factor_rates(q, p, q.sample((3,)))[0, 0]
        tensor([0.5000, 0.5000])
    """
    each_q, each_p = marginals(q), marginals(p)
    found = rate(each_q, each_p, lambda: each_q.log_prob(z), lambda: each_p.log_prob(z))
    return found if found.dim() == z.dim() else found.unsqueeze(0)
