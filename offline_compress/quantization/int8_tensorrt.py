"""int8 for TensorRT: symmetric int8 activations and weights, convolutions only, biases in float.

TensorRT takes precision from the graph alone: it wants zero points of 0, refuses a quantised bias
and fuses what lies between convolutions by itself.
"""

from typing import Any

import onnx
from onnxruntime.quantization import QuantType

from mtc_perception.core.engine import Network
from mtc_perception.engines.tensorrt.build import BuildSettings, build_engine
from mtc_perception.engines.tensorrt.library import installed_flavours
from offline_compress.quantization.activation_ranges import Frames, activation_ranges
from offline_compress.quantization.graph import convolutions
from offline_compress.quantization.int8_onnxruntime import insert_pairs

LEAST_CHANNELS = 8
"""The first layer stays in float: symmetric int8 would leave 7 bits of the 8-bit image."""
TARGET = "sm89"
"""Compute capability that a build is tried for."""


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that are quantised."""
    return convolutions(model, LEAST_CHANNELS)


def quantise(model: onnx.ModelProto, frames: Frames) -> onnx.ModelProto:
    """The folded graph `model` with quantise/dequantise pairs, calibrated on `frames`."""
    ranges = activation_ranges(model, frames, symmetric=True)
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        # Their outputs are quantised where the next layer reads them, after the activation.
        "OpTypesToExcludeOutputQuantization": ["Conv"],
    }
    return insert_pairs(model, ranges, layers(model), QuantType.QInt8, options)


def can_build() -> bool:
    """Whether TensorRT-RTX is installed, which builds engines without a GPU."""
    return "tensorrt_rtx" in installed_flavours()


def build(network: Network) -> dict[str, Any]:
    """Build an engine for `TARGET`, without a GPU and in a process of its own.

    Returns version, target, size of the engine, and how many convolutions and matrix products it
    has in each precision. Raises EngineError with TensorRT's reason.
    """
    built = build_engine(network, BuildSettings("tensorrt_rtx", (TARGET,)))
    return {
        "tensorrt_rtx": built.key.version,
        "target": TARGET,
        "engine_bytes": len(built.engine),
        "products": built.about["products"],
    }
