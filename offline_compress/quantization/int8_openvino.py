"""int8 for OpenVINO, by NNCF (Apache-2.0): what to quantise, and biases corrected for it."""

import contextlib
import io
import logging
import os

import onnx

from mtc_perception.util.errors import UserError
from offline_compress.quantization.activation_ranges import Frames
from offline_compress.quantization.graph import FIXED_KERNELS, between, convolutions


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that are quantised."""
    return convolutions(model, FIXED_KERNELS)


def quantise(model: onnx.ModelProto, frames: Frames) -> onnx.ModelProto:
    """The folded graph `model` with quantise/dequantise pairs, calibrated on `frames`.

    Raises UserError if NNCF is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # no statistics of use are sent
    try:
        import nncf
    except ImportError as error:
        raise UserError(
            f"int8-openvino needs the Python package nncf ({error}): pip install nncf, or take "
            "int8-openvino out of compress.quantise.variants"
        ) from None
    nncf.set_log_level(logging.ERROR)
    inside = {*layers(model), *between(model, layers(model))}
    outside = [node.name for node in model.graph.node if node.name not in inside]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        result: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset([{"image": frame} for frame in frames]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(frames),
            ignored_scope=nncf.IgnoredScope(names=outside),
        )
    return result
