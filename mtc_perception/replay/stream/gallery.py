"""The worst answers of a stream, drawn while they pass by, in bounded memory."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mtc_perception.core.overlay import draw_overlay, draw_truth
from mtc_perception.core.perception import Perception
from mtc_perception.pages.pictures import Rgb, jpeg, shrink
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


class Gallery:
    """A sink that keeps the worst answers by each of their figures."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worst: dict[str, list[tuple[float, int]]] = {}
        self._drawn: dict[int, tuple[bytes, bytes | None]] = {}

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        """Draw the image if its answer is among the worst so far."""
        perception = replayed.perception
        if replayed.image is None or perception is None:
            return
        found = image_figures(record).items()
        if not [name for name, value in found if self._enter(name, value, record.index)]:
            return
        rgb = replayed.rgb()
        answer = jpeg(shrink(draw_record(rgb, record, perception), _WIDTH_PX))
        labels = None
        if replayed.labelled.truth is not None:
            labels = jpeg(shrink(draw_truth(rgb, replayed.labelled.truth), _WIDTH_PX))
        self._drawn[record.index] = (answer, labels)
        shown = {index for ranking in self._worst.values() for _, index in ranking}
        self._drawn = {index: one for index, one in self._drawn.items() if index in shown}

    def close(self, complete: bool) -> None:
        """Write the pictures and their list, if all images were seen."""
        if not complete:
            return
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
    names = sorted(set(record.labels))
    labels = np.array([names.index(name) for name in record.labels], np.int32)
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
