"""Writes rosbag2 recordings (mcap) of a camera and of what is known of its images, without ROS."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from typing_extensions import Self

from mtc_perception.core.class_map import VEHICLE
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.truth import GroundTruth
from mtc_perception.pages.pictures import jpeg
from mtc_perception.replay.recordings.bag_labels import FOLDER, IGNORE_ID
from mtc_perception.replay.recordings.recording import (
    NS_PER_S,
    EncodedPixels,
    FrameSource,
    Notes,
    RawPixels,
)
from mtc_perception.replay.recordings.storage import ros_typestore
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing_folder

START_NS = 1_700_000_000_000_000_000
"""When recordings begin that have no time of their own: a stamp of 0 means none in ROS."""


class BagWriter:
    """A rosbag2 folder being written, message by message; complete when closed.

    Every message carries `stamp_ns` in its header and is recorded at that time. A topic appears
    with its first message.
    """

    def __init__(self, folder: Path, about: Mapping[str, str], *, compress: bool = True) -> None:
        """`folder` must not exist; `about` says in its metadata where the recording comes from."""
        assert about, "rosbag2's own reader stumbles over empty custom data"
        self._store = ros_typestore()
        self._connections: dict[str, Connection] = {}
        self._writer = Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP)
        if compress:  # by chunks: masks are raw images and would make up most of the file
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        for key, value in about.items():
            self._writer.set_custom_data(key, value)
        self._writer.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the index and the metadata."""
        self._writer.close()

    def image(
        self, topic: str, stamp_ns: int, frame_id: str, pixels: RawPixels | EncodedPixels
    ) -> None:
        """An `Image` or a `CompressedImage`, just as it is."""
        if isinstance(pixels, EncodedPixels):
            message = self._message(
                "sensor_msgs/msg/CompressedImage",
                header=self._header(stamp_ns, frame_id),
                format=pixels.format,
                data=np.frombuffer(pixels.data, np.uint8),
            )
        else:
            message = self._message(
                "sensor_msgs/msg/Image",
                header=self._header(stamp_ns, frame_id),
                height=pixels.height,
                width=pixels.width,
                encoding=pixels.encoding,
                is_bigendian=0,
                step=pixels.step,
                data=np.frombuffer(pixels.data, np.uint8),
            )
        self._write(topic, stamp_ns, message)

    def mask(self, topic: str, stamp_ns: int, frame_id: str, mask: npt.NDArray[Any]) -> None:
        """A mono8 `Image` of 0 and 255; `mask` [H, W] is foreground where not 0."""
        height, width = mask.shape
        flat = (mask != 0).astype(np.uint8).reshape(-1) * np.uint8(255)
        self.image(topic, stamp_ns, frame_id, RawPixels("mono8", height, width, width, flat))

    def detections(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        boxes: npt.NDArray[Any],
        scores: Sequence[float],
        classes: Sequence[str],
        ids: Sequence[str],
    ) -> None:
        """A `Detection2DArray` of boxes [n, 4], x1, y1, x2, y2 in pixels; the others are [n]."""
        header = self._header(stamp_ns, frame_id)
        fields = zip(boxes.tolist(), scores, classes, ids, strict=True)
        self._write(
            topic,
            stamp_ns,
            self._message(
                "vision_msgs/msg/Detection2DArray",
                header=header,
                detections=[self._detection(header, *field) for field in fields],
            ),
        )

    def truth(self, stamp_ns: int, frame_id: str, truth: GroundTruth) -> None:
        """The labels of an image, each known one on its topic under `/ground_truth`."""
        where = stamp_ns, frame_id
        if truth.boxes is not None:
            count = len(truth.boxes)
            ignore = np.zeros(count, np.bool_) if truth.ignore is None else truth.ignore
            ids = [IGNORE_ID if one else "" for one in ignore]
            topic = f"/{FOLDER}/detections"
            names = truth.categories or [VEHICLE] * count
            self.detections(topic, *where, truth.boxes, [1.0] * count, names, ids)
        if truth.drivable is not None:
            self.mask(f"/{FOLDER}/drivable_mask", *where, truth.drivable)
        if truth.lane is not None:
            self.mask(f"/{FOLDER}/lane_mask", *where, truth.lane)

    def values(
        self, topic: str, stamp_ns: int, frame_id: str, name: str, values: Mapping[str, float]
    ) -> None:
        """A `DiagnosticArray` with one status `name` of these values, as the node's timing is."""
        entries = [
            self._message("diagnostic_msgs/msg/KeyValue", key=key, value=f"{value:.4f}")
            for key, value in values.items()
        ]
        status = self._message(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=0,
            name=name,
            message="",
            hardware_id="",
            values=entries,
        )
        message = self._message(
            "diagnostic_msgs/msg/DiagnosticArray",
            header=self._header(stamp_ns, frame_id),
            status=[status],
        )
        self._write(topic, stamp_ns, message)

    def _write(self, topic: str, stamp_ns: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._store
            )
        data = self._store.serialize_cdr(message, kind)
        self._writer.write(self._connections[topic], stamp_ns, data)

    def _message(self, kind: str, **fields: Any) -> Any:
        return self._store.types[kind](**fields)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        sec, nanosec = divmod(stamp_ns, NS_PER_S)
        stamp = self._message("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _detection(
        self, header: Any, box: Sequence[float], score: float, name: str, mark: str
    ) -> Any:
        x1, y1, x2, y2 = box
        pose = self._message(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=self._message(
                "geometry_msgs/msg/Pose",
                position=self._message("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
                orientation=self._message(
                    "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0
                ),
            ),
            covariance=np.zeros(36),
        )
        hypothesis = self._message(
            "vision_msgs/msg/ObjectHypothesis", class_id=name, score=float(score)
        )
        result = self._message(
            "vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=pose
        )
        centre = self._message("vision_msgs/msg/Point2D", x=(x1 + x2) / 2, y=(y1 + y2) / 2)
        bbox = self._message(
            "vision_msgs/msg/BoundingBox2D",
            center=self._message("vision_msgs/msg/Pose2D", position=centre, theta=0.0),
            size_x=x2 - x1,
            size_y=y2 - y1,
        )
        return self._message(
            "vision_msgs/msg/Detection2D", header=header, results=[result], bbox=bbox, id=mark
        )


@contextlib.contextmanager
def new_bag(out: Path, about: Mapping[str, str]) -> Iterator[BagWriter]:
    """Write the bag `out`, which replaces what is there when it is complete, and never before."""
    with replacing_folder(out) as new, BagWriter(new, about) as writer:
        yield writer


IMAGE_TOPIC = "/camera/image_raw/compressed"
FRAME_ID = "camera"
_JPEG_QUALITY = 95


def write_recording(source: FrameSource, out: Path, on_frame: Callable[[int], None]) -> Notes:
    """Write the bag `out`: image files as they are, frames of a video as JPEG.

    It begins at START_NS. `on_frame` is told the number of images so far. Returns what is wrong
    with the recording; raises UserError where `out` exists or `source` is a bag already, and
    SourceError where nothing can be read.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    if source.info.kind == "bag":
        raise UserError(f"{source.info.name} is a bag already")
    notes = Notes()
    with new_bag(out, {"recording": source.info.name}) as writer:
        for number, (frame, truth) in enumerate(source.labelled_frames(notes), start=1):
            stamp_ns = START_NS + frame.stamp_ns
            pixels = frame.pixels
            if not isinstance(pixels, EncodedPixels):
                pixels = EncodedPixels("jpeg", jpeg(to_rgb(pixels.decode()), _JPEG_QUALITY))
            writer.image(IMAGE_TOPIC, stamp_ns, FRAME_ID, pixels)
            if truth is not None:
                writer.truth(stamp_ns, FRAME_ID, truth)
            on_frame(number)
    return notes
