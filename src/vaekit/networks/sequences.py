"""Encoders and decoders of sequences, (T,) or (C, T): recurrent units and attention."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vaekit.contracts.batch import DataInfo
from vaekit.contracts.decoder import Decoder
from vaekit.contracts.discrete_values import ValueGrid
from vaekit.contracts.encoder import Encoder
from vaekit.contracts.trees import Shapes
from vaekit.networks.blocks import fill, logged, mlp, unbounded, with_context


class StepEmbedding(nn.Module):
    """The steps of a sequence as vectors; of data from 0 to infinity, those of log(1 + x).

    Arguments:
        event_shape: (T,), or (C, T) of C channels.
        data: What is known of the rows.
        width: Of the vectors.
        tokens: Whether values stand for themselves alone, each with a vector of its own.

    Raises:
        ValueError: If the rows are no sequences, or their tokens have several channels or no known
            number.
    """

    def __init__(
        self, event_shape: tuple[int, ...], data: DataInfo | None, width: int, tokens: bool
    ) -> None:
        super().__init__()
        _, self.length = sequence_of(event_shape)
        self.tokens, self.unbounded = tokens, unbounded(data)
        if not tokens:
            self.vectors: nn.Module = nn.Linear(prod(event_shape[:-1]), width)
            return
        if data is None or len(event_shape) != 1:
            raise ValueError(f"Expected tokens of shape (T,) but got {tuple(event_shape)}.")
        self.levels = ValueGrid.of(data)
        self.vectors = nn.Embedding(self.levels.count + 1, width)  # the last for what is hidden

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Vectors (B, T, width), and which steps show something, (B, T)."""
        if mask is None:
            seen = torch.ones(len(x), self.length, dtype=torch.bool, device=x.device)
        else:
            seen = mask.reshape(len(x), -1, self.length).any(1)
        x = fill(x, mask)
        if not self.tokens:
            x = logged(x, self.unbounded).reshape(len(x), -1, self.length)
            return self.vectors(x.transpose(1, 2)), seen
        index = self.levels.index(x)
        return self.vectors(torch.where(seen, index, self.levels.count)), seen


def sequence_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many numbers each step has, and how many steps there are: the last axis.

    Raises:
        ValueError: If there is no step.
    """
    if len(shape) < 1 or shape[-1] < 1:
        raise ValueError(f"Expected sequences of shape (T,) or (C, T) but got {tuple(shape)}.")
    return prod(shape[:-1]), shape[-1]


def lengths_of(seen: Tensor) -> Tensor:
    """The place of the last step that shows something, counted from 1; 0 for none. (B,)."""
    places = torch.arange(1, seen.shape[1] + 1, device=seen.device)
    return (seen * places).amax(1)


class OfSequences(Encoder):
    """An encoder of rows (T,) or (C, T)."""

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) < 3


class GRUEncoder(OfSequences):
    """Gated recurrent units that read a sequence in both directions.

    What a mask hides at the end is not read, so that rows of different lengths are padded and
    masked there; a step that is hidden within is read as 0, or as a token of its own.

    torch.compile leaves the units out: `--model.compile.fullgraph false` compiles the others.

    Arguments:
        width: Of the units' state, in each direction.
        layers: Of units, one upon the other.
        hidden: Width of the layer that reads both last states, and the context.
        tokens: Whether values are tokens, each with a vector of its own, not numbers.
        activation: Name of an activation in torch.nn, of that layer.

    Raises:
        ValueError: If the rows are no sequences, or tokens have no known number.

    References:
        Learning Phrase Representations using RNN Encoder-Decoder (Cho et al., 2014),
        https://arxiv.org/abs/1406.1078

    Example:
        >>> import torch
        >>> GRUEncoder(event_shape=(2, 30), width=16, hidden=32)(torch.randn(5, 2, 30)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        context_features: int = 0,
        width: int = 64,
        layers: int = 1,
        hidden: int = 128,
        tokens: bool = False,
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        self.steps = StepEmbedding(event_shape, data, width, tokens)
        self.onward = nn.GRU(width, width, layers, batch_first=True)
        self.back = nn.GRU(width, width, layers, batch_first=True)
        self.linear = mlp([2 * width + context_features, hidden], activation, last=True)
        self.features = hidden

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        vectors, seen = self.steps(x, mask)
        length = lengths_of(seen).unsqueeze(1)  # (B, 1)
        place = torch.arange(vectors.shape[1], device=x.device)
        # Each row's own steps in reverse order; what is behind them stays there.
        turned = torch.where(place < length, length - 1 - place, place).unsqueeze(2)
        reverse = vectors.take_along_dim(turned, 1)
        last = (length - 1).clamp(min=0).unsqueeze(2)
        ends = [
            gru(steps)[0].take_along_dim(last, 1).squeeze(1)
            for gru, steps in ((self.onward, vectors), (self.back, reverse))
        ]
        h = torch.where(length > 0, torch.cat(ends, 1), 0.0)
        return self.linear(with_context(h, context))


class TransformerEncoder(OfSequences):
    """Self-attention over the steps of a sequence, read from a vector that stands before them.

    Steps that a mask hides are not attended to.

    Arguments:
        width: Of the vectors of steps.
        layers: Of attention and a dense layer of four times the width.
        heads: Of attention; they divide the width.
        tokens: Whether values are tokens, each with a vector of its own, not numbers.

    Raises:
        ValueError: If the rows are no sequences, tokens have no known number, or the heads do not
            divide the width.

    References:
        Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762

    Example:
        >>> import torch
        >>> TransformerEncoder(event_shape=(2, 30), width=16)(torch.randn(5, 2, 30)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        data: DataInfo | None = None,
        context_features: int = 0,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        self.steps = StepEmbedding(event_shape, data, width, tokens)
        self.places = nn.Parameter(torch.randn(self.steps.length + 1, width) * 0.02)
        self.context = nn.Linear(context_features, width) if context_features else None
        self.attention = attention(width, layers, heads)
        self.features = width

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        vectors, seen = self.steps(x, mask)
        vectors = pad(vectors, (0, 0, 1, 0)) + self.places
        if self.context is not None and context is not None:
            vectors = vectors + self.context(context).unsqueeze(1)
        hidden = ~pad(seen, (1, 0), value=True)
        return self.attention(vectors, src_key_padding_mask=hidden)[:, 0]


def attention(width: int, layers: int, heads: int) -> nn.TransformerEncoder:
    """Layers of self-attention, with the norm first and without dropout.

    Raises:
        ValueError: If the heads do not divide the width.
    """
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(f"Expected heads that divide the width but got {heads} of {width}.")
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


class ToSequences(Decoder):
    """A decoder to rows (T,) or (C, T), with any number of parameters for each element."""

    @classmethod
    def accepts(cls, event_shape: Shapes) -> bool:
        return super().accepts(event_shape) and len(event_shape) < 3

    def rows(self, steps: Tensor) -> Tensor:
        """What each step is given, (N, T, numbers), in the output's shape."""
        return steps.transpose(1, 2).reshape(-1, *self.output_shape)


class GRUDecoder(ToSequences):
    """Gated recurrent units that write a sequence, every step of which sees z.

    Given z the steps are independent: what is drawn at one is not read at the next. It writes all
    T steps; those behind a row's end are hidden by its mask. torch.compile leaves the units out:
    `--model.compile.fullgraph false` compiles the others.

    Arguments:
        width: Of the units' state.
        layers: Of units, one upon the other.

    Example:
        >>> import torch
        >>> decoder = GRUDecoder(latent_shape=(4,), output_shape=(10, 30), width=16)
        >>> decoder(torch.randn(5, 4)).shape
        torch.Size([5, 10, 30])
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        context_features: int = 0,
        width: int = 64,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        numbers, self.length = sequence_of(output_shape)
        self.layers = layers
        size = prod(latent_shape) + context_features
        self.state, self.input = nn.Linear(size, layers * width), nn.Linear(size, width)
        self.gru = nn.GRU(width, width, layers, batch_first=True)
        self.linear = nn.Linear(width, numbers)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z = with_context(z.flatten(1), context)
        state = self.state(z).tanh().unflatten(1, (self.layers, -1)).transpose(0, 1).contiguous()
        steps = self.input(z).unsqueeze(1).expand(-1, self.length, -1)
        return self.rows(self.linear(self.gru(steps, state)[0]))


class TransformerDecoder(ToSequences):
    """Self-attention over the places of a sequence, each of which sees z.

    Given z the steps are independent: what is drawn at one is not read at another. It writes all T
    steps; those behind a row's end are hidden by its mask.

    Arguments:
        width: Of the vectors of steps.
        layers: Of attention and a dense layer of four times the width.
        heads: Of attention; they divide the width.

    Raises:
        ValueError: If the heads do not divide the width.

    Example:
        >>> import torch
        >>> decoder = TransformerDecoder(latent_shape=(4,), output_shape=(10, 30), width=16)
        >>> decoder(torch.randn(5, 4)).shape
        torch.Size([5, 10, 30])
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        context_features: int = 0,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        numbers, length = sequence_of(output_shape)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.input = nn.Linear(prod(latent_shape) + context_features, width)
        self.attention = attention(width, layers, heads)
        self.linear = nn.Linear(width, numbers)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        steps = self.input(with_context(z.flatten(1), context)).unsqueeze(1) + self.places
        return self.rows(self.linear(self.attention(steps)))
