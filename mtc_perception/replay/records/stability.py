"""Temporal stability: how much answers change from one image to the next, without any labels.

The world moves, so none of it reaches 1; between two networks on one recording, the higher one
flickers less.
"""

from dataclasses import dataclass
from typing import Any

from mtc_perception.replay.records.figures import ratio
from mtc_perception.replay.records.record import Change


@dataclass(slots=True)
class Stability:
    """Streaming figures over pairs of neighbouring images."""

    pairs: int = 0
    _boxes: int = 0
    _matched: int = 0
    _drivable: tuple[int, int] = (0, 0)
    _lane: tuple[int, int] = (0, 0)

    def add(self, change: Change) -> None:
        """Count one pair."""
        self._count(
            1,
            change.boxes_before + change.boxes_now,
            change.matched,
            change.drivable,
            change.lane,
        )

    def merge(self, other: "Stability") -> None:
        """Count everything `other` counted too."""
        self._count(other.pairs, other._boxes, other._matched, other._drivable, other._lane)

    def to_json(self) -> dict[str, Any]:
        """Fractions in 0..1, None where there was nothing to follow.

        `persistence` is the share of boxes that overlap one of the neighbouring image by IoU 0.5,
        `iou` that of neighbouring masks, pooled over all pairs.
        """
        return {
            "pairs": self.pairs,
            "detection": {"persistence": ratio(2 * self._matched, self._boxes)},
            "drivable": {"iou": ratio(*self._drivable)},
            "lane": {"iou": ratio(*self._lane)},
        }

    def _count(
        self,
        pairs: int,
        boxes: int,
        matched: int,
        drivable: tuple[int, int],
        lane: tuple[int, int],
    ) -> None:
        self.pairs += pairs
        self._boxes += boxes
        self._matched += matched
        self._drivable = (self._drivable[0] + drivable[0], self._drivable[1] + drivable[1])
        self._lane = (self._lane[0] + lane[0], self._lane[1] + lane[1])
