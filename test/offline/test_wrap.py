"""Networks of others as bundles: what they answer stays what it was."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto, helper, version_converter

from mtc_perception.core.bundle import Training, read_bundle
from mtc_perception.core.engine import Engine, EngineChoice, Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.engines.load import load_engine
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.util.errors import UserError
from offline_compress.export import network_of
from offline_compress.wrapping.graph import read_network
from offline_compress.wrapping.network_map import (
    Anchored,
    AnchorFree,
    Boxes,
    Final,
    Mask,
    NetworkInput,
    NetworkMap,
    Query,
    load_map,
)
from offline_compress.wrapping.wrap import wrap, wrap_file, wrap_module
from support.checkout import ROOT
from support.programs import mtc_compress
from support.public_networks import Grids, HalfMasks, Queries, TwoMasks, Yolop, write_onnx

MAPS = ROOT / "config" / "maps"
CLOSE = 1e-3
LICENCE = Training(data=[], licence="MIT")


def original(path: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of an ONNX file as it is, for its own kind of input [1, 3, H, W]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    [feed] = session.get_inputs()
    return dict(zip(names, session.run(None, {feed.name: image}), strict=True))


def wrapped(path: Path, described: NetworkMap, name: EngineChoice = "onnxruntime") -> Engine:
    graph, _ = wrap(read_network(path), str(path), described)
    return load_engine(network_of(graph, "fp32"), name, threads=1)  # type: ignore[arg-type]


def answer(engine: Engine, frame: np.ndarray) -> Outputs:
    engine.input[0] = frame
    engine.start()
    return engine.wait()


def check_mask(found: np.ndarray | None, probability: np.ndarray) -> None:
    assert found is not None
    np.testing.assert_allclose(found[0] / 255, probability, atol=0.5 / 255 + CLOSE)
    assert probability.std() > 0.01


def check_boxes(found: Outputs, boxes: np.ndarray, scores: np.ndarray, iou: float) -> None:
    """Against greedy suppression, class by class, of `boxes` [N, 4] with `scores` [N, classes]."""
    # OpenCV takes boxes without area for the same.
    scores = scores * ((boxes[:, 2:] - boxes[:, :2]).min(1, keepdims=True) > 0)
    labels, best = scores.argmax(1), scores.max(1)
    order = np.argsort(-best, kind="stable")[:300]
    sizes = np.concatenate((boxes[order, :2], boxes[order, 2:] - boxes[order, :2]), 1)
    kept = cv2.dnn.NMSBoxesBatched(
        sizes.tolist(), best[order].tolist(), labels[order].tolist(), 0.0, iou
    )
    kept = order[np.asarray(kept, np.intp)]
    areas = (found.boxes[0, :, 2:] - found.boxes[0, :, :2]).min(1)
    there = np.flatnonzero((found.scores[0] > 0) & (areas > 0))
    count = min(len(kept), len(there))
    assert count > 3
    expected = np.sort(best[kept])[::-1][:count]
    np.testing.assert_allclose(found.scores[0, there][:count], expected, atol=CLOSE)
    # Equal scores may come in any order: each box is looked for.
    for box, score, label in zip(
        *(part[0, there][:count] for part in (found.boxes, found.scores, found.labels)), strict=True
    ):
        apart = np.abs(boxes[kept] - box).max(1) + np.abs(best[kept] - score)
        place = kept[apart.argmin()]
        assert apart.min() < 0.05, (box, score)
        assert labels[place] == label


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def corners(centre: np.ndarray, extent: np.ndarray, height: int, width: int) -> np.ndarray:
    boxes = np.concatenate((centre - extent / 2, centre + extent / 2), 1)
    return np.clip(boxes, 0, [width, height, width, height])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_masks_as_of_twinlitenet_plus(tmp_path: Path, engine: EngineChoice) -> None:
    path = write_onnx(TwoMasks(), tmp_path / "two.onnx", 64, 96)
    frame = self_test_frame(64, 96)
    expected = original(path, frame.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    found = answer(wrapped(path, load_map(MAPS / "twinlitenet_plus.yaml"), engine), frame)
    check_mask(found.drivable, softmax(expected["da"], 1)[0, 1])
    check_mask(found.lane, softmax(expected["ll"], 1)[0, 1])
    assert found.scores.size == 0


def test_boxes_as_of_yolox(tmp_path: Path) -> None:
    path = write_onnx(Grids(8), tmp_path / "grids.onnx", 64, 96, opset=11)
    frame = self_test_frame(64, 96)
    rows = original(path, frame[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32))["output"][0]
    cells, steps = [], []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: 64 // stride, : 96 // stride]
        cells.append(np.stack((x, y), -1).reshape(-1, 2))
        steps += [stride] * len(cells[-1])
    step = np.array(steps)[:, None]
    boxes = corners(
        (rows[:, :2] + np.concatenate(cells)) * step, np.exp(rows[:, 2:4]) * step, 64, 96
    )
    scores = (rows[:, 4:5] * rows[:, 5:])[:, [2, 5, 7]]
    described = load_map(MAPS / "yolox.yaml")
    one_class = answer(wrapped(path, described), frame)
    check_boxes(one_class, boxes, scores.max(1, keepdims=True), 0.65)
    assert one_class.drivable is one_class.lane is None
    apart = described.model_dump(exclude_none=True)
    apart["detection"]["classes"] = {"car": (2,), "bus": (5,), "truck": (7,)}
    check_boxes(answer(wrapped(path, NetworkMap(**apart)), frame), boxes, scores, 0.65)


def test_all_tasks_as_of_yolop(tmp_path: Path) -> None:
    """640x640 as in its own file; what the map does not name is left out of the graph."""
    path = write_onnx(Yolop(), tmp_path / "yolop.onnx", 640, 640)
    out = tmp_path / "yolop.mtc"
    manifest = wrap_file(path, load_map(MAPS / "yolop.yaml"), out, "yolop", LICENCE)
    assert manifest.tasks == ["detection", "drivable", "lane"]
    assert (manifest.classes, manifest.max_detections) == (["vehicle"], 100)
    network = read_bundle(out).model_bytes("fp32")
    frame = self_test_frame(640, 640)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    image = ((frame - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    expected = original(path, image)
    with open_perceiver(Selection(out, "onnxruntime", threads=1)) as perceiver:
        found = answer(perceiver.engine, frame)
        rows = expected["det_out"][0]
        boxes = corners(rows[:, :2], rows[:, 2:4], 640, 640)
        check_boxes(found, boxes, rows[:, 4:5] * rows[:, 5:], 0.45)
        for name, mask in (("drive_area_seg", found.drivable), ("lane_line_seg", found.lane)):
            check_mask(mask, expected[name][0, 1] / expected[name][0].sum(0))
        seen = perceiver.perceive(SourceImage(self_test_frame(360, 640), "rgb"))
    assert seen.drivable is not None
    assert seen.drivable.shape == (360, 640)
    assert [one.name for one in onnx.load_model_from_string(network).graph.output] == [
        *("boxes", "scores", "labels", "drivable", "lane")
    ]


def test_anchors_are_decoded(tmp_path: Path) -> None:
    """Undecoded, the same network gives the same answers."""
    names = ("s8", "s16", "s32", "da", "ll")
    model, bare = Yolop(), Yolop(decode=False)
    whole = write_onnx(model, tmp_path / "whole.onnx", 64, 96)
    undecoded = write_onnx(bare, tmp_path / "bare.onnx", 64, 96, names=names)
    masks = {"drivable": {"output": "da", "values": "share"}}
    detection = {"classes": {"vehicle": [0]}, "iou": 0.45}
    there = {"decoder": "boxes", "output": "det_out"} | detection
    here = {"decoder": "anchored", "outputs": names[:3], "anchors": Yolop.anchors} | detection
    frame = self_test_frame(64, 96)
    one = answer(wrapped(whole, NetworkMap(detection=there)), frame)
    other = answer(wrapped(undecoded, NetworkMap(detection=here, **masks)), frame)
    np.testing.assert_allclose(one.scores, other.scores, atol=CLOSE)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=CLOSE)
    assert other.drivable is not None


def test_queries_are_decoded(tmp_path: Path) -> None:
    path = write_onnx(Queries(3), tmp_path / "queries.onnx", 64, 96)
    detection = {"decoder": "query", "boxes": "boxes", "logits": "logits", "values": "softmax"}
    described = NetworkMap(detection=detection | {"classes": {"car": [0], "large": [1, 2]}})
    frame = self_test_frame(64, 96)
    expected = original(path, frame.transpose(2, 0, 1)[None].astype(np.float32))
    found = answer(wrapped(path, described), frame)
    scores = softmax(expected["logits"][0], 1)[:, :-1]
    scores = np.stack((scores[:, 0], scores[:, 1:].max(1)), 1)
    order = np.argsort(-scores.max(1))
    np.testing.assert_allclose(found.scores[0], scores.max(1)[order], atol=CLOSE)
    np.testing.assert_array_equal(found.labels[0], scores.argmax(1)[order])
    scale = np.array([96, 64])
    boxes = corners(
        expected["boxes"][0, :, :2] * scale, expected["boxes"][0, :, 2:] * scale, 64, 96
    )
    np.testing.assert_allclose(found.boxes[0], boxes[order], atol=CLOSE * 96)


class OwnHead(torch.nn.Module):
    """A network whose boxes its owner decodes and chooses: two at most, padded to three."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = TwoMasks()

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        height = image.mean((1, 2, 3))[:, None]
        boxes = torch.tensor([[[8.0, 4, 40, 20], [-4, 30, 120, 60], [0, 0, 0, 0]]])
        return {
            "found": (boxes, height * torch.tensor([0.002, 0.004, 0])),
            "kinds": torch.tensor([[3, 1, -1]]),
            "masks": {"all": self.masks(image)},
        }


OWN_HEAD = NetworkMap(
    detection=Final(
        decoder="final",
        boxes="found.0",
        scores="found.1",
        labels="kinds",
        classes={"large": (2, 3), "car": (1,)},
    ),
    lane=Mask(output="masks.all.1"),
)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_module_of_pytorch_with_a_head_of_its_own(tmp_path: Path, engine: EngineChoice) -> None:
    model, out = OwnHead().train(), tmp_path / "own.mtc"
    manifest = wrap_module(model, torch.zeros(1, 3, 64, 96), OWN_HEAD, out, licence="MIT")
    assert model.training
    assert (manifest.name, manifest.tasks) == ("OwnHead", ["detection", "lane"])
    assert manifest.training.licence == "MIT"
    frame = self_test_frame(64, 96)
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = model.eval()(image)
    with open_perceiver(Selection(out, engine, threads=1)) as perceiver:
        found = answer(perceiver.engine, frame)
    scores = expected["found"][1][0].numpy()
    np.testing.assert_allclose(found.scores[0], scores[[1, 0, 2]], atol=CLOSE)
    np.testing.assert_allclose(found.boxes[0, :2], [[0, 30, 96, 60], [8, 4, 40, 20]], atol=CLOSE)
    assert found.labels[0, :2].tolist() == [1, 0]
    check_mask(found.lane, softmax(expected["masks"]["all"][1].numpy(), 1)[0, 1])


class Rows(torch.nn.Module):
    """A box of each cell, concatenated with its score, as HybridNets leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        cells = self.cells(image / 255).flatten(2).transpose(1, 2)
        middle, half = 20 + 9 * cells[..., :2], 4 + 9 * cells[..., 2:4].abs()
        corners = torch.cat((middle - half, middle + half), -1)
        return {"rows": torch.cat((corners[..., [1, 0, 3, 2]], cells[..., 4:].sigmoid()), -1)}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_boxes_that_were_concatenated_with_their_scores(
    tmp_path: Path, engine: EngineChoice
) -> None:
    torch.manual_seed(0)
    model = Rows().eval()
    boxes = Boxes(
        decoder="boxes", output="rows", form="corners", objectness=False, classes={"car": (0,)}
    )
    described = NetworkMap(detection=boxes)
    wrap_module(model, torch.zeros(1, 3, 64, 96), described, tmp_path / "rows.mtc")
    frame = self_test_frame(64, 96)
    with torch.no_grad():
        rows = model(torch.from_numpy(frame).permute(2, 0, 1)[None].float())["rows"][0].numpy()
    best = rows[rows[:, 4].argmax()]
    with open_perceiver(Selection(tmp_path / "rows.mtc", engine, threads=1)) as perceiver:
        found = answer(perceiver.engine, frame)
    np.testing.assert_allclose(found.scores[0, 0], best[4], atol=CLOSE)
    np.testing.assert_allclose(found.boxes[0, 0], best[:4].clip(0), atol=1e-3)


def test_a_single_tensor_is_an_output(tmp_path: Path) -> None:
    model = torch.nn.Conv2d(3, 2, 3, padding=1)
    described = NetworkMap(drivable=Mask(output="output"))
    wrap_module(model, torch.zeros(1, 3, 32, 64), described, tmp_path / "one.mtc")
    assert read_bundle(tmp_path / "one.mtc").manifest.input.size == (32, 64, "letterbox")


class Padded(torch.nn.Module):
    """As EfficientNet, which reckons its padding from the image's size at each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = torch.nn.Conv2d(3, 64, 3, 2), torch.nn.Conv2d(64, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        padded = torch.nn.functional.pad(image, (0, width % 2 + 1, 0, height % 2 + 1))
        return self.head(self.stem(padded))


def test_work_is_counted_behind_sizes_that_the_graph_computes(tmp_path: Path) -> None:
    described = NetworkMap(lane=Mask(output="output"))
    manifest = wrap_module(Padded(), torch.zeros(1, 3, 64, 96), described, tmp_path / "a.mtc")
    assert manifest.gmacs == round(32 * 48 * 64 * (27 + 2) / 1e9, 3)


class Branching(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(image).abs()[:, :2]


@pytest.mark.parametrize(
    ("model", "described", "reason"),
    [
        (OwnHead(), NetworkMap(lane=Mask(output="lane")), r"no output lane; it has found.0 \[1, 3"),
        (Branching(), NetworkMap(lane=Mask(output="output")), "Branching does not export to ONNX"),
        (
            OwnHead(),
            OWN_HEAD.model_copy(
                update={"detection": OWN_HEAD.detection.model_copy(update={"labels": "found.0"})}
            ),
            r"are not \[1, N, 4\], \[1, N\] and \[1, N\]",
        ),
    ],
)
def test_a_module_that_does_not_fit(
    tmp_path: Path, model: torch.nn.Module, described: NetworkMap, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        wrap_module(model, torch.zeros(1, 3, 64, 96), described, tmp_path / "o.mtc")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.mtc").exists()


def test_a_network_that_answers_with_no_numbers_is_refused(tmp_path: Path) -> None:
    class Broken(TwoMasks):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(mask * torch.nan for mask in super().forward(image))

    path = write_onnx(Broken(), tmp_path / "two.onnx", 64, 96)
    with pytest.raises(UserError, match=r"two\.onnx: output da has values that are no numbers"):
        wrap(read_network(path), str(path), load_map(MAPS / "twinlitenet_plus.yaml"))


def test_a_network_for_too_large_images_is_refused_before_it_runs() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 20000])
    given = helper.make_model(helper.make_graph([], "empty", [image], []))
    with pytest.raises(UserError, match="net: its input has width 20000, at most 8192"):
        wrap(given, "net", NetworkMap(lane=Mask(output="lane")))


@pytest.mark.parametrize("values", ["softmax", "sigmoid", "argmax"])
def test_small_masks_are_brought_to_the_inputs_size(tmp_path: Path, values: str) -> None:
    model = TwoMasks()
    model.heads = torch.nn.ModuleList(torch.nn.Conv2d(8, 2, 1) for _ in range(2))
    path = write_onnx(model, tmp_path / "half.onnx", 64, 96)
    described = NetworkMap(lane={"output": "ll", "values": values})
    frame = self_test_frame(64, 96)
    logits = original(path, frame.transpose(2, 0, 1)[None].astype(np.float32))["ll"][0]
    large = np.stack([cv2.resize(one, (96, 64), interpolation=cv2.INTER_LINEAR) for one in logits])
    expected = {
        "softmax": softmax(large, 0)[1],
        "sigmoid": 1 / (1 + np.exp(-np.clip(large[1], -80, 80))),
        "argmax": (large[1] > large[0]).astype(np.float32),
    }[values]
    check_mask(answer(wrapped(path, described), frame).lane, expected)


def test_classes_of_pixels_are_a_mask(tmp_path: Path) -> None:
    """As of a network that ends with ArgMax: several of its classes may be the road."""
    nodes = [
        helper.make_node("Mul", ["images", "tenth"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["mean"], ["classes"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "classes",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("classes", TensorProto.INT64, [1, 8, 8])],
        [helper.make_tensor("tenth", TensorProto.FLOAT, [], [0.1])],
    )
    path = tmp_path / "classes.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)
    described = NetworkMap(
        drivable={"output": "classes", "values": "argmax", "channels": [3, 5]},
        lane={"output": "classes", "values": "argmax", "channels": [4]},
    )
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[2:4], frame[4:6], frame[6:] = 35, 45, 55
    found = answer(wrapped(path, described), frame)
    assert found.drivable is not None
    assert found.drivable[0, :, 0].tolist() == [0, 0, 255, 255, 0, 0, 255, 255]
    assert found.lane is not None
    assert found.lane[0, :, 0].tolist() == [0, 0, 0, 0, 255, 255, 0, 0]


def test_open_sizes_are_given_by_the_map(tmp_path: Path) -> None:
    path = write_onnx(TwoMasks(), tmp_path / "open.onnx", 32, 32, free=True)
    content = load_map(MAPS / "twinlitenet_plus.yaml").model_dump(exclude_none=True)
    content["input"] |= {"height": 64, "width": 96, "fit": "stretch"}
    out = tmp_path / "open.mtc"
    manifest = wrap_file(path, NetworkMap(**content), out, "open", LICENCE)
    assert manifest.input.size == (64, 96, "stretch")
    frame = self_test_frame(64, 96)
    expected = original(path, frame.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with open_perceiver(Selection(out, "openvino", threads=1)) as perceiver:
        check_mask(answer(perceiver.engine, frame).lane, softmax(expected["ll"], 1)[0, 1])
    macs = 8 * 32 * 48 * 27 + 2 * 8 * 32 * 48 * 2 * 4
    assert manifest.gmacs == round(macs / 1e9, 3)
    assert manifest.params == 8 * 27 + 8 + 2 * (8 * 2 * 4 + 2)


@pytest.mark.parametrize("opset", [9, 18, 22])
def test_any_opset(tmp_path: Path, opset: int) -> None:
    path = write_onnx(TwoMasks(), tmp_path / "two.onnx", 64, 96, opset=min(opset, 18))
    if opset > 18:
        onnx.save(version_converter.convert_version(onnx.load(path), opset), path)
    frame = self_test_frame(64, 96)
    expected = original(path, frame.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    found = answer(wrapped(path, load_map(MAPS / "twinlitenet_plus.yaml")), frame)
    check_mask(found.lane, softmax(expected["ll"], 1)[0, 1])


def test_float16_in_and_out(tmp_path: Path) -> None:
    path = write_onnx(HalfMasks(), tmp_path / "half.onnx", 64, 96, dtype=torch.float16)
    frame = self_test_frame(64, 96)
    image = frame.transpose(2, 0, 1)[None].astype(np.float32) / 255
    expected = original(path, image.astype(np.float16))["ll"].astype(np.float32)
    found = answer(wrapped(path, load_map(MAPS / "twinlitenet_plus.yaml")), frame)
    check_mask(found.lane, softmax(expected, 1)[0, 1])


def test_a_wrapped_network_is_quantised(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(TwoMasks(), tmp_path / "two.onnx", 64, 96)
    out = tmp_path / "two.mtc"
    data = ("--data", dataset, "--split", "train", "--calibration-split", "train")
    assert mtc_compress("wrap", path, out, "--map", MAPS / "twinlitenet_plus.yaml", *data) == 0
    assert "drivable, lane at 96x64" in capsys.readouterr().out
    manifest = read_bundle(out).manifest
    assert set(manifest.variants) == {"fp32", "fp16", "int8-ort", "int8-openvino", "int8-trt"}
    assessment = manifest.variants["int8-ort"].assessment
    assert assessment is not None
    assert {name.split(".")[0] for name in assessment.lost_points} == {"drivable", "lane"}
    assert manifest.self_test["int8-ort"].top_score is None
    for engine in ("onnxruntime", "openvino"):
        with open_perceiver(Selection(out, engine, "int8", threads=1)) as perceiver:
            assert perceiver.perceive(SourceImage(self_test_frame(64, 96), "rgb")).lane is not None


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What `mtc-compress wrap` says, in one line, of a mistake."""
    assert mtc_compress("wrap", *words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


LANE = {"lane": {"output": "ll"}}
ROWS = {"decoder": "boxes", "output": "ll", "classes": {"vehicle": [0]}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "describe at least one of detection, drivable, lane"),
        ({"lane": {"output": "ll", "values": "tanh"}}, "lane.values: Input should be"),
        ({"lane": {"output": "l"}}, "the network has no output l; it has da [1, 2, 64, 96], ll"),
        ({"lane": {"output": "ll", "channels": [2]}}, "with the channels [2] among the C"),
        (LANE | {"input": {"height": 32}}, "input.height is 32, that of the network 64"),
        ({"detection": ROWS}, "output ll is [1, 2, 64, 96], [1, N, C] or [1, C, N] is needed"),
        ({"detection": ROWS | {"classes": {}}}, "classes: Dictionary should have at least 1 item"),
        ({"detection": {"decoder": "yolo"}}, "network map"),
        (
            {"detection": ROWS | {"decoder": "anchored"}},
            "detection.anchored.outputs: Field required",
        ),
    ],
)
def test_a_map_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], reason: str
) -> None:
    path = write_onnx(TwoMasks(), tmp_path / "two.onnx", 64, 96)
    described = tmp_path / "map.yaml"
    described.write_text(yaml.safe_dump(content))
    assert reason in refused(capsys, path, tmp_path / "o.mtc", "--map", described)
    assert not (tmp_path / "o.mtc").exists()


def test_a_file_that_is_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described, out = MAPS / "twinlitenet_plus.yaml", tmp_path / "o.mtc"
    absent = tmp_path / "absent.onnx"
    assert "absent.onnx does not exist" in refused(capsys, absent, out, "--map", described)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    assert "no ONNX file that can be used" in refused(capsys, broken, out, "--map", described)
    free = write_onnx(TwoMasks(), tmp_path / "free.onnx", 32, 32, free=True)
    assert "height of its input open: give input.height" in refused(
        capsys, free, out, "--map", described
    )
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(free)
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    model.graph.node[-1].domain = "com.vendor"
    onnx.save(model, foreign)
    assert "needs operators of com.vendor" in refused(capsys, foreign, out, "--map", described)
    absent_map = tmp_path / "none.yaml"
    assert "none.yaml does not exist" in refused(capsys, free, out, "--map", absent_map)
    out.mkdir()
    assert "exists: choose another path" in refused(capsys, free, out, "--map", described)


def test_letterboxes_of_the_bundle_are_what_the_network_sees(tmp_path: Path) -> None:
    path = write_onnx(TwoMasks(), tmp_path / "two.onnx", 64, 96)
    out = tmp_path / "two.mtc"
    wrap_file(path, load_map(MAPS / "twinlitenet_plus.yaml"), out, "two", LICENCE)
    image = SourceImage(self_test_frame(200, 500), "rgb")
    box, frame = Letterbox.fit(200, 500, 64, 96), np.zeros((64, 96, 3), np.uint8)
    box.write(image, frame)
    probability = softmax(
        original(path, frame.transpose(2, 0, 1)[None].astype(np.float32) / 255)["da"], 1
    )[0, 1]
    mask = box.mask_to_source(np.floor(probability * 255 + 0.5).astype(np.uint8)) >= 128
    with open_perceiver(Selection(out, "onnxruntime", threads=1)) as perceiver:
        seen = perceiver.perceive(image).drivable
    assert seen is not None
    assert ((seen > 0) != mask).mean() < 1e-3


def test_every_field_of_a_map_is_documented() -> None:
    page = (ROOT / "docs" / "wrap.md").read_text()
    for part in (NetworkMap, NetworkInput, Mask, Boxes, AnchorFree, Anchored, Query, Final):
        for name in part.model_fields:
            assert f"`{name}`" in page, name
