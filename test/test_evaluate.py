"""Evaluation from image files to figures: hand-made answers of the toy bundle, then real networks.

In the toy network (see toy_bundle.py) drivable is the red channel, lane the green one, and box k
the top-left part of the input scaled by m / (k + 1), with m the mean of all bytes / 255.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from random_norms import randomise_norms
from test_export import checkpoint
from test_rmt_ppad import TINY

from mtc_perception.bundle import Thresholds
from mtc_perception.errors import UserError
from mtc_perception.images import SourceImage
from mtc_perception.layout import LayoutError, Sample, read_split
from mtc_perception.perceiver import Perceiver
from offline_compress import cli
from offline_compress.evaluate import (
    FrameScore,
    evaluate_engine,
    evaluate_subject,
    infer,
    ranked,
)
from offline_compress.export import MAX_DETECTIONS, export_bundle
from offline_compress.models.registry import (
    ModelSpec,
    load_checkpoint,
    load_spec,
    save_checkpoint,
)
from offline_compress.results import describe, result_json
from offline_compress.subject import CHECKPOINT_THRESHOLDS, Subject, open_subject
from offline_compress.torch_engine import TorchEngine

__all__ = ["checkpoint"]  # the fixture of test_export: a network with spread-out answers

HEIGHT, WIDTH = 96, 160
ROOT = Path(__file__).parent.parent
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
SHIPPED = ROOT / "models" / "mtc_nano.mtc"


@pytest.fixture(autouse=True)
def _single_threaded() -> Iterator[None]:
    # Threads that wait for each other on a busy machine cost more than these tiny images gain.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class DataSet:
    """A data set on disk, written sample by sample."""

    def __init__(self, root: Path, split: str = "val") -> None:
        self.root, self.split = root, split
        self._coco: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "vehicle"}],
        }

    def add(
        self,
        stem: str,
        rgb: np.ndarray,
        drivable: np.ndarray | None = None,
        lane: np.ndarray | None = None,
        boxes: Iterable[Iterable[float]] | None = None,
        crowd: bool = False,
    ) -> None:
        self._write("images", stem, rgb[..., ::-1])
        for task, mask in (("drivable", drivable), ("lane", lane)):
            if mask is not None:
                self._write(task, stem, mask.astype(np.uint8) * 255)
        if boxes is None:
            return
        image = len(self._coco["images"]) + 1
        self._coco["images"].append({"id": image, "file_name": f"{stem}.png"})
        for x1, y1, x2, y2 in boxes:
            self._coco["annotations"].append(
                {
                    "id": len(self._coco["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "iscrowd": int(crowd),
                }
            )
        (self.root / "det").mkdir(exist_ok=True)
        (self.root / "det" / f"{self.split}.json").write_text(json.dumps(self._coco))

    def _write(self, folder: str, stem: str, pixels: np.ndarray) -> None:
        path = self.root / folder / self.split
        path.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path / f"{stem}.png"), pixels)


def road() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """An image at network size with what the toy network answers: drivable, lane and first box."""
    rgb = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    rgb[48:, :, 0] = 255
    rgb[:, 40:60, 1] = 255
    mean = float(rgb.mean()) / 255
    return rgb, rgb[..., 0] > 0, rgb[..., 1] > 0, [0, 0, WIDTH * mean, HEIGHT * mean]


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    root = tmp_path / "roads"
    root.mkdir()
    return DataSet(root)


SPEED = {"latency_ms": {"p50": 1.0, "p95": 2.0, "mean": 1.5}, "fps": 666.67}


def evaluate(bundle: Path, data: DataSet) -> dict:
    return result_of(open_subject(bundle, "onnxruntime"), data)


def result_of(subject: Subject, data: DataSet) -> dict:
    evaluation = evaluate_subject(subject, read_split(data.root, data.split))
    description = describe(subject, data.root, data.split, None)
    return result_json(subject, evaluation, SPEED, description)


def test_right_answers_score_one(toy_bundle: Path, data: DataSet) -> None:
    rgb, drivable, lane, box = road()
    # At twice the network's size the letterbox halves the image and doubles the answers.
    data.add("same", rgb, drivable, lane, [box])
    double = rgb.repeat(2, axis=0).repeat(2, axis=1)
    data.add("double", double, boxes=[[2 * edge for edge in box]])
    result = evaluate(toy_bundle, data)
    assert result["detection"]["recall"] == 1.0
    assert result["detection"]["map50"] == pytest.approx(1.0)
    assert result["detection"]["map50_95"] == pytest.approx(1.0)
    assert (result["detection"]["images"], result["detection"]["objects"]) == (2, 2)
    assert result["drivable"]["miou"] == 1.0
    assert result["drivable"]["images"] == 1
    assert result["lane"]["iou"] == 1.0
    # 8 px of an image 1280 wide is one pixel of 160.
    assert result["lane"]["iou_dilated8"] == 1.0


def test_wrong_answers_cost_what_they_should(toy_bundle: Path, data: DataSet) -> None:
    rgb, drivable, lane, box = road()
    shifted = np.roll(lane, 10, axis=1)
    upside_down = drivable[::-1]
    data.add("a", rgb, drivable, shifted, [box])
    data.add("b", rgb, upside_down, lane, [[100, 50, 150, 90]])
    result = evaluate(toy_bundle, data)
    assert result["lane"]["iou"] == pytest.approx((1 / 3 + 1) / 2)
    assert result["lane"]["iou_pooled"] == pytest.approx(30 / 50)
    assert result["drivable"]["miou"] == pytest.approx((1 + 0) / 2)
    assert result["detection"]["recall"] == 0.5
    assert result["detection"]["map50"] < 0.6


def test_ignore_regions_and_missing_labels(toy_bundle: Path, data: DataSet) -> None:
    rgb, drivable, _, box = road()
    data.add("labelled", rgb, drivable, boxes=[box])
    data.add("crowd", rgb, boxes=[[0, 0, WIDTH, HEIGHT]], crowd=True)
    data.add("bare", rgb)
    result = evaluate(toy_bundle, data)
    # Every box of the toy lies in the top left: on `crowd` all of them are ignored, and on
    # `labelled` the first is right and scores best.
    assert result["detection"]["map50"] == pytest.approx(1.0)
    assert (result["detection"]["images"], result["detection"]["objects"]) == (2, 1)
    assert result["drivable"]["images"] == 1
    assert "lane" not in result
    assert result["sweep"].keys() == {"detection", "drivable"}
    assert "conditions" not in result
    assert result["data"] == {"name": "roads", "split": "val", "limit": 0, "images": 3}


def test_thresholds_and_their_sweep(toy_bundle: Path, data: DataSet) -> None:
    rgb, drivable, lane, box = road()
    rgb[48:, :, 0] = 100  # A probability of 0.39: below the bundle's threshold of 0.5.
    data.add("dim", rgb, drivable, lane, [box])
    assert evaluate(toy_bundle, data)["drivable"]["iou"] == 0.0
    subject = open_subject(toy_bundle, "onnxruntime", drivable=0.35)
    result = result_of(subject, data)
    assert result["drivable"]["iou"] == 1.0
    assert result["drivable"]["threshold"] == 0.35
    assert result["lane"]["threshold"] == 0.5
    sweep = result["sweep"]["drivable"]
    reached = dict(zip(sweep["threshold"], sweep["iou"], strict=True))
    assert (reached[0.35], reached[0.4]) == (1.0, 0.0)


@pytest.mark.parametrize("size", [(96, 160), (131, 77), (240, 501), (700, 1200)])
def test_what_is_scored_is_what_the_perceiver_returns(
    toy_bundle: Path, size: tuple[int, int]
) -> None:
    random = np.random.default_rng(size[0])
    blocks = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = SourceImage(cv2.resize(blocks, size[::-1]), "rgb")
    thresholds = Thresholds(score=0.15, drivable=0.4, lane=0.7)
    with Perceiver.open(toy_bundle, "onnxruntime", thresholds=thresholds) as perceiver:
        expected = perceiver.perceive(image)
        got = infer(perceiver.engine, image, perceiver.max_detections).perception(thresholds)
    assert 0 < len(expected.boxes) < 5
    assert 0 < np.count_nonzero(expected.lane) < expected.lane.size
    for name in ("boxes", "scores", "labels", "drivable", "lane"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_evaluation_leaves_a_perceiver_as_it_was(toy_bundle: Path, data: DataSet) -> None:
    rgb, drivable, _, _ = road()
    data.add("a", np.full_like(rgb, 255), drivable)
    portrait = SourceImage(np.full((160, 40, 3), 60, dtype=np.uint8), "rgb")
    with Perceiver.open(toy_bundle, "onnxruntime") as perceiver:
        before = perceiver.perceive(portrait)
        samples = read_split(data.root, "val")
        evaluation = evaluate_engine(
            perceiver.engine, samples, perceiver.thresholds, perceiver.max_detections
        )
        after = perceiver.perceive(portrait)
    assert evaluation.metrics.to_json()["drivable"]["iou"] == pytest.approx(0.5)
    # The toy's scores depend on the padding too.
    np.testing.assert_array_equal(after.scores, before.scores)


@pytest.fixture(scope="module")
def query_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose detections are those of queries, with spread-out answers."""
    torch.manual_seed(1)
    arguments = TINY | {"queries": 120, "segmentation": "stride4"}
    spec = ModelSpec("tiny_queries", "rmt_ppad", arguments, ["vehicle"], HEIGHT, WIDTH)
    model = spec.build().eval()
    randomise_norms(model)
    # As initialised all queries answer nearly the same: rounding would decide their order.
    for parameter in model.detection_head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    path = tmp_path_factory.mktemp("queries") / "best"
    save_checkpoint(path, spec, model)
    return path


@pytest.mark.parametrize("kind", ["convolutional", "query"])
def test_checkpoint_and_bundle_agree(
    kind: str, checkpoint: Path, query_checkpoint: Path, data: DataSet
) -> None:
    # Labels are what the network itself says, a little worn: neither all right nor all wrong.
    path = {"convolutional": checkpoint, "query": query_checkpoint}[kind]
    subject = open_subject(path)
    random = np.random.default_rng(1)
    middle: list[float] = []
    scores: list[float] = []
    for index in range(4):
        blocks = random.integers(0, 256, (12, 20, 3), dtype=np.uint8)
        rgb = cv2.resize(blocks, (150, 110), interpolation=cv2.INTER_CUBIC)
        frame = infer(subject.engine, SourceImage(rgb, "rgb"), 100)
        drivable, lane = (
            np.roll(mask >= np.median(mask), 4, axis=1) for mask in (frame.drivable, frame.lane)
        )
        large = (frame.boxes[:, 2:] - frame.boxes[:, :2]).min(axis=1) > 4
        # Labels that these boxes overlap by 0.73, well between two of COCO's ten thresholds.
        worn = frame.boxes[large][:12:2].astype(float)
        worn[:, 2] += (worn[:, 2] - worn[:, 0]) * (1 / 0.73 - 1)
        data.add(f"frame{index}", rgb, drivable, lane, worn)
        middle = [float(np.median(mask)) / 255 for mask in (frame.drivable, frame.lane)]
        scores = [float(frame.scores[5]) * 0.999]
    thresholds = Thresholds(score=scores[0], drivable=middle[0], lane=middle[1])
    bundle = data.root.parent / "exported.mtc"
    export_bundle(path, bundle, thresholds, None)
    samples = read_split(data.root, "val")
    subject = open_subject(path, **thresholds.model_dump())
    expected = evaluate_subject(subject, samples).metrics.to_json()
    assert 0.3 < expected["detection"]["recall"] <= 1.0
    assert 0.02 < expected["detection"]["map50"] < 0.98
    assert expected["detection"]["recall_at_threshold"] > 0.02
    assert 0.3 < expected["drivable"]["miou"] < 0.99
    for engine in ("onnxruntime", "openvino"):
        found = evaluate_subject(open_subject(bundle, engine), samples).metrics.to_json()
        assert found.keys() == expected.keys()
        for task, figures in expected.items():
            assert found[task] == pytest.approx(figures, abs=0.002), (engine, task)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs ../shared/data/camvid")
def test_engines_agree_on_real_roads() -> None:
    samples = read_split(CAMVID, "val")[::14]
    first, second = (
        evaluate_subject(open_subject(SHIPPED, engine), samples).metrics.to_json()
        for engine in ("onnxruntime", "openvino")
    )
    assert first["detection"]["map50"] > 0.5
    assert first["drivable"]["miou"] > 0.8
    for task, figures in first.items():
        assert second[task] == pytest.approx(figures, abs=0.002), task


def test_a_checkpoint_may_be_asked_for_more_boxes_than_a_bundle_yields(
    query_checkpoint: Path, toy_bundle: Path
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for asked, count in ((None, 100), (7, 7), (120, 120), (300, 120)):
        subject = open_subject(query_checkpoint, max_detections=asked)
        subject.engine.input[0] = rgb
        subject.engine.start()
        outputs = subject.engine.wait()
        assert outputs.scores.shape == (1, count)
        assert subject.max_detections == (asked or 100)
    assert open_subject(toy_bundle, "onnxruntime", max_detections=3).max_detections == 3
    with pytest.raises(UserError, match="yields 5 detections at most, not 6"):
        open_subject(toy_bundle, "onnxruntime", max_detections=6)


def test_a_broken_image_between_good_ones_ends_the_evaluation(
    toy_bundle: Path, data: DataSet
) -> None:
    rgb, drivable, lane, box = road()
    for index in range(30):
        data.add(f"{index:02}", rgb, drivable, lane, [box])
    samples = read_split(data.root, "val")
    subject = open_subject(toy_bundle, "onnxruntime")
    evaluation = evaluate_subject(subject, samples)
    assert [frame.sample.stem for frame in evaluation.frames] == [f"{i:02}" for i in range(30)]
    samples[20].image_path.write_bytes(b"not a picture")
    with pytest.raises(LayoutError, match=r"20\.png: not a readable image"):
        evaluate_subject(subject, samples)


def test_a_network_in_training_is_scored_alike(checkpoint: Path, data: DataSet) -> None:
    rgb, drivable, lane, box = road()
    data.add("a", rgb, drivable, lane, [box])
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    samples = read_split(data.root, "val")
    engine = TorchEngine(model, spec.height, spec.width)
    evaluation = evaluate_engine(engine, samples, CHECKPOINT_THRESHOLDS, MAX_DETECTIONS)
    result = evaluation.metrics.to_json()
    subject = open_subject(checkpoint / "model.safetensors")
    expected = evaluate_subject(subject, samples).metrics.to_json()
    assert result == expected
    assert result.keys() == {"detection", "drivable", "lane"}
    with torch.no_grad():  # Still an ordinary network: nothing was left in inference mode.
        model(torch.zeros(1, 3, spec.height, spec.width))


def test_frames_are_ranked_per_task() -> None:
    sample = Sample("s", Path("s.jpg"), None, None, None, None)
    frames = [
        FrameScore(sample, {"detection": None, "drivable": figure, "lane": None})
        for figure in (0.5, None, 0.1, 0.9, 0.7)
    ]
    assert ranked(frames, "drivable", 2) == ([2, 0], [3, 4])
    assert ranked(frames, "drivable", 9) == ([2, 0], [3, 4])
    assert ranked(frames, "lane", 2) == ([], [])


# --- The command ---------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `mtc-compress evaluate` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["mtc-compress", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_command_writes_figures_and_pictures(
    toy_bundle: Path,
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rgb, drivable, lane, box = road()
    data.add("a_good", rgb, drivable, lane, [box])
    data.add("b_poor", rgb, drivable[::-1], lane, [box])
    data.add("c_unread", rgb, drivable, lane, [box])
    out = tmp_path / "out" / "result"
    arguments = (toy_bundle, "--data", data.root, "--engine", "openvino", "--limit", 2)
    assert command(monkeypatch, *arguments, "--out", out) == 0
    result = json.loads((out / "metrics.json").read_text())
    assert result["drivable"]["miou"] == pytest.approx(0.5)
    assert result["data"]["images"] == 2
    assert (result["engine"]["name"], result["engine"]["precision"]) == ("openvino", "fp32")
    assert result["model"]["variant"] == "fp32"
    assert re.fullmatch(r"[0-9a-f]{64}", result["model"]["sha256"])
    assert result["latency_ms"] == result["speed"]["latency_ms"]["p50"] > 0
    assert (result["speed"]["runs"], result["speed"]["warm_up_runs"]) == (100, 5)
    assert "threads" in result["engine"]["device"]
    assert result["params"] == 10
    assert result["command"].startswith("mtc-compress evaluate ")
    assert {"machine", "versions", "commit", "time"} <= result.keys()

    page = (out / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.index("drivable area: worst") < page.index("b_poor: mIoU 0.000")
    assert page.index("drivable area: best") < page.index("a_good: mIoU 1.000")
    assert "Conditions" not in page
    assert "c_unread" not in page
    # Precision over recall; then what the three tasks have over thresholds.
    assert page.count("<polyline") == 1 + 3 + 2 + 4
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    printed = capsys.readouterr().out
    assert "toy (bundle, openvino fp32) on roads val, 2 images" in printed
    assert "0.5000" in printed


def test_command_without_any_label(
    toy_bundle: Path, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.add("a", road()[0])
    assert command(monkeypatch, toy_bundle, "--data", data.root, "--out", tmp_path / "o") == 0
    result = json.loads((tmp_path / "o/metrics.json").read_text())
    assert {"detection", "drivable", "lane"} & result.keys() == set()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("nothing.mtc", [], "nothing.mtc does not exist"),
        ("bundle", ["--split", "test"], "has no split 'test'; it has: val"),
        ("bundle", ["--engine", "abacus"], "unknown engine 'abacus'"),
        ("bundle", ["--precision", "int8"], "no int8 variant"),
        ("checkpoint", ["--engine", "openvino"], "export it first"),
        ("empty", [], "manifest.json"),
    ],
)
def test_mistakes_are_one_line(
    model: str,
    options: list[str],
    message: str,
    toy_bundle: Path,
    checkpoint: Path,
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data.add("a", road()[0])
    (tmp_path / "empty").mkdir()
    path = {"bundle": toy_bundle, "checkpoint": checkpoint}.get(model, tmp_path / model)
    out = tmp_path / "out"
    assert command(monkeypatch, path, "--data", data.root, "--out", out, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_broken_image_is_named(
    toy_bundle: Path,
    data: DataSet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data.add("a", road()[0])
    (data.root / "images/val/a.png").write_bytes(b"not a picture")
    assert command(monkeypatch, toy_bundle, "--data", data.root) == 2
    assert "a.png: not a readable image" in capsys.readouterr().err
