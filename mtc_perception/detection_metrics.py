"""Detection scores; the conventions are those of `metrics`.

Average precision and the largest recall are COCO's, computed by faster-coco-eval. What a single
score threshold gives (precision, recall, F1) is counted here, from the same matching at IoU 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

BoolMask: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.floating]

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class DetectionScores:
    """Fractions in 0..1; None where there is no labelled object to score against."""

    recall: float | None
    """At IoU 0.5 with every detection counted."""
    map50: float | None
    map50_95: float | None
    precision: Floats
    """[101] at IoU 0.5 and recall 0, 0.01 ... 1: COCO's envelope, the best at this recall or
    beyond; NaN where there is no labelled object."""


class DetectionMetric:
    """Streaming scores of boxes, one class, with ignore regions.

    Holds every detection (41 bytes each); the figures do not depend on the order in
    which images were counted or parts merged.
    """

    def __init__(self, max_detections: int = 100) -> None:
        self.max_detections = max_detections
        self._predictions: list[tuple[Floats, Floats]] = []
        self._targets: list[tuple[Floats, BoolMask]] = []
        self._judged: list[tuple[Floats, BoolMask]] = []
        self._computed: DetectionScores | None = None

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
        the `max_detections` best-scored boxes of an image count, scores in float32. Raises
        ValueError where the numbers of boxes and scores differ.
        """
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.array(scores, dtype=np.float32)
        targets = np.array(target_boxes, dtype=np.float64).reshape(-1, 4)
        crowd = np.zeros(len(targets), dtype=np.bool_) if ignore is None else ignore.copy()
        if len(boxes) != len(scores) or len(targets) != len(crowd):
            raise ValueError(
                f"{len(boxes)} boxes but {len(scores)} scores, "
                f"{len(targets)} labels but {len(crowd)} ignore flags"
            )
        self._computed = None
        self._predictions.append((boxes, scores))
        self._targets.append((targets, crowd))
        self._judged.append(judge(boxes, scores, targets, crowd, self.max_detections))

    def merge(self, other: "DetectionMetric") -> None:
        """Count everything `other` counted too."""
        self._computed = None
        self._predictions += other._predictions
        self._targets += other._targets
        self._judged += other._judged

    def sweep(self, thresholds: Sequence[float]) -> dict[str, Floats]:
        """`precision`, `recall` and `f1` at IoU 0.5 per score threshold, NaN where undefined.

        A detection counts where `score >= threshold`, compared in float32 as on the vehicle.
        Precision is undefined without any detection, recall without any object, F1 without both.
        """
        scores = np.concatenate([np.zeros(0, np.float32), *(scores for scores, _ in self._judged)])
        right = np.concatenate([np.zeros(0, np.bool_), *(right for _, right in self._judged)])
        levels = np.asarray(thresholds, dtype=np.float32)
        found = _at_least(scores, levels)
        right_found = _at_least(scores[right], levels)
        objects = np.full(len(levels), self.objects)
        return {
            "precision": divide(right_found, found),
            "recall": divide(right_found, objects),
            "f1": divide(2 * right_found, found + objects),
        }

    def compute(self) -> DetectionScores:
        """COCO's figures of everything counted so far.

        Takes about 1.3 kB of memory per detection while it runs; asking again costs nothing.
        """
        self._computed = self._computed or self._compute()
        return self._computed

    def _compute(self) -> DetectionScores:
        if self.objects == 0:
            return DetectionScores(None, None, None, np.full(101, np.nan))
        if not any(len(boxes) for boxes, _ in self._predictions):
            return DetectionScores(0.0, 0.0, 0.0, np.zeros(101))
        evaluation = self._evaluate()
        precision = np.asarray(evaluation["precision"])[:, :, 0, 0, 0]
        return DetectionScores(
            recall=float(np.asarray(evaluation["recall"])[0, 0, 0, 0]),
            map50=float(precision[0].mean()),
            map50_95=float(precision.mean()),
            precision=precision[0],
        )

    def _evaluate(self) -> dict[str, Any]:
        # Imported here: the node uses this module's neighbours without the evaluation extra.
        from faster_coco_eval import COCO, COCOeval_faster

        images = [{"id": index + 1, "width": 0, "height": 0} for index in range(self.images)]
        categories = [{"id": 1, "name": "vehicle"}]
        truth, found = self._annotations()
        dataset = {"images": images, "categories": categories}
        evaluator = COCOeval_faster(
            COCO(dataset | {"annotations": truth}),
            COCO(dataset | {"annotations": found}),
            iouType="bbox",
        )
        evaluator.params.maxDets = [self.max_detections]
        evaluator.params.areaRng = [[0, 1e10]]
        evaluator.params.areaRngLbl = ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
        return evaluator.eval

    def _annotations(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Labels and predictions as COCO wants them."""

        def content(index: int) -> tuple[bytes, ...]:
            return tuple(
                array.tobytes() for array in (*self._predictions[index], *self._targets[index])
            )

        truth: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        # COCO keeps equal scores in the order of the images: one that all orders of counting share.
        for image, index in enumerate(sorted(range(self.images), key=content), start=1):
            targets, ignore = self._targets[index]
            for bbox, crowd in zip(_bboxes(targets), ignore.tolist(), strict=True):
                truth.append(_annotation(len(truth) + 1, image, bbox) | {"iscrowd": int(crowd)})
            boxes, scores = self._predictions[index]
            for bbox, score in zip(_bboxes(boxes), scores.tolist(), strict=True):
                found.append(_annotation(len(found) + 1, image, bbox) | {"score": score})
        return truth, found


def judge(
    boxes: Floats, scores: Floats, targets: Floats, ignore: BoolMask, max_detections: int
) -> tuple[Floats, BoolMask]:
    """COCO's matching of one image at IoU 0.5: scores [k] of what counts, and whether it is right.

    Arguments as in `DetectionMetric.update`. By falling score, each detection takes the free
    object it overlaps most; one that takes none, and lies in an ignore region by half of its own
    area, does not count.
    """
    order = np.argsort(-scores, kind="stable")[:max_detections]
    boxes, scores = boxes[order], scores[order]
    right = np.zeros(len(boxes), dtype=np.bool_)
    inner = _intersections(boxes, targets)
    area = _areas(boxes)[:, None]
    union = area + _areas(targets) - inner
    overlap = np.where(ignore, 0.0, divide(inner, union))
    free = ~ignore
    for index in np.flatnonzero((overlap >= MATCH_IOU).any(axis=1)):
        candidates = np.where(free, overlap[index], 0.0)
        # Of equal ones COCO takes the last.
        best = len(candidates) - 1 - int(candidates[::-1].argmax())
        if candidates[best] >= MATCH_IOU:
            right[index], free[best] = True, False
    covered = (divide(inner[:, ignore], area) >= MATCH_IOU).any(axis=1)
    counts = right | ~covered
    return scores[counts], right[counts]


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


def _bboxes(boxes: Floats) -> list[list[float]]:
    """COCO's x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def _annotation(identity: int, image: int, bbox: list[float]) -> dict[str, Any]:
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
    }
