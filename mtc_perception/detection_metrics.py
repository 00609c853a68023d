"""Detection scores by COCO's rules (faster-coco-eval); the conventions are those of `metrics`."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

BoolMask: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class DetectionCurve:
    """What IoU 0.5 gives at recall 0, 0.01 ... 1: three arrays [101].

    `precision` is COCO's envelope (the best at this recall or beyond), `f1` follows from it, and
    `score` is the score threshold that reaches the recall, NaN where nothing does.
    """

    precision: Floats
    f1: Floats
    score: Floats


@dataclass(frozen=True, slots=True, eq=False)
class DetectionScores:
    """Fractions in 0..1; None where there is no labelled object to score against."""

    recall: float | None
    map50: float | None
    map50_95: float | None
    curve: DetectionCurve


class DetectionMetric:
    """Streaming COCO scores of boxes, one class, with ignore regions."""

    def __init__(self, max_detections: int = 100) -> None:
        self.max_detections = max_detections
        self._predictions: list[tuple[Floats, Floats]] = []
        self._targets: list[tuple[Floats, BoolMask]] = []

    @property
    def images(self) -> int:
        """Images counted so far."""
        return len(self._targets)

    @property
    def objects(self) -> int:
        """Labelled objects so far, ignore regions excluded."""
        return sum(int((~ignore).sum()) for _, ignore in self._targets)

    def update(
        self,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        target_boxes: npt.ArrayLike,
        ignore: BoolMask | None = None,
    ) -> None:
        """Count one image: predicted boxes [n, 4] with scores [n], labelled boxes [m, 4].

        All boxes are x1, y1, x2, y2 in the same pixels; `ignore` [m] marks ignore regions. Only
        the `max_detections` best-scored boxes of an image count.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(scores, dtype=np.float64)
        targets = np.asarray(target_boxes, dtype=np.float64).reshape(-1, 4)
        crowd = np.zeros(len(targets), dtype=np.bool_) if ignore is None else np.asarray(ignore)
        if len(boxes) != len(scores) or len(targets) != len(crowd):
            raise ValueError(
                f"{len(boxes)} boxes but {len(scores)} scores, "
                f"{len(targets)} labels but {len(crowd)} ignore flags"
            )
        self._predictions.append((boxes.copy(), scores.copy()))
        self._targets.append((targets.copy(), crowd.copy()))

    def merge(self, other: "DetectionMetric") -> None:
        """Count everything `other` counted too."""
        self._predictions += other._predictions
        self._targets += other._targets

    def compute(self) -> DetectionScores:
        """Score everything counted so far."""
        undefined = np.full(101, np.nan)
        if self.objects == 0:
            return DetectionScores(None, None, None, DetectionCurve(*[undefined] * 3))
        if not any(len(boxes) for boxes, _ in self._predictions):
            zero = np.zeros(101)
            return DetectionScores(0.0, 0.0, 0.0, DetectionCurve(zero, zero, undefined))
        evaluation = self._evaluate()
        precision = np.asarray(evaluation["precision"])[:, :, 0, 0, 0]
        curve_precision = precision[0]
        recall_points = np.linspace(0.0, 1.0, len(curve_precision))
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = 2 * curve_precision * recall_points / (curve_precision + recall_points)
        scores = np.asarray(evaluation["scores"])[0, :, 0, 0, 0]
        return DetectionScores(
            recall=float(np.asarray(evaluation["recall"])[0, 0, 0, 0]),
            map50=float(curve_precision.mean()),
            map50_95=float(precision.mean()),
            curve=DetectionCurve(
                precision=curve_precision,
                f1=np.nan_to_num(f1),
                score=np.where(curve_precision > 0, scores, np.nan),
            ),
        )

    def _evaluate(self) -> dict[str, Any]:
        # Imported here: the node uses this module's neighbours without the evaluation extra.
        from faster_coco_eval import COCO, COCOeval_faster

        images = [{"id": index + 1, "width": 0, "height": 0} for index in range(self.images)]
        categories = [{"id": 1, "name": "vehicle"}]
        truth = COCO({"images": images, "categories": categories, "annotations": self._truth()})
        found = COCO({"images": images, "categories": categories, "annotations": self._found()})
        evaluator = COCOeval_faster(truth, found, iouType="bbox")
        evaluator.params.maxDets = [self.max_detections]
        evaluator.params.areaRng = [[0, 1e10]]
        evaluator.params.areaRngLbl = ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
        return evaluator.eval

    def _truth(self) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = []
        for image, (boxes, ignore) in enumerate(self._targets, start=1):
            for box, crowd in zip(boxes, ignore, strict=True):
                annotations.append(
                    _annotation(len(annotations) + 1, image, box) | {"iscrowd": int(crowd)}
                )
        return annotations

    def _found(self) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = []
        for image, (boxes, scores) in enumerate(self._predictions, start=1):
            for box, score in zip(boxes, scores, strict=True):
                annotations.append(
                    _annotation(len(annotations) + 1, image, box)
                    | {"score": float(score), "iscrowd": 0}
                )
        return annotations


def _annotation(identity: int, image: int, box: Floats) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = x2 - x1, y2 - y1
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
    }
