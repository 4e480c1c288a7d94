"""The prior that is a mixture of posteriors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.contracts.batch import Batch, DataInfo
from vaekit.contracts.draw import Draw
from vaekit.contracts.part import Infer
from vaekit.contracts.posterior import Posterior
from vaekit.contracts.prior import Prior
from vaekit.contracts.trees import Tree, each, entries_of, first
from vaekit.distributions.mixture import Mixture
from vaekit.networks.blocks import fill


class VampPrior(Prior):
    r"""An even mixture of q(z|u) over learned pseudo-inputs u: a mixture of posteriors.

    .. math:: p(z) = \frac{1}{M} \sum_m q(z|u_m)

    The pseudo-inputs start as training rows, and stay within the data's range. Given a context,
    the mixture is that of q(z|u, context), which encodes each pseudo-input anew for each row. Its
    latents lie wherever the posterior's do.

    Arguments:
        components: M, the number of pseudo-inputs.
        learned: Whether they change; else they stay the rows that they start as. Where an encoder
            reads x as indices, of tokens or categories, nothing else is possible.

    Raises:
        ValueError: If there is none; if the posterior's density is known for its own draws alone.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> from vaekit import DataInfo, Model
        >>> model = Model(DataInfo((3,), (0, 1), levels=2), latent_shape=2, prior="VampPrior")
        >>> model.core.prior(infer=model.core.infer).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    support = None

    def __init__(self, data: DataInfo, components: int = 500, learned: bool = True) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"Expected components to be at least 1 but got {components}.")
        self.components, self.entries = components, data.entries()
        self.single = not isinstance(data.event_shape, dict)
        self.inputs = nn.ParameterList(
            nn.Parameter(
                torch.randn(components, *info.event_shape).clamp(*info.data_range), learned
            )
            for info in self.entries.values()
        )

    def check(self, posterior: Posterior) -> None:
        """Refuses a posterior whose density at any z is not known.

        Raises:
            ValueError: If it is not.
        """
        if not (posterior.density and posterior.evaluates):
            raise ValueError(
                f"Expected a posterior whose density is known of any z, of which VampPrior makes "
                f"its mixture, but {type(posterior).__name__} knows "
                f"{'that of its own draws alone' if posterior.density else 'none'}."
            )

    def start(self, data: Iterable[Batch]) -> None:
        """Takes pseudo-inputs from the rows, at random; what a mask hides is 0."""
        kept, keys = [], torch.empty(0)
        for batch in data:  # those with the largest keys, so that few rows are held at a time
            rows = fill(batch.x, batch.mask)
            kept.append(rows)
            keys = torch.cat([keys, torch.rand(len(batch))])
            keys, at = keys.topk(min(self.components, len(keys)))
            kept = [each(lambda *parts, at=at: torch.cat(parts)[at.to(parts[0].device)], *kept)]
        again = torch.arange(self.components) % len(first(kept[0]))  # of fewer rows some twice
        chosen = entries_of(kept[0])
        for name, inputs in zip(self.entries, self.inputs, strict=True):
            inputs.copy_(chosen[name][again.to(inputs.device)])
        self._bring_back()

    def after_step(self, draw: Draw) -> None:
        """Brings pseudo-inputs that the step took out of the data's range back to its end."""
        self._bring_back()

    def _bring_back(self) -> None:
        for inputs, info in zip(self.inputs, self.entries.values(), strict=True):
            inputs.copy_(inputs.clamp(*info.data_range))

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        if infer is None:
            raise self.refuse("infer, which gives q(z|u) of its pseudo-inputs", "none")
        u: Tree = dict(zip(self.entries, self.inputs, strict=True))
        u = self.inputs[0] if self.single else u
        m, even = self.components, first(u).new_zeros(self.components)
        if context is None:
            return Mixture(infer(u), even)
        n = len(context)
        wide = each(lambda leaf: leaf.repeat_interleave(n, 0), u)
        return Mixture(infer(wide, context.repeat(m, 1)), even, n)
