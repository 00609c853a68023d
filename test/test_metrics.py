"""Metrics against references written here from the definitions, by hand and at random."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.decode import threshold_level
from mtc_perception.detection_metrics import DetectionMetric
from mtc_perception.metrics import (
    GroundTruth,
    MaskMetric,
    PerceptionMetrics,
    dilate,
)

# --- Detection -----------------------------------------------------------------------------------


def overlap(box: list[float], other: list[float], over_box_only: bool) -> float:
    """Intersection over union, or over the first box's own area."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (box[2] - box[0]) * (box[3] - box[1])
    other_area = (other[2] - other[0]) * (other[3] - other[1])
    inner = width * height
    return inner / (area if over_box_only else area + other_area - inner)


def reference_detection(images: list[tuple], iou: float, limit: int) -> tuple[float, float]:
    """Recall and 101-point average precision, straight from COCO's rules, one loop per rule."""
    judged: list[tuple[float, bool]] = []
    objects = 0
    for boxes, scores, targets, ignore in images:
        free = [index for index in range(len(targets)) if not ignore[index]]
        objects += len(free)
        for best in sorted(range(len(boxes)), key=lambda index: -scores[index])[:limit]:
            candidates = [(overlap(boxes[best], targets[t], False), t) for t in free]
            top, target = max(candidates, default=(0.0, -1))
            if top >= iou:
                free.remove(target)
                judged.append((scores[best], True))
            elif not any(
                ignore[t] and overlap(boxes[best], targets[t], True) >= iou
                for t in range(len(targets))
            ):
                judged.append((scores[best], False))
    judged.sort(key=lambda entry: -entry[0])
    points, right = [], 0
    for count, (_, is_right) in enumerate(judged, start=1):
        right += is_right
        points.append((right / objects, right / count))
    average = 0.0
    for step in range(101):
        reached = [precision for recall, precision in points if recall >= step / 100 - 1e-12]
        average += max(reached, default=0.0) / 101
    return right / objects, average


def random_images(seed: int) -> list[tuple]:
    """Images with good, loose and stray detections, and some ignore regions."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(12):
        count = int(random.integers(0, 6))
        corner = random.uniform(0, 80, (count, 2))
        targets = np.concatenate([corner, corner + random.uniform(8, 40, (count, 2))], axis=1)
        ignore = random.random(count) < 0.3
        near = np.repeat(targets, 2, axis=0) + random.normal(0, 3, (2 * count, 4))
        stray = random.uniform(0, 60, (4, 2))
        boxes = np.concatenate([near, np.concatenate([stray, stray + 15], axis=1)])
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        scores = random.permutation(1000)[: len(boxes)] / 1000 + random.random() / 1e4
        images.append((boxes.tolist(), scores.tolist(), targets.tolist(), ignore.tolist()))
    return images


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [100, 3])
def test_detection_agrees_with_the_definition(seed: int, limit: int) -> None:
    images = random_images(seed)
    metric = DetectionMetric(max_detections=limit)
    for boxes, scores, targets, ignore in images:
        metric.update(np.array(boxes), np.array(scores), np.array(targets), np.array(ignore, bool))
    found = metric.compute()
    recall, map50 = reference_detection(images, 0.5, limit)
    thresholds = [0.5 + 0.05 * step for step in range(10)]
    map50_95 = np.mean([reference_detection(images, iou, limit)[1] for iou in thresholds])
    assert 0.05 < map50 < 0.98
    assert found.recall == pytest.approx(recall)
    assert found.map50 == pytest.approx(map50)
    assert found.map50_95 == pytest.approx(map50_95)


def test_detection_by_hand() -> None:
    # By falling score: right, wrong, right; of three objects. Recall 2/3; precision 1 up to recall
    # 1/3 (34 of the 101 points), 2/3 up to recall 2/3 (33 more points), 0 beyond.
    metric = DetectionMetric()
    metric.update([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], [[0, 0, 10, 10]])
    metric.update([[0, 0, 10, 10]], [0.7], [[0, 0, 10, 10], [20, 0, 30, 10]])
    found = metric.compute()
    assert found.recall == pytest.approx(2 / 3)
    assert found.map50 == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert (metric.images, metric.objects) == (2, 3)
    np.testing.assert_allclose(found.curve.precision[[0, 33, 34, 66, 67]], [1, 1, 2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(found.curve.score[[0, 33, 34, 66, 67]], [0.9, 0.9, 0.7, 0.7, np.nan])
    assert found.curve.f1[66] == pytest.approx(2 * 0.66 * (2 / 3) / (0.66 + 2 / 3))
    assert found.curve.f1[0] == 0


def test_ignore_regions_neither_help_nor_hurt() -> None:
    metric = DetectionMetric()
    metric.update(
        [[0, 0, 10, 10], [42, 42, 48, 48], [51, 51, 58, 58]],
        [0.9, 0.95, 0.97],
        [[0, 0, 10, 10], [40, 40, 60, 60]],
        np.array([False, True]),
    )
    found = metric.compute()
    assert (found.recall, found.map50, found.map50_95) == pytest.approx((1.0, 1.0, 1.0))
    assert metric.objects == 1


def test_only_the_best_detections_of_an_image_count() -> None:
    metric = DetectionMetric(max_detections=1)
    metric.update([[0, 0, 10, 10], [50, 50, 60, 60]], [0.5, 0.6], [[0, 0, 10, 10]])
    assert metric.compute().recall == 0


def test_nothing_found_is_zero_and_nothing_to_find_is_undefined() -> None:
    metric = DetectionMetric()
    none = np.zeros((0, 4))
    metric.update(none, np.zeros(0), none)
    metric.update([[0, 0, 5, 5]], [0.9], [[0, 0, 5, 5]], np.array([True]))
    undefined = metric.compute()
    assert (undefined.recall, undefined.map50, undefined.map50_95) == (None, None, None)
    lost = DetectionMetric()
    lost.update(none, np.zeros(0), [[0, 0, 5, 5]])
    assert (lost.compute().recall, lost.compute().map50) == (0.0, 0.0)


def test_a_false_alarm_on_an_empty_image_costs_precision() -> None:
    metric = DetectionMetric()
    metric.update([[0, 0, 10, 10]], [0.5], [[0, 0, 10, 10]])
    metric.update([[0, 0, 10, 10]], [0.9], np.zeros((0, 4)))
    assert metric.compute().map50 == pytest.approx(0.5)
    assert metric.compute().recall == 1.0


def test_boxes_without_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="1 boxes but 2 scores"):
        DetectionMetric().update([[0, 0, 1, 1]], [0.1, 0.2], np.zeros((0, 4)))


# --- Masks ---------------------------------------------------------------------------------------


def reference_mask(images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """Every figure of boolean predictions and labels, pixel by pixel."""
    per_image: dict[str, list[float]] = {"iou": [], "miou": [], "accuracy": []}
    totals = np.zeros(4, dtype=int)
    for predicted, label in images:
        counts = np.zeros(4, dtype=int)
        for p, t in zip(predicted.ravel(), label.ravel(), strict=True):
            counts[int(p) * 2 + int(t)] += 1
        totals += counts
        for name, value in reference_ratios(*counts).items():
            if value is not None:
                per_image[name].append(value)
    result: dict[str, float | None] = {
        name: float(np.mean(values)) if values else None for name, values in per_image.items()
    }
    for name, value in reference_ratios(*totals).items():
        result[f"{name}_pooled"] = value
    return result


def reference_ratios(tn: int, fn: int, fp: int, tp: int) -> dict[str, float | None]:
    iou = tp / (tp + fp + fn) if tp + fp + fn else None
    background = tn / (tn + fp + fn) if tn + fp + fn else None
    sensitivity = tp / (tp + fn) if tp + fn else None
    specificity = tn / (tn + fp) if tn + fp else None
    return {
        "iou": iou,
        "miou": None if iou is None or background is None else (iou + background) / 2,
        "accuracy": (
            None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
        ),
    }


def assert_same(figures: dict[str, float | None], expected: dict[str, float | None]) -> None:
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        assert (figures[name] is None) == (value is None), name
        assert value is None or figures[name] == pytest.approx(value), name


@st.composite
def mask_images(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray]]:
    """A few tiny images, empty and full ones included."""
    images = []
    for _ in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        size = height * width
        levels = st.sampled_from([0, 1, 50, 51, 127, 128, 254, 255])
        values = draw(st.lists(levels, min_size=size, max_size=size))
        label = draw(
            st.one_of(
                st.just([False] * size),
                st.just([True] * size),
                st.lists(st.booleans(), min_size=size, max_size=size),
            )
        )
        images.append(
            (
                np.array(values, dtype=np.uint8).reshape(height, width),
                np.array(label, dtype=bool).reshape(height, width),
            )
        )
    return images


@given(images=mask_images(), threshold=st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_masks_agree_with_the_definition(images: list, threshold: float) -> None:
    metric = MaskMetric()
    for probability, label in images:
        metric.update(probability, label)
    expected = reference_mask([(p >= threshold * 255 - 1e-6, label) for p, label in images])
    assert_same(metric.at(threshold), expected)


def test_masks_by_hand() -> None:
    # 10 x 10 pixels each: one half right, one false alarm on an empty image, one empty and left so.
    label = np.zeros((10, 10), dtype=bool)
    label[:4] = True
    empty = np.zeros_like(label)
    predicted = np.zeros((10, 10), dtype=np.uint8)
    predicted[:2] = 255
    metric = MaskMetric()
    metric.update(predicted, label)
    metric.update(predicted, empty)
    metric.update(np.zeros_like(predicted), empty)
    figures = metric.at(0.5)
    assert figures["iou"] == pytest.approx((0.5 + 0.0) / 2)
    assert figures["miou"] == pytest.approx(((0.5 + 60 / 80) / 2 + (0 + 0.8) / 2) / 2)
    assert figures["accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["iou_pooled"] == pytest.approx(20 / 60)
    assert figures["miou_pooled"] == pytest.approx((20 / 60 + 240 / 280) / 2)
    assert figures["accuracy_pooled"] == pytest.approx((20 / 40 + 240 / 260) / 2)
    assert metric.images == 3


def test_no_image_has_no_figures() -> None:
    assert set(MaskMetric().at(0.5).values()) == {None}


def test_sweep_is_every_threshold_at_once() -> None:
    random = np.random.default_rng(3)
    images = [
        (random.integers(0, 256, (9, 11), dtype=np.uint8), random.random((9, 11)) < 0.3)
        for _ in range(3)
    ]
    metric = MaskMetric()
    for probability, label in images:
        metric.update(probability, label)
    curves = metric.sweep()
    for level in (0, 1, 77, 200, 255):
        expected = reference_mask([(p >= level, label) for p, label in images])
        for name, value in expected.items():
            assert value is not None
            assert curves[name][level] == pytest.approx(value)


def test_threshold_levels() -> None:
    assert [threshold_level(value) for value in (0.0, 0.2, 0.5, 1.0)] == [0, 51, 128, 255]
    assert threshold_level(0.2 + 0.4) == 153
    for level in range(256):
        assert threshold_level(level / 255) == level


def test_masks_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction is \(2, 3\), label \(3, 2\)"):
        MaskMetric().update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), bool))


def test_dilation_makes_a_thin_line_eight_pixels_wide() -> None:
    line = np.zeros((30, 40), dtype=bool)
    line[:, 20] = True
    wide = dilate(line, 8)
    assert wide.dtype == np.bool_
    assert set(wide.sum(axis=1)) == {8}
    assert (wide & line).sum() == line.sum()
    dot = np.zeros((30, 40), dtype=bool)
    dot[15, 20] = True
    assert dilate(dot, 8).sum() == 64


# --- All together --------------------------------------------------------------------------------


BOXES = np.array([[2.0, 3.0, 9.0, 8.0]])
DRIVABLE = np.arange(20)[:, None] >= np.full(30, 10)
LANE = np.full((20, 1), True) & (np.arange(30) == 15)


def full_truth() -> GroundTruth:
    return GroundTruth(BOXES, np.array([False]), DRIVABLE, LANE)


def as_bytes(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def test_a_perfect_perception_scores_one() -> None:
    truth = full_truth()
    metrics = PerceptionMetrics(drivable_threshold=0.4, lane_threshold=0.6)
    metrics.update(truth, BOXES, [0.9], as_bytes(DRIVABLE), as_bytes(LANE))
    result = json.loads(json.dumps(metrics.to_json()))
    assert result["detection"] == {
        "recall": 1.0,
        "map50": pytest.approx(1.0),
        "map50_95": pytest.approx(1.0),
        "images": 1,
        "objects": 1,
    }
    assert result["drivable"] == {
        "miou": 1.0,
        "iou": 1.0,
        "miou_pooled": 1.0,
        "iou_pooled": 1.0,
        "threshold": 0.4,
        "images": 1,
    }
    lane = result["lane"]
    assert (lane["iou"], lane["accuracy"], lane["threshold"]) == (1.0, 1.0, 0.6)
    # The prediction keeps its one pixel where the label is eight wide.
    assert lane["iou_dilated8"] == pytest.approx(1 / 8)
    assert lane["iou_dilated8_pooled"] == pytest.approx(1 / 8)
    assert lane["accuracy_dilated8"] == pytest.approx((1 / 8 + 1) / 2)


def test_unlabelled_tasks_are_left_out() -> None:
    drivable, lane = as_bytes(DRIVABLE), as_bytes(LANE)
    metrics = PerceptionMetrics()
    metrics.update(GroundTruth(drivable=DRIVABLE), BOXES, [0.9], drivable, lane)
    assert metrics.to_json().keys() == {"drivable"}
    metrics.update(GroundTruth(lane=LANE), BOXES, [0.9], 255 - drivable, lane)
    result = metrics.to_json()
    assert result.keys() == {"drivable", "lane"}
    assert (result["drivable"]["images"], result["drivable"]["miou"]) == (1, 1.0)
    assert PerceptionMetrics().to_json() == {}


def test_sweep_finds_the_better_threshold() -> None:
    truth = full_truth()
    metrics = PerceptionMetrics()
    # Sure of the upper half too: only thresholds above 0.8 tell them apart.
    drivable = np.where(DRIVABLE, 230, 200).astype(np.uint8)
    metrics.update(truth, BOXES, [0.9], drivable, as_bytes(LANE))
    sweep = json.loads(json.dumps(metrics.sweep_json()))
    assert metrics.to_json()["drivable"]["iou"] == pytest.approx(0.5)
    assert sweep["drivable"]["best_threshold"]["iou"] == pytest.approx(0.8)
    index = sweep["drivable"]["threshold"].index(0.8)
    assert sweep["drivable"]["iou"][index] == 1.0
    assert sweep["drivable"]["iou"][0] == pytest.approx(0.5)
    assert len(sweep["lane"]["accuracy"]) == len(sweep["lane"]["threshold"]) == 19


def test_parts_add_up_to_the_whole() -> None:
    random = np.random.default_rng(5)
    whole, merged = PerceptionMetrics(), PerceptionMetrics()
    for _ in range(4):
        part = PerceptionMetrics()
        for _ in range(2):
            corner = random.uniform(0, 20, (3, 2))
            boxes = np.concatenate([corner, corner + 8], axis=1)
            truth = GroundTruth(boxes[:2] + 1, None, DRIVABLE, random.random((20, 30)) < 0.1)
            noise = random.integers(0, 256, (20, 30), dtype=np.uint8)
            scores = random.random(3)
            for metrics in (whole, part):
                metrics.update(truth, boxes, scores, noise, noise)
        merged.merge(part)
    for task, figures in whole.to_json().items():
        assert merged.to_json()[task] == pytest.approx(figures)
    assert merged.to_json()["lane"]["images"] == 8
