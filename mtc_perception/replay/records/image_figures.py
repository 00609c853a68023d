"""How well single images went: the figures that frames are ranked, compared and resampled by."""

from dataclasses import astuple, dataclass
from typing import Any

from mtc_perception.core.tasks import TASKS
from mtc_perception.metrics.figures import IMAGE_LABELS
from mtc_perception.metrics.masks import MaskCounts, iou, miou, ratio
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.replay.records.record import Change, FrameRecord


def figures(record: FrameRecord) -> dict[str, float | None]:
    """One figure per task in 0..1, None where unlabelled or undefined.

    F1 of the deployed detections, mIoU of the drivable area, IoU of the lane lines; against the
    ground truth, or where the image has none against the reference network. Where there is nothing
    and the answer says so these ratios are undefined, but the answer is right: 1, so that a false
    alarm in such an image is a change for the worse.
    """
    evidence = record.evidence or record.agreement
    if evidence is None:
        return dict.fromkeys(TASKS)
    right, found, objects = detection_counts(record, evidence)
    nothing = 1.0 if record.status == "processed" else None
    f1 = ratio(2 * right, found + objects) if found + objects else nothing
    return {
        "detection": None if evidence.detection is None else f1,
        "drivable": nothing if _is_empty(evidence.drivable) else miou(evidence.drivable),
        "lane": nothing if _is_empty(evidence.lane) else iou(evidence.lane),
    }


def detection_counts(record: FrameRecord, evidence: ImageEvidence) -> tuple[int, int, int]:
    """Right ones, all that count, and objects, at IoU 0.5 and the deployed score threshold."""
    judged = evidence.detection
    if judged is None:
        return 0, 0, 0
    deployed = len(record.scores)  # by falling score, these are the first
    right = int((judged.right[:deployed] & 1).sum())
    ignored = int((judged.ignored[:deployed] & 1).sum())
    return right, min(deployed, len(judged.scores)) - ignored, judged.objects


def _is_empty(counts: MaskCounts | None) -> bool:
    """Neither label nor answer has a pixel."""
    return counts is not None and counts.true_negative == sum(astuple(counts))


FIGURE_WORDS = {
    **IMAGE_LABELS,
    "steady_detection": "objects of the image before, found again",
    "steady_drivable": "drivable area, IoU with the image before",
    "steady_lane": "lane lines, IoU with the image before",
}
"""In the order they are shown."""


def image_figures(record: FrameRecord) -> dict[str, float]:
    """The figures of an image that are known, 0..1: by `FIGURE_WORDS`.

    Without labels and without a reference, how steady its answer is against the one before.
    """
    known = {name: value for name, value in figures(record).items() if value is not None}
    change = record.stability
    if known or change is None:
        return known
    steady = {
        "steady_detection": ratio(change.matched, change.boxes_before),
        "steady_drivable": ratio(*change.drivable),
        "steady_lane": ratio(*change.lane),
    }
    return {name: value for name, value in steady.items() if value is not None}


@dataclass(slots=True)
class Stability:
    """Streaming figures over pairs of neighbouring images."""

    pairs: int = 0
    _boxes: int = 0
    _matched: int = 0
    _drivable: tuple[int, int] = (0, 0)
    _lane: tuple[int, int] = (0, 0)

    def add(self, change: Change) -> None:
        """Count one pair."""
        self._count(
            1,
            change.boxes_before + change.boxes_now,
            change.matched,
            change.drivable,
            change.lane,
        )

    def merge(self, other: "Stability") -> None:
        """Count everything `other` counted too."""
        self._count(other.pairs, other._boxes, other._matched, other._drivable, other._lane)

    def to_json(self) -> dict[str, Any]:
        """Fractions in 0..1, None where there was nothing to follow.

        `persistence` is the share of boxes that overlap one of the neighbouring image by IoU 0.5,
        `iou` that of neighbouring masks, pooled over all pairs.
        """
        return {
            "pairs": self.pairs,
            "detection": {"persistence": ratio(2 * self._matched, self._boxes)},
            "drivable": {"iou": ratio(*self._drivable)},
            "lane": {"iou": ratio(*self._lane)},
        }

    def _count(
        self,
        pairs: int,
        boxes: int,
        matched: int,
        drivable: tuple[int, int],
        lane: tuple[int, int],
    ) -> None:
        self.pairs += pairs
        self._boxes += boxes
        self._matched += matched
        self._drivable = (self._drivable[0] + drivable[0], self._drivable[1] + drivable[1])
        self._lane = (self._lane[0] + lane[0], self._lane[1] + lane[1])
