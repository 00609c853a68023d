"""Records what the perception node sends, in a process of its own.

An output counts when this process has it: the arrival of the last of an image's outputs minus the
time at which the image was published is the end-to-end latency that a consumer really sees.
"""

import gc
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.node.messages import rejection, stamp_ns, times_from_message
from mtc_perception.replay.recordings.bag_labels import detection_boxes
from mtc_perception.runtime.frames import FrameTimes
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.worker_process import stop_if_alone

RECORDER_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.RELIABLE)
MATCH_TIMEOUT_S = 20.0
# Outputs of one image come together: this many images may be under way at once.
_UNDER_WAY = 64
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


@dataclass(slots=True, eq=False)
class Recorded:
    """Sent at the end."""

    frames: dict[int, RecordedFrame] = field(default_factory=dict)
    """By image stamp in ns."""
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    """The last /diagnostics of the node: values by the status's name behind the node's."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Sent when every output's publisher is found."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Answer to any word before the last: of how many images it is known how they ended."""

    images: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Asks for all of it."""


class _Recorder(Node):
    def __init__(
        self, context: rclpy.Context, node_name: str, answers: AnswerWriter | None
    ) -> None:
        super().__init__("replay_recorder", context=context)
        self.recorded = Recorded()
        self.ended = 0
        self._node_name = node_name
        self._answers = answers
        self._under_way: dict[int, dict[str, Any]] = {}
        namespace = node_name.rpartition("/")[0]
        self._watched = []
        for kind, output, callback in (
            (Detection2DArray, "detections", self._on_detections),
            (Image, "drivable_mask", self._on_drivable),
            (Image, "lane_mask", self._on_lane),
            (DiagnosticArray, "timing", self._on_timing),
        ):
            topic = f"{namespace}/{output}"
            self.create_subscription(kind, topic, callback, RECORDER_QOS)
            self._watched.append(topic)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def missing(self) -> list[str]:
        """Topics that nobody publishes yet."""
        return [topic for topic in self._watched if self.count_publishers(topic) == 0]

    def _on_detections(self, message: Detection2DArray) -> None:
        self._arrived("detections", message.header, message)

    def _on_drivable(self, message: Image) -> None:
        self._arrived("drivable_mask", message.header, message)

    def _on_lane(self, message: Image) -> None:
        self._arrived("lane_mask", message.header, message)

    def _on_timing(self, message: DiagnosticArray) -> None:
        if reason := rejection(message):
            frame = self.recorded.frames.setdefault(stamp_ns(message.header), RecordedFrame())
            frame.rejected = reason
            self.ended += 1
            return
        self._arrived("timing", message.header, message)

    def _arrived(self, output: str, header: Any, message: Any) -> None:
        now_ns = time.monotonic_ns()
        stamp = stamp_ns(header)
        frame = self.recorded.frames.setdefault(stamp, RecordedFrame())
        if output in frame.arrived_ns:
            return
        frame.arrived_ns[output] = now_ns
        if output == "timing":
            frame.times = times_from_message(message)
        if self._answers is not None:
            self._collect(stamp, output, _light(message))
        if frame.complete:
            if self._answers is not None:
                frame.offset = self._answers.add(_answer(self._under_way.pop(stamp)))
            self.ended += 1

    def _collect(self, stamp: int, output: str, message: Any) -> None:
        self._under_way.setdefault(stamp, {})[output] = message
        if len(self._under_way) > _UNDER_WAY:
            # Its other outputs are lost; without this one it stays incomplete whatever comes.
            oldest = next(iter(self._under_way))
            del self._under_way[oldest], self.recorded.frames[oldest]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = f"{self._node_name.rpartition('/')[2]}: "
        for status in message.status:
            if status.name.startswith(own):
                values = {entry.key: entry.value for entry in status.values}
                self.recorded.status[status.name.removeprefix(own)] = values


def run_recorder(connection: Connection, node_name: str, answers: Path | None) -> None:
    """Worker: record the outputs of the node `node_name` (absolute) until told to finish.

    `answers` is the file to write boxes and masks to; None keeps arrivals and timings only.
    """
    keep_memory()
    gc.disable()  # a collection would look like latency of the node
    context = rclpy.Context()
    rclpy.init(context=context)
    writer = None if answers is None else AnswerWriter(answers)
    try:
        recorder = _Recorder(context, node_name, writer)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(recorder)
        end = time.monotonic() + MATCH_TIMEOUT_S
        while missing := recorder.missing():
            if time.monotonic() > end:
                raise ReplayError(f"nobody publishes {', '.join(missing)}")
            executor.spin_once(timeout_sec=0.05)
            stop_if_alone(connection)
        connection.send(Listening())
        while True:
            executor.spin_once(timeout_sec=0.1)
            if not connection.poll():
                continue
            if isinstance(connection.recv(), Finish):
                if writer is not None:
                    writer.close()
                connection.send(recorder.recorded)
                connection.recv()  # until the parent has read it all and closes
            connection.send(Ended(recorder.ended))
    finally:
        context.try_shutdown()


def _light(message: Any) -> Any:
    """Masks are packed as they come: a full image of each would be kept alive otherwise."""
    if not isinstance(message, Image):
        return message
    pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return PackedMask.pack(pixels[:, : message.width])


def _answer(outputs: dict[str, Any]) -> Answer:
    found: Detection2DArray = outputs["detections"]
    best = [detection.results[0].hypothesis for detection in found.detections]
    return Answer(
        boxes=detection_boxes(found),
        scores=np.array([hypothesis.score for hypothesis in best], np.float32),
        classes=[hypothesis.class_id for hypothesis in best],
        drivable=outputs["drivable_mask"],
        lane=outputs["lane_mask"],
    )
