"""The figures that two runs are compared by, as functions of how much every image weighs."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mtc_perception.core.tasks import Task
from mtc_perception.metrics.bootstrap import Estimate, Places, percentile_of, ratio_of
from mtc_perception.metrics.estimates import (
    deployed_counts,
    deployed_estimates,
    detection_estimates,
    mask_estimates,
)
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.replay.records.record import Change, FrameRecord

BLOCK_S = 1.0
"""Images that follow each other within it are drawn together."""


def seconds_of(streams: Sequence[str], stamps_ns: Sequence[int | None]) -> Places:
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


def accuracy_estimates(
    records: Sequence[FrameRecord],
    evidence: Sequence[ImageEvidence | None],
    full_scores: bool,
    class_names: Sequence[str] = (),
) -> dict[str, Estimate]:
    """Figures by their names in a result, of the tasks that any image is labelled for.

    `full_scores`: detections are known down to scores that do not matter, as the average precision
    and the best score threshold need. `class_names` as in `detection_estimates`.
    """
    found: dict[str, Estimate] = {}
    if any(one is not None and one.detection is not None for one in evidence):
        # By falling score, those that are deployed are the first.
        deployed = [np.arange(_deployed(*both)) for both in zip(records, evidence, strict=True)]
        found |= deployed_estimates(*deployed_counts(evidence, deployed))
    if full_scores:
        found |= detection_estimates(evidence, class_names=class_names)
    return found | mask_estimates(evidence)


def _deployed(record: FrameRecord, evidence: ImageEvidence | None) -> int:
    if evidence is None or evidence.detection is None:
        return 0
    return min(len(record.scores), len(evidence.detection.scores))


def stability_estimates(
    records: Sequence[FrameRecord], tasks: Collection[Task]
) -> dict[str, Estimate]:
    """Those of `tasks` in a result's `stability`."""
    changes = [record.stability for record in records]
    if all(change is None for change in changes):
        return {}

    def pooled(parts: Callable[[Change], tuple[int, int]]) -> Estimate:
        values = [(0, 0) if one is None else parts(one) for one in changes]
        part, whole = np.array(values, np.float64).T
        return ratio_of(part, whole)

    found: dict[Task, tuple[str, Estimate]] = {
        "detection": (
            "persistence",
            pooled(lambda one: (2 * one.matched, one.boxes_before + one.boxes_now)),
        ),
        "drivable": ("iou", pooled(lambda one: one.drivable)),
        "lane": ("iou", pooled(lambda one: one.lane)),
    }
    return {
        f"stability.{task}.{name}": estimate
        for task, (name, estimate) in found.items()
        if task in tasks
    }


def latency_estimates(times_ms: Sequence[Mapping[str, float] | None]) -> dict[str, Estimate]:
    """Median and 95th percentile from end to end; None: not answered."""
    values = [None if one is None else one.get("end_to_end") for one in times_ms]
    if all(one is None for one in values):
        return {}
    return {
        f"latency_ms.end_to_end.p{percent}": percentile_of(values, percent) for percent in (50, 95)
    }
