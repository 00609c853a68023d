"""Variants of a real, small network: what is in them, what they answer, what a bundle says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from mtc_perception.core.bundle import SelfTest, Thresholds, read_bundle
from mtc_perception.core.engine import Network, Outputs
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.datasets.layout import Sample
from mtc_perception.engines.open import open_engine
from mtc_perception.util.errors import BundleError, UserError
from offline_compress.export import export_bundle, network_of
from offline_compress.models.registry import model_spec, save_checkpoint
from offline_compress.quantization import fp16, sensitivity
from offline_compress.quantization import int8_onnxruntime as int8_ort
from offline_compress.quantization import int8_openvino as openvino
from offline_compress.quantization import int8_tensorrt as tensorrt
from offline_compress.quantization import quantise as quantising
from offline_compress.quantization.activation_ranges import calibration_frames
from offline_compress.quantization.bundling import add_variants
from offline_compress.quantization.graph import convolutions, folded, serialised
from offline_compress.quantization.quantise import losses, quantise
from offline_compress.quantization.sensitivity import disagreement, mean_disagreement
from offline_compress.recipe.compression import Quantisation
from support.random_norms import randomise_norms

HEIGHT, WIDTH = 64, 96
GOLDEN = SelfTest(drivable_mean=0.5, lane_mean=0.5, top_score=0.5, tolerance=0.05)
SCALAR = np.zeros(())
FRAMES = [
    np.random.default_rng(seed).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    for seed in range(3)
]


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small network with an fp32 variant."""
    folder = tmp_path_factory.mktemp("quantization")
    torch.manual_seed(0)
    spec = replace(model_spec("mtc_xs", ["vehicle"], HEIGHT, WIDTH), data=["roads train"])
    model = spec.build()
    randomise_norms(model)
    save_checkpoint(folder / "c", spec, model)
    thresholds = Thresholds(score=0.3, drivable=0.5, lane=0.5)
    export_bundle(folder / "c", folder / "fp32.mtc", thresholds, None)
    return folder / "fp32.mtc"


@pytest.fixture(scope="module")
def fp32(bundle_path: Path) -> bytes:
    return (bundle_path / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def model(fp32: bytes) -> onnx.ModelProto:
    return folded(fp32)


@pytest.fixture(scope="module")
def int8(model: onnx.ModelProto) -> Callable[[Any], onnx.ModelProto]:
    made: dict[str, onnx.ModelProto] = {}

    def variant(way: Any) -> onnx.ModelProto:
        if way.__name__ not in made:
            made[way.__name__] = way.quantise(model, FRAMES)
        return made[way.__name__]

    return variant


def apart(model: onnx.ModelProto, other: onnx.ModelProto) -> npt.NDArray[np.float64]:
    return mean_disagreement(
        sensitivity.outputs_of(model, FRAMES), sensitivity.outputs_of(other, FRAMES)
    )


def pairs_at(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, ...]]:
    """The DequantizeLinear node, if any, at every input of every convolution."""
    producers = {output: node for node in model.graph.node for output in node.output}
    return {
        node.name: tuple(
            producers[name]
            for name in node.input
            if name in producers and producers[name].op_type == "DequantizeLinear"
        )
        for node in model.graph.node
        if node.op_type == "Conv"
    }


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_sizes_of_a_network_are_read_from_its_graph(bundle_path: Path, fp32: bytes) -> None:
    bundled = Network.of(read_bundle(bundle_path), "fp32")
    assert network_of(fp32, "fp32") == replace(bundled, bundle="BUNDLE")


def test_float16_keeps_the_contract_and_the_answers(model: onnx.ModelProto) -> None:
    half = fp16.convert(model)
    serialised(half)
    assert [v.type for v in half.graph.output] == [v.type for v in model.graph.output]
    assert half.graph.input[0].type == model.graph.input[0].type
    weights = [value for value in constants(half).values() if value.ndim == 4]
    assert weights
    assert {value.dtype for value in weights} == {np.dtype(np.float16)}
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(half).graph.value_info
    }
    topk = [node.input[0] for node in half.graph.node if node.op_type == "TopK"]
    assert {kinds[name] for name in topk} == {TensorProto.FLOAT}
    assert (apart(model, half) < (0.02, 0.002, 0.002)).all()


def test_a_weight_too_large_for_float16_is_named(model: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    tensor = next(t for t in broken.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(UserError, match=rf"{tensor.name}.*too large for float16 \(1e\+05\)"):
        fp16.convert(broken)


@pytest.mark.slow
@pytest.mark.parametrize("way", [int8_ort, openvino, tensorrt], ids=lambda way: way.__name__)
def test_int8_weights_of_all_layers_are_the_rounded_ones(
    model: onnx.ModelProto, int8: Callable[[Any], onnx.ModelProto], way: Any
) -> None:
    quantised = int8(way)
    serialised(quantised)
    floats, rounded = constants(model), constants(quantised)
    originals = {
        node.name: floats[node.input[1]] for node in model.graph.node if node.op_type == "Conv"
    }
    found = pairs_at(quantised)
    layers = way.layers(model)
    assert len(layers) > 40
    for layer in layers:
        # The pair of the activation may lie before a pooling.
        (weight,) = (pair for pair in found[layer] if rounded.get(pair.input[0], SCALAR).ndim == 4)
        values, scale = rounded[weight.input[0]], rounded[weight.input[1]]
        assert values.dtype == np.int8
        assert scale.size == len(values)  # one per output channel
        restored = values * scale.reshape(-1, 1, 1, 1)
        worst = np.abs(restored - originals[layer]).max((1, 2, 3))
        assert (worst <= scale * 0.5001).all()
        if way is int8_ort:  # its kernels are fast with unsigned activations only
            assert rounded[found[layer][0].input[2]].dtype == np.uint8
    weights = {node.name: node.input[1] for node in quantised.graph.node if node.op_type == "Conv"}
    for layer in set(convolutions(model, 1)) - set(layers):
        np.testing.assert_array_equal(rounded[weights[layer]], originals[layer])
    gap = apart(model, quantised)
    assert (gap > 0).all()
    assert (gap < (0.2, 0.05, 0.05)).all()


def test_tensorrt_gets_symmetric_pairs_and_float_biases(
    int8: Callable[[Any], onnx.ModelProto],
) -> None:
    quantised = int8(tensorrt)
    values = constants(quantised)
    nodes = [
        node
        for node in quantised.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert nodes
    for node in nodes:
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()
    for node in quantised.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            assert values[node.input[2]].dtype == np.float32


@pytest.mark.skipif(not tensorrt.can_build(), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_an_engine(
    kind: str, fp32: bytes, model: onnx.ModelProto, int8: Callable[[Any], onnx.ModelProto]
) -> None:
    graphs = {
        "fp32": lambda: fp32,
        "fp16": lambda: serialised(fp16.convert(model)),
        "int8": lambda: serialised(int8(tensorrt)),
    }
    found = tensorrt.build(network_of(graphs[kind](), kind))  # type: ignore[arg-type]
    assert found["engine_bytes"] > 100_000
    convolutions_of = {name: count for name, count in found["products"].items() if count}
    if kind == "int8":
        assert convolutions_of["int8"] == len(tensorrt.layers(model))
    else:
        assert set(convolutions_of) == {kind}


def test_frames_are_what_the_vehicle_sees(tmp_path: Path) -> None:
    import cv2

    rgb = np.random.default_rng(0).integers(0, 256, (90, 180, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    (frame,) = calibration_frames(
        [Sample("a", tmp_path / "a.png", None, None, None, None)], InputSize(HEIGHT, WIDTH)
    )
    assert frame.shape == (1, HEIGHT, WIDTH, 3)
    box = Letterbox.fit(90, 180, HEIGHT, WIDTH)
    assert (frame[0, : box.top] == 114).all()
    inside = frame[0, box.top : box.top + box.height]
    expected = cv2.resize(rgb, (WIDTH, box.height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(inside, expected)


def answer(boxes: list[list[float]], scores: list[float], mask: int = 0) -> Outputs:
    plane = np.full((1, 2, 2), mask, np.uint8)
    labels = np.zeros((1, len(boxes)), np.int32)
    return Outputs(
        np.array([boxes], np.float32), np.array([scores], np.float32), labels, plane, plane
    )


def test_disagreement_by_hand() -> None:
    one = answer([[0, 0, 10, 10], [50, 50, 60, 70]], [0.75, 0.25])
    assert disagreement(one, one).tolist() == [0, 0, 0]
    turned = answer([[50, 50, 60, 70], [0, 0, 10, 10]], [0.25, 0.75], mask=51)
    assert disagreement(one, turned).tolist() == [0, 0.2, 0.2]
    # The first box is half covered and 0.05 less sure, the second has gone.
    other = answer([[0, 0, 10, 5]], [0.7])
    assert disagreement(one, other)[0] == pytest.approx(1 - 0.75 * 0.5 * 0.95)


@pytest.mark.slow
def test_the_layer_that_rounding_hurts_ranks_first(model: onnx.ModelProto) -> None:
    """One channel of the features that both masks read is made 300 times larger and read 300 times
    smaller: the same network in float, but its other channels no longer fit into 256 steps."""
    hurt = onnx.ModelProto()
    hurt.CopyFrom(model)
    nodes = {node.name: node for node in hurt.graph.node}
    tensors = {tensor.name: tensor for tensor in hurt.graph.initializer}
    reader = nodes["/model/mask_stem/fuse/fuse.0/Conv"]
    (victim,) = (name for name in nodes if name.endswith("lane_head/tower/tower.0/Conv"))
    for name, place, axis, factor in (
        (reader.name, 1, 0, 300.0),
        (reader.name, 2, 0, 300.0),
        (victim, 1, 1, 1 / 300.0),
        ("/model/drivable_head/tower/tower.0/Conv", 1, 1, 1 / 300.0),
    ):
        tensor = tensors[nodes[name].input[place]]
        values = np.moveaxis(numpy_helper.to_array(tensor).copy(), axis, 0)
        values[0] *= factor
        tensor.CopyFrom(numpy_helper.from_array(np.moveaxis(values, 0, axis), tensor.name))
    assert apart(model, hurt).max() < 1e-4
    quantised = tensorrt.quantise(hurt, FRAMES)
    masks = ("mask_stem", "lane_head", "drivable_head")
    layers = [name for name in tensorrt.layers(hurt) if any(part in name for part in masks)]
    ranked = sensitivity.ranking(quantised, hurt, layers, FRAMES[:1])
    readers = {victim, "/model/drivable_head/tower/tower.0/Conv"}
    assert {one.layer for one in ranked[:2]} == readers
    assert {one.layer for one in ranked} == set(layers)


def test_losses_are_points_of_what_both_know() -> None:
    before = {"detection": {"recall": 0.9, "map50": 0.8}, "lane": {"iou": None, "accuracy": 0.7}}
    after = {"detection": {"recall": 0.89, "map50": 0.81}, "lane": {"iou": 0.5, "accuracy": 0.7}}
    assert losses(before, after) == {
        "detection.recall": 1.0,
        "detection.map50": -1.0,
        "lane.accuracy": 0.0,
    }


def in_float(graph: bytes, layers: list[str]) -> int:
    """How many of `layers` have float weights."""
    model = onnx.load_model_from_string(graph)
    found = pairs_at(model)
    return sum(not found[layer] for layer in layers)


@pytest.mark.slow
@pytest.mark.parametrize("enough", [4, 1000])
def test_the_most_sensitive_layers_stay_in_float_until_the_loss_is_small(
    fp32: bytes, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    layers = int8_ort.layers(model)
    by_name = [sensitivity.Sensitivity(layer, 1.0) for layer in sorted(layers)]
    monkeypatch.setattr(quantising, "ranking", lambda *_: by_name)
    monkeypatch.setattr(quantising, "run_trial", lambda *_: GOLDEN)
    tried: list[int] = []

    def evaluate(variant: str, graph: bytes) -> dict[str, Any]:
        if variant == "fp32":
            return {"lane": {"iou": 0.9}}
        tried.append(in_float(graph, layers))
        return {"lane": {"iou": 0.9 if tried[-1] >= enough else 0.8 + tried[-1] / 1000}}

    settings = Quantisation(tolerance=0.3)
    made = quantise(fp32, FRAMES, ["int8-ort"], evaluate, settings)["int8-ort"]
    report = made.report
    if enough == 4:
        assert tried == [0, 1, 2, 3, 4]
        assert report["kept"] == sorted(layers)[:4]
    else:
        assert tried == [0, 1, 2, 3, 4, 6, 9]  # of 67: a sixth, no more
        assert len(report["kept"]) == 9
    assert in_float(made.graph, layers) == len(report["kept"])
    assert report["within_tolerance"] == (enough == 4)
    assert report["loss_points"]["lane.iou"] == (0.0 if enough == 4 else 9.1)
    assert [one["layer"] for one in report["ranking"]] == sorted(layers)


@pytest.mark.slow
def test_all_variants_in_one_bundle(bundle_path: Path, fp32: bytes, tmp_path: Path) -> None:
    metrics = {"lane": {"iou": 0.9}, "speed": {}}
    everything = Quantisation().variants
    made = quantise(fp32, FRAMES, everything, lambda *_: metrics, Quantisation())
    manifest = add_variants(
        read_bundle(bundle_path), made, tmp_path / "all.mtc", "roads val, 1 images"
    )
    bundle = read_bundle(tmp_path / "all.mtc")
    assert bundle.manifest == manifest
    assert list(manifest.variants) == ["fp32", *everything]
    assert manifest.variants["int8-ort"].accuracy == {"lane": {"iou": 0.9}}
    assert bundle.variants_for("openvino", "int8") == ["int8-openvino"]
    assert bundle.variants_for("onnxruntime", "int8") == ["int8-ort"]
    assert bundle.variants_for("tensorrt", "int8") == ["int8-trt"]
    assert bundle.variants_for("onnxruntime")[0] == "fp32"
    with pytest.raises(BundleError, match="no fp16 variant for onnxruntime"):
        bundle.variants_for("onnxruntime", "fp16")
    for engine, precision in (
        ("openvino", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "fp16"),
    ):
        loaded, _, why, _ = open_engine(bundle, engine, precision, threads=1)  # type: ignore[arg-type]
        assert bundle.variants_for(engine, precision)[0] in why
        loaded.close()
    steps = [step for step in manifest.lineage if step.step == "quantize"]
    assert [step.detail.split(":")[0] for step in steps] == list(everything)
    assert {step.sha256 for step in steps} == {manifest.variants["fp32"].sha256}
    assert "nncf" in manifest.exporter
    # Made again, they replace the old ones.
    again = add_variants(bundle, made, tmp_path / "again.mtc", "roads val, 1 images")
    assert list(again.variants) == list(manifest.variants)
    assert again.lineage == manifest.lineage


def test_a_runtime_that_crashes_on_a_variant_is_named_with_what_to_do(
    fp32: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(crashing))
    with pytest.raises(
        UserError,
        match=r"openvino, given the fp16 graph: crashes \(SIGSEGV\); take fp16 out of compress",
    ):
        quantising.quantise(fp32, FRAMES, ["fp16"], lambda *_: {}, Quantisation())


def test_nncf_that_is_not_installed_is_named(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UserError, match="pip install nncf, or take int8-openvino out"):
        openvino.quantise(model, FRAMES)
