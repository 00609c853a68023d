"""All accuracy figures together: what is left out, thresholds, parts of a data set."""

import itertools
import json
import pickle

import numpy as np
import pytest

from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.perception import binary_mask
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.tasks import (
    PerceptionMetrics,
    best_threshold,
    judge_image,
    lane_dilation_px,
)

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
        judged.add(
            judge_image(truth, boxes, scores, *map(PackedMask.pack, masks), max_detections=5)
        )
    assert json.dumps(judged.to_json()) == json.dumps(direct.to_json())
    assert direct.to_json()["drivable"]["images"] == 4


def test_the_evidence_of_an_image_is_that_of_its_masks() -> None:
    random = np.random.default_rng(5)
    probability = random.integers(0, 256, (20, 160), dtype=np.uint8)
    lane = random.random((20, 160)) < 0.1
    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 30]])
    truth = GroundTruth(boxes, np.array([False, True]), None, lane)
    alone = PerceptionMetrics(lane_threshold=0.3, max_detections=5)
    alone.update(truth, boxes, [0.4, 0.8], probability, probability)
    mask = PackedMask.pack(binary_mask(probability, 0.3))
    expected = judge_image(truth, boxes, [0.4, 0.8], mask, mask, max_detections=5)
    found = alone.evidence()
    assert (found.drivable, found.lane, found.lane_dilated) == (
        None,
        expected.lane,
        expected.lane_dilated,
    )
    assert found.detection is not None
    assert expected.detection is not None
    for name in ("scores", "right", "ignored", "objects"):
        assert np.array_equal(getattr(found.detection, name), getattr(expected.detection, name))


def test_a_judged_label_that_does_not_fit_is_refused() -> None:
    mask = PackedMask.pack(np.zeros((4, 5), np.uint8))
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
    assert growth / 20 < 100 * 11
