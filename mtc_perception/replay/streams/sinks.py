"""What is done with every judged image besides recording it: a sink sees them in order, once."""

from pathlib import Path
from typing import Protocol

from mtc_perception.images import SourceImage
from mtc_perception.metrics import GroundTruth
from mtc_perception.perception import Perception
from mtc_perception.replay.frames import SourceFrame
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.streams.annotated_bag import AnnotatedBag
from mtc_perception.replay.streams.gallery import Gallery
from mtc_perception.replay.streams.task import StreamTask

PICTURES, ANNOTATED = "pictures", "annotated"
"""Folders in a stream's."""


class FrameSink(Protocol):
    """Sees the images of one stream in recorded order."""

    def add(
        self,
        record: FrameRecord,
        frame: SourceFrame,
        image: SourceImage | None,
        perception: Perception | None,
        truth: GroundTruth | None,
    ) -> None:
        """One image: `image` is None where it cannot be decoded, `perception` where it got no
        answer, `truth` where it has no labels."""

    def close(self, complete: bool) -> None:
        """After the last image, or (not `complete`) after one that failed."""


def sinks_of(task: StreamTask, folder: Path) -> list[FrameSink]:
    """The sinks that `task` wants; they write to `folder`, which exists."""
    sinks: list[FrameSink] = [Gallery(folder / PICTURES)]
    if task.annotate:
        sinks.append(AnnotatedBag(folder / ANNOTATED, task.name))
    return sinks
