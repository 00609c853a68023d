"""Every accuracy metric of the project, computed once: training, evaluation and replay use these.

Conventions (those of the BDD100K multi-task papers, with what they leave open settled):

- Nothing is scored where there is no label: an unlabelled task of an image is passed as None.
- Detection is COCO's, over one class `vehicle`; predicted classes are not told apart. Ignore
  regions are COCO crowds: detections inside them are neither right nor wrong. `recall` is the
  maximum of the recall curve at IoU 0.5, that is, with every detection that was passed counted.
- Mask figures come per image and then averaged (`iou`, `miou`, `accuracy`), and from pixel counts
  pooled over all images (`*_pooled`). `iou` is the foreground's, `miou` the mean of foreground's
  and background's, `accuracy` is (sensitivity + specificity) / 2.
- A ratio without anything to count is undefined (an IoU where neither label nor prediction has a
  pixel of the class, an accuracy where the label lacks a class). Such an image is left out of that
  average, and a figure that is undefined altogether is None. A false alarm on an image without
  foreground has IoU 0 and counts.
- `*_dilated8`: the lane label is widened with an 8x8 pixel square first, so that thin centre lines
  become 8 pixels wide; the prediction stays as it is.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.decode import threshold_level
from mtc_perception.detection_metrics import DetectionMetric

BoolMask: TypeAlias = npt.NDArray[np.bool_]
ByteMask: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.floating]

LEVELS = 256
LANE_DILATION_PX = 8
_SWEEP_STEPS = 20


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Labels of one image of height H and width W; None where a task is unlabelled."""

    boxes: Floats | None = None
    """[n, 4] x1, y1, x2, y2 in image pixels."""
    ignore: BoolMask | None = None
    """[n] boxes that are ignore regions; None means none of them."""
    drivable: BoolMask | None = None
    """[H, W]"""
    lane: BoolMask | None = None
    """[H, W]"""


class MaskMetric:
    """Streaming scores of one segmentation task, at every threshold at once.

    Per image one pair of 256-bin histograms (foreground and background pixels over predicted
    probability) is enough for all thresholds, so a threshold sweep costs no second pass.
    """

    def __init__(self) -> None:
        self.images = 0
        self._pooled = np.zeros((2, LEVELS), dtype=np.int64)
        self._sums: dict[str, Floats] = {}
        self._counts: dict[str, npt.NDArray[np.int64]] = {}

    def update(self, probability: ByteMask, label: BoolMask) -> None:
        """Count one image.

        `probability` is uint8 [H, W], probability x 255 (or a mask of 0 and 255), `label` bool
        [H, W]. Raises ValueError where their shapes differ.
        """
        if probability.shape != label.shape:
            raise ValueError(f"prediction is {probability.shape}, label {label.shape}")
        keys = probability.astype(np.uint16)
        keys[label] += LEVELS
        histogram = np.bincount(keys.ravel(), minlength=2 * LEVELS).reshape(2, LEVELS)
        self.images += 1
        self._pooled += histogram
        for name, values in _ratios(histogram).items():
            defined = ~np.isnan(values)
            self._sums[name] = self._sums.get(name, 0.0) + np.where(defined, values, 0.0)
            self._counts[name] = self._counts.get(name, 0) + defined.astype(np.int64)

    def merge(self, other: "MaskMetric") -> None:
        """Count everything `other` counted too."""
        self.images += other.images
        self._pooled += other._pooled
        for name, total in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + other._counts[name]

    def sweep(self) -> dict[str, Floats]:
        """Every figure as an array [256] over levels, NaN where undefined.

        Level `l` takes probabilities >= l / 255 for foreground.
        """
        curves: dict[str, Floats] = {}
        for name, pooled in _ratios(self._pooled).items():
            count = self._counts.get(name, np.zeros(LEVELS, dtype=np.int64))
            total = self._sums.get(name, np.zeros(LEVELS))
            curves[name] = _divide(total, count)
            curves[f"{name}_pooled"] = pooled
        return curves

    def at(self, threshold: float) -> dict[str, float | None]:
        """Every figure at one threshold in 0..1, None where undefined."""
        level = threshold_level(threshold)
        return {name: _number(curve[level]) for name, curve in self.sweep().items()}


class PerceptionMetrics:
    """All three tasks together, streaming; `to_json` gives the project's metric JSON."""

    def __init__(
        self,
        drivable_threshold: float = 0.5,
        lane_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        self.drivable_threshold = drivable_threshold
        self.lane_threshold = lane_threshold
        self.detection = DetectionMetric(max_detections)
        self.drivable = MaskMetric()
        self.lane = MaskMetric()
        self.lane_dilated = MaskMetric()

    def update(
        self,
        truth: GroundTruth,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        drivable: ByteMask,
        lane: ByteMask,
    ) -> None:
        """Count one image of height H and width W, in the tasks it has labels for.

        `boxes` [n, 4] and `scores` [n] are detections in image pixels, `drivable` and `lane` uint8
        [H, W] either probabilities x 255 or masks of 0 and 255.
        """
        if truth.boxes is not None:
            self.detection.update(boxes, scores, truth.boxes, truth.ignore)
        if truth.drivable is not None:
            self.drivable.update(drivable, truth.drivable)
        if truth.lane is not None:
            self.lane.update(lane, truth.lane)
            self.lane_dilated.update(lane, dilate(truth.lane, LANE_DILATION_PX))

    def merge(self, other: "PerceptionMetrics") -> None:
        """Count everything `other` counted too: parts of a data set, or one frame, add up."""
        self.detection.merge(other.detection)
        self.drivable.merge(other.drivable)
        self.lane.merge(other.lane)
        self.lane_dilated.merge(other.lane_dilated)

    def to_json(self) -> dict[str, Any]:
        """The metric JSON of the tasks that had labels: fractions in 0..1, None where undefined."""
        result: dict[str, Any] = {}
        if self.detection.images:
            found = self.detection.compute()
            result["detection"] = {
                "recall": found.recall,
                "map50": found.map50,
                "map50_95": found.map50_95,
                "images": self.detection.images,
                "objects": self.detection.objects,
            }
        if self.drivable.images:
            figures = self.drivable.at(self.drivable_threshold)
            result["drivable"] = {
                **{name: figures[name] for name in ("miou", "iou", "miou_pooled", "iou_pooled")},
                "threshold": self.drivable_threshold,
                "images": self.drivable.images,
            }
        if self.lane.images:
            names = ("iou", "accuracy", "iou_pooled", "accuracy_pooled")
            figures = self.lane.at(self.lane_threshold)
            dilated = self.lane_dilated.at(self.lane_threshold)
            result["lane"] = {
                **{name: figures[name] for name in names},
                **{_dilated_name(name): dilated[name] for name in names},
                "threshold": self.lane_threshold,
                "images": self.lane.images,
            }
        return result

    def sweep_json(self) -> dict[str, Any]:
        """Mask figures over thresholds 0.05 ... 0.95, and the threshold that is best for each."""
        thresholds = [step / _SWEEP_STEPS for step in range(1, _SWEEP_STEPS)]
        levels = [threshold_level(threshold) for threshold in thresholds]
        result: dict[str, Any] = {}
        for task, metric, names in (
            ("drivable", self.drivable, ("miou", "iou")),
            ("lane", self.lane, ("iou", "accuracy")),
        ):
            if not metric.images:
                continue
            curves = metric.sweep()
            rows = {name: [_number(curves[name][level]) for level in levels] for name in names}
            best = {
                name: thresholds[int(np.nanargmax(curves[name][levels]))]
                for name in names
                if not np.isnan(curves[name][levels]).all()
            }
            result[task] = {"threshold": thresholds, **rows, "best_threshold": best}
        return result


def dilate(label: BoolMask, size_px: int) -> BoolMask:
    """Widen a label so that a line one pixel wide becomes `size_px` pixels wide."""
    kernel = np.ones((size_px, size_px), dtype=np.uint8)
    return np.asarray(cv2.dilate(label.astype(np.uint8), kernel), dtype=np.bool_)


def _dilated_name(name: str) -> str:
    head, _, pooled = name.partition("_")
    return f"{head}_dilated{LANE_DILATION_PX}" + (f"_{pooled}" if pooled else "")


def _ratios(histogram: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Ratios [256] per level from pixel counts [2 (background, foreground), 256]; NaN undefined."""
    above = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    false_positive, true_positive = above
    negative, positive = histogram.sum(axis=1)
    false_negative = positive - true_positive
    true_negative = negative - false_positive
    wrong = false_positive + false_negative
    foreground = _divide(true_positive, true_positive + wrong)
    background = _divide(true_negative, true_negative + wrong)
    sensitivity = _divide(true_positive, np.full(LEVELS, positive))
    specificity = _divide(true_negative, np.full(LEVELS, negative))
    return {
        "iou": foreground,
        "miou": (foreground + background) / 2,
        "accuracy": (sensitivity + specificity) / 2,
    }


def _divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
