"""The worst answers of a stream, picked out while they pass by, in bounded memory."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.overlay import draw_overlay, draw_truth
from mtc_perception.core.packed_mask import packed, unpacked
from mtc_perception.core.perception import Perception
from mtc_perception.pages.pictures import Rgb, jpeg, shrink
from mtc_perception.replay.recordings.bag_labels import PartialTruth
from mtc_perception.replay.recordings.recording import LabelledFrame
from mtc_perception.replay.records.image_figures import image_figures
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.util.files import write_bytes_atomic, write_text_atomic

PICTURES = "pictures"
"""Its folder in a stream's."""
_WORST = 4
"""Pictures per figure."""
APART = 10
"""Images: of neighbours, which look alike, only the worst, or most changed, is shown."""
_WIDTH_PX = 720
_MOST_UNDRAWN_BYTES = 1 << 26
_INDEX = "pictures.json"


@dataclass(frozen=True, slots=True)
class Worst:
    """One picture: an image that is among the worst of its stream by `figure`."""

    figure: str
    value: float
    index: int
    answer: str
    """JPEG file beside the list."""
    truth: str | None
    """The labels drawn likewise; None without labels."""


class _Undrawn:
    """What it takes to draw an image and its labels: about as small as it came."""

    def __init__(
        self,
        record: FrameRecord,
        labelled: LabelledFrame,
        perception: Perception,
        classes: ClassMap,
    ) -> None:
        frame, truth = labelled
        self._record = record
        self._classes = classes
        self._pixels = frame.pixels
        # The record has what else of the answer is drawn.
        self._perception = replace(perception, drivable=None, lane=None)
        self._drivable, self._lane = packed(perception.drivable), packed(perception.lane)
        self._truth = None if truth is None else PartialTruth.of(truth)

    @property
    def size_bytes(self) -> int:
        """What is kept, near enough."""
        masks = sum(len(mask.bits) for mask in (self._drivable, self._lane) if mask is not None)
        return len(getattr(self._pixels, "data", b"")) + 2 * masks

    def draw(self) -> tuple[bytes, bytes | None]:
        """The answer and the labels, if there are any, each a JPEG file."""
        rgb = to_rgb(self._pixels.decode())
        drivable, lane = unpacked(self._drivable), unpacked(self._lane)
        perception = replace(self._perception, drivable=drivable, lane=lane)
        answer = jpeg(shrink(draw_record(rgb, self._record, perception), _WIDTH_PX))
        if self._truth is None:
            return answer, None
        labels = draw_truth(rgb, self._truth.complete(), self._classes)
        return answer, jpeg(shrink(labels, _WIDTH_PX))


class Gallery:
    """A sink that keeps the worst answers by each of their figures.

    Most of them are outdone by worse ones later: none is drawn before the end, unless what is kept
    to draw them grows beyond `_MOST_UNDRAWN_BYTES`.
    """

    def __init__(self, folder: Path, classes: ClassMap = VEHICLE_CLASSES) -> None:
        """`classes` are the network's."""
        self._folder = folder
        self._classes = classes
        self._worst: dict[str, list[tuple[float, int]]] = {}
        self._undrawn: dict[int, _Undrawn] = {}
        self._drawn: dict[int, tuple[bytes, bytes | None]] = {}

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        """Keep the image if its answer is among the worst so far."""
        perception = replayed.perception
        if replayed.image is None or perception is None:
            return
        found = image_figures(record).items()
        if not [name for name, value in found if self._enter(name, value, record.index)]:
            return
        shown = {index for ranking in self._worst.values() for _, index in ranking}
        self._undrawn[record.index] = _Undrawn(record, replayed.labelled, perception, self._classes)
        self._undrawn = {index: one for index, one in self._undrawn.items() if index in shown}
        self._drawn = {index: one for index, one in self._drawn.items() if index in shown}
        while sum(one.size_bytes for one in self._undrawn.values()) > _MOST_UNDRAWN_BYTES:
            oldest = next(iter(self._undrawn))
            self._drawn[oldest] = self._undrawn.pop(oldest).draw()

    def close(self, complete: bool) -> None:
        """Write the pictures and their list, if all images were seen."""
        if not complete:
            return
        with ThreadPoolExecutor() as pool:
            drawn = pool.map(_Undrawn.draw, self._undrawn.values())
            self._drawn |= zip(self._undrawn, drawn, strict=True)
        self._folder.mkdir()
        for index, (answer, labels) in self._drawn.items():
            write_bytes_atomic(self._folder / _answer_file(index), answer)
            if labels is not None:
                write_bytes_atomic(self._folder / _truth_file(index), labels)
        chosen = [
            Worst(
                name,
                value,
                index,
                _answer_file(index),
                None if self._drawn[index][1] is None else _truth_file(index),
            )
            for name, ranking in self._worst.items()
            for value, index in ranking
        ]
        text = json.dumps([asdict(one) for one in chosen], indent=1)
        write_text_atomic(self._folder / _INDEX, text + "\n")

    def _enter(self, name: str, value: float, index: int) -> bool:
        if value >= 1.0:
            return False
        ranking = self._worst.setdefault(name, [])
        near = [one for one in ranking if abs(one[1] - index) < APART]
        if any(other <= value for other, _ in near):
            return False
        if not near and len(ranking) == _WORST and ranking[-1][0] <= value:
            return False
        kept = [one for one in ranking if one not in near]
        self._worst[name] = sorted([*kept, (value, index)])[:_WORST]
        return True


def draw_record(rgb: Rgb, record: FrameRecord, perception: Perception | None) -> Rgb:
    """The image with what was deployed of its answer, or greyed where there is none."""
    if perception is None:
        grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return np.asarray(grey, np.uint8)
    labels = perception.labels[: len(record.labels)]
    names = dict(zip(labels.tolist(), record.labels, strict=True))
    deployed = replace(perception, boxes=record.boxes, scores=record.scores, labels=labels)
    return draw_overlay(rgb, deployed, names)


def read_worst(folder: Path) -> list[Worst]:
    """What a `Gallery` wrote to `folder`, worst first for each figure; nothing if it is missing."""
    index = folder / _INDEX
    if not index.is_file():
        return []
    return [Worst(**one) for one in json.loads(index.read_text())]


def _answer_file(index: int) -> str:
    return f"{index:06d}_answer.jpg"


def _truth_file(index: int) -> str:
    return f"{index:06d}_truth.jpg"
