"""Notes what is odd about the images of a stream, which are evaluated all the same."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.replay.recordings.frames import LabelledFrame, Pixels, RawPixels, SourceFrame
from mtc_perception.replay.recordings.notes import Notes
from mtc_perception.util.errors import ImageError


def watched(frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
    """The frames; notes stamps that go back or repeat, and encodings that change."""
    before_ns: int | None = None
    encoding = ""
    for labelled in frames:
        frame = labelled.frame
        if before_ns is not None and frame.stamp_ns < before_ns:
            back_s = (before_ns - frame.stamp_ns) / 1e9
            notes.add("stamps go back", f"image {frame.index}: by {back_s:.3f} s")
        elif frame.stamp_ns == before_ns:
            notes.add("equal stamps", f"image {frame.index} has the stamp of the one before")
        before_ns = frame.stamp_ns
        now = _encoding(frame.pixels)
        if encoding and now and now != encoding:
            notes.add("encoding changes", f"image {frame.index}: {encoding} to {now}")
        encoding = now or encoding
        yield labelled


def fitted(frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
    """The frames without masks of another size than their image, which are noted."""
    for frame, truth in frames:
        yield LabelledFrame(frame, None if truth is None else _fitting(frame, truth, notes))


def _fitting(frame: SourceFrame, truth: GroundTruth, notes: Notes) -> GroundTruth | None:
    try:
        height, width = frame.pixels.size
    except ImageError:
        return truth  # noted where the image is replayed
    for task in ("drivable", "lane"):
        mask = getattr(truth, task)
        if mask is not None and mask.shape != (height, width):
            notes.add(
                "label of another size",
                f"image {frame.index} is {width}x{height}, its {task} label "
                f"{mask.shape[1]}x{mask.shape[0]}",
            )
            truth = replace(truth, **{task: None})
    unlabelled = truth.boxes is None and truth.drivable is None and truth.lane is None
    return None if unlabelled else truth


def _encoding(pixels: Pixels) -> str:
    if isinstance(pixels, RawPixels):
        return f"{pixels.encoding} {pixels.width}x{pixels.height}"
    return getattr(pixels, "format", "")
