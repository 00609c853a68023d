"""Mutated ONNX graphs: whole files, of networks that nobody would make."""

import random
from collections.abc import Callable, Sequence

import onnx

MOST_STEPS = 3
_INTEGERS = (0, 1, -1, 2, 7, 1000, 2**31 - 1, -(2**31), 2**40)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))
_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.INT64)

Graph = onnx.GraphProto


def mutated_graph(seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """One of the seeds after one to `MOST_STEPS` mutations of its nodes and weights."""
    model = onnx.load_from_string(generator.choice(seeds))
    for _ in range(generator.randint(1, MOST_STEPS)):
        generator.choice(_STEPS)(model.graph, generator)
    return model.SerializeToString()


def _drop_node(graph: Graph, generator: random.Random) -> None:
    del graph.node[generator.randrange(len(graph.node))]


def _double_node(graph: Graph, generator: random.Random) -> None:
    graph.node.append(generator.choice(graph.node))


def _other_operator(graph: Graph, generator: random.Random) -> None:
    generator.choice(graph.node).op_type = generator.choice(graph.node).op_type


def _other_input(graph: Graph, generator: random.Random) -> None:
    """Perhaps of a later node: a cycle."""
    node, other = generator.choice(graph.node), generator.choice(graph.node)
    if node.input:
        node.input[generator.randrange(len(node.input))] = other.output[0]


def _attribute(graph: Graph, generator: random.Random) -> None:
    attributes = [one for node in graph.node for one in node.attribute]
    one = generator.choice(attributes)
    if one.ints:
        one.ints[generator.randrange(len(one.ints))] = generator.choice(_INTEGERS)
    elif one.type == onnx.AttributeProto.INT:
        one.i = generator.choice(_INTEGERS)
    else:
        one.f = generator.choice(_FLOATS)


def _weights(graph: Graph, generator: random.Random) -> None:
    tensor = generator.choice(graph.initializer)
    data = bytearray(tensor.raw_data)
    begin = generator.randrange(len(data) + 1)
    changed = min(len(data) - begin, 64)
    data[begin : begin + changed] = generator.randbytes(changed)
    tensor.raw_data = bytes(data)


def _shape(graph: Graph, generator: random.Random) -> None:
    tensor = generator.choice(graph.initializer)
    tensor.dims.append(generator.choice(_INTEGERS))


def _type(graph: Graph, generator: random.Random) -> None:
    generator.choice(graph.initializer).data_type = generator.choice(_TYPES)


def _elsewhere(graph: Graph, generator: random.Random) -> None:
    """Weights that are said to be in another file."""
    tensor = generator.choice(graph.initializer)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../weights.bin")


_STEPS: tuple[Callable[[Graph, random.Random], None], ...] = (
    *(_drop_node, _double_node, _other_operator, _other_input, _attribute, _attribute),
    *(_weights, _weights, _shape, _type, _elsewhere),
)
