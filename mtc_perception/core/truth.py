"""What an image shows according to its labels: data sets yield it, metrics and pictures use it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtc_perception.core.tasks import Task


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Labels of one image of height H and width W; None where a task is unlabelled."""

    boxes: npt.NDArray[np.floating] | None = None
    """[n, 4] x1, y1, x2, y2 in image pixels."""
    ignore: npt.NDArray[np.bool_] | None = None
    """[n] boxes that are ignore regions; None means none of them."""
    drivable: npt.NDArray[np.bool_] | None = None
    """[H, W]"""
    lane: npt.NDArray[np.bool_] | None = None
    """[H, W]"""
    categories: Sequence[str] | None = None
    """[n] what is in each box, in the words of the labels; None: all are of a network's first
    class."""

    def of(self, tasks: Collection[Task]) -> "GroundTruth":
        """The labels of these tasks alone."""
        detects = "detection" in tasks
        return GroundTruth(
            boxes=self.boxes if detects else None,
            ignore=self.ignore if detects else None,
            drivable=self.drivable if "drivable" in tasks else None,
            lane=self.lane if "lane" in tasks else None,
            categories=self.categories if detects else None,
        )

    @property
    def is_empty(self) -> bool:
        """Whether no task is labelled."""
        return self.boxes is None and self.drivable is None and self.lane is None
