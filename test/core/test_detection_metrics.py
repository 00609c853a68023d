"""Detection scores against pycocotools, references written here from the definition, by hand."""

import contextlib
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtc_perception.metrics.detection import DetectionEvidence, DetectionMetric


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


def test_figures_of_many_detections_take_little_memory() -> None:
    count, random = 50_000, np.random.default_rng(0)
    right = np.where(random.random(count) < 0.1, 1023, 0).astype(np.uint16)
    scores = random.random(count, np.float32)
    metric = DetectionMetric()
    none = np.zeros(count, np.uint16)
    metric.add(DetectionEvidence(scores, right, none, none, (count,)))
    tracemalloc.start()
    try:
        metric.compute()
        assert tracemalloc.get_traced_memory()[1] < 40 * count
    finally:
        tracemalloc.stop()
