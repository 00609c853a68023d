"""The table of figures: it names what a metric JSON holds, no more and no less."""

import numpy as np
import pytest

from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.figures import (
    ACCURACY,
    CURVE_LABELS,
    HEADLINES,
    SCORED,
    judged,
    lower_is_better,
    nested,
    task_scores,
    value_of,
)
from mtc_perception.metrics.tasks import PerceptionMetrics


@pytest.fixture(scope="module")
def metrics() -> PerceptionMetrics:
    """One image of 2 x 4 pixels, labelled for all tasks."""
    label = np.array([[True, False, False, True]] * 2)
    counted = PerceptionMetrics()
    truth = GroundTruth(np.array([[0.0, 0.0, 2.0, 2.0]]), None, label, label)
    mask = label.astype(np.uint8) * np.uint8(255)
    counted.update(truth, [[0, 0, 2, 2]], [0.9], mask, mask)
    return counted


def test_every_fraction_of_a_metric_json_has_a_label(metrics: PerceptionMetrics) -> None:
    about = ("threshold", "best_f1_threshold", "images", "objects", "max_detections")
    found = {
        f"{task}.{key}"
        for task, part in metrics.to_json().items()
        for key in part
        if key not in about and not key.startswith("images_without_")
    }
    assert found == set(ACCURACY)
    titles = [figure.title for figure in ACCURACY.values()]
    assert len(set(titles)) == len(titles)
    assert ACCURACY["lane.iou_dilated8_pooled"].title == "lane IoU, 8 px label, pooled"
    assert ACCURACY["detection.recall_at_threshold"].label == "recall at the score threshold"


def test_every_curve_of_a_sweep_has_a_label(metrics: PerceptionMetrics) -> None:
    curves = {key for part in metrics.sweep_json().values() for key in part}
    assert curves - {"threshold", "best_threshold"} == set(CURVE_LABELS)


def test_values_by_name() -> None:
    result = {"detection": {"recall": 0.5, "map50": None}, "latency_ms": {"end_to_end": {"p95": 7}}}
    assert value_of(result, "latency_ms.end_to_end.p95") == 7.0
    assert ACCURACY["detection.recall"].of(result) == 0.5
    assert ACCURACY["detection.map50"].of(result) is None
    assert ACCURACY["lane.iou"].of(result) is None
    assert lower_is_better("latency_ms.end_to_end.p95")
    assert not lower_is_better("detection.recall")


def test_values_by_task_and_the_scores_of_tasks() -> None:
    values = nested(SCORED, lambda figure: float(len(figure.key)))
    assert values == {
        "detection": {"map50": 5.0, "map50_95": 8.0, "best_f1": 7.0},
        "drivable": {"miou": 4.0},
        "lane": {"iou": 3.0},
    }
    assert judged(values)["detection.map50_95"] == 8.0
    assert task_scores(values) == {"detection": 20 / 3, "drivable": 4.0, "lane": 3.0}
    # A task of which a figure is missing has no score.
    assert judged({"detection": {"map50": 0.5}, "lane": {"iou": 0.25}}) == {"lane.iou": 0.25}


def test_ten_points_of_map50_are_three_of_the_score() -> None:
    """They must not hide behind a recall that is 1 of any network."""
    before = {"detection": {"map50": 0.9, "map50_95": 0.5, "best_f1": 0.9, "recall": 1.0}}
    after = {"detection": before["detection"] | {"map50": 0.8}}
    lost = task_scores(before)["detection"] - task_scores(after)["detection"]
    assert lost == pytest.approx(0.1 / 3)
    assert not {"detection.recall"} & {figure.name for figure in (*HEADLINES, *SCORED)}
