"""Draws chosen images of two runs anew, from the recording and the two networks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.recordings.labels import labelled_frames
from mtc_perception.replay.recordings.recording import LabelledFrame, Notes, SourceFrame
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.records.judge import FrameJudge
from mtc_perception.replay.report.pictures import Rgb, draw_truth
from mtc_perception.replay.stream.gallery import draw_record
from mtc_perception.replay.stream.perceivers import PerceiverPool
from mtc_perception.replay.stream.task import StreamResult
from mtc_perception.runtime.perceiver import Selection
from mtc_perception.util.errors import ImageError


@dataclass(frozen=True, slots=True, eq=False)
class Redrawn:
    """One image as both networks see it."""

    first: Rgb
    second: Rgb
    truth: Rgb | None
    """None where it has no labels."""
    faithful: bool
    """Both answers are those of the runs, to the last bit."""


def redraw(
    first: StreamResult,
    second: StreamResult,
    wanted: Mapping[int, tuple[str, str]],
    perceivers: PerceiverPool,
    tick: Callable[[], None],
) -> dict[int, Redrawn]:
    """Images of one stream of two runs by their index, as far as they can be decoded.

    `wanted` holds the digests of the answers in the two runs by index; `tick` is called for every
    image drawn. Raises UserError where the recording or a network is gone.
    """
    drawn: dict[int, Redrawn] = {}
    for frame, truth in _frames(first):
        if frame.index > max(wanted, default=-1):
            break
        if frame.index not in wanted:
            continue
        tick()
        try:
            image = frame.pixels.decode()
        except ImageError:
            continue
        views, digests = [], []
        for run in (first, second):
            picture, digest = _answer(run, frame, image, perceivers)
            views.append(picture)
            digests.append(digest)
        drawn[frame.index] = Redrawn(
            views[0],
            views[1],
            None if truth is None else draw_truth(to_rgb(image), truth),
            tuple(digests) == wanted[frame.index],
        )
    return drawn


def _frames(run: StreamResult) -> Iterator[LabelledFrame]:
    """The images of a stream with the labels it was judged by."""
    topics = None if run.truth is None else TruthTopics(**run.truth)
    source = open_source(Path(run.path), run.topic, truth=topics)
    labels = None if run.labels is None else Path(run.labels)
    return labelled_frames(source, labels, None, Notes())


def _answer(
    run: StreamResult, frame: SourceFrame, image: SourceImage, perceivers: PerceiverPool
) -> tuple[Rgb, str]:
    """The image with the answer of a run's network, and the answer's digest."""
    engine = run.engine
    selection = Selection(Path(run.bundle["path"]), engine["name"], engine["precision"])
    with perceivers.lend(selection) as lent:
        manifest = lent.bundle.manifest
        perception = lent.perceive(image)
    judge = FrameJudge(manifest.thresholds, manifest.classes, manifest.max_detections, Notes())
    record = judge.answered(frame, perception, None)
    return draw_record(to_rgb(image), record, perception), record.digest
