"""The figures that two runs are compared by, and whether a difference is more than chance.

Each figure is a function of how much every image weighs, for a paired bootstrap over blocks of
images: both runs are resampled with the same images, so that what is hard for both cancels out.
Images that follow each other within a second are drawn together: a drive's neighbouring images
hardly differ, and taken one by one they would count as more evidence than they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtc_perception.metrics.detection import precision_curve
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.replay.records.image_figures import accuracy, detection_counts, iou, miou
from mtc_perception.replay.records.record import Change, FrameRecord

RESAMPLES = 1000
BLOCK_S = 1.0
CONFIDENCE = 0.95
_SEED = 6
_LEAST_BLOCKS = 5
"""Fewer say nothing about their own spread."""

Weights = npt.NDArray[np.float64]
"""[n] how often each image is drawn."""
Estimate = Callable[[Weights], float]
"""A figure of the images so weighted; NaN where it is undefined."""

Values = npt.NDArray[np.float64]
_MASK_FIGURES: tuple[tuple[str, str, Callable[[MaskCounts | None], float | None]], ...] = (
    ("drivable", "miou", miou),
    ("drivable", "iou", iou),
    ("lane", "iou", iou),
    ("lane", "accuracy", accuracy),
    ("lane_dilated", "iou", iou),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of run B minus that of run A."""

    change: float
    low: float | None
    """Of the 95 % interval; None where there are too few images to tell."""
    high: float | None


def blocks_of(streams: Sequence[str], stamps_ns: Sequence[int | None]) -> npt.NDArray[np.intp]:
    """The block [n] of each image, given its stream and its stamp, in recorded order.

    One without a stamp is a block of its own.
    """
    blocks: list[int] = []
    block, begin_ns, stream = -1, 0, ""
    for one, stamp_ns in zip(streams, stamps_ns, strict=True):
        if stamp_ns is None:
            block, stream = block + 1, ""
        elif one != stream or not 0 <= stamp_ns - begin_ns < BLOCK_S * 1e9:
            block, begin_ns, stream = block + 1, stamp_ns, one
        blocks.append(block)
    return np.array(blocks, np.intp)


class Resamples:
    """The weights of every resample; the same for the same blocks. None for too few blocks."""

    def __init__(self, blocks: npt.NDArray[np.intp]) -> None:
        """`blocks` [n] as of `blocks_of`."""
        self._blocks = blocks
        count = int(blocks.max(initial=-1)) + 1
        self._drawn: list[npt.NDArray[np.float64]] = []
        if count < _LEAST_BLOCKS:
            return
        random = np.random.default_rng(_SEED)
        for _ in range(RESAMPLES):
            drawn = random.integers(0, count, count)
            self._drawn.append(np.bincount(drawn, minlength=count).astype(np.float64))

    def __len__(self) -> int:
        return len(self._drawn)

    def __iter__(self) -> Iterator[Weights]:
        return (drawn[self._blocks] for drawn in self._drawn)


def difference(
    a: Estimate, b: Estimate, images: int, resamples: Resamples, tick: Callable[[], None]
) -> Difference:
    """The change of a figure from A to B, with its interval; `tick` is called per resample."""
    everything = np.ones(images)
    change = b(everything) - a(everything)
    changes = []
    for weights in resamples:
        changes.append(b(weights) - a(weights))
        tick()
    known = np.array([one for one in changes if np.isfinite(one)])
    if len(known) < len(resamples) / 2 or len(known) == 0:
        return Difference(change, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return Difference(change, float(low), float(high))


def accuracy_figures(
    records: Sequence[FrameRecord], evidence: Sequence[ImageEvidence | None], full_scores: bool
) -> dict[str, Estimate]:
    """Figures by their names in a result, of the tasks that any image is labelled for.

    `full_scores`: detections are known down to scores that do not matter, as the average precision
    needs.
    """
    figures: dict[str, Estimate] = {}
    if any(one is not None and one.detection is not None for one in evidence):
        figures |= _detection(records, evidence, full_scores)
    for task, name, figure in _MASK_FIGURES:
        counts = [None if one is None else getattr(one, task) for one in evidence]
        if any(one is not None for one in counts):
            values = _values([figure(one) for one in counts])
            where = f"lane.{name}_dilated8" if task == "lane_dilated" else f"{task}.{name}"
            figures[where] = _mean(values)
    return figures


def stability_figures(records: Sequence[FrameRecord]) -> dict[str, Estimate]:
    """As in a result's `stability`."""
    changes = [record.stability for record in records]
    if all(change is None for change in changes):
        return {}

    def pooled(parts: Callable[[Change], tuple[int, int]]) -> Estimate:
        values = [(0, 0) if one is None else parts(one) for one in changes]
        part, whole = np.array(values, np.float64).T
        return _ratio(part, whole)

    return {
        "stability.detection.persistence": pooled(
            lambda one: (2 * one.matched, one.boxes_before + one.boxes_now)
        ),
        "stability.drivable.iou": pooled(lambda one: one.drivable),
        "stability.lane.iou": pooled(lambda one: one.lane),
    }


def latency_figures(times_ms: Sequence[Mapping[str, float] | None]) -> dict[str, Estimate]:
    """Median and 95th percentile from end to end; None: not answered."""
    values = _values([None if one is None else one.get("end_to_end") for one in times_ms])
    if np.isnan(values).all():
        return {}
    return {
        f"latency_ms.end_to_end.p{percent}": _percentile(values, percent) for percent in (50, 95)
    }


def _detection(
    records: Sequence[FrameRecord], evidence: Sequence[ImageEvidence | None], full_scores: bool
) -> dict[str, Estimate]:
    counts = np.array(
        [
            (0, 0, 0) if one is None else detection_counts(record, one)
            for record, one in zip(records, evidence, strict=True)
        ],
        np.float64,
    )
    right, found, objects = counts.T
    figures = {
        "detection.recall_at_threshold": _ratio(right, objects),
        "detection.precision_at_threshold": _ratio(right, found),
        "detection.f1_at_threshold": _ratio(2 * right, found + objects),
    }
    if full_scores:
        figures["detection.map50"] = _average_precision(evidence, objects)
    return figures


def _average_precision(evidence: Sequence[ImageEvidence | None], objects: Values) -> Estimate:
    judged = [one.detection if one is not None else None for one in evidence]
    known = [(index, one) for index, one in enumerate(judged) if one is not None]
    scores = np.concatenate([one.scores for _, one in known])
    order = np.argsort(-scores, kind="stable")
    image = np.repeat([index for index, _ in known], [len(one.scores) for _, one in known])[order]
    right = (np.concatenate([one.right for _, one in known])[order] & 1) != 0
    counts = (np.concatenate([one.ignored for _, one in known])[order] & 1) == 0

    def estimate(weights: Weights) -> float:
        wanted = float(weights @ objects)
        if wanted == 0:
            return float("nan")
        weight = weights[image]
        _, precision = precision_curve(
            np.cumsum(weight * right), np.cumsum(weight * counts), wanted
        )
        return float(precision.mean())

    return estimate


def _ratio(part: Values, whole: Values) -> Estimate:
    def estimate(weights: Weights) -> float:
        total = float(weights @ whole)
        return float(weights @ part) / total if total else float("nan")

    return estimate


def _mean(values: Values) -> Estimate:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0), defined.astype(np.float64))


def _percentile(values: Values, percent: float) -> Estimate:
    defined = ~np.isnan(values)

    def estimate(weights: Weights) -> float:
        drawn = np.repeat(values[defined], weights[defined].astype(np.intp))
        return float(np.percentile(drawn, percent)) if len(drawn) else float("nan")

    return estimate


def _values(values: Sequence[float | None]) -> Values:
    return np.array([np.nan if one is None else one for one in values], np.float64)
