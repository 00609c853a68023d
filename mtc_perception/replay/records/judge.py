"""From an answer and its labels to a record: the same for every mode of replay."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import Thresholds
from mtc_perception.core.class_map import ClassMap
from mtc_perception.core.packed_mask import PackedMask, packed
from mtc_perception.core.perception import Perception
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.detection import Classes, judge
from mtc_perception.metrics.tasks import ImageEvidence, judge_image
from mtc_perception.replay.recordings.recording import Notes, SourceFrame
from mtc_perception.replay.records.record import Change, FrameRecord, Status


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """What is compared of an answer; None for masks that the network lacks."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    drivable: PackedMask | None
    lane: PackedMask | None


@dataclass(frozen=True, slots=True, eq=False)
class _Deployed:
    """An answer at the deployed score threshold, and the image it is about."""

    index: int
    stamp_ns: int
    size: tuple[int, int]
    answer: _Compared


class FrameJudge:
    """Judges the images of one stream in recorded order; remembers the answer before."""

    def __init__(
        self,
        thresholds: Thresholds,
        classes: ClassMap,
        max_detections: int,
        notes: Notes,
        tasks: Sequence[Task] = TASKS,
        reference_names: Sequence[str] = (),
    ) -> None:
        """`thresholds` are the deployed ones; answers may hold detections of lower score.
        `reference_names` are of the classes of a network to agree with; none: its are the same.

        Those count for what is computed over all scores, as the average precision. Labels of other
        `tasks` than the network's do not count.
        """
        self._least_score = np.float32(thresholds.score)
        self._classes = classes
        self._reference_names = reference_names or classes.names
        self._max_detections = max_detections
        self._tasks = tasks
        self._notes = notes
        self.categories: set[str] = set()
        """Of the labels so far."""
        self._before: _Deployed | None = None

    def answered(
        self,
        frame: SourceFrame,
        perception: Perception,
        truth: GroundTruth | None,
        reference: Perception | None = None,
    ) -> FrameRecord:
        """The record of an image that was answered.

        `reference` is the answer of another network, at its own thresholds, to agree with.
        """
        count = int(np.count_nonzero(perception.scores >= self._least_score))
        drivable, lane = packed(perception.drivable), packed(perception.lane)
        everything = _Compared(
            perception.boxes, perception.scores, perception.labels, drivable, lane
        )
        deployed = replace(
            everything,
            boxes=perception.boxes[:count],
            scores=perception.scores[:count],
            labels=perception.labels[:count],
        )
        now = _Deployed(frame.index, frame.stamp_ns, perception.size, deployed)
        names = self._classes.names
        labels = tuple(names[label] for label in perception.labels[:count])
        record = FrameRecord(
            index=frame.index,
            stamp_ns=frame.stamp_ns,
            status="processed",
            size=perception.size,
            digest=_digest(deployed, labels),
            boxes=deployed.boxes,
            scores=deployed.scores,
            labels=labels,
            **self._truth_of(truth),
            evidence=self._judged(frame, everything, truth),
            agreement=self._judged(frame, everything, self._as_truth(reference)),
            stability=self._change(now),
        )
        self._before = now
        return record

    def unanswered(
        self,
        frame: SourceFrame,
        status: Status,
        reason: str,
        truth: GroundTruth | None,
        reference: Perception | None = None,
    ) -> FrameRecord:
        """The record of an image without an answer: a miss of all that is labelled in it.

        So it is of all that `reference`, the answer of another network, sees in it. An unreadable
        one never was an image: its labels do not count.
        """
        self._before = None
        if status == "unreadable":
            evidence = agreement = None
        else:
            evidence, agreement = (
                self._judged(frame, None, wanted) for wanted in (truth, self._as_truth(reference))
            )
        return FrameRecord(
            index=frame.index,
            stamp_ns=frame.stamp_ns,
            status=status,
            reason=reason,
            **self._truth_of(truth),
            evidence=evidence,
            agreement=agreement,
        )

    def _truth_of(self, truth: GroundTruth | None) -> dict[str, Any]:
        """What a record has of the labels."""
        if truth is None or truth.boxes is None:
            return {}
        self.categories.update(truth.categories or ())
        found = self._classes.objects(truth)
        told = truth.ignore is not None or bool(found.ignore.any())
        return {
            "truth_boxes": found.boxes.astype(np.float32),
            "truth_ignore": found.ignore if told else None,
        }

    def _as_truth(self, reference: Perception | None) -> GroundTruth | None:
        """The answer of another network, in its own words."""
        if reference is None:
            return None

        def label(mask: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.bool_] | None:
            return None if mask is None else np.asarray(mask > 0)

        masks = label(reference.drivable), label(reference.lane)
        names = [self._reference_names[label] for label in reference.labels]
        return GroundTruth(reference.boxes, None, *masks, names).of(reference.tasks)

    def _judged(
        self, frame: SourceFrame, answer: _Compared | None, truth: GroundTruth | None
    ) -> ImageEvidence | None:
        """None where nothing of what the network does is labelled."""
        truth = None if truth is None else truth.of(self._tasks)
        if truth is None or truth.is_empty:
            return None
        answer = answer or _nothing(truth)
        try:
            return judge_image(
                truth,
                answer.boxes,
                answer.scores,
                answer.drivable,
                answer.lane,
                self._max_detections,
                answer.labels,
                self._classes,
            )
        except ValueError as error:
            self._notes.add("label of another size", f"image {frame.index}: {error}")
            return None

    def _change(self, now: _Deployed) -> Change | None:
        before = self._before
        if (
            before is None
            or now.index != before.index + 1
            or now.stamp_ns <= before.stamp_ns
            or now.size != before.size
        ):
            return None
        old, new = before.answer, now.answer
        classes = Classes(len(self._classes.names), new.labels, old.labels)
        matches = judge(new.boxes, new.scores, old.boxes, None, len(new.boxes), classes)
        return Change(
            len(old.boxes),
            len(new.boxes),
            int(np.count_nonzero(matches.right & 1)),
            _shared(old.drivable, new.drivable),
            _shared(old.lane, new.lane),
        )


def _digest(answer: _Compared, labels: Sequence[str]) -> str:
    """16 hexadecimal digits that differ where answers do."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (answer.boxes, answer.scores):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update("\n".join(labels).encode())
    for mask in (answer.drivable, answer.lane):
        if mask is not None:
            digest.update(str(mask.shape).encode())
            digest.update(mask.bits)
    return digest.hexdigest()


def _nothing(truth: GroundTruth) -> _Compared:
    """An answer that finds nothing in the image of these labels."""
    masks = [mask for mask in (truth.drivable, truth.lane) if mask is not None]
    empty = PackedMask.pack(np.zeros(masks[0].shape if masks else (0, 0), np.uint8))
    none = np.zeros(0, np.int32)
    return _Compared(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, empty, empty)


def _shared(before: PackedMask | None, now: PackedMask | None) -> tuple[int, int]:
    """Foreground pixels in both masks, and in either."""
    if before is None or now is None:
        return 0, 0
    once = before.count_differing(now)
    both = (before.count() + now.count() - once) // 2
    return both, both + once
