"""How a study compares: thresholds of other drives, pooled figures, paired intervals, verdicts."""

from dataclasses import replace

import numpy as np
import pytest

from mtc_perception.metrics import bootstrap
from mtc_perception.metrics.detection import DetectionEvidence
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import ImageEvidence, PerceptionMetrics
from offline_compress.study.comparison import (
    Answers,
    Judged,
    compare,
    cross_fitted,
    parts_of,
    pooled,
)

MARGINS = {"detection.map50": 1.5, "drivable.miou": 0.5}


def image(right: list[float], wrong: list[float], objects: int = 1, iou: int = 90) -> ImageEvidence:
    """An image with detections of these scores, and a drivable area of `iou` per cent."""
    scores = np.array(right + wrong, np.float32)
    bits = np.array([1023] * len(right) + [0] * len(wrong), np.uint16)
    order = np.argsort(-scores, kind="stable")
    detection = DetectionEvidence(
        scores[order], bits[order], np.zeros_like(bits), np.zeros_like(bits), (objects,)
    )
    return ImageEvidence(detection, MaskCounts(iou, 0, 100 - iou, 100))


def answers(drive: str, images: list[ImageEvidence]) -> Answers:
    stems = [f"{drive}_{k:05}" for k in range(len(images))]
    return Answers(drive, 0, stems, images, [{"light": drive}] * len(images))


EARLY = answers("early", [image([0.9], [0.6])] * 40)
LATE = answers("late", [image([0.3], [0.1])] * 40)


def test_a_threshold_is_that_of_the_other_drives() -> None:
    limits = cross_fitted([EARLY, LATE])
    assert 0.6 < limits["late"] <= 0.9
    assert 0.1 < limits["early"] <= 0.3


def test_what_a_drive_is_reported_at_does_not_depend_on_it() -> None:
    before = cross_fitted([EARLY, LATE])["early"]
    other = answers("early", [image([], [0.99])] * 40)
    assert cross_fitted([other, LATE])["early"] == before


def test_without_vehicles_the_threshold_is_the_neutral_one() -> None:
    bare = Answers("bare", 0, ["bare_00000"], [ImageEvidence()], [{}])
    assert cross_fitted([EARLY, bare])["early"] == 0.3


def test_pooled_figures_are_those_of_the_metrics() -> None:
    limits = {"early": 0.7, "late": 0.2}
    whole = pooled([EARLY, LATE], limits)
    [line] = [
        compare(part, {"a": [[whole]]}, "a", MARGINS)
        for part in parts_of("roads", [EARLY, LATE])
        if part.part == "all"
    ]
    metrics = PerceptionMetrics()
    for one in whole.evidence:
        assert one.detection is not None
        metrics.detection.add(one.detection)
        assert one.drivable is not None
        metrics.drivable.add(one.drivable)
    expected = metrics.to_json()
    figures = line["rows"]["a"]
    for name in ("map50", "map50_95"):
        assert figures[f"detection.{name}"]["value"] == pytest.approx(expected["detection"][name])
    assert figures["drivable.miou"]["value"] == pytest.approx(expected["drivable"]["miou"])
    # Each drive at its own threshold: all found, nothing wrong.
    assert figures["detection.recall_at_threshold"]["value"] == 1
    assert figures["detection.precision_at_threshold"]["value"] == 1
    assert (line["images"], line["objects"]) == (80, 80)


def test_what_is_undefined_is_none() -> None:
    bare = [image([], [0.5], objects=0)] * 40
    networks = [[Judged(EARLY.stems, bare, [0.5] * 40)]] * 2
    [part, *_] = parts_of("roads", [answers("early", bare)])
    line = compare(part, {"reference": networks, "own": networks}, "reference", MARGINS)
    found = line["rows"]["own"]["detection.map50"]
    assert (found["value"], found["change"], found["verdict"]) == (None, None, "too few images")
    assert line["objects"] == 0


def test_lines_are_all_drives_and_conditions() -> None:
    parts = parts_of("roads", [EARLY, LATE])
    assert [one.part for one in parts] == ["all", "early", "late", "light early", "light late"]
    assert parts[2].images.tolist() == list(range(40, 80))
    assert [one.part for one in parts_of("other", [EARLY])] == ["all", "light early"]


@pytest.mark.parametrize(
    ("iou", "verdict"), [(90, "equivalent"), (85, "lost"), (95, "gained"), (None, "unclear")]
)
def test_a_difference_is_judged_by_its_interval(
    monkeypatch: pytest.MonkeyPatch, iou: int | None, verdict: str
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)
    # None: much better on one block, much worse on the next.
    own = [
        replace(one, drivable=image([], [], 0, iou or (81, 99)[k // 7 % 2]).drivable)
        for k, one in enumerate(EARLY.evidence)
    ]
    rows = {
        "reference": [[Judged(EARLY.stems, EARLY.evidence, [0.5] * 40)]],
        # Two seeds, of which one is as the reference.
        "own": [
            [Judged(EARLY.stems, EARLY.evidence, [0.5] * 40)],
            [Judged(EARLY.stems, own, [0.5] * 40)],
        ],
    }
    [part, *_] = parts_of("roads", [EARLY])
    row = compare(part, rows, "reference", MARGINS)["rows"]["own"]
    found = row["drivable.miou"]
    assert found["verdict"] == verdict
    if iou == 85:
        values = [compare(part, {"a": [one]}, "a", {})["rows"]["a"] for one in rows["own"]]
        each = [one["drivable.miou"]["value"] for one in values]
        assert found["value"] == pytest.approx(sum(each) / 2)
        assert found["deviation"] == pytest.approx(np.std(each, ddof=1))
        assert found["low"] <= found["change"] <= found["high"] < 0
    assert row["detection.map50"]["change"] == 0


def test_drives_of_few_images_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)
    stems = [f"town{k:02}x_{frame:05}" for k in range(30) for frame in range(3)]
    whole, cut = (
        [image([], [], 0, iou) for k in range(30) for iou in [k % 3 * worse + 50] * 3]
        for worse in (10, 5)
    )
    one = Answers("early", 0, stems, whole, [{}] * len(stems))
    [part] = parts_of("towns", [one])
    rows = {"a": [[Judged(stems, whole, [0.5] * 90)]], "b": [[Judged(stems, cut, [0.5] * 90)]]}
    found = compare(part, rows, "a", {})["rows"]["b"]["drivable.miou"]
    assert found["high"] - found["low"] > 0.005
