"""ONNX graphs of exported networks: folded, looked through, single layers put back to float."""

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx.utils import Extractor

FIXED_KERNELS = 2
"""Least input channels of a layer that leaves out resampling kernels (one channel, not learnt)."""


def evaluated(graph: bytes) -> onnx.ModelProto:
    """The graph with its constant parts evaluated."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "folded.onnx")
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def folded(graph: bytes) -> onnx.ModelProto:
    """The graph with constant parts evaluated and every node named; standard operators only.

    The tools look for weights among the initialisers and refer to nodes by name.
    """
    model = evaluated(graph)
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def convolutions(model: onnx.ModelProto, least_channels: int) -> list[str]:
    """Names of the convolutions with constant weights, in order of execution.

    Left out are those that look at fewer than `least_channels` channels without being depthwise.
    """
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in sizes:
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups > 1 or sizes[node.input[1]][1] >= least_channels:
            names.append(node.name)
    return names


def upstream(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Names of the nodes, layers among them, whose outputs one of `layers` depends on."""
    found: set[str] = set()
    tensors: set[str] = set()
    for node in reversed(model.graph.node):  # sorted topologically
        if tensors.intersection(node.output):
            found.add(node.name)
        if node.name in layers or node.name in found:
            tensors.update(node.input)
    return found


def between(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Names of the nodes with any convolution before them and one of `layers` behind them.

    What lies before the network (normalisation) and after it (decoding, suppression, masks) does
    not belong to them.
    """
    after: set[str] = set()
    tensors: set[str] = set()
    for node in model.graph.node:  # sorted topologically
        if tensors.intersection(node.input):
            after.add(node.name)
        if node.op_type == "Conv" or node.name in after:
            tensors.update(node.output)
    return (after & upstream(model, layers)) - set(layers)


def with_float_layers(
    quantised: onnx.ModelProto, reference: onnx.ModelProto, layers: Collection[str]
) -> onnx.ModelProto:
    """A copy of `quantised` in which `layers` compute in float, with the weights of `reference`.

    Quantise/dequantise pairs that only they needed are gone.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    originals = {node.name: node for node in reference.graph.node}
    activations = {node.output[0]: node for node in reference.graph.node}
    weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    restored: dict[str, onnx.TensorProto] = {}
    present = {node.name for node in graph.node}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for place, name in enumerate(originals[node.name].input if node.name in layers else ()):
            if name in weights:  # the name itself may be taken, by what is computed from int8
                node.input[place] = f"{name}_float"
                restored[name] = weights[name]
                continue
            dequantise = producers.get(node.input[place])
            if dequantise is None or dequantise.op_type != "DequantizeLinear":
                continue
            node.input[place] = producers[dequantise.input[0]].input[0]
            if activations[name].name not in present:  # rounding does the activation's work
                activation = onnx.NodeProto()
                activation.CopyFrom(activations[name])
                activation.input[0] = node.input[place]
                for limit, other in enumerate(activation.input[1:], start=1):
                    activation.input[limit] = f"{other}_float"
                    restored[other] = weights[other]
                activation.name = f"{node.name}_input"
                activation.output[0] = node.input[place] = f"{node.name}_input"
                nodes.append(activation)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for name, tensor in restored.items():
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = f"{name}_float"
    # Without what no output depends on any more.
    outputs = [output.name for output in graph.output]
    return Extractor(model).extract_model([graph.input[0].name], outputs)


def serialised(model: onnx.ModelProto) -> bytes:
    """The checked graph as bytes. Raises onnx.checker.ValidationError if it is not valid."""
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
