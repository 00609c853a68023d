"""The exported graph: same numbers as the network, exact suppression, honest counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mtc_perception.core.bundle import Thresholds, read_bundle
from mtc_perception.core.input_size import InputSize
from mtc_perception.engines.open import open_engine
from mtc_perception.util.errors import UserError
from offline_compress.export import (
    NMS_INSIDE,
    NMS_IOU,
    NMS_IOU_INSIDE,
    DeployGraph,
    count_gmacs,
    count_parameters,
    export_bundle,
    onnx_graph,
    suppress,
)
from offline_compress.models.registry import load_checkpoint, load_spec, model_spec, save_checkpoint

HEIGHT, WIDTH = 128, 192
THRESHOLDS = Thresholds(score=0.3, drivable=0.5, lane=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ["openvino", "onnxruntime"])
def test_bundle_computes_what_the_network_computes(
    checkpoint: Path, tmp_path: Path, engine_name: str
) -> None:
    export_bundle(checkpoint, tmp_path / "t.mtc", THRESHOLDS, None)
    engine, *_ = open_engine(read_bundle(tmp_path / "t.mtc"), engine_name)  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    engine.input[:] = image
    engine.start()
    got = engine.wait()
    with torch.no_grad():
        boxes, scores, labels, drivable, lane = DeployGraph(load_checkpoint(checkpoint))(
            torch.from_numpy(image)
        )
    np.testing.assert_allclose(got.scores, scores.numpy(), atol=1e-4)
    found = scores.numpy() > 0  # Suppressed candidates tie at 0, in any order.
    assert found.sum() > 10
    close = np.isclose(got.boxes, boxes.numpy(), atol=0.05).all(-1)[found]
    assert close.mean() > 0.95  # Nearly equal scores may swap places, nothing else.
    np.testing.assert_array_equal(got.labels, labels.numpy())
    for name, mask in (("drivable", drivable), ("lane", lane)):
        assert np.abs(getattr(got, name).astype(int) - mask.numpy()).max() <= 1
    engine.close()


def greedy(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> list[int]:
    kept: list[int] = []
    for i in range(len(scores)):
        rivals = [k for k in kept if labels[k] == labels[i]]
        if not any(is_duplicate(boxes[i].tolist(), boxes[k].tolist()) for k in rivals):
            kept.append(i)
    return kept


def is_duplicate(a: list[float], b: list[float]) -> bool:
    width, height = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    iou = both / (sum(areas) - both)
    return iou > NMS_IOU or (iou > NMS_IOU_INSIDE and both / min(areas) > NMS_INSIDE)


def test_a_bundle_says_that_images_are_stretched(checkpoint: Path, tmp_path: Path) -> None:
    spec = replace(load_spec(checkpoint), fit="stretch")
    save_checkpoint(tmp_path / "c", spec, load_checkpoint(checkpoint))
    assert load_spec(tmp_path / "c").fit == "stretch"
    export_bundle(tmp_path / "c", tmp_path / "t.mtc", THRESHOLDS, None)
    assert read_bundle(tmp_path / "t.mtc").manifest.input.size == InputSize(128, 192, "stretch")
    assert load_spec(checkpoint).fit == "letterbox"


@pytest.mark.parametrize("seed", range(8))
def test_suppression_is_greedy_suppression(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vehicles = torch.rand(12, 2, generator=generator) * 300
    middle = vehicles[torch.randint(12, (100,), generator=generator)]
    middle = middle + torch.randn(100, 2, generator=generator) * 4
    half = (20 + torch.rand(100, 2, generator=generator) * 6) * torch.where(
        torch.rand(100, 1, generator=generator) < 0.3, 0.7, 1.0
    )
    boxes = torch.cat((middle - half, middle + half), -1)
    scores = torch.rand(100, generator=generator).sort(descending=True).values + 0.01
    labels = torch.randint(2, (100,), generator=generator)
    got = suppress(boxes[None], scores[None], labels[None])[0]
    assert torch.nonzero(got).flatten().tolist() == greedy(boxes, scores, labels)


def test_a_part_of_a_vehicle_is_no_second_one_and_neighbours_are() -> None:
    vehicle, part, beside, far = (
        [10.0, 10, 60, 50],  # 50 x 40
        [12.0, 12, 45, 48],  # more than half of it, and all inside
        [30.0, 10, 80, 50],  # as large, and 0.43 of the union is common
        [20.0, 15, 35, 30],  # all inside, and a tenth of it
    )
    boxes = torch.tensor([[vehicle, part, beside, far]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.zeros(1, 4, dtype=torch.int64)
    assert suppress(boxes, scores, labels).tolist() == [pytest.approx([0.9, 0, 0.7, 0.6])]


def test_manifest_tells_the_truth(checkpoint: Path, tmp_path: Path) -> None:
    manifest = export_bundle(checkpoint, tmp_path / "t.mtc", THRESHOLDS, None)
    assert read_bundle(tmp_path / "t.mtc").manifest == manifest
    assert manifest.name == "t", "of the bundle, not of its architecture"
    assert manifest.training.data == ["roads train"]
    assert manifest.training.licence == "test"
    assert [step.step for step in manifest.lineage] == ["train", "train", "export"]
    import onnx

    graph = onnx.load_model_from_string((tmp_path / "t.mtc" / "model.onnx").read_bytes())
    learnt = sum(
        int(np.prod(t.dims))
        for t in graph.graph.initializer
        if t.name.startswith(("model", "onnx"))
    )
    # The graph itself, BatchNorm folded, plus a few constants of the post-processing.
    assert manifest.params == pytest.approx(learnt, abs=64)


@pytest.mark.parametrize("name", ["mtc_xs", "rmt_ppad_n"])
def test_all_sizes_are_told(name: str) -> None:
    model = model_spec(name, ["vehicle"], 64, 96).build().eval()
    outputs = onnx.load_model_from_string(onnx_graph(model, 64, 96)).graph.output
    sizes = [[one.dim_value for one in value.type.tensor_type.shape.dim] for value in outputs]
    with torch.no_grad():
        image = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
        count = DeployGraph(model).eval()(image)[1].shape[1]
    assert sizes == [[1, count, 4], [1, count], [1, count], [1, 64, 96], [1, 64, 96]]


def test_gmacs_of_one_known_convolution() -> None:
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert count_gmacs(layer, 10, 20) == pytest.approx(3 * 8 * 9 * 10 * 20 / 1e9)
    assert count_parameters(layer) == 3 * 8 * 9 + 8


def test_nan_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(checkpoint)
    with torch.no_grad():
        next(model.lane_head.parameters()).fill_(float("nan"))
    save_checkpoint(tmp_path / "c", load_spec(checkpoint), model)
    with pytest.raises(UserError, match="NaN"):
        export_bundle(tmp_path / "c", tmp_path / "t.mtc", THRESHOLDS, None)
    assert not (tmp_path / "t.mtc").exists()


def test_a_bundle_yields_no_more_boxes_than_there_are_queries(tmp_path: Path) -> None:
    small = model_spec("rmt_ppad_n", ["vehicle"], HEIGHT, WIDTH)
    small = replace(small, arguments={**small.arguments, "queries": 20, "layers": 1})
    save_checkpoint(tmp_path / "c", small, small.build())
    manifest = export_bundle(tmp_path / "c", tmp_path / "t.mtc", THRESHOLDS, None)
    assert manifest.max_detections == 20
    engine, *_ = open_engine(read_bundle(tmp_path / "t.mtc"), "onnxruntime")
    engine.start()
    assert engine.wait().boxes.shape == (1, 20, 4)
