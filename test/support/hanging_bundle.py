"""The toy network with a loop that has no end in sight for images that are bright: a real hang."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtc_perception.core.bundle import read_bundle, sha256_hex, write_bundle
from support.toy_bundle import toy_model, write_toy_bundle

WHITE, ALWAYS = 254.0, 0.0
"""Mean of the bytes of an image above which inference never ends; that of the self-test is 122."""


def write_hanging_bundle(path: Path, above: float = WHITE) -> Path:
    """Write the toy bundle with a network that hangs for images whose mean is `above`."""
    toy = read_bundle(write_toy_bundle(path)).manifest
    model = hanging_model(toy.input.height, toy.input.width, above)
    fp32 = toy.variants["fp32"].model_copy(update={"sha256": sha256_hex(model)})
    manifest = toy.model_copy(update={"variants": {"fp32": fp32}})
    write_bundle(path, manifest, {fp32.file: model})
    return path


def hanging_model(height: int, width: int, above: float) -> bytes:
    model = onnx.load_from_string(toy_model(height, width))
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == "bytes_mean":
                node.output[index] = "true_mean"
    constants = {
        "above": np.array([above], np.float32),
        "for_ever": np.array([2**62], np.int64),
        "go_on": np.array(True),
        "nothing": np.array(0, np.float32),
    }
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
            helper.make_node("Cos", ["value_in"], ["value_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, [1]),
        ],
    )
    loop = [
        helper.make_node("Greater", ["true_mean", "above"], ["hangs"]),
        helper.make_node("Cast", ["hangs"], ["hangs_1"], to=TensorProto.INT64),
        helper.make_node("Mul", ["hangs_1", "for_ever"], ["turns_row"]),
        helper.make_node("Squeeze", ["turns_row"], ["turns"]),
        helper.make_node("Loop", ["turns", "go_on", "true_mean"], ["value"], body=body),
        helper.make_node("Mul", ["value", "nothing"], ["no_change"]),
        helper.make_node("Add", ["true_mean", "no_change"], ["bytes_mean"]),
    ]
    nodes = [*graph.node[:2], *loop, *graph.node[2:]]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
