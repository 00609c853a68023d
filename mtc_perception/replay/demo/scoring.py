"""Scores what the node sent against the labels of the recording."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtc_perception.core.bundle import Bundle, Thresholds
from mtc_perception.metrics.tasks import ImageEvidence, PerceptionMetrics
from mtc_perception.replay.live.result import LiveResult
from mtc_perception.replay.recordings.recording import FrameSource, Note, Notes
from mtc_perception.replay.recordings.sources import fitted
from mtc_perception.replay.records.figures import iou
from mtc_perception.replay.records.judge import FrameJudge


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy of one run; empty where the recording has no labels."""

    metrics: dict[str, Any]
    """The metric JSON, over the labelled images that were answered."""
    agreement: dict[int, float]
    """By image stamp in the recording: mean IoU of the labelled masks, 0..1."""
    labelled: int
    """Labelled images among those played, answered or not."""
    notes: list[Note]
    """What is wrong with the recording or its labels."""


def score_run(
    source: FrameSource, bundle: Bundle, result: LiveResult, on_frame: Callable[[int], None]
) -> Scores:
    """Judge every labelled image that was played and answered; one pass over the labels.

    `on_frame` gets the number of labelled images so far. Raises SourceError.
    """
    manifest, status = bundle.manifest, result.engine
    thresholds = Thresholds(
        **{task: float(status[f"{task}_threshold"]) for task in ("score", "drivable", "lane")}
    )
    notes = Notes()
    judge = FrameJudge(thresholds, manifest.classes, manifest.max_detections, notes)
    metrics = PerceptionMetrics(
        thresholds.drivable, thresholds.lane, manifest.max_detections, thresholds.score
    )
    played = {one.source_stamp_ns: one for one in result.published}
    agreement: dict[int, float] = {}
    labelled = 0
    for frame, truth in fitted(source.labelled_frames(notes), notes):
        if truth is None:
            continue
        one = played.get(frame.stamp_ns)
        if one is None:
            if labelled == len(played):
                break  # the rest of the recording was not played
            continue
        labelled += 1
        on_frame(labelled)
        answer = result.perception(one, manifest.classes)
        evidence = None if answer is None else judge.answered(frame, answer, truth).evidence
        if evidence is None:
            continue
        metrics.add(evidence)
        value = _agreement(evidence)
        if value is not None:
            agreement[frame.stamp_ns] = value
    return Scores(metrics.to_json(), agreement, labelled, notes.all())


def _agreement(evidence: ImageEvidence) -> float | None:
    """Mean IoU of the masks that are labelled."""
    ious = (iou(evidence.drivable), iou(evidence.lane))
    known = [value for value in ious if value is not None]
    return sum(known) / len(known) if known else None
