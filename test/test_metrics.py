"""Metrics against references written here from the definitions, by hand and at random."""

import contextlib
import io
import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtc_perception.decode import threshold_level
from mtc_perception.detection_metrics import DetectionMetric
from mtc_perception.mask_metrics import MaskMetric
from mtc_perception.metrics import (
    GroundTruth,
    PerceptionMetrics,
    best_threshold,
    dilate,
    judge_image,
    lane_dilation_px,
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


def reference_judgement(
    images: list[tuple], iou: float, limit: int
) -> tuple[list[tuple[float, bool]], int]:
    """(score, is right) of each detection that counts, and the number of objects; COCO's rules."""
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
    return judged, objects


def reference_detection(images: list[tuple], iou: float, limit: int) -> tuple[float, float]:
    """Recall and 101-point average precision, one loop per rule."""
    judged, objects = reference_judgement(images, iou, limit)
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


def filled(images: list[tuple], limit: int) -> DetectionMetric:
    metric = DetectionMetric(max_detections=limit)
    for boxes, scores, targets, ignore in images:
        metric.update(np.array(boxes), np.array(scores), np.array(targets), np.array(ignore, bool))
    return metric


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [100, 3])
def test_detection_agrees_with_the_definition(seed: int, limit: int) -> None:
    images = random_images(seed)
    found = filled(images, limit).compute()
    recall, map50 = reference_detection(images, 0.5, limit)
    thresholds = [0.5 + 0.05 * step for step in range(10)]
    map50_95 = np.mean([reference_detection(images, iou, limit)[1] for iou in thresholds])
    assert 0.05 < map50 < 0.98
    assert found.recall == pytest.approx(recall)
    assert found.map50 == pytest.approx(map50)
    assert found.map50_95 == pytest.approx(map50_95)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [100, 3])
def test_operating_points_agree_with_the_definition(seed: int, limit: int) -> None:
    images = random_images(seed)
    metric = filled(images, limit)
    judged, objects = reference_judgement(images, 0.5, limit)
    thresholds = [0.001, 0.2, 0.5, 0.77, 0.9999]
    at = metric.sweep(thresholds)
    for index, threshold in enumerate(thresholds):
        kept = [right for score, right in judged if score >= threshold]
        right = sum(kept)
        assert at["recall"][index] == pytest.approx(right / objects)
        precision = right / len(kept) if kept else np.nan
        assert at["precision"][index] == pytest.approx(precision, nan_ok=True)
        assert at["f1"][index] == pytest.approx(2 * right / (len(kept) + objects))
    # The lowest threshold keeps every detection: there both ways of counting have to meet.
    assert at["recall"][0] == pytest.approx(metric.compute().recall)


@st.composite
def boxes_on_a_grid(draw: st.DrawFn, most: int) -> np.ndarray:
    """Boxes with whole, often equal edges: overlaps of exactly 0.5 and ties are common."""
    edge, side = st.integers(0, 6), st.integers(1, 4)
    rows = draw(st.lists(st.tuples(edge, edge, side, side), max_size=most))
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rows], float).reshape(-1, 4)


@st.composite
def detection_images(draw: st.DrawFn) -> list[tuple]:
    """Small scenes; most scores are those of other detections, in the same and in other images."""
    images = []
    for _ in range(draw(st.integers(1, 5))):
        boxes = draw(boxes_on_a_grid(6))
        levels = st.lists(st.integers(1, 4), min_size=len(boxes), max_size=len(boxes))
        targets = draw(boxes_on_a_grid(4))
        some = st.lists(st.booleans(), min_size=len(targets), max_size=len(targets))
        scores = np.array(draw(levels), dtype=float) / 4
        images.append((boxes, scores, targets, np.array(draw(some), dtype=bool)))
    return images


@given(images=detection_images(), limit=st.sampled_from([3, 100]))
@settings(max_examples=100, deadline=None)
def test_detection_agrees_with_pycocotools(images: list[tuple], limit: int) -> None:
    metric = filled(images, limit)
    found = metric.compute()
    expected = pycocotools_figures(images, limit)
    objects = sum(int((~ignore).sum()) for *_, ignore in images)
    if not objects:
        assert (found.recall, found.map50, found.map50_95) == (None, None, None)
        return
    assert (found.recall, found.map50, found.map50_95) == pytest.approx(expected)
    # COCO's own recall at IoU 0.5 checks the matching behind precision and F1 at a threshold.
    assert metric.sweep([0.0])["recall"][0] == pytest.approx(expected[0])


def pycocotools_figures(images: list[tuple], limit: int) -> tuple[float, float, float]:
    """Recall at IoU 0.5, AP50 and AP50-95 of the original COCO code, `limit` boxes per image."""
    truth: list[dict] = []
    found: list[dict] = []
    for image, (boxes, scores, targets, ignore) in enumerate(images, start=1):
        for box, crowd in zip(targets, ignore, strict=True):
            truth.append(coco_box(len(truth) + 1, image, box) | {"iscrowd": int(crowd)})
        for box, score in zip(boxes, scores, strict=True):
            found.append(coco_box(len(found) + 1, image, box) | {"score": float(score)})
    if not found:
        return 0.0, 0.0, 0.0
    content = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(images) + 1)],
        "categories": [{"id": 1}],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = content
        labels.createIndex()
        evaluator = COCOeval(labels, labels.loadRes(found), "bbox")
        evaluator.params.maxDets = [limit]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, 0, 0, -1]
    return evaluator.eval["recall"][0, 0, 0, -1], precision[0].mean(), precision.mean()


def coco_box(identity: int, image: int, box: np.ndarray) -> dict:
    x, y, right, bottom = box.tolist()
    width, height = right - x, bottom - y
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": [x, y, width, height],
        "area": width * height,
    }


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
    np.testing.assert_allclose(found.precision[[0, 33, 34, 66, 67]], [1, 1, 2 / 3, 2 / 3, 0])
    at = metric.sweep([0.05, 0.7, 0.75, 0.85, 0.95])
    np.testing.assert_allclose(at["recall"], [2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(at["precision"], [2 / 3, 2 / 3, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(at["f1"], [4 / 6, 4 / 6, 2 / 5, 2 / 4, 0])


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


def test_of_equal_scores_the_first_counts_first() -> None:
    right, wrong, none = [0, 0, 10, 10], [50, 50, 60, 60], np.zeros((0, 4))
    for boxes, expected in (([right, wrong], 1.0), ([wrong, right], 0.5)):
        within, across = DetectionMetric(), DetectionMetric()
        within.update(boxes, [0.5, 0.5], [right])
        assert within.compute().map50 == pytest.approx(expected)
        for box in boxes:
            across.update([box], [0.5], [right] if box is right else none)
        assert across.compute().map50 == pytest.approx(expected)


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
        "recall_at_threshold": 1.0,
        "precision_at_threshold": 1.0,
        "f1_at_threshold": 1.0,
        "best_f1": 1.0,
        "recall_at_best_f1": 1.0,
        "precision_at_best_f1": 1.0,
        "best_f1_threshold": 0.5,
        "threshold": 0.3,
        "images": 1,
        "objects": 1,
        "max_detections": 100,
    }
    assert result["drivable"] == {
        "miou": 1.0,
        "iou": 1.0,
        "miou_pooled": 1.0,
        "iou_pooled": 1.0,
        "threshold": 0.4,
        "images": 1,
        "images_without_miou": 0,
        "images_without_iou": 0,
    }
    lane = result["lane"]
    assert (lane["iou"], lane["accuracy"], lane["threshold"]) == (1.0, 1.0, 0.6)
    # In an image 30 pixels wide the label's one pixel is as wide as it gets.
    assert (lane["iou_dilated8"], lane["accuracy_dilated8"]) == (1.0, 1.0)


@pytest.mark.parametrize(("width", "wide_px"), [(1280, 8), (640, 4), (480, 3), (30, 1)])
def test_lane_labels_are_dilated_in_proportion_to_the_image(width: int, wide_px: int) -> None:
    assert lane_dilation_px(width) == wide_px
    lane = np.zeros((10, width), dtype=bool)
    lane[:, width // 2] = True
    blank = np.zeros((10, width), dtype=np.uint8)
    metrics = PerceptionMetrics()
    metrics.update(GroundTruth(lane=lane), np.zeros((0, 4)), [], blank, as_bytes(lane))
    found = metrics.to_json()["lane"]
    # The prediction keeps its one pixel where the label is wider.
    assert found["iou"] == 1.0
    assert found["iou_dilated8"] == pytest.approx(1 / wide_px)
    assert found["iou_dilated8_pooled"] == pytest.approx(1 / wide_px)
    assert found["accuracy_dilated8"] == pytest.approx((1 / wide_px + 1) / 2)


def test_images_without_the_class_are_left_out_and_counted() -> None:
    empty = np.zeros_like(LANE)
    metrics = PerceptionMetrics()
    for label, predicted in ((LANE, LANE), (empty, empty), (empty, LANE)):
        truth = GroundTruth(drivable=label, lane=label)
        metrics.update(truth, np.zeros((0, 4)), [], as_bytes(predicted), as_bytes(predicted))
    result = metrics.to_json()
    # Right, absent and not seen (left out), and a false alarm (IoU 0).
    assert result["lane"]["iou"] == pytest.approx((1 + 0) / 2)
    assert result["lane"]["images"] == 3
    assert result["lane"]["images_without_iou"] == 1
    # Sensitivity needs a labelled pixel: both images without any are left out.
    assert result["lane"]["accuracy"] == 1.0
    assert result["lane"]["images_without_accuracy"] == 2
    assert result["lane"]["accuracy_pooled"] == pytest.approx((1 + 1 - 20 / (3 * 600 - 20)) / 2)
    assert result["drivable"]["miou"] == pytest.approx((1 + (0 + 580 / 600) / 2) / 2)
    assert result["drivable"]["images_without_miou"] == 1


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


def test_detection_thresholds_are_named_apart() -> None:
    metrics = PerceptionMetrics(score_threshold=0.8)
    objects = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], dtype=float)
    # By falling score: right, right, wrong, wrong.
    boxes = np.concatenate([objects, objects + 50])
    mask = np.zeros((90, 90), np.uint8)
    metrics.update(GroundTruth(boxes=objects), boxes, [0.9, 0.6, 0.4, 0.2], mask, mask)
    found = metrics.to_json()["detection"]
    assert (found["threshold"], found["recall"], found["recall_at_threshold"]) == (0.8, 1.0, 0.5)
    assert found["precision_at_threshold"] == 1.0
    assert found["f1_at_threshold"] == pytest.approx(2 / 3)
    # 0.41 ... 0.6 separate right from wrong; the one nearest to 0.5 leaves most room.
    assert (found["best_f1"], found["best_f1_threshold"]) == (1.0, 0.5)
    assert (found["recall_at_best_f1"], found["precision_at_best_f1"]) == (1.0, 1.0)
    sweep = metrics.sweep_json()["detection"]
    assert sweep["best_threshold"] == {"f1": 0.5}
    assert sweep["threshold"][9] == 0.5
    assert (sweep["recall"][0], sweep["precision"][0]) == (1.0, 0.5)
    assert sweep["precision"][-1] is None
    assert metrics.headlines() == {"detection": found["f1_at_threshold"]} | dict.fromkeys(
        ("drivable", "lane")
    )


def test_nothing_to_find_recommends_no_threshold() -> None:
    metrics = PerceptionMetrics()
    mask = np.zeros((9, 9), np.uint8)
    metrics.update(GroundTruth(boxes=np.zeros((0, 4))), [[0, 0, 5, 5]], [0.9], mask, mask)
    found = metrics.to_json()["detection"]
    assert (found["best_f1_threshold"], found["recall"], found["recall_at_best_f1"]) == (None,) * 3
    assert (found["precision_at_threshold"], found["f1_at_threshold"]) == (0.0, 0.0)
    assert metrics.sweep_json()["detection"]["best_threshold"] == {}


def test_best_threshold_of_equals_is_the_nearest_to_a_half() -> None:
    thresholds = [0.1, 0.3, 0.6, 0.9]
    assert best_threshold(thresholds, np.array([0.7, 0.7, 0.7, 0.2])) == 0.6
    assert best_threshold(thresholds, np.array([np.nan, 0.1, np.nan, 0.2])) == 0.9
    assert best_threshold(thresholds, np.full(4, np.nan)) is None


def noisy_parts(count: int) -> list[PerceptionMetrics]:
    """Metrics of two images each, with many equal scores across images."""
    random = np.random.default_rng(5)
    parts = []
    for _ in range(count):
        part = PerceptionMetrics()
        for _ in range(2):
            corner = random.uniform(0, 20, (3, 2))
            boxes = np.concatenate([corner, corner + 8], axis=1)
            truth = GroundTruth(boxes[:2] + 1, None, DRIVABLE, random.random((20, 30)) < 0.1)
            noise = random.integers(0, 256, (20, 30), dtype=np.uint8)
            part.update(truth, boxes, random.integers(1, 4, 3) / 4, noise, noise)
        parts.append(part)
    return parts


def merged(parts: list[PerceptionMetrics]) -> PerceptionMetrics:
    whole = PerceptionMetrics()
    for part in parts:
        whole.merge(pickle.loads(pickle.dumps(part)))
    return whole


def test_parts_add_up_to_the_whole_however_they_are_grouped() -> None:
    parts = noisy_parts(5)
    groupings = (
        parts,
        [merged(parts)],
        [merged(parts[:2]), merged(parts[2:])],
        [parts[0], merged([merged(parts[1:3]), parts[3]]), parts[4]],
    )
    wholes = [merged(grouping) for grouping in groupings]
    results = {json.dumps([whole.to_json(), whole.sweep_json()]) for whole in wholes}
    assert len(results) == 1  # to the last bit
    assert json.loads(results.pop())[0]["lane"]["images"] == 10


def test_the_order_of_images_shows_in_the_average_precision_alone() -> None:
    parts = noisy_parts(5)
    contents = []
    for order in itertools.islice(itertools.permutations(parts), 0, 120, 17):
        whole = merged(list(order))
        content = whole.to_json()
        precision = [content["detection"].pop(name) for name in ("map50", "map50_95")]
        contents.append((precision, json.dumps([content, whole.sweep_json()])))
    assert len({rest for _, rest in contents}) == 1
    assert len({precision[0] for precision, _ in contents}) > 1  # many scores are equal


def test_images_judged_beforehand_count_the_same() -> None:
    direct, judged = PerceptionMetrics(max_detections=5), PerceptionMetrics(max_detections=5)
    random = np.random.default_rng(3)
    for number in range(8):
        corner = random.uniform(0, 20, (7, 2))
        boxes = np.concatenate([corner, corner + 8], axis=1)
        ignore = np.array([True, False, False])
        lane = random.random((20, 160)) < 0.1
        truth = GroundTruth(boxes[:3] + 1, ignore, lane if number % 2 else None, lane)
        scores = random.random(7).astype(np.float32)
        masks = [np.where(random.random((20, 160)) < 0.3, 255, 0).astype(np.uint8) for _ in "ab"]
        direct.update(truth, boxes, scores, *masks)
        judged.add(judge_image(truth, boxes, scores, *masks, max_detections=5))
    assert json.dumps(judged.to_json()) == json.dumps(direct.to_json())
    assert direct.to_json()["drivable"]["images"] == 4


def test_a_judged_label_that_does_not_fit_is_refused() -> None:
    mask = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"prediction is \(4, 5\), label \(5, 4\)"):
        judge_image(GroundTruth(lane=np.zeros((5, 4), bool)), np.zeros((0, 4)), [], mask, mask)


def test_memory_grows_by_the_detections_alone() -> None:
    """10 000 images of 1280x720 with 100 detections each must fit: no mask may be kept."""
    random = np.random.default_rng(1)
    mask = random.integers(0, 256, (72, 128), dtype=np.uint8)
    truth = GroundTruth(np.array([[0, 0, 9, 9.0]]), None, mask > 90, mask > 200)
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (100, 1))
    metrics = PerceptionMetrics()
    sizes = []
    for _ in range(3):
        for _ in range(20):
            scores = random.random(100).astype(np.float32)
            metrics.update(truth, boxes, scores, mask, mask)
        sizes.append(len(pickle.dumps(metrics)))
    growth = sizes[2] - sizes[1]
    assert growth == pytest.approx(sizes[1] - sizes[0], rel=0.05)
    assert growth / 20 < 100 * 9
