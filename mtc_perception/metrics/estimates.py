"""The figures of accuracy as functions of how much every image weighs, for `metrics.bootstrap`.

With every weight 1 they are those of `metrics.tasks`, whose conventions hold.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mtc_perception.metrics.bootstrap import (
    Estimate,
    Places,
    Values,
    Weights,
    mean_of,
    ratio_of,
)
from mtc_perception.metrics.detection import (
    IOUS,
    DetectionEvidence,
    Floats,
    divide,
    mean_defined,
    precision_curve,
)
from mtc_perception.metrics.figures import CLASS_FIGURES, OF_CLASSES
from mtc_perception.metrics.masks import MaskCounts, accuracy, iou, miou
from mtc_perception.metrics.tasks import FINE_SWEEP, ImageEvidence, best_threshold

_MASK_FIGURES: tuple[tuple[str, str, Callable[[MaskCounts | None], float | None]], ...] = (
    ("drivable", "miou", miou),
    ("drivable", "iou", iou),
    ("lane", "iou", iou),
    ("lane", "accuracy", accuracy),
    ("lane_dilated", "iou", iou),
)

Evidence = Sequence[ImageEvidence | None]
"""Of every image, in their order; None where nothing is labelled."""


def mask_estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Figures of the masks, by their names in a metric JSON, of the tasks that have labels."""
    found: dict[str, Estimate] = {}
    for task, name, figure in _MASK_FIGURES:
        counts = [None if one is None else getattr(one, task) for one in evidence]
        if any(one is not None for one in counts):
            where = f"lane.{name}_dilated8" if task == "lane_dilated" else f"{task}.{name}"
            found[where] = mean_of([figure(one) for one in counts])
    return found


def detection_estimates(
    evidence: Evidence,
    score_threshold: float | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Estimate]:
    """Figures of detection, whose answers must be known down to scores that do not matter.

    `*_at_threshold` where a threshold is given. Recall and precision at best F1 are at the
    threshold that is best on all images: chosen anew in every resample they would jump between
    thresholds that are about as good. Nothing where no image has labels.

    Given several `class_names`, also `CLASS_FIGURES` of each that has objects, as
    `detection.classes.car.map50`.
    """
    whole = [None if one is None else one.detection for one in evidence]
    if all(one is None for one in whole):
        return {}
    judged = _by_class(whole)
    found = _mean_figures(judged)
    if score_threshold is not None:
        deployed = _Swept(judged, [score_threshold])
        found |= {
            f"detection.{name}_at_threshold": deployed.at(name)
            for name in ("recall", "precision", "f1")
        }
    for label, name in enumerate(class_names if len(class_names) > 1 else ()):
        own = _of_class(whole, label)
        if _objects(own).any():
            figures = _mean_figures([own])
            found |= {f"{OF_CLASSES}{name}.{one.key}": figures[one.name] for one in CLASS_FIGURES}
    return found


def _mean_figures(judged: Sequence["_Judged"]) -> dict[str, Estimate]:
    """The mean over classes, given the evidence of each, of the figures without a threshold."""
    precision, swept = _MeanPrecision(judged), _Swept(judged, FINE_SWEEP)
    return {
        "detection.map50": lambda weights: precision(weights, 1),
        "detection.map50_95": lambda weights: precision(weights, len(IOUS)),
        "detection.recall": _Swept(judged, [0.0]).at("recall"),
        "detection.best_f1": swept.best_f1,
        "detection.recall_at_best_f1": swept.at_best_f1("recall"),
        "detection.precision_at_best_f1": swept.at_best_f1("precision"),
    }


def deployed_estimates(right: Values, found: Values, objects: Values) -> dict[str, Estimate]:
    """`*_at_threshold` of counts [n, classes] per image: right detections, all that count, and
    objects."""
    known = np.flatnonzero(objects.sum(axis=0)) if objects.any() else range(objects.shape[1])

    def mean(part: Values, whole: Values) -> Estimate:
        each = [ratio_of(part[:, label], whole[:, label]) for label in known]
        return lambda weights: float(mean_defined([np.array(one(weights)) for one in each]))

    return {
        "detection.recall_at_threshold": mean(right, objects),
        "detection.precision_at_threshold": mean(right, found),
        "detection.f1_at_threshold": mean(2 * right, found + objects),
    }


def deployed_counts(
    evidence: Sequence[ImageEvidence | None], deployed: Sequence[Places]
) -> tuple[Values, Values, Values]:
    """What `deployed_estimates` takes, given which detections [k] of each image are deployed."""
    judged = [None if one is None else one.detection for one in evidence]
    shape = (len(judged), _class_count(judged))
    right, found, objects = (np.zeros(shape) for _ in range(3))
    for image, (one, chosen) in enumerate(zip(judged, deployed, strict=True)):
        if one is not None:
            own = one.labels[chosen]
            np.add.at(right[image], own, one.right[chosen] & 1)
            np.add.at(found[image], own, 1 - (one.ignored[chosen] & 1).astype(np.int64))
            objects[image, : len(one.objects_by_class)] = one.objects_by_class
    return right, found, objects


_Judged = Sequence[DetectionEvidence | None]


def _class_count(judged: _Judged) -> int:
    return max([1, *(len(one.objects_by_class) for one in judged if one is not None)])


def _by_class(judged: _Judged) -> list[_Judged]:
    """The evidence of each class that has objects, of all if none has."""
    count = _class_count(judged)
    if count == 1:
        return [judged]
    parts = [_of_class(judged, label) for label in range(count)]
    return [part for part in parts if _objects(part).any()] or parts


def _of_class(judged: _Judged, label: int) -> _Judged:
    return [None if one is None else one.of_class(label) for one in judged]


class _MeanPrecision:
    """The mean over classes of their average precision."""

    def __init__(self, judged: Sequence[_Judged]) -> None:
        self._classes = [_Precision(one) for one in judged]

    def __call__(self, weights: Weights, levels: int) -> float:
        each = [np.array(one(weights, levels)) for one in self._classes]
        return float(mean_defined(each))


class _Precision:
    """COCO's average precision of weighted images: everything is sorted once."""

    def __init__(self, judged: Sequence[DetectionEvidence | None]) -> None:
        known = [(image, one) for image, one in enumerate(judged) if one is not None]
        self._objects = _objects(judged)
        scores = np.concatenate([one.scores for _, one in known])
        order = np.argsort(-scores, kind="stable")
        lengths = [len(one.scores) for _, one in known]
        self._image = np.repeat([image for image, _ in known], lengths)[order]
        right = np.concatenate([one.right for _, one in known])[order]
        ignored = np.concatenate([one.ignored for _, one in known])[order]
        # As in `DetectionMetric.compute`, precision is looked at where it peaks: at right ones.
        self._levels = []
        for level in range(len(IOUS)):
            places = np.flatnonzero(right >> level & 1)
            uncounted = np.flatnonzero(ignored >> level & 1)
            self._levels.append((places, uncounted, np.searchsorted(uncounted, places)))

    def __call__(self, weights: Weights, levels: int) -> float:
        """The mean over the first `levels` of `IOUS`."""
        wanted = float(weights @ self._objects)
        if wanted == 0:
            return float("nan")
        weight = weights[self._image]
        found = np.cumsum(weight)
        total = 0.0
        for places, uncounted, before in self._levels[:levels]:
            left_out = np.append(0.0, np.cumsum(weight[uncounted]))[before]
            right = np.cumsum(weight[places])
            total += precision_curve(right, found[places] - left_out, wanted)[1].mean()
        return total / levels


class _Swept:
    """Right and all detections at IoU 0.5 per class, image and score threshold."""

    def __init__(self, judged: Sequence[_Judged], thresholds: Sequence[float]) -> None:
        self._thresholds = thresholds
        self._objects = np.array([_objects(one) for one in judged])
        shape = (*self._objects.shape, len(thresholds))
        self._right, self._found = np.zeros(shape), np.zeros(shape)
        levels = np.asarray(thresholds, np.float32)
        for label, part in enumerate(judged):
            for image, one in enumerate(part):
                if one is not None:
                    reached = one.scores[:, None] >= levels
                    right, ignored = (one.right & 1) != 0, (one.ignored & 1) != 0
                    self._right[label, image] = (reached & right[:, None]).sum(axis=0)
                    self._found[label, image] = (reached & ~ignored[:, None]).sum(axis=0)

    def at(self, name: str) -> Estimate:
        """A figure at the only threshold."""
        return lambda weights: float(self._curves(weights)[name][0])

    def best_f1(self, weights: Weights) -> float:
        """The largest F1 over the thresholds."""
        if not (self._objects @ weights).any():
            return float("nan")
        return float(np.nanmax(self._curves(weights)["f1"]))

    def at_best_f1(self, name: str) -> Estimate:
        """A figure at the threshold of the best F1 of all images."""
        curves = self._curves(np.ones(self._objects.shape[1]))
        best = best_threshold(self._thresholds, curves["f1"])
        place = 0 if best is None else self._thresholds.index(best)

        def estimate(weights: Weights) -> float:
            if not (self._objects @ weights).any():
                return float("nan")
            return float(self._curves(weights)[name][place])

        return estimate

    def _curves(self, weights: Weights) -> dict[str, Floats]:
        """The mean over the classes."""
        swept = []
        for right_of, found_of, objects_of in zip(
            self._right, self._found, self._objects, strict=True
        ):
            right, found = weights @ right_of, weights @ found_of
            objects = np.full(len(self._thresholds), weights @ objects_of)
            swept.append(
                {
                    "precision": divide(right, found),
                    "recall": divide(right, objects),
                    "f1": divide(2 * right, found + objects),
                }
            )
        return {name: mean_defined([one[name] for one in swept]) for name in swept[0]}


def _objects(judged: Sequence[DetectionEvidence | None]) -> Values:
    return np.array([0 if one is None else one.objects for one in judged], np.float64)
