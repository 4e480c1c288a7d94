"""Priors of discrete latents: bits and one-hot vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.contracts.part import Infer
from vaekit.contracts.prior import Prior
from vaekit.contracts.schedule import Schedule
from vaekit.contracts.temperature import Tempered
from vaekit.distributions.concrete import bits, one_hots
from vaekit.networks.blocks import class_count


class UniformBernoulli(Tempered, Prior):
    r"""Independent bits, 0 as likely as 1; relaxed in training.

    .. math:: p(z) = 2^{-n}

    In training it is the Concrete density between 0 and 1, of bits that are relaxed as those of
    `RelaxedBernoulli` are.

    Arguments:
        temperature: Of the relaxation, without dimension; a schedule is followed step by step.

    Raises:
        ValueError: If the temperature is not positive.

    References:
        The Concrete Distribution (Maddison, Mnih and Teh, 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch
        >>> UniformBernoulli(latent_shape=(3,)).eval()().log_prob(torch.ones(3)).exp()
        tensor(0.1250)
    """

    support = constraints.boolean
    logits: Tensor

    def __init__(self, latent_shape: tuple[int, ...], temperature: float | Schedule = 0.5) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(latent_shape), persistent=False)
        self.temper(temperature)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return bits(self.logits, self.relaxed_at, self.logits.dim())


class UniformCategorical(Tempered, Prior):
    r"""Independent one-hot vectors, all classes alike; relaxed in training.

    .. math:: p(z) = C^{-n}

    In training each vector has the Concrete density on the simplex, as those of
    `RelaxedCategorical` have.

    Arguments:
        latent_shape: The last size is C, the number of classes: (n, C) is n vectors.
        temperature: Of the relaxation, without dimension; a schedule is followed step by step.

    Raises:
        ValueError: If there are fewer than two classes or the temperature is not positive.

    References:
        The Concrete Distribution (Maddison, Mnih and Teh, 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch
        >>> UniformCategorical(latent_shape=(2, 4)).eval()().log_prob(torch.eye(4)[:2]).exp()
        tensor(0.0625)
    """

    support = constraints.one_hot
    logits: Tensor

    def __init__(self, latent_shape: tuple[int, ...], temperature: float | Schedule = 0.5) -> None:
        class_count(latent_shape)
        super().__init__()
        self.register_buffer("logits", torch.zeros(latent_shape), persistent=False)
        self.temper(temperature)

    def forward(self, context: Tensor | None = None, infer: Infer | None = None) -> Distribution:
        return one_hots(self.logits, self.relaxed_at, self.logits.dim())
