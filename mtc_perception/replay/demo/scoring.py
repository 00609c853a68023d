"""Scores what the node sent against the labels of the recording."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtc_perception.mask_metrics import MaskMetric
from mtc_perception.metrics import GroundTruth, PerceptionMetrics
from mtc_perception.replay.frames import FrameSource, SourceError
from mtc_perception.replay.live.player import Published
from mtc_perception.replay.live.run import LiveResult
from mtc_perception.replay.notes import Notes


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy of one run; empty where the recording has no labels."""

    metrics: dict[str, Any]
    """The metric JSON, over the labelled images that were answered."""
    agreement: dict[int, float]
    """By image stamp in the recording: mean IoU of the labelled masks, 0..1."""
    labelled: int
    """Labelled images among those played, answered or not."""


def score_run(source: FrameSource, result: LiveResult, on_frame: Callable[[int], None]) -> Scores:
    """Score every labelled image that was played and answered; one pass over the labels.

    Raises SourceError where a label does not fit its image.
    """
    status = result.engine
    metrics = PerceptionMetrics(
        float(status["drivable_threshold"]),
        float(status["lane_threshold"]),
        score_threshold=float(status["score_threshold"]),
    )
    played = {one.source_stamp_ns: one for one in result.published}
    agreement: dict[int, float] = {}
    labelled = 0
    for frame, truth in source.labelled_frames(Notes()):
        if truth is None:
            continue
        stamp_ns = frame.stamp_ns
        one = played.get(stamp_ns)
        if one is None:
            if labelled == len(played):
                break  # the rest of the recording was not played
            continue
        labelled += 1
        on_frame(labelled)
        value = _score(metrics, result, one, truth)
        if value is not None:
            agreement[stamp_ns] = value
    return Scores(metrics.to_json(), agreement, labelled)


def _score(
    metrics: PerceptionMetrics, result: LiveResult, one: Published, truth: GroundTruth
) -> float | None:
    frame = result.answer(one)
    if frame is None or frame.drivable is None or frame.lane is None:
        return None
    assert frame.boxes is not None
    assert frame.scores is not None
    drivable, lane = frame.drivable.unpack(), frame.lane.unpack()
    try:
        metrics.update(truth, frame.boxes, frame.scores, drivable, lane)
    except ValueError as error:
        raise SourceError(f"labels of image {one.index} do not fit it: {error}") from error
    ious = []
    for mask, label in ((drivable, truth.drivable), (lane, truth.lane)):
        if label is not None:
            single = MaskMetric()
            single.update(mask, label)
            ious.append(single.at(0.5)["iou"])
    known = [iou for iou in ious if iou is not None]
    return sum(known) / len(known) if known else None
