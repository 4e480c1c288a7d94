"""Suggests parts of a model that fit a data module."""

from __future__ import annotations

from math import ceil, inf, log2
from typing import Any

from vaekit.contracts.batch import DataInfo
from vaekit.data.base import DataModule

_STEPS, _FEWEST, _MOST = 10_000, 10, 300
"""Of a fit: about so many steps, within so many epochs."""


def parts_for(data: DataModule) -> dict[str, Any]:
    """Parts that fit data, for the arguments of `Model`: likelihood, encoder, decoder, and z.

    Example:
        >>> from vaekit import Model, data
        >>> digits = data.Digits()
        >>> parts_for(digits)["likelihood"]
        'Bernoulli'
        >>> model = Model(digits, **parts_for(digits))
    """
    info = data.info
    names = {
        name: _likelihood(entry, _kind(entry, data.kinds.get(name, "")), data)
        for name, entry in info.entries().items()
    }
    if not isinstance(info.event_shape, dict):
        encoder, decoder, latents = _networks(info, _kind(info, data.kinds.get("x", "")))
        found = {"likelihood": names["x"], "encoder": encoder, "decoder": decoder}
        return {**found, "latent_shape": latents}
    size = sum(entry.event_shape[0] for entry in info.entries().values())
    return {
        "likelihood": _spec("Mixed", columns=names),
        "encoder": _spec("EmbeddingEncoder", hidden=[256, 256]),
        "decoder": _spec("MLPDecoder", hidden=[256, 256]),
        "latent_shape": max(2, min(16, size)),
    }


def _spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


def _kind(info: DataInfo, known: str) -> str:
    """What the values of an entry are, where the data module does not say it."""
    if known:
        return known
    if info.levels == 2:
        return "binary"
    shape = info.event_shape
    sides = shape[1:] if len(shape) == 4 else shape[-2:] if len(shape) in (2, 3) else ()
    return "image" if sides and min(sides) >= 8 else "numeric"


def _likelihood(info: DataInfo, kind: str, data: DataModule) -> Any:
    if kind == "count":
        own = {"library": 0} if getattr(data, "library", False) else {}
        return _spec("NegativeBinomial", **own)
    if info.levels == 2:
        return "Bernoulli"
    if isinstance(info.levels, int) and kind in ("category", "sequence"):
        return "Categorical"
    if kind == "image" and isinstance(info.levels, int):
        return "DiscretizedLogistic"
    # The columns of a table have units of their own. In an array a scale for each element would
    # make a nearly constant one count far more than all others.
    units = isinstance(data.info.event_shape, dict)
    return _spec("Gaussian", scale="elementwise" if units else "learned")


def _networks(info: DataInfo, kind: str) -> tuple[Any, Any, int]:
    shape = info.event_shape
    assert isinstance(shape, tuple)
    if kind == "sequence" and len(shape) == 1:
        return _spec("GRUEncoder", tokens=True), "GRUDecoder", 16
    if kind in ("sequence", "signal"):
        return "Conv1dEncoder", "Conv1dDecoder", 16
    if len(shape) in (2, 3) and min(shape[-2:]) >= 8:
        halvings = max(1, min(4, int(log2(min(shape[-2:]) / 4))))
        channels = [32, 64, 128, 256][:halvings]
        return _spec("ConvEncoder", channels=channels), _spec("ConvDecoder", channels=channels), 32
    return _spec("MLPEncoder", hidden=[256]), _spec("MLPDecoder", hidden=[256]), 16


def networks_in_words(data: DataModule) -> str:
    """Returns one line on the shape by which `parts_for` chooses the networks.

    Example:
        >>> from vaekit import data
        >>> networks_in_words(data.Digits())
        'for an image of 1x8x8; for numbers: --model.encoder MLPEncoder --model.decoder MLPDecoder'
    """
    shape = data.info.event_shape
    if isinstance(shape, dict):
        return "for entries of several kinds; --model.encoder chooses another"
    encoder, _, _ = _networks(data.info, _kind(data.info, data.kinds.get("x", "")))
    name = encoder["class_path"] if isinstance(encoder, dict) else encoder
    sizes = "x".join(map(str, shape))
    if name == "MLPEncoder" and len(shape) > 3:
        sizes += " (there are no 3-d convolutions; x.flatten(1, 2) is a stack of images)"
    if name == "Conv1dEncoder":
        sizes = f"{shape[0]} channel{'s' if shape[0] > 1 else ''} of {shape[1]} time steps"
    kind, other = {
        "Conv1dEncoder": ("", "Conv" if min(shape) >= 8 else "MLP"),
        "ConvEncoder": ("an image of ", "Conv1d" if len(shape) == 2 else "MLP"),
        "GRUEncoder": ("tokens of ", "MLP"),
    }.get(name, ("numbers of ", ""))
    names = {"Conv": "an image", "Conv1d": "channels x time steps", "MLP": "numbers"}
    if not other:
        return f"for {kind}{sizes}; --model.encoder and --model.decoder choose others"
    choice = f"--model.encoder {other}Encoder --model.decoder {other}Decoder"
    return f"for {kind}{sizes}; for {names[other]}: {choice}"


def epochs_for(data: DataModule) -> int:
    """For how many epochs a fit trains where a user does not say it."""
    steps = ceil((data.info.data_size or inf) / data.batch_size)
    return max(_FEWEST, min(_MOST, ceil(_STEPS / steps)))
