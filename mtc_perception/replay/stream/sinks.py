"""What is done with every judged image besides recording it: a sink sees them in order, once."""

from dataclasses import dataclass
from typing import Protocol

from mtc_perception.core.images import SourceImage
from mtc_perception.core.perception import Perception
from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.replay.recordings.recording import SourceFrame
from mtc_perception.replay.records.record import FrameRecord

PICTURES, ANNOTATED = "pictures", "annotated"
"""Folders in a stream's."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedImage:
    """One image, what was answered, and the record made of both."""

    record: FrameRecord
    frame: SourceFrame
    image: SourceImage | None
    """None where it cannot be decoded."""
    perception: Perception | None
    """None where it got no answer."""
    truth: GroundTruth | None
    """None where it has no labels."""


class FrameSink(Protocol):
    """Sees the images of one stream in recorded order."""

    def add(self, judged: JudgedImage) -> None:
        """One image."""

    def close(self, complete: bool) -> None:
        """After the last image, or (not `complete`) after one that failed."""
