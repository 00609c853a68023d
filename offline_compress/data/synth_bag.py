"""Write a synthetic drive as a rosbag2 (mcap): camera images and their ground truth.

Every frame has four messages with one stamp: `/camera/image_raw/compressed` (JPEG) and, under
`/ground_truth/`, `detections` (Detection2DArray; a vehicle too small or too hidden to count has
the id "ignore"), `drivable_mask` and `lane_mask` (mono8 Image, 0 or 255).
"""

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from mtc_perception.errors import UserError
from mtc_perception.replay.typestore import ros_typestore
from offline_compress.data.synthetic import Drive, Scene

IMAGE_TOPIC = "/camera/image_raw/compressed"
DETECTIONS_TOPIC = "/ground_truth/detections"
DRIVABLE_TOPIC = "/ground_truth/drivable_mask"
LANE_TOPIC = "/ground_truth/lane_mask"
IGNORE_ID = "ignore"
FRAME_ID = "camera"
START_NS = 1_700_000_000_000_000_000
_TYPES = {
    IMAGE_TOPIC: "sensor_msgs/msg/CompressedImage",
    DETECTIONS_TOPIC: "vision_msgs/msg/Detection2DArray",
    DRIVABLE_TOPIC: "sensor_msgs/msg/Image",
    LANE_TOPIC: "sensor_msgs/msg/Image",
}
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class _Frame:
    """A scene made small for its way between processes."""

    jpeg: bytes
    boxes: NDArray[np.float32]
    ignore_boxes: NDArray[np.float32]
    drivable_bits: bytes
    lane_bits: bytes


def write_bag(
    out: Path | str,
    duration_s: float,
    fps: float,
    width: int,
    height: int,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Record `duration_s` seconds of a drive at `fps` frames of `width` x `height` pixels.

    The bag is the folder `out`; it appears only when complete. The same arguments give the same
    messages, whatever the number of `workers` (processes; default: the CPU cores, at most 8).
    Raises UserError for impossible arguments, and when `out` exists and `overwrite` is off.
    """
    out = Path(out)
    count = round(duration_s * fps) if fps > 0 else 0
    if count < 1:
        raise UserError(f"{duration_s} s at {fps} frames per second give no frame")
    if min(width, height) < 32:
        raise UserError(f"images need at least 32x32 pixels, not {width}x{height}")
    if seed < 0:
        raise UserError(f"the seed must not be negative, not {seed}")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: choose another folder or pass --overwrite")
    work = out.with_name(f".{out.name}.{os.getpid()}") / out.name
    work.parent.mkdir(parents=True)
    try:
        _write(work, count, (seed, width, height, fps), workers or min(os.cpu_count() or 1, 8))
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        shutil.rmtree(work.parent, ignore_errors=True)
    return out


def _write(work: Path, count: int, drive: tuple[int, int, int, float], workers: int) -> None:
    _, width, height, fps = drive
    store = ros_typestore()
    writer = Writer(work, version=8, storage_plugin=StoragePlugin.MCAP)
    # Compressed chunks: the masks are raw images and would make up most of the file.
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    # Not only for the record: rosbag2's own reader stumbles over an empty custom_data.
    writer.set_custom_data("synthetic_roads_seed", str(drive[0]))
    with (
        writer,
        Progress(
            TextColumn("synthetic drive"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        ) as progress,
    ):
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in _TYPES.items()
        }
        task = progress.add_task("", total=count)
        for index, frame in enumerate(_frames(drive, count, workers)):
            stamp_ns = START_NS + round(index * 1e9 / fps)
            for topic, message in _messages(store, frame, stamp_ns, (height, width)).items():
                data = store.serialize_cdr(message, _TYPES[topic])
                writer.write(connections[topic], stamp_ns, data)
            progress.advance(task)


def _frames(drive: tuple[int, int, int, float], count: int, workers: int) -> Iterator[_Frame]:
    """The frames in order, rendered by several processes with a bounded lead."""
    if workers == 1 or count < 4:
        camera = Drive(*drive)
        for index in range(count):
            yield _pack(camera.frame(index))
        return
    # Not forked: the caller may hold threads (OpenCV, a progress bar) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (drive,)) as pool:
        pending: deque[Future[_Frame]] = deque()
        for index in range(count):
            pending.append(pool.submit(_render, index))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


_drive: Drive | None = None


def _start(drive: tuple[int, int, int, float]) -> None:
    global _drive
    cv2.setNumThreads(1)
    _drive = Drive(*drive)


def _render(index: int) -> _Frame:
    assert _drive is not None
    return _pack(_drive.frame(index))


def _pack(scene: Scene) -> _Frame:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], quality)
    if not done:
        raise RuntimeError("OpenCV cannot encode JPEG")
    return _Frame(
        jpeg.tobytes(),
        scene.boxes,
        scene.ignore_boxes,
        np.packbits(scene.drivable > 0).tobytes(),
        np.packbits(scene.lane > 0).tobytes(),
    )


def _messages(
    store: Typestore, frame: _Frame, stamp_ns: int, shape: tuple[int, int]
) -> dict[str, Any]:
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
    )
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME_ID)
    height, width = shape

    def mask(bits: bytes) -> Any:
        flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=height * width) * np.uint8(255)
        return types["sensor_msgs/msg/Image"](
            header=header,
            height=height,
            width=width,
            encoding="mono8",
            is_bigendian=0,
            step=width,
            data=flat,
        )

    detections = [_detection(types, header, box, "") for box in frame.boxes.tolist()]
    detections += [_detection(types, header, box, IGNORE_ID) for box in frame.ignore_boxes.tolist()]
    return {
        IMAGE_TOPIC: types["sensor_msgs/msg/CompressedImage"](
            header=header, format="jpeg", data=np.frombuffer(frame.jpeg, np.uint8)
        ),
        DETECTIONS_TOPIC: types["vision_msgs/msg/Detection2DArray"](
            header=header, detections=detections
        ),
        DRIVABLE_TOPIC: mask(frame.drivable_bits),
        LANE_TOPIC: mask(frame.lane_bits),
    }


def _detection(types: Any, header: Any, box: list[float], mark: str) -> Any:
    x1, y1, x2, y2 = box
    vision = "vision_msgs/msg/"
    point = types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0)
    turn = types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    pose = types["geometry_msgs/msg/PoseWithCovariance"](
        pose=types["geometry_msgs/msg/Pose"](position=point, orientation=turn),
        covariance=np.zeros(36),
    )
    hypothesis = types[vision + "ObjectHypothesis"](class_id="vehicle", score=1.0)
    centre = types[vision + "Point2D"](x=(x1 + x2) / 2, y=(y1 + y2) / 2)
    return types[vision + "Detection2D"](
        header=header,
        results=[types[vision + "ObjectHypothesisWithPose"](hypothesis=hypothesis, pose=pose)],
        bbox=types[vision + "BoundingBox2D"](
            center=types[vision + "Pose2D"](position=centre, theta=0.0),
            size_x=x2 - x1,
            size_y=y2 - y1,
        ),
        id=mark,
    )
