"""Rosbag2 recordings (mcap or sqlite3), read without a ROS installation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from mtc_perception.errors import ImageError
from mtc_perception.images import view_image
from mtc_perception.metrics import GroundTruth
from mtc_perception.replay.frames import (
    NS_PER_S,
    EncodedPixels,
    RawPixels,
    SourceError,
    SourceFrame,
    SourceInfo,
)
from mtc_perception.replay.typestore import ros_typestore

RAW_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
DETECTIONS_TOPIC = "/ground_truth/detections"
DRIVABLE_TOPIC = "/ground_truth/drivable_mask"
LANE_TOPIC = "/ground_truth/lane_mask"
IGNORE_ID = "ignore"
"""`Detection2D.id` of a labelled vehicle that is neither right nor wrong to find."""
_TRUTH_TOPICS = (DETECTIONS_TOPIC, DRIVABLE_TOPIC, LANE_TOPIC)
# What perception nodes publish as images without being cameras.
_NO_CAMERA = ("_mask", "/overlay", "/compressedDepth", "/theora")
# Labels of one image are recorded close together: this many images apart at most.
_TRUTH_WINDOW = 64


class BagSource:
    """The images of one topic of a rosbag2, and the ground truth topics next to them."""

    def __init__(self, path: Path, topic: str | None = None) -> None:
        """`topic` may be left out where there is only one camera. Raises SourceError."""
        self._path = path
        with self._open() as reader:
            connections = list(reader.connections)
            self._topic = _choose_topic(path, connections, topic)
            count = sum(c.msgcount for c in connections if c.topic == self._topic)
            duration_s = reader.duration / NS_PER_S
        rate_hz = (count - 1) / duration_s if count > 1 and duration_s > 0 else 30.0
        self.info = SourceInfo(path.name, "bag", self._topic, count, rate_hz)

    def frames(self) -> Iterator[SourceFrame]:
        for index, (_, recorded_ns, message) in enumerate(self._messages([self._topic])):
            # A driver that sets no stamp leaves the time of recording as the only one.
            stamp_ns = _stamp_ns(message) or recorded_ns
            yield SourceFrame(index, stamp_ns, _pixels(message))

    def truths(self) -> Iterator[tuple[int, GroundTruth]]:
        pending: dict[int, GroundTruth] = {}
        for topic, _, message in self._messages(_TRUTH_TOPICS):
            stamp_ns = _stamp_ns(message)
            truth = pending.get(stamp_ns, GroundTruth())
            if topic == DETECTIONS_TOPIC:
                ignore = np.array([d.id == IGNORE_ID for d in message.detections], np.bool_)
                truth = replace(truth, boxes=detection_boxes(message), ignore=ignore)
            elif topic == DRIVABLE_TOPIC:
                truth = replace(truth, drivable=self._mask(topic, message))
            else:
                truth = replace(truth, lane=self._mask(topic, message))
            pending[stamp_ns] = truth
            if len(pending) > _TRUTH_WINDOW:
                oldest = next(iter(pending))
                yield oldest, pending.pop(oldest)
        yield from pending.items()

    @contextmanager
    def _open(self) -> Iterator[AnyReader]:
        try:
            with AnyReader([self._path], default_typestore=ros_typestore()) as reader:
                yield reader
        except SourceError:
            raise
        # A damaged file surfaces as whatever its parser happened to be doing, each with its own
        # family of errors.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SourceError(f"{self._path} cannot be read as a rosbag2: {reason}") from error

    def _messages(self, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        with self._open() as reader:
            wanted = [c for c in reader.connections if c.topic in topics]
            if not wanted:
                return  # no connections would mean all of them
            for connection, recorded_ns, data in reader.messages(wanted):
                message = reader.deserialize(data, connection.msgtype)
                yield connection.topic, recorded_ns, message

    def _mask(self, topic: str, message: Any) -> npt.NDArray[np.bool_]:
        try:
            image = view_image(
                message.encoding, message.height, message.width, message.step, message.data
            )
        except ImageError as error:
            raise SourceError(f"{self._path}: {topic}: {error}") from error
        if image.format != "mono":
            raise SourceError(f"{self._path}: {topic} is {message.encoding}, masks must be mono8")
        return np.asarray(image.pixels > 127)


def _choose_topic(path: Path, connections: Sequence[Connection], topic: str | None) -> str:
    kinds = {c.topic: c.msgtype for c in connections if c.msgcount}
    images = [name for name, kind in kinds.items() if kind in (RAW_TYPE, COMPRESSED_TYPE)]
    there = ", ".join(f"{name} ({kind})" for name, kind in sorted(kinds.items())) or "nothing"
    if topic is not None:
        if topic in images:
            return topic
        raise SourceError(f"{path} has no images on {topic}; it has {there}")
    cameras = [t for t in images if t not in _TRUTH_TOPICS and not t.endswith(_NO_CAMERA)]
    # One camera recorded in both forms is one camera, and its raw images are nearer to it.
    cameras = [t for t in cameras if t.removesuffix("/compressed") not in set(cameras) - {t}]
    if len(cameras) == 1:
        return cameras[0]
    if not cameras:
        raise SourceError(f"{path} has no camera images; it has {there}")
    raise SourceError(
        f"{path} has several cameras: {', '.join(sorted(cameras))}; choose one with --topic"
    )


def _pixels(message: Any) -> RawPixels | EncodedPixels:
    if hasattr(message, "encoding"):
        return RawPixels(
            message.encoding, message.height, message.width, message.step, message.data
        )
    return EncodedPixels(message.format, message.data.tobytes())


def detection_boxes(message: Any) -> npt.NDArray[np.float32]:
    """Boxes [n, 4] x1, y1, x2, y2 of a Detection2DArray, of rosbags' or of ROS's own class."""
    boxes = []
    for detection in message.detections:
        centre, box = detection.bbox.center.position, detection.bbox
        half_x, half_y = box.size_x / 2, box.size_y / 2
        boxes.append((centre.x - half_x, centre.y - half_y, centre.x + half_x, centre.y + half_y))
    return np.array(boxes, np.float32).reshape(-1, 4)


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)
