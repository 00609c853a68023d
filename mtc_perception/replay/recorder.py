"""Records what the perception node sends, in a process of its own.

An output counts when this process has it: the arrival of the last of an image's outputs minus the
image's stamp is the end-to-end latency that a consumer really sees.
"""

import gc
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtc_perception.memory import keep_memory
from mtc_perception.messages import stamp_ns, times_from_message
from mtc_perception.replay.bags import detection_boxes
from mtc_perception.replay.worker import ReplayError, stop_if_alone
from mtc_perception.timing import FrameTimes

OUTPUTS = ("detections", "drivable_mask", "lane_mask", "timing")
RECORDER_QOS = QoSProfile(depth=30, reliability=ReliabilityPolicy.RELIABLE)
MATCH_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """A mask of 0 and 255 at one bit per pixel."""

    height: int
    width: int
    bits: bytes

    @classmethod
    def pack(cls, mask: npt.NDArray[np.uint8]) -> "PackedMask":
        """`mask` is uint8 [H, W]."""
        height, width = mask.shape
        return cls(height, width, np.packbits(mask).tobytes())

    def unpack(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W], 0 or 255."""
        size = self.height * self.width
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=size) * np.uint8(255)
        return flat.reshape(self.height, self.width)


@dataclass(slots=True, eq=False)
class RecordedFrame:
    """The outputs of one image, as far as they came."""

    arrived_ns: dict[str, int] = field(default_factory=dict)
    """Wall clock by output name, of `OUTPUTS`."""
    boxes: npt.NDArray[np.float32] | None = None
    """[n, 4] x1, y1, x2, y2"""
    scores: npt.NDArray[np.float32] | None = None
    classes: list[str] = field(default_factory=list)
    drivable: PackedMask | None = None
    lane: PackedMask | None = None
    times: FrameTimes | None = None

    @property
    def complete(self) -> bool:
        return len(self.arrived_ns) == len(OUTPUTS)

    @property
    def last_arrival_ns(self) -> int:
        return max(self.arrived_ns.values())


@dataclass(slots=True, eq=False)
class Recording:
    """Sent at the end."""

    frames: dict[int, RecordedFrame] = field(default_factory=dict)
    """By image stamp in ns."""
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    """The last /diagnostics of the node: values by the status's name behind the node's."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Sent when every output's publisher is found."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Answer to any word before the last: how many images have all their outputs."""

    complete: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Asks for the recording."""


class _Recorder(Node):
    def __init__(self, context: rclpy.Context, node_name: str, keep_results: bool) -> None:
        super().__init__("replay_recorder", context=context)
        self.recording = Recording()
        self.complete = 0
        self._node_name = node_name
        self._keep = keep_results
        self._detections: dict[int, Detection2DArray] = {}
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

    def finish(self) -> Recording:
        """Take the detections apart, which had no hurry while images came."""
        for stamp, message in self._detections.items():
            frame = self.recording.frames[stamp]
            best = [detection.results[0].hypothesis for detection in message.detections]
            frame.boxes = detection_boxes(message)
            frame.scores = np.array([hypothesis.score for hypothesis in best], np.float32)
            frame.classes = [hypothesis.class_id for hypothesis in best]
        return self.recording

    def _arrived(self, output: str, header: Any) -> RecordedFrame:
        now_ns = time.time_ns()
        frame = self.recording.frames.setdefault(stamp_ns(header), RecordedFrame())
        if output not in frame.arrived_ns:
            frame.arrived_ns[output] = now_ns
            self.complete += frame.complete
        return frame

    def _on_detections(self, message: Detection2DArray) -> None:
        self._arrived("detections", message.header)
        if self._keep:
            self._detections[stamp_ns(message.header)] = message

    def _on_drivable(self, message: Image) -> None:
        frame = self._arrived("drivable_mask", message.header)
        if self._keep:
            frame.drivable = _packed(message)

    def _on_lane(self, message: Image) -> None:
        frame = self._arrived("lane_mask", message.header)
        if self._keep:
            frame.lane = _packed(message)

    def _on_timing(self, message: DiagnosticArray) -> None:
        self._arrived("timing", message.header).times = times_from_message(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = f"{self._node_name.rpartition('/')[2]}: "
        for status in message.status:
            if status.name.startswith(own):
                values = {entry.key: entry.value for entry in status.values}
                self.recording.status[status.name.removeprefix(own)] = values


def run_recorder(connection: Connection, node_name: str, keep_results: bool) -> None:
    """Worker: record the outputs of the node `node_name` (absolute) until told to finish.

    Without `keep_results` only arrivals and timings are kept: memory for long runs.
    """
    keep_memory()
    gc.disable()  # a collection would look like latency of the node
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        recorder = _Recorder(context, node_name, keep_results)
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
                connection.send(recorder.finish())
                connection.recv()  # until the parent has read it all and closes
            connection.send(Seen(recorder.complete))
    finally:
        context.try_shutdown()


def _packed(message: Image) -> PackedMask:
    pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return PackedMask.pack(pixels[:, : message.width])
