"""Records what the perception node sends, in a process of its own.

An output counts when this process has it: the arrival of the last of an image's outputs minus the
time at which the image was published is the end-to-end latency that a consumer really sees.
"""

import gc
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtc_perception.core.bundle import Manifest
from mtc_perception.core.packed_mask import PackedMask, unpacked
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.node.messages import (
    received_image,
    rejection,
    serialised_stamp_ns,
    times_from_message,
)
from mtc_perception.replay.live.node_process import ros_context
from mtc_perception.replay.recordings.bag_labels import detection_boxes
from mtc_perception.runtime.frames import FrameTimes
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.worker_process import stop_if_alone

RECORDER_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.RELIABLE)
MATCH_TIMEOUT_S = 20.0
# Outputs of one image come together: this many images may be under way at once.
_UNDER_WAY = 16
TOPICS: Mapping[Task, str] = {
    "detection": "detections",
    "drivable": "drivable_mask",
    "lane": "lane_mask",
}
_TIMING = "timing"
_KINDS = {"detections": Detection2DArray, _TIMING: DiagnosticArray}
"""Of outputs that are no images."""


def outputs_of(tasks: Sequence[Task]) -> tuple[str, ...]:
    """What the node sends of each image, with a network of these tasks."""
    return (*(TOPICS[task] for task in tasks), _TIMING)


OUTPUTS = outputs_of(TASKS)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The results of one image; no boxes, or None for a mask, of tasks that the network lacks."""

    boxes: npt.NDArray[np.float32]
    """[n, 4] x1, y1, x2, y2"""
    scores: npt.NDArray[np.float32]
    classes: list[str]
    drivable: PackedMask | None
    lane: PackedMask | None

    def perception(
        self, manifest: Manifest, size: tuple[int, int], times: StageTimes
    ) -> Perception:
        """The answer as the network of this manifest gave it to an image of that height, width."""
        labels = [manifest.classes.index(name) for name in self.classes]
        return Perception(
            size=size,
            boxes=self.boxes,
            scores=self.scores,
            labels=np.array(labels, np.int32),
            drivable=unpacked(self.drivable),
            lane=unpacked(self.lane),
            times=times,
            tasks=tuple(manifest.tasks),
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
    outputs: tuple[str, ...] = OUTPUTS
    """All that are to come."""

    @property
    def complete(self) -> bool:
        return len(self.arrived_ns) == len(self.outputs)

    @property
    def last_arrival_ns(self) -> int:
        """Of boxes and masks; the times come behind them."""
        return max(self.arrived_ns[output] for output in self.outputs if output != _TIMING)


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
        self,
        context: rclpy.Context,
        node_name: str,
        answers: AnswerWriter | None,
        tasks: Sequence[Task],
    ) -> None:
        super().__init__("replay_recorder", context=context)
        self.recorded = Recorded()
        self.ended = 0
        self._node_name = node_name
        self._answers = answers
        self._outputs = outputs_of(tasks)
        self._under_way: dict[int, dict[str, bytes]] = {}
        namespace = node_name.rpartition("/")[0]
        self._watched = []
        for output in self._outputs:
            kind, topic = _KINDS.get(output, Image), f"{namespace}/{output}"
            # Serialised: making objects of one output would delay that of the next one's arrival.
            self.create_subscription(
                kind, topic, partial(self._on_output, output), RECORDER_QOS, raw=True
            )
            self._watched.append(topic)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def missing(self) -> list[str]:
        """Topics that nobody publishes yet."""
        return [topic for topic in self._watched if self.count_publishers(topic) == 0]

    def _on_output(self, output: str, message: bytes) -> None:
        now_ns = time.monotonic_ns()
        stamp = serialised_stamp_ns(message)
        frame = self.recorded.frames.setdefault(stamp, RecordedFrame(outputs=self._outputs))
        if output in frame.arrived_ns or frame.rejected:
            return
        if output == _TIMING:
            timing = deserialize_message(message, DiagnosticArray)
            if reason := rejection(timing):
                frame.rejected = reason
                self.ended += 1
                return
            frame.times = times_from_message(timing)
        frame.arrived_ns[output] = now_ns
        if self._answers is not None and output != _TIMING:
            self._keep(stamp, output, message)
        if frame.complete:
            if self._answers is not None:
                frame.offset = self._answers.add(_answer(self._under_way.pop(stamp)))
            self.ended += 1

    def _keep(self, stamp: int, output: str, message: bytes) -> None:
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


def run_recorder(
    connection: Connection,
    node_name: str,
    answers: Path | None,
    tasks: Sequence[Task] = TASKS,
) -> None:
    """Worker: record the outputs of the node `node_name` (absolute) until told to finish.

    `tasks` are those of its network. `answers` is the file to write boxes and masks to; None keeps
    arrivals and timings only.
    """
    keep_memory()
    gc.disable()  # a collection would look like latency of the node
    writer = None if answers is None else AnswerWriter(answers)
    with ros_context() as context:
        recorder = _Recorder(context, node_name, writer, tasks)
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


def _answer(outputs: dict[str, bytes]) -> Answer:
    found = Detection2DArray()
    if "detections" in outputs:
        found = deserialize_message(outputs["detections"], Detection2DArray)
    best = [detection.results[0].hypothesis for detection in found.detections]
    return Answer(
        boxes=detection_boxes(found),
        scores=np.array([hypothesis.score for hypothesis in best], np.float32),
        classes=[hypothesis.class_id for hypothesis in best],
        drivable=_mask(outputs.get("drivable_mask")),
        lane=_mask(outputs.get("lane_mask")),
    )


def _mask(message: bytes | None) -> PackedMask | None:
    if message is None:
        return None
    image = received_image(message, compressed=False)
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    return PackedMask.pack(pixels[:, : image.width])
