"""Detection figures of several classes, against pycocotools, and by hand."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtc_perception.core.class_map import EVERY_CLASS, ClassMap
from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.bootstrap import Estimate
from mtc_perception.metrics.detection import Classes, DetectionMetric, judge
from mtc_perception.metrics.estimates import (
    deployed_counts,
    deployed_estimates,
    detection_estimates,
)
from mtc_perception.metrics.figures import CLASS_FIGURES, OF_CLASSES, figure_of
from mtc_perception.metrics.sets import mean_over_sets
from mtc_perception.metrics.tasks import ImageEvidence, PerceptionMetrics, judge_image

CLASSES = ClassMap.of(["car", "person", "rider"])
COUNT = len(CLASSES.names)
Image = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Boxes, scores and labels of detections; boxes, ignore flags and labels of objects."""


def random_images(seed: int, kinds: int = COUNT) -> list[Image]:
    """Detections of the right class, of a wrong one and stray ones; riders of the labels only
    where `kinds` is 3."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(15):
        count = int(random.integers(0, 7))
        corner = random.uniform(0, 80, (count, 2))
        targets = np.concatenate([corner, corner + random.uniform(8, 40, (count, 2))], axis=1)
        ignore, labels = random.random(count) < 0.25, random.integers(0, kinds, count)
        near = np.repeat(targets, 2, axis=0) + random.normal(0, 2, (2 * count, 4))
        stray = random.uniform(0, 60, (4, 2))
        boxes = np.concatenate([near, np.concatenate([stray, stray + 15], axis=1)])
        found = np.concatenate([np.repeat(labels, 2), random.integers(0, COUNT, 4)])
        mistaken = random.random(len(found)) < 0.2
        found[mistaken] = random.integers(0, COUNT, int(mistaken.sum()))
        scores = (random.permutation(1000)[: len(boxes)] / 1000).astype(np.float32)
        images.append((boxes, scores, found, targets, ignore, labels))
    return images


def filled(images: list[Image]) -> DetectionMetric:
    metric = DetectionMetric()
    for boxes, scores, found, targets, ignore, labels in images:
        metric.update(boxes, scores, targets, ignore, Classes(COUNT, found, labels))
    return metric


def coco(images: list[Image]) -> tuple[float, float]:
    """mAP50 and mAP50-95 of pycocotools."""
    annotations, found = [], []
    for number, (boxes, scores, kinds, targets, ignore, labels) in enumerate(images, start=1):
        for (x1, y1, x2, y2), crowd, label in zip(targets, ignore, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
        for (x1, y1, x2, y2), score, kind in zip(boxes, scores, kinds, strict=True):
            found.append([number, x1, y1, x2 - x1, y2 - y1, score, kind + 1])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": annotations,
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES.names)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(np.array(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1], evaluation.stats[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kinds", [2, 3])
def test_the_mean_over_classes_is_that_of_coco(seed: int, kinds: int) -> None:
    images = random_images(seed, kinds)
    found = filled(images).compute()
    map50, map50_95 = coco(images)
    assert 0.05 < map50 < 0.98
    assert found.map50 == pytest.approx(map50)
    assert found.map50_95 == pytest.approx(map50_95)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_with_equal_weights_are_the_figures(seed: int) -> None:
    images = random_images(seed)
    evidence = [
        ImageEvidence(judge(boxes, scores, targets, ignore, 100, Classes(COUNT, found, labels)))
        for boxes, scores, found, targets, ignore, labels in images
    ]
    metrics = PerceptionMetrics(score_threshold=0.4, classes=CLASSES)
    for one in evidence:
        metrics.add(one)
    wanted = metrics.to_json()["detection"]
    estimates = detection_estimates(evidence, 0.4, CLASSES.names)
    assert sum(name.startswith(OF_CLASSES) for name in estimates) == COUNT * len(CLASS_FIGURES)
    chosen = [
        np.flatnonzero(one.detection.scores >= np.float32(0.4)) for one in evidence if one.detection
    ]
    deployed = deployed_estimates(*deployed_counts(evidence, chosen))

    def value(estimate: Estimate) -> float:
        return estimate(np.ones(len(images)))

    for name, estimate in (estimates | deployed).items():
        figure, owner = figure_of(name)
        expected = wanted["classes"][owner] if owner else wanted
        assert value(estimate) == pytest.approx(expected[figure.key]), name


def test_each_class_has_its_figures_and_parts_add_up() -> None:
    images = random_images(7)
    whole, parts = PerceptionMetrics(classes=CLASSES), PerceptionMetrics(classes=CLASSES)
    mask = np.zeros((100, 120), np.uint8)
    for boxes, scores, found, targets, ignore, labels in images:
        names = [CLASSES.names[label] for label in labels]
        truth = GroundTruth(targets, ignore, categories=names)
        whole.update(truth, boxes, scores, mask, mask, found)
        alone = whole.fresh()
        alone.update(truth, boxes, scores, mask, mask, found)
        parts.merge(alone)
        packed = PackedMask.pack(mask)
        judged = judge_image(truth, boxes, scores, packed, packed, 100, found, CLASSES)
        kept = judged.detection
        own = alone.evidence().detection
        assert kept is not None
        assert own is not None
        assert kept.objects_by_class == own.objects_by_class
        np.testing.assert_array_equal(kept.labels, own.labels)
    content = whole.to_json()["detection"]
    assert parts.to_json()["detection"] == content
    each = content["classes"]
    assert list(each) == CLASSES.names
    for figure in ("map50", "map50_95", "recall", "f1_at_threshold", "precision_at_threshold"):
        mean = np.mean([one[figure] for one in each.values()])
        assert content[figure] == pytest.approx(mean), figure
    assert content["objects"] == sum(one["objects"] for one in each.values())
    other = {"detection": content | {"classes": {"car": each["person"]}}}
    mean = mean_over_sets({"a": {"detection": content}, "b": other})["detection"]["classes"]
    assert mean["car"]["map50"] == pytest.approx(np.mean([each[k]["map50"] for k in each][:2]))
    assert mean["rider"]["map50"] == each["rider"]["map50"]


def test_a_detection_of_another_class_is_a_false_alarm_and_leaves_the_object_free() -> None:
    box = np.array([[10.0, 10, 30, 30]])
    both = np.concatenate([box, box])
    found = judge(both, [0.9, 0.8], box, None, 100, Classes(2, np.array([1, 0]), np.array([0])))
    assert found.right.tolist() == [0, 1023]
    assert found.objects_by_class == (1, 0)


def test_an_ignore_region_is_one_of_its_class_or_of_all() -> None:
    box, labels = np.array([[10.0, 10, 30, 30]]), np.array([0, 1])
    for region, ignored in ((0, [1023, 0]), (1, [0, 1023]), (EVERY_CLASS, [1023, 1023])):
        classes = Classes(2, labels, np.array([region]))
        found = judge(np.concatenate([box, box]), [0.9, 0.8], box, np.array([True]), 100, classes)
        assert found.ignored.tolist() == ignored
