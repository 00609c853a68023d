"""float16: weights and arithmetic of the network; decoding and suppression stay in float32."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtc_perception.util.errors import UserError
from offline_compress.quantization.graph import upstream

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Places of inputs (here: region and scales) that ONNX wants in float32 whatever the data."""


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """The folded graph `model` in float16 up to the last layer with weights; inputs and outputs
    keep their types.

    Raises UserError for a weight that float16 cannot hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    layers = {node.name for node in graph.node if node.op_type in _LAYERS}
    inside = layers | upstream(model, layers)
    floats = _float_tensors(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    halves: dict[str, str] = {}
    """float16 twins of float32 tensors, by the name of those."""
    produced: dict[str, str] = {}
    """float16 tensors that replace float32 ones of the network, likewise."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in inside:
            _to_half(node)
            for place, name in enumerate(node.input):
                if place in _FLOAT32_INPUTS.get(node.op_type, ()):
                    continue
                if name in weights and name in floats:
                    if name not in halves:
                        halves[name] = f"{name}_fp16"
                        graph.initializer.append(_half(weights[name], halves[name]))
                    node.input[place] = halves[name]
                else:
                    node.input[place] = produced.get(name, name)
            for place, name in enumerate(node.output):
                if name in floats:
                    produced[name] = f"{name}_fp16"
                    node.output[place] = produced[name]
        else:
            for name in node.input:
                if name in produced and name not in halves:
                    halves[name] = produced[name]
                    nodes.append(
                        helper.make_node(
                            "Cast", [produced[name]], [name], f"{name}_fp32", to=TensorProto.FLOAT
                        )
                    )
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return result


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors of a graph."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    typed = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    typed |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name for name, kind in typed.items() if kind == TensorProto.FLOAT}


def _to_half(node: onnx.NodeProto) -> None:
    """Make a node that yields float32 by its attributes yield float16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t, attribute.t.name))


def _half(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise UserError(
            f"the weight {tensor.name} is too large for float16 ({np.abs(values).max():.3g}): "
            "take fp16 out of compress.quantise.variants"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)
