"""Parameters and multiply-accumulates of an ONNX network."""

import math
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from offline_compress.quantization.graph import evaluated

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def count_parameters(model: onnx.ModelProto) -> int:
    """Float numbers that the file holds, but single ones, which are constants of formulas."""
    stored = [*model.graph.initializer]
    for node in model.graph.node:
        stored += [
            one.t for one in node.attribute if node.op_type == "Constant" and one.name == "value"
        ]
    sizes = [math.prod(one.dims) for one in stored if one.data_type in _FLOATS]
    return sum(size for size in sizes if size > 1)


def count_gmacs(model: onnx.ModelProto) -> float:
    """Multiply-accumulates of convolutions and matrix products for one image, in 1e9.

    `model` has inputs of fixed sizes. Sizes that the graph computes, as of padding that keeps them,
    are known once that is evaluated. Products whose sizes are not known then do not count.
    """
    graph = onnx.shape_inference.infer_shapes(evaluated(model.SerializeToString())).graph
    shapes = {
        one.name: [size.dim_value for size in one.type.tensor_type.shape.dim]
        for one in (*graph.input, *graph.value_info, *graph.output)
    } | {one.name: list(one.dims) for one in graph.initializer}
    return sum(_macs(node, shapes) for node in graph.node) / 1e9


def _macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    first, second, out = (shapes.get(name, []) for name in (*node.input[:2], node.output[0]))
    if not (first and second and out):
        return 0
    match node.op_type:
        case "Conv":
            return math.prod(out) * math.prod(second[1:])
        case "ConvTranspose":
            return math.prod(first) * math.prod(second[1:])
        case "Gemm":
            turned = any(one.name == "transA" and one.i for one in node.attribute)
            return math.prod(out) * first[0 if turned else -1]
    return math.prod(out) * first[-1]
