"""ONNX graphs: what is found in them, and layers put back to float."""

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from offline_compress.quantization import int8_onnxruntime as int8_ort
from offline_compress.quantization import int8_tensorrt as int8_trt
from offline_compress.quantization.activation_ranges import activation_ranges
from offline_compress.quantization.graph import (
    between,
    convolutions,
    folded,
    serialised,
    upstream,
    with_float_layers,
)

HEIGHT, WIDTH = 16, 24
FRAMES = [
    np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    for seed in range(4)
]


def network() -> onnx.ModelProto:
    """uint8 image -> stem (3 to 8) -> depthwise -> inner (8 to 8) -> last (8 to 1) -> sigmoid,
    with ReLUs, a residual sum, a constant part to fold, and a fixed one-channel kernel at the end.
    """
    rng = np.random.default_rng(0)
    weights = {
        "stem": (8, 3, 3, 3),
        "depthwise": (8, 1, 3, 3),
        "inner": (8, 8, 3, 3),
        "last": (1, 8, 1, 1),
        "blur": (1, 1, 3, 3),
    }
    constants: dict[str, npt.NDArray[np.generic]] = {
        f"{name}.weight": rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        for name, shape in weights.items()
    }
    constants |= {
        f"{name}.bias": rng.normal(0, 0.1, shape[0]).astype(np.float32)
        for name, shape in weights.items()
    }
    constants |= {"half": np.float32(0.5), "four": np.float32(256.0)}

    def conv(name: str, source: str, pad: int = 1, group: int = 1) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [f"{name}.out"], name, pads=[pad] * 4, group=group)

    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["half", "four"], ["full"], "constant"),
        helper.make_node("Div", ["planes", "full"], ["scaled"], "scale"),
        conv("stem", "scaled"),
        helper.make_node("Relu", ["stem.out"], ["stem.relu"], "stem.act"),
        conv("depthwise", "stem.relu", group=8),
        helper.make_node("Relu", ["depthwise.out"], ["depthwise.relu"], "depthwise.act"),
        conv("inner", "depthwise.relu"),
        helper.make_node("Add", ["stem.relu", "inner.out"], ["sum"], "residual"),
        conv("last", "sum", pad=0),
        conv("blur", "last.out"),
        helper.make_node("Sigmoid", ["blur.out"], ["probability"], "sigmoid"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 1, HEIGHT, WIDTH])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, *outputs: str) -> list[list[npt.NDArray[np.float32]]]:
    """The named outputs for every frame."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(list(outputs) or None, {"image": frame}) for frame in FRAMES]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return folded(network().SerializeToString())


def test_folding_keeps_the_answers_and_drops_what_is_constant(model: onnx.ModelProto) -> None:
    assert "constant" not in {node.name for node in model.graph.node}
    assert [entry.domain for entry in model.opset_import] == [""]
    for before, after in zip(run(network()), run(model), strict=True):
        np.testing.assert_allclose(after[0], before[0], atol=1e-6)


def test_convolutions_by_the_channels_they_look_at(model: onnx.ModelProto) -> None:
    assert convolutions(model, 1) == ["stem", "depthwise", "inner", "last", "blur"]
    assert convolutions(model, 2) == ["stem", "depthwise", "inner", "last"]
    assert convolutions(model, 8) == ["depthwise", "inner", "last"]


def test_what_lies_before_and_between_layers(model: onnx.ModelProto) -> None:
    learnt = convolutions(model, 2)
    assert between(model, learnt) == {"stem.act", "depthwise.act", "residual"}
    assert {"scale", "stem", "inner"} <= upstream(model, learnt)
    assert not {"last", "blur", "sigmoid"} & upstream(model, learnt)
    assert int8_ort.layers(model) == ["depthwise", "inner"]
    assert int8_trt.layers(model) == ["depthwise", "inner", "last"]


def test_ranges_are_the_extremes_of_every_frame(model: onnx.ModelProto) -> None:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    for name in ("stem.relu", "inner.out"):
        shape = [1, 8, HEIGHT, WIDTH]
        exposed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    seen = np.array(run(exposed, "stem.relu", "inner.out"))
    plain = activation_ranges(model, FRAMES, symmetric=False)
    symmetric = activation_ranges(model, FRAMES, symmetric=True)
    for index, name in enumerate(("stem.relu", "inner.out")):
        values = seen[:, index]
        low, high = (float(np.squeeze(v)) for v in plain[name].range_value)
        assert (low, high) == pytest.approx((values.min(), values.max()), rel=1e-5)
        low, high = (float(np.squeeze(v)) for v in symmetric[name].range_value)
        assert (-low, high) == pytest.approx([np.abs(values).max()] * 2, rel=1e-5)


@pytest.mark.parametrize("way", [int8_ort, int8_trt])
def test_all_layers_back_in_float_are_the_float_network(
    model: onnx.ModelProto, way: object
) -> None:
    quantised = way.quantise(model, FRAMES)  # type: ignore[attr-defined]
    restored = with_float_layers(quantised, model, convolutions(model, 1))
    serialised(restored)
    gaps = [
        np.abs(np.array(run(one)) - np.array(run(model))).max() for one in (quantised, restored)
    ]
    # The sum between the layers is still rounded.
    assert gaps[1] < gaps[0] / 2


def test_one_layer_back_in_float(model: onnx.ModelProto) -> None:
    quantised = int8_ort.quantise(model, FRAMES)
    before = quantised.SerializeToString()
    mixed = with_float_layers(quantised, model, ["inner"])
    assert quantised.SerializeToString() == before
    serialised(mixed)
    kinds = {tensor.name: tensor.data_type for tensor in mixed.graph.initializer}
    nodes = {node.name: node for node in mixed.graph.node}
    producers = {output: node for node in mixed.graph.node for output in node.output}
    assert [kinds[name] for name in nodes["inner"].input[1:]] == [TensorProto.FLOAT] * 2
    relu = producers[nodes["inner"].input[0]]
    assert (relu.op_type, producers[relu.input[0]].name) == ("Relu", "depthwise")
    assert producers[nodes["depthwise"].input[1]].op_type == "DequantizeLinear"
    run(mixed)


def test_unused_nodes_and_weights_go(model: onnx.ModelProto) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node("Relu", ["stem.out"], ["nothing"], "idle"))
    copy.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "idle.weight"))
    cleaned = with_float_layers(copy, model, []).graph
    assert [node.name for node in cleaned.node] == [node.name for node in model.graph.node]
    names = {tensor.name for tensor in cleaned.initializer}
    assert names == {tensor.name for tensor in model.graph.initializer}
