"""Every accuracy metric of the project, computed once: training, evaluation and replay use these.

Conventions (those of the BDD100K multi-task papers, with what they leave open settled; the table
of all figures is in docs/evaluation.md):

- Nothing is scored where there is no label: an unlabelled task of an image is passed as None.
- Detection is COCO's. Of several classes every figure is the mean over those that have labelled
  objects, and `classes` has them one by one; the score threshold is one for all. Ignore
  regions are COCO crowds: detections inside them are neither right nor wrong. `recall` is the
  maximum of the recall curve at IoU 0.5, that is, with every detection that was passed counted;
  `*_at_threshold` is what a deployed score threshold gives, `*_at_best_f1` what the best one would.
- Mask figures come per image and then averaged (`iou`, `miou`, `accuracy`), and from pixel counts
  pooled over all images (`*_pooled`). `iou` is the foreground's, `miou` the mean of foreground's
  and background's, `accuracy` is (sensitivity + specificity) / 2.
- A ratio without anything to count is undefined (an IoU where neither label nor prediction has a
  pixel of the class, an accuracy where the label lacks a class). Such an image is left out of that
  average (`images_without_*` counts them), and a figure that is undefined altogether is None. A
  false alarm on an image without foreground has IoU 0 and counts.
- `*_dilated8`: the lane label is widened with a square of 8x8 pixels first, in an image 1280 wide
  and in proportion in others, so that thin centre lines become 8 pixels wide; the prediction stays
  as it is.
- Parts of a data set add up (`merge`) to exactly the figures of the whole, in the order of their
  images: of detections with equal scores the first counts first, as in COCO's code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.perception import threshold_level
from mtc_perception.core.tasks import TASKS
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.detection import (
    Classes,
    DetectionEvidence,
    DetectionMetric,
    judge,
    mean_defined,
)
from mtc_perception.metrics.masks import MaskCounts, MaskMetric, count_pixels, number

BoolMask: TypeAlias = npt.NDArray[np.bool_]
ByteMask: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.floating]

LANE_DILATION_PX = 8
"""In an image as wide as BDD100K's, `BDD_WIDTH_PX`."""
BDD_WIDTH_PX = 1280
SWEEP = [step / 20 for step in range(1, 20)]
"""Thresholds 0.05 ... 0.95."""
_DRIVABLE, _LANE = ("miou", "iou"), ("iou", "accuracy")
FINE_SWEEP = [step / 100 for step in range(1, 100)]
"""Where the best score threshold is looked for: F1 has a sharper peak than IoU."""
RECOMMENDED = {
    "score": ("detection", "f1"),
    "drivable": ("drivable", "miou"),
    "lane": ("lane", "iou"),
}
"""Threshold, and the task and figure whose best value recommends it."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageEvidence:
    """What one image says about the accuracy of masks and boxes; None where a task is unlabelled.

    All that any figure needs of it, a few bytes per detection.
    """

    detection: DetectionEvidence | None = None
    drivable: MaskCounts | None = None
    lane: MaskCounts | None = None
    lane_dilated: MaskCounts | None = None
    """Against the label widened by `lane_dilation_px`."""


def judge_image(
    truth: GroundTruth,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    drivable: PackedMask | None,
    lane: PackedMask | None,
    max_detections: int = 100,
    labels: npt.ArrayLike | None = None,
    classes: ClassMap = VEHICLE_CLASSES,
) -> ImageEvidence:
    """Judge one image in the tasks it has labels for.

    `boxes` [n, 4], `scores` [n] and `labels` [n] (None: all of the first class) are detections in
    image pixels, `drivable` and `lane` the masks, None of a network that lacks them. Raises
    ValueError where a label does not fit its image.
    """

    def counts(mask: PackedMask | None, label: BoolMask | None) -> MaskCounts | None:
        if mask is None or label is None:
            return None
        return count_pixels(mask, PackedMask.pack(label))

    return ImageEvidence(
        detection=None
        if truth.boxes is None
        else judge_boxes(truth, boxes, scores, max_detections, labels, classes),
        drivable=counts(drivable, truth.drivable),
        lane=counts(lane, truth.lane),
        lane_dilated=counts(lane, None if truth.lane is None else widened(truth.lane)),
    )


def judge_boxes(
    truth: GroundTruth,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    max_detections: int,
    labels: npt.ArrayLike | None,
    classes: ClassMap,
) -> DetectionEvidence:
    """`judge_image` of boxes that are labelled."""
    objects = classes.objects(truth)
    kinds = np.zeros(len(np.asarray(scores)), np.int64) if labels is None else np.asarray(labels)
    return judge(
        boxes,
        scores,
        objects.boxes,
        objects.ignore,
        max_detections,
        Classes(max(1, len(classes.names)), kinds, objects.labels),
    )


class PerceptionMetrics:
    """All three tasks together, streaming; `to_json` gives the project's metric JSON.

    The thresholds are those that the figures at one threshold are given for.
    """

    def __init__(
        self,
        drivable_threshold: float = 0.5,
        lane_threshold: float = 0.5,
        max_detections: int = 100,
        score_threshold: float = 0.3,
        classes: ClassMap = VEHICLE_CLASSES,
    ) -> None:
        self.classes = classes
        self.score_threshold = score_threshold
        self.drivable_threshold = drivable_threshold
        self.lane_threshold = lane_threshold
        self.detection = DetectionMetric(max_detections)
        self.drivable = MaskMetric()
        self.lane = MaskMetric()
        self.lane_dilated = MaskMetric()

    @property
    def images(self) -> int:
        """Images counted for the task that most of them are labelled for."""
        return max(self.detection.images, self.drivable.images, self.lane.images)

    def update(
        self,
        truth: GroundTruth,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        drivable: ByteMask | None,
        lane: ByteMask | None,
        labels: npt.ArrayLike | None = None,
    ) -> None:
        """Count one image of height H and width W, in the tasks it has labels for.

        `boxes` [n, 4], `scores` [n] and `labels` [n] (None: all of the first class) are detections
        in image pixels, `drivable` and `lane` uint8 [H, W] either probabilities x 255 or masks of 0
        and 255, None of a network that lacks them. Raises ValueError where a label does not fit its
        image.
        """
        if truth.boxes is not None:
            most = self.detection.max_detections
            self.detection.add(judge_boxes(truth, boxes, scores, most, labels, self.classes))
        if truth.drivable is not None and drivable is not None:
            self.drivable.update(drivable, truth.drivable)
        if truth.lane is not None and lane is not None:
            self.lane.update(lane, truth.lane)
            self.lane_dilated.update(lane, widened(truth.lane))

    def add(self, evidence: ImageEvidence) -> None:
        """Count one image that was judged before: the same as `update` with its masks."""
        if evidence.detection is not None:
            self.detection.add(evidence.detection)
        if evidence.drivable is not None:
            self.drivable.add(evidence.drivable)
        if evidence.lane is not None:
            self.lane.add(evidence.lane)
        if evidence.lane_dilated is not None:
            self.lane_dilated.add(evidence.lane_dilated)

    def merge(self, other: "PerceptionMetrics") -> None:
        """Count everything `other` counted too: parts of a data set, or one frame, add up."""
        self.detection.merge(other.detection)
        self.drivable.merge(other.drivable)
        self.lane.merge(other.lane)
        self.lane_dilated.merge(other.lane_dilated)

    def fresh(self) -> "PerceptionMetrics":
        """The same with nothing counted yet."""
        return PerceptionMetrics(
            self.drivable_threshold,
            self.lane_threshold,
            self.detection.max_detections,
            self.score_threshold,
            self.classes,
        )

    def evidence(self) -> ImageEvidence:
        """What the one image that was counted says, at the thresholds."""

        def counts(metric: MaskMetric, threshold: float) -> MaskCounts | None:
            return metric.counts(threshold) if metric.images else None

        return ImageEvidence(
            detection=self.detection.evidence() if self.detection.images else None,
            drivable=counts(self.drivable, self.drivable_threshold),
            lane=counts(self.lane, self.lane_threshold),
            lane_dilated=counts(self.lane_dilated, self.lane_threshold),
        )

    def headlines(self) -> dict[str, float | None]:
        """One quick figure per task, at the thresholds; None without labels or undefined."""
        return {
            "detection": number(self.detection.f1_of_all(self.score_threshold)),
            "drivable": self.drivable.at(self.drivable_threshold)["miou"],
            "lane": self.lane.at(self.lane_threshold)["iou"],
        }

    def to_json(self) -> dict[str, Any]:
        """The metric JSON of the tasks that had labels: fractions in 0..1, None where undefined."""
        result: dict[str, Any] = {}
        if self.detection.images:
            result["detection"] = _detection_json(
                self.detection, self.score_threshold, best_f1_threshold([self])
            )
            if len(self.classes.names) > 1:
                result["detection"]["classes"] = self._classes_json()
        if self.drivable.images:
            names = ("miou", "iou", "miou_pooled", "iou_pooled")
            figures = self.drivable.at(self.drivable_threshold)
            result["drivable"] = {
                **{name: figures[name] for name in names},
                **_counted(self.drivable, self.drivable_threshold, ("miou", "iou")),
            }
        if self.lane.images:
            names = ("iou", "accuracy", "iou_pooled", "accuracy_pooled")
            figures = self.lane.at(self.lane_threshold)
            dilated = self.lane_dilated.at(self.lane_threshold)
            result["lane"] = {
                **{name: figures[name] for name in names},
                **{_dilated_name(name): dilated[name] for name in names},
                **_counted(self.lane, self.lane_threshold, ("iou", "accuracy")),
            }
        return result

    def sweep_json(self) -> dict[str, Any]:
        """Figures over thresholds 0.05 ... 0.95, and the threshold that is best for each."""
        return mean_sweep_json([self])

    def sweep_curves(self) -> dict[str, dict[str, Floats]]:
        """Figures at the thresholds `SWEEP` of the tasks that had labels, NaN where undefined."""
        levels = [threshold_level(threshold) for threshold in SWEEP]
        found: dict[str, dict[str, Floats]] = {}
        if self.detection.images:
            found["detection"] = self.detection.sweep(SWEEP)
        if self.drivable.images:
            curves = self.drivable.sweep()
            found["drivable"] = {name: curves[name][levels] for name in _DRIVABLE}
        if self.lane.images:
            curves, dilated = self.lane.sweep(), self.lane_dilated.sweep()
            found["lane"] = {name: curves[name][levels] for name in _LANE} | {
                _dilated_name(name): dilated[name][levels] for name in _LANE
            }
        return found

    def _classes_json(self) -> dict[str, Any]:
        """The detection figures of each class by its name."""
        found = {}
        for index, name in enumerate(self.classes.names):
            own = self.detection.of_class(index)
            best = best_threshold(FINE_SWEEP, own.sweep(FINE_SWEEP)["f1"]) if own.objects else None
            found[name] = _detection_json(own, self.score_threshold, best)
        return found


def _detection_json(
    metric: DetectionMetric, threshold: float, best_f1_threshold: float | None
) -> dict[str, Any]:
    found = metric.compute()

    def found_at(threshold: float | None) -> dict[str, float | None]:
        if threshold is None:
            return dict.fromkeys(("recall", "precision", "f1"))
        return {name: number(one) for name, (one,) in metric.sweep([threshold]).items()}

    deployed, best = found_at(threshold), found_at(best_f1_threshold)
    return {
        "recall": found.recall,
        "map50": found.map50,
        "map50_95": found.map50_95,
        **{f"{name}_at_threshold": deployed[name] for name in ("recall", "precision", "f1")},
        "best_f1": best["f1"],
        **{f"{name}_at_best_f1": best[name] for name in ("recall", "precision")},
        "best_f1_threshold": best_f1_threshold,
        "threshold": threshold,
        "images": metric.images,
        "objects": metric.objects,
        "max_detections": metric.max_detections,
    }


def best_threshold(thresholds: Sequence[float], values: Floats) -> float | None:
    """The threshold of the largest value, of equal ones the nearest to 0.5; None if all are NaN."""
    known = ~np.isnan(values)
    if not known.any():
        return None
    top = np.flatnonzero(known & (values >= np.nanmax(values) - 1e-12))
    return min((thresholds[int(index)] for index in top), key=lambda one: abs(one - 0.5))


def dilate(label: BoolMask, size_px: int) -> BoolMask:
    """Widen a label so that a line one pixel wide becomes `size_px` pixels wide."""
    kernel = np.ones((size_px, size_px), dtype=np.uint8)
    wide = cv2.dilate(np.ascontiguousarray(label).view(np.uint8), kernel)
    return wide.astype(np.uint8, copy=False).view(np.bool_)


def widened(lane: BoolMask) -> BoolMask:
    """A lane label [H, W] as `*_dilated8` wants it."""
    return dilate(lane, lane_dilation_px(lane.shape[1]))


def lane_dilation_px(width: int) -> int:
    """How wide `*_dilated8` makes a thin line in an image of `width` pixels."""
    return max(1, round(LANE_DILATION_PX * width / BDD_WIDTH_PX))


def _counted(metric: MaskMetric, threshold: float, names: Sequence[str]) -> dict[str, Any]:
    left_out = metric.left_out(threshold)
    return {
        "threshold": threshold,
        "images": metric.images,
        **{f"images_without_{name}": left_out[name] for name in names},
    }


def mean_sweep_json(sets: Sequence[PerceptionMetrics]) -> dict[str, Any]:
    """`sweep_json` of several data sets, each of equal weight: the mean of their curves."""
    of_sets = [one.sweep_curves() for one in sets]
    result: dict[str, Any] = {}
    for task in TASKS:
        known = [curves[task] for curves in of_sets if task in curves]
        if not known:
            continue
        means = {name: mean_defined([curves[name] for curves in known]) for name in known[0]}
        best = {name: best_threshold(SWEEP, curve) for name, curve in means.items()}
        if task == "detection":
            best = {"f1": best_f1_threshold(sets)}
        result[task] = {
            "threshold": SWEEP,
            **{name: [number(value) for value in curve] for name, curve in means.items()},
            "best_threshold": {name: value for name, value in best.items() if value is not None},
        }
    return result


def best_f1_threshold(sets: Sequence[PerceptionMetrics]) -> float | None:
    curves = [one.detection.sweep(FINE_SWEEP)["f1"] for one in sets if one.detection.objects]
    return best_threshold(FINE_SWEEP, mean_defined(curves)) if curves else None


def _dilated_name(name: str) -> str:
    head, _, pooled = name.partition("_")
    return f"{head}_dilated{LANE_DILATION_PX}" + (f"_{pooled}" if pooled else "")
