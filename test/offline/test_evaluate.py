"""Evaluation from image files to figures: hand-made answers of the toy bundle."""

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from mtc_perception.core.bundle import InputSpec, Limits, Thresholds
from mtc_perception.core.images import SourceImage
from mtc_perception.core.input_size import Fit
from mtc_perception.datasets.layout import Sample, read_split
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from offline_compress.evaluation.accuracy import (
    FrameScore,
    evaluate_engine,
    evaluate_subject,
    infer,
    ranked,
)
from offline_compress.evaluation.metrics_file import describe, result_json
from offline_compress.evaluation.subject import Subject, open_subject
from support.labelled_roads import HEIGHT, WIDTH, DataSet, road
from support.toy_bundle import write_toy_bundle

SPEED = {"latency_ms": {"p50": 1.0, "p95": 2.0, "mean": 1.5}, "fps": 666.67}


def evaluate(bundle: Path, data: DataSet) -> dict:
    return result_of(open_subject(bundle, "onnxruntime"), data)


def result_of(subject: Subject, data: DataSet) -> dict:
    evaluation = evaluate_subject(subject, read_split(data.root, data.split))
    description = describe(subject, [data.root], data.split, None)
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
    about = {"name": "roads", "split": "val", "limit": 0, "images": 3, "unreadable": 0}
    assert result["data"] == about


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


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("size", [(96, 160), (131, 77), (240, 501), (700, 1200)])
def test_what_is_scored_is_what_the_perceiver_returns(
    tmp_path: Path, size: tuple[int, int], fit: Fit
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy.mtc", input=InputSpec(height=96, width=160, fit=fit))
    random = np.random.default_rng(size[0])
    blocks = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = SourceImage(cv2.resize(blocks, size[::-1]), "rgb")
    thresholds = Thresholds(score=0.15, drivable=0.4, lane=0.7)
    subject = open_subject(bundle, "onnxruntime")
    with open_perceiver(Selection(bundle, "onnxruntime")) as perceiver:
        expected = perceiver.perceive(image, Limits(thresholds, 5))
        got = infer(perceiver.engine, image, 5, subject.fit).perception(thresholds)
    assert 0 < len(expected.boxes) < 5
    assert 0 < np.count_nonzero(expected.lane) < expected.lane.size
    for name in ("boxes", "scores", "labels", "drivable", "lane"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_evaluation_leaves_a_perceiver_as_it_was(toy_bundle: Path, data: DataSet) -> None:
    rgb, drivable, _, _ = road()
    data.add("a", np.full_like(rgb, 255), drivable)
    portrait = SourceImage(np.full((160, 40, 3), 60, dtype=np.uint8), "rgb")
    with open_perceiver(Selection(toy_bundle, "onnxruntime")) as perceiver:
        before = perceiver.perceive(portrait)
        samples = read_split(data.root, "val")
        evaluation = evaluate_engine(
            perceiver.engine, samples, perceiver.bundle.manifest.thresholds, 5
        )
        after = perceiver.perceive(portrait)
    assert evaluation.metrics.to_json()["drivable"]["iou"] == pytest.approx(0.5)
    # The toy's scores depend on the padding too.
    np.testing.assert_array_equal(after.scores, before.scores)


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


def test_an_image_that_cannot_be_decoded_is_a_miss_and_a_broken_mask_is_unlabelled(
    toy_bundle: Path, data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb, drivable, lane, box = road()
    for index in range(3):
        data.add(f"{index:02}", rgb, drivable, lane, [box])
    samples = read_split(data.root, "val")
    subject = open_subject(toy_bundle, "onnxruntime")
    whole = evaluate_subject(subject, samples).metrics.to_json()
    samples[1].image_path.write_bytes(b"not a picture")
    assert samples[2].lane is not None
    samples[2].lane.path.write_bytes(b"not a mask")
    evaluation = evaluate_subject(subject, samples)
    assert [frame.unreadable for frame in evaluation.frames] == [False, True, False]
    found = evaluation.metrics.to_json()
    assert found["drivable"]["images"] == 3
    assert found["lane"]["images"] == 2
    assert found["detection"]["recall"] == pytest.approx(whole["detection"]["recall"] * 2 / 3)
    assert 1 not in {one for rank in ranked(evaluation.frames, "drivable", 3) for one in rank}
    warnings = capsys.readouterr().err
    assert "unreadable image: " in warnings
    assert "01.png: compressed image is neither JPEG" in warnings
    assert "lane/val/02.png: not a readable image" in warnings


def test_frames_are_ranked_per_task() -> None:
    sample = Sample("s", Path("s.jpg"), None, None, None, None)
    frames = [
        FrameScore(sample, {"detection": None, "drivable": figure, "lane": None})
        for figure in (0.5, None, 0.1, 0.9, 0.7)
    ]
    assert ranked(frames, "drivable", 2) == ([2, 0], [3, 4])
    assert ranked(frames, "drivable", 9) == ([2, 0], [3, 4])
    assert ranked(frames, "lane", 2) == ([], [])
