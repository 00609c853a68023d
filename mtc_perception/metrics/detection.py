"""Detection scores; the conventions are those of `metrics.tasks`.

Average precision and the largest recall are those of pycocotools, for which a vehicle need not have
it; of equal scores, too, the detection that came first counts first. Each image is judged when it
comes, at COCO's ten IoUs, and only the verdicts are kept: memory does not hold the boxes and labels
of a whole drive.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mtc_perception.core.class_map import EVERY_CLASS

BoolMask: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.floating]
Bits: TypeAlias = npt.NDArray[np.uint16]
Labels: TypeAlias = npt.NDArray[np.integer]

# COCO's own expressions: 0.6 of them is a little above 0.6, and overlaps are compared with that.
IOUS = np.linspace(0.5, 0.95, int(np.round((0.95 - 0.5) / 0.05)) + 1, endpoint=True)
RECALLS = np.linspace(0.0, 1.00, int(np.round((1.00 - 0.0) / 0.01)) + 1, endpoint=True)
_BIT = np.left_shift(1, np.arange(len(IOUS))).astype(np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """What `judge` must know of one image where there are several classes."""

    count: int
    labels: Labels
    """[n] class index of each detection"""
    target_labels: Labels
    """[m] class index of each labelled box; EVERY_CLASS of a region that all ignore."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionEvidence:
    """The verdict on one image's k detections, at most as many as count, by falling score."""

    scores: npt.NDArray[np.float32]
    """[k]"""
    right: Bits
    """[k] bit i: takes an object at `IOUS[i]`."""
    ignored: Bits
    """[k] bit i: lies in an ignore region at `IOUS[i]` and takes no object: does not count."""
    labels: Labels
    """[k] class index"""
    objects_by_class: tuple[int, ...]
    """Labelled objects of each class, ignore regions excluded."""

    @property
    def objects(self) -> int:
        """Of all classes."""
        return sum(self.objects_by_class)

    def of_class(self, label: int) -> "DetectionEvidence":
        """What concerns one class alone, as evidence of a network that finds nothing else."""
        own = self.labels == label
        return DetectionEvidence(
            self.scores[own],
            self.right[own],
            self.ignored[own],
            np.zeros(int(own.sum()), np.uint16),
            self.objects_by_class[label : label + 1] or (0,),
        )


@dataclass(frozen=True, slots=True, eq=False)
class DetectionScores:
    """Fractions in 0..1, of several classes the mean over those that have labelled objects; None
    where there is none to score against."""

    recall: float | None
    """At IoU 0.5 with every detection counted."""
    map50: float | None
    map50_95: float | None
    precision: Floats
    """[101] at IoU 0.5 and recall 0, 0.01 ... 1: COCO's envelope, the best at this recall or
    beyond; NaN where there is no labelled object."""


class DetectionMetric:
    """Streaming scores of boxes of any number of classes, with ignore regions.

    Of several classes every figure is the mean over those that have labelled objects, of all if
    none has.

    Holds 10 bytes per detection. Counting images, and merging parts, in the same order gives the
    same figures to the last bit; another order shows in the average precision where detections have
    equal scores.
    """

    def __init__(self, max_detections: int = 100) -> None:
        self.max_detections = max_detections
        self.images = 0
        """Images counted so far."""
        self.objects_by_class: tuple[int, ...] = (0,)
        """Labelled objects of each class so far, ignore regions excluded."""
        self._scores = array("f")
        self._right = array("H")
        self._ignored = array("H")
        self._labels = array("H")

    @property
    def objects(self) -> int:
        """Labelled objects of all classes."""
        return sum(self.objects_by_class)

    def update(
        self,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        target_boxes: npt.ArrayLike,
        ignore: BoolMask | None = None,
        classes: Classes | None = None,
    ) -> None:
        """Count one image; the arguments are those of `judge`. Raises ValueError as it does."""
        self.add(judge(boxes, scores, target_boxes, ignore, self.max_detections, classes))

    def add(self, evidence: DetectionEvidence) -> None:
        """Count one image that was judged before."""
        self.images += 1
        self.objects_by_class = _added(self.objects_by_class, evidence.objects_by_class)
        self._scores.frombytes(evidence.scores.astype(np.float32).tobytes())
        self._right.frombytes(evidence.right.astype(np.uint16).tobytes())
        self._ignored.frombytes(evidence.ignored.astype(np.uint16).tobytes())
        self._labels.frombytes(evidence.labels.astype(np.uint16).tobytes())

    def evidence(self) -> DetectionEvidence:
        """All verdicts, as if on one image."""
        # Copies: a view would forbid the arrays to grow.
        return DetectionEvidence(
            np.array(self._scores, np.float32),
            np.array(self._right, np.uint16),
            np.array(self._ignored, np.uint16),
            np.array(self._labels, np.uint16),
            self.objects_by_class,
        )

    def of_class(self, label: int) -> "DetectionMetric":
        """What was counted of one class."""
        found = DetectionMetric(self.max_detections)
        found.add(self.evidence().of_class(label))
        found.images = self.images
        return found

    def merge(self, other: "DetectionMetric") -> None:
        """Count everything `other` counted too."""
        self.images += other.images
        self.objects_by_class = _added(self.objects_by_class, other.objects_by_class)
        self._scores += other._scores
        self._right += other._right
        self._ignored += other._ignored
        self._labels += other._labels

    def sweep(self, thresholds: Sequence[float]) -> dict[str, Floats]:
        """`precision`, `recall` and `f1` at IoU 0.5 per score threshold, NaN where undefined.

        A detection counts where `score >= threshold`, compared in float32 as on the vehicle.
        Precision is undefined without any detection, recall without any object, F1 without both.
        """
        swept = [_swept(one, thresholds) for one in self._known()]
        return {name: mean_defined([one[name] for one in swept]) for name in swept[0]}

    def f1_of_all(self, threshold: float) -> float:
        """F1 at IoU 0.5 and a score threshold of the detections of all classes together, so that a
        false alarm of a class without objects counts; NaN without detections and objects."""
        return float(_swept(self.evidence(), [threshold])["f1"][0])

    def compute(self) -> DetectionScores:
        """COCO's figures of everything counted so far."""
        if self.objects == 0:
            return DetectionScores(None, None, None, np.full(len(RECALLS), np.nan))
        recalls, precisions = zip(*map(_curves, self._known()), strict=True)
        precision = np.mean(precisions, axis=0)
        return DetectionScores(
            recall=float(np.mean([one[0] for one in recalls])),
            map50=float(precision[0].mean()),
            map50_95=float(precision.mean()),
            precision=precision[0],
        )

    def _known(self) -> list[DetectionEvidence]:
        """The evidence of each class that has objects, of all if none has."""
        evidence = self.evidence()
        if len(self.objects_by_class) == 1:
            return [evidence]
        known = [label for label, count in enumerate(self.objects_by_class) if count]
        return [evidence.of_class(label) for label in known or range(len(self.objects_by_class))]


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))


def _swept(found: DetectionEvidence, thresholds: Sequence[float]) -> dict[str, Floats]:
    """`DetectionMetric.sweep` of one class."""
    levels = np.asarray(thresholds, dtype=np.float32)
    counted = _at_least(found.scores[(found.ignored & _BIT[0]) == 0], levels)
    right = _at_least(found.scores[(found.right & _BIT[0]) != 0], levels)
    objects = np.full(len(levels), found.objects)
    return {
        "precision": divide(right, counted),
        "recall": divide(right, objects),
        "f1": divide(2 * right, counted + objects),
    }


def _curves(found: DetectionEvidence) -> tuple[list[float], list[Floats]]:
    """Of one class the largest recall, and COCO's precision [101], at each of `IOUS`."""
    order = np.argsort(-found.scores, kind="stable")
    right, ignored = found.right[order], found.ignored[order]
    recalls, precisions = [], []
    for bit in _BIT:
        # Precision peaks at right detections; counted at all others, too, an hour of images
        # would take a gigabyte.
        places = np.flatnonzero(right & bit)
        uncounted = np.searchsorted(np.flatnonzero(ignored & bit), places)
        recall, precision = precision_curve(
            np.arange(1, len(places) + 1), places + 1 - uncounted, found.objects
        )
        recalls.append(recall)
        precisions.append(precision)
    return recalls, precisions


def mean_defined(curves: Sequence[Floats]) -> Floats:
    """The mean of curves where they are defined, NaN where none is; a single one as it is."""
    if len(curves) == 1:
        return curves[0]
    values = np.array(curves)
    known = ~np.isnan(values)
    return divide(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0))


def precision_curve(
    right: npt.NDArray[Any], found: npt.NDArray[Any], objects: float
) -> tuple[float, Floats]:
    """The largest recall, and COCO's precision [101] at `RECALLS`.

    `right` and `found` [n] are numbers of right and of all detections by falling score, counted
    up; `objects` is more than 0.
    """
    if len(right) == 0:
        return 0.0, np.zeros(len(RECALLS))
    recall = right / objects
    precision = np.where(found > 0, right / np.maximum(found, 1e-12), 0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, RECALLS, side="left")
    at_recalls = np.append(envelope, 0.0)[reached]
    return float(recall[-1]), at_recalls


def judge(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    target_boxes: npt.ArrayLike,
    ignore: BoolMask | None,
    max_detections: int,
    classes: Classes | None = None,
) -> DetectionEvidence:
    """COCO's matching of one image: predicted boxes [n, 4] with scores [n], labelled boxes [m, 4].

    All boxes are x1, y1, x2, y2 in the same pixels; `ignore` [m] marks ignore regions. Only the
    `max_detections` best-scored boxes count, scores in float32. By falling score, each detection
    takes the free object it overlaps most; one that takes none, and lies in an ignore region by
    that much of its own area, does not count. Of several `classes`, each detection takes an object
    of its own class, and lies in ignore regions of its class and of none. Raises ValueError where
    the numbers of boxes, scores and labels differ.
    """
    found = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    confidence = np.array(scores, dtype=np.float32)
    targets = np.array(target_boxes, dtype=np.float64).reshape(-1, 4)
    crowd = np.zeros(len(targets), dtype=np.bool_) if ignore is None else ignore
    if len(found) != len(confidence) or len(targets) != len(crowd):
        raise ValueError(
            f"{len(found)} boxes but {len(confidence)} scores, "
            f"{len(targets)} labels but {len(crowd)} ignore flags"
        )
    order = np.argsort(-confidence, kind="stable")[:max_detections]
    if classes is None:
        classes = Classes(1, np.zeros(len(found), np.uint16), np.zeros(len(targets), np.int64))
    if len(found) != len(classes.labels) or len(targets) != len(classes.target_labels):
        raise ValueError(
            f"{len(found)} boxes but {len(classes.labels)} classes, "
            f"{len(targets)} labels but {len(classes.target_labels)} of their classes"
        )
    found, confidence, labels = found[order], confidence[order], classes.labels[order]
    objects, kinds = targets[~crowd], classes.target_labels[~crowd]
    inner = _intersections(found, objects)
    area = _areas(found)[:, None]
    overlap = divide(inner, area + _areas(objects) - inner)
    right = _matched(np.where(labels[:, None] == kinds, overlap, 0.0))
    regions = classes.target_labels[crowd]
    own = (regions == labels[:, None]) | (regions == EVERY_CLASS)
    covered = divide(_intersections(found, targets[crowd]), area)
    inside = np.where(own, covered, 0.0).max(axis=1, initial=0.0)
    in_crowd = ((inside[:, None] >= IOUS) * _BIT).sum(axis=1).astype(np.uint16)
    counts = np.bincount(kinds, minlength=classes.count)
    return DetectionEvidence(
        confidence,
        right,
        in_crowd & ~right,
        labels.astype(np.uint16),
        tuple(counts.tolist()),
    )


def _matched(overlap: Floats) -> Bits:
    """At which of `IOUS` each detection takes an object, from their overlaps [k, m].

    Detections take by their order, each the free object that it overlaps most, of equal ones the
    last, as in COCO's code.
    """
    detections, objects = np.nonzero(overlap >= IOUS[0])
    overlaps = overlap[detections, objects]
    order = np.lexsort((-objects, -overlaps, detections))
    levels = np.searchsorted(IOUS, overlaps[order], side="right")
    taken = [0] * overlap.shape[0]
    free = [(1 << len(IOUS)) - 1] * overlap.shape[1]
    # A bit per IoU, in numbers of Python: that few are faster than arrays.
    pairs = zip(detections[order].tolist(), objects[order].tolist(), levels.tolist(), strict=True)
    for detection, wanted, reached in pairs:
        takes = ((1 << reached) - 1) & free[wanted] & ~taken[detection]
        taken[detection] |= takes
        free[wanted] &= ~takes
    return np.array(taken, np.uint16)


def divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    """Quotients, NaN where the denominator is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _at_least(scores: Floats, levels: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """How many scores reach each level."""
    return len(scores) - np.searchsorted(np.sort(scores), levels, side="left")


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _intersections(boxes: Floats, targets: Floats) -> Floats:
    """Areas [n, m] that boxes [n, 4] and targets [m, 4] share."""
    low = np.maximum(boxes[:, None, :2], targets[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], targets[None, :, 2:])
    return (high - low).clip(min=0).prod(axis=-1)
