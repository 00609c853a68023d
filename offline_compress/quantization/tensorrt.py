"""int8 for TensorRT: symmetric int8 activations and weights, convolutions only, biases in float.

TensorRT takes precision from the graph alone: it wants zero points of 0, refuses a quantised bias
and fuses what lies between convolutions by itself.
"""

from importlib.util import find_spec
from typing import Any

import onnx
from onnxruntime.quantization import QuantType

from mtc_perception.errors import UserError
from offline_compress.quantization.calibration import Frames, activation_ranges
from offline_compress.quantization.graph import convolutions
from offline_compress.quantization.onnxruntime import insert_pairs

LEAST_CHANNELS = 8
"""The first layer stays in float: symmetric int8 would leave 7 bits of the 8-bit image."""
TARGET = "SM89"
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
    return find_spec("tensorrt_rtx") is not None


def build(graph: bytes) -> dict[str, Any]:
    """Parse a graph with TensorRT-RTX and build it for `TARGET`, without a GPU.

    Returns version, target and size of the engine. Raises UserError with the parser's or
    builder's reason. May crash the process: see `trial`.
    """
    import tensorrt_rtx as trt

    reasons: list[str] = []

    class Log(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                reasons.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise UserError(f"parser: {parser.get_error(0)}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, TARGET), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(f"builder: {reasons[-1] if reasons else 'no reason given'}")
    return {"tensorrt_rtx": trt.__version__, "target": TARGET, "engine_bytes": engine.nbytes}
