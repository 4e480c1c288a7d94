"""Encoders, decoders, and the blocks that they are built from."""

from vaekit.networks.blocks import (
    Learned,
    Residual,
    class_count,
    conv_sizes,
    fill,
    mlp,
    residual,
    vector_size,
    widths,
    with_context,
)
from vaekit.networks.conv import ConvDecoder, ConvEncoder, ResNetDecoder, ResNetEncoder
from vaekit.networks.conv1d import Conv1dDecoder, Conv1dEncoder
from vaekit.networks.flows import Autoregressive, Flow
from vaekit.networks.mlp import MLPDecoder, MLPEncoder
from vaekit.networks.sequences import (
    GRUDecoder,
    GRUEncoder,
    TransformerDecoder,
    TransformerEncoder,
)
from vaekit.networks.sets import DeepSets, EmbeddingEncoder
from vaekit.networks.torch_modules import ModuleDecoder, ModuleEncoder

__all__ = [
    "Autoregressive",
    "Conv1dDecoder",
    "Conv1dEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "DeepSets",
    "EmbeddingEncoder",
    "Flow",
    "GRUDecoder",
    "GRUEncoder",
    "Learned",
    "MLPDecoder",
    "MLPEncoder",
    "ModuleDecoder",
    "ModuleEncoder",
    "ResNetDecoder",
    "ResNetEncoder",
    "Residual",
    "TransformerDecoder",
    "TransformerEncoder",
    "class_count",
    "conv_sizes",
    "fill",
    "mlp",
    "residual",
    "vector_size",
    "widths",
    "with_context",
]
