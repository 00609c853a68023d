"""int8 for ONNX Runtime on a CPU: uint8 activations, int8 weights per output channel.

Cheap operators between the convolutions are quantised, too: with convolutions alone,
converting to and fro eats up what they gain.
"""

from typing import Any

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from offline_compress.quantization.activation_ranges import Frames, activation_ranges
from offline_compress.quantization.graph import FIXED_KERNELS, between, convolutions, upstream

LEAST_CHANNELS = 8
"""Its int8 convolutions of fewer input channels (the first layer, the masks' resampling) take
five to ten times as long as its float ones."""
_CHEAP = frozenset(
    [
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "DepthToSpace",
        "GlobalAveragePool",
        "Mul",
        "Relu",
        "Resize",
        "Sigmoid",
        "Split",
    ]
)
"""Operators that it computes, or passes on, in int8. Attention and its norms stay in float; so does
pooling by maximum, whose int8 kernel can take a hundred times as long as the float one."""


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that are quantised.

    Not the last ones, whose int8 kernels would round what they predict to 256 steps.
    """
    learnt = convolutions(model, FIXED_KERNELS)
    inner = upstream(model, learnt)
    return [name for name in convolutions(model, LEAST_CHANNELS) if name in inner]


def quantise(model: onnx.ModelProto, frames: Frames) -> onnx.ModelProto:
    """The folded graph `model` with quantise/dequantise pairs, calibrated on `frames`."""
    ranges = activation_ranges(model, frames, symmetric=False)
    chosen = layers(model)
    # Down to the last layers' inputs; the convolutions left out are not among them.
    inside = between(model, convolutions(model, FIXED_KERNELS))
    cheap = [n.name for n in model.graph.node if n.name in inside and n.op_type in _CHEAP]
    return insert_pairs(model, ranges, [*chosen, *cheap], QuantType.QUInt8, {})


def insert_pairs(
    model: onnx.ModelProto,
    ranges: TensorsData,
    nodes: list[str],
    activations: QuantType,
    options: dict[str, Any],
) -> onnx.ModelProto:
    """The graph with quantise/dequantise pairs around `nodes`; weights int8 per channel."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kinds = {node.op_type for node in model.graph.node if node.name in set(nodes)}
    quantizer = QDQQuantizer(
        copy, True, False, QuantType.QInt8, activations, ranges, nodes, [], sorted(kinds), options
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result
