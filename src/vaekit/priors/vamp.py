"""The prior that is a mixture of posteriors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

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

_CONTEXT = -1  # of a row's tensors, in the place of an entry's number


class VampPrior(Prior):
    r"""An even mixture of q(z|u) over learned pseudo-inputs u: a mixture of posteriors.

    .. math:: p(z) = \frac{1}{M} \sum_m q(z|u_m)

    The pseudo-inputs start as training rows, and stay within the data's range. Where the data have
    a context, each keeps the context of the row that it starts as, and the mixture is that of
    q(z|u_m, c_m). The context columns that the core gives to the prior (`prior_context` of VAE)
    are the ones of the row whose p(z|context) is asked for instead: then each pseudo-input is
    encoded anew for each row, M B of them. Its latents lie wherever the posterior's do.

    Arguments:
        components: M, the number of pseudo-inputs.
        learned: Whether they change; else they stay the rows that they start as. Where an encoder
            reads x as indices, of tokens or categories, nothing else is possible.

    Raises:
        ValueError: If there is none; if the posterior's density is known for its own draws alone.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), https://arxiv.org/abs/1705.07120

        Integrating single-cell RNA-seq datasets with substantial batch effects (Hrovatin et al.,
        2023), https://doi.org/10.1101/2023.11.03.565463, for pseudo-inputs with contexts of rows

    Example:
        >>> import torch
        >>> from vaekit import DataInfo, Model
        >>> model = Model(DataInfo((3,), (0, 1), levels=2), latent_shape=2, prior="VampPrior")
        >>> model.core.prior(infer=model.core.infer).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    support = None
    contexts: Tensor | None

    def __init__(
        self,
        data: DataInfo,
        components: int = 500,
        learned: bool = True,
        context_columns: Sequence[int] | None = None,
    ) -> None:
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
        every, self.columns = data.context_features, context_columns
        keeps = context_columns is not None and set(context_columns) != set(range(every))
        contexts = torch.zeros(components, every) if keeps else None
        self.register_buffer("contexts", contexts)

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
            found = entries_of(fill(batch.x, batch.mask))
            rows = {place: found[name] for place, name in enumerate(self.entries)}
            if self.contexts is not None and batch.context is not None:
                rows[_CONTEXT] = batch.context
            kept.append(rows)
            keys = torch.cat([keys, torch.rand(len(batch))])
            keys, at = keys.topk(min(self.components, len(keys)))
            kept = [each(lambda *parts, at=at: torch.cat(parts)[at.to(parts[0].device)], *kept)]
        again = torch.arange(self.components) % len(first(kept[0]))  # of fewer rows some twice
        for place, rows in kept[0].items():
            own: Any = self.contexts if place == _CONTEXT else self.inputs[place]
            own.copy_(rows[again.to(own.device)])
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
        even = first(u).new_zeros(self.components)
        if context is None:
            return Mixture(infer(u, self.contexts), even)
        n = len(context)
        wide = each(lambda leaf: leaf.repeat_interleave(n, 0), u)
        return Mixture(infer(wide, self._contexts_of(context)), even, n)

    def _contexts_of(self, context: Tensor) -> Tensor:
        """The context of each pseudo-input for each row, (M * B, C), given the rows' (B, C')."""
        given = context.repeat(self.components, 1)
        if self.contexts is None:
            return given
        every = self.contexts.repeat_interleave(len(context), 0)
        every[:, list(self.columns or ())] = given.to(every.dtype)
        return every
