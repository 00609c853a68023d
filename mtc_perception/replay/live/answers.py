"""What the node answered in a live run: times in memory, boxes and masks in a file."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.replay.recordings.bag_labels import PackedMask
from mtc_perception.runtime.frames import FrameTimes

OUTPUTS = ("detections", "drivable_mask", "lane_mask", "timing")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The results of one image."""

    boxes: npt.NDArray[np.float32]
    """[n, 4] x1, y1, x2, y2"""
    scores: npt.NDArray[np.float32]
    classes: list[str]
    drivable: PackedMask
    lane: PackedMask

    def perception(self, classes: Sequence[str], times: StageTimes) -> Perception:
        """The answer as the network gave it; `classes` are all that the network tells apart."""
        return Perception(
            boxes=self.boxes,
            scores=self.scores,
            labels=np.array([classes.index(name) for name in self.classes], np.int32),
            drivable=self.drivable.unpack(),
            lane=self.lane.unpack(),
            times=times,
        )


@dataclass(slots=True, eq=False)
class RecordedFrame:
    """When the outputs of one image came, as far as they did."""

    arrived_ns: dict[str, int] = field(default_factory=dict)
    """On the monotonic clock by output name, of `OUTPUTS`."""
    times: FrameTimes | None = None
    rejected: str = ""
    """Why the node did not process it: "stale: ..." or "malformed: ..."."""
    offset: int | None = None
    """Where its `Answer` is in the file, if answers are kept."""

    @property
    def complete(self) -> bool:
        return len(self.arrived_ns) == len(OUTPUTS)

    @property
    def last_arrival_ns(self) -> int:
        return max(self.arrived_ns.values())


class AnswerWriter:
    """Appends answers to a new file; memory does not grow with their number."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    def add(self, answer: Answer) -> int:
        """Returns the answer's offset."""
        offset = self._file.tell()
        pickle.dump(answer, self._file, pickle.HIGHEST_PROTOCOL)
        return offset

    def close(self) -> None:
        self._file.close()


class AnswerReader:
    """Reads what an `AnswerWriter` of this program wrote, in any order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def read(self, offset: int) -> Answer:
        if self._file is None:
            self._file = self._path.open("rb")
        self._file.seek(offset)
        answer: Answer = pickle.load(self._file)
        return answer

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
