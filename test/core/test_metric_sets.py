"""Several data sets as one result: means of equal weight, thresholds of the mean curves."""

import numpy as np
import pytest

from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.sets import each_set, mean_over_sets
from mtc_perception.metrics.tasks import SWEEP, PerceptionMetrics, mean_sweep_json


def counted(levels: list[int], *, boxes: bool = True) -> PerceptionMetrics:
    """One image per level: a mask as sure as that of its right half, a box found with that score.

    The left half is taken for foreground, too, with half the probability.
    """
    metrics = PerceptionMetrics()
    label = np.array([[False, False, True, True]] * 2)
    box = np.array([[0.0, 0.0, 2.0, 2.0]])
    for level in levels:
        mask = np.where(label, level, level // 2).astype(np.uint8)
        truth = GroundTruth(box if boxes else None, None, label)
        metrics.update(truth, box, [level / 255], mask, mask)
    return metrics


def test_sets_count_alike_whatever_their_sizes() -> None:
    sets = {"one": counted([255] * 5).to_json(), "other": counted([60]).to_json()}
    mean = mean_over_sets(sets)
    for task, key in (("drivable", "miou"), ("detection", "recall_at_threshold")):
        first, second = (one[task][key] for one in sets.values())
        assert first != second
        assert mean[task][key] == (first + second) / 2
    assert each_set(mean) == sets
    assert "lane" not in mean


def test_a_set_without_labels_for_a_task_does_not_count_for_it() -> None:
    sets = {"one": counted([200]).to_json(), "other": counted([200], boxes=False).to_json()}
    assert mean_over_sets(sets)["detection"]["map50"] == sets["one"]["detection"]["map50"]
    nothing = {"one": {"lane": {"iou": None}}, "other": {"lane": {"iou": None}}}
    assert mean_over_sets(nothing)["lane"] == {"iou": None}


def test_a_single_set_is_its_own_mean() -> None:
    alone = counted([255]).to_json()
    assert mean_over_sets({"one": alone}) == alone
    assert each_set(alone) == {"": alone}


def test_thresholds_are_the_best_of_the_mean_curves() -> None:
    """Many images want one threshold, one image another: a mean over images would not see it."""
    sets = [counted([255] * 9 + [90]), counted([100])]
    found = mean_sweep_json(sets)["drivable"]
    curves = [one.sweep_json()["drivable"] for one in sets]
    mean = np.mean([curve["miou"] for curve in curves], axis=0)
    assert found["miou"] == pytest.approx(mean)
    best = found["best_threshold"]["miou"]
    assert mean[SWEEP.index(best)] == mean.max()
    assert best != curves[0]["best_threshold"]["miou"]


def test_the_best_score_threshold_is_looked_for_in_hundredths() -> None:
    sets = [counted([200]), counted([180], boxes=False)]
    found = mean_sweep_json(sets)["detection"]
    assert found["best_threshold"]["f1"] == sets[0].to_json()["detection"]["best_f1_threshold"]
