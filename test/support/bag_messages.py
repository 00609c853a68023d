"""Messages of a small camera and its labels, and bags of them, written with rosbags alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mtc_perception.replay.recordings.storage import ros_typestore

WIDTH, HEIGHT, COUNT, PERIOD_NS = 64, 48, 5, 100_000_000
START_NS = 1_700_000_000_000_000_000
STORE = ros_typestore()
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DETECTIONS = "vision_msgs/msg/Detection2DArray"


def stamp(index: int) -> int:
    return START_NS + index * PERIOD_NS


def header(stamp_ns: int) -> Any:
    time = STORE.types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def picture(index: int) -> npt.NDArray[np.uint8]:
    """One grey level per image, so that JPEG keeps it."""
    return np.full((HEIGHT, WIDTH, 3), 40 * (index % 6) + 10, np.uint8)


def raw(index: int, encoding: str = "rgb8", pad: int = 0) -> Any:
    pixels = picture(index) if encoding == "rgb8" else picture(index)[..., 0]
    rows = np.pad(pixels.reshape(HEIGHT, -1), ((0, 0), (0, pad)))
    return STORE.types[IMAGE](
        header(stamp(index)), HEIGHT, WIDTH, encoding, 0, rows.shape[1], rows.ravel()
    )


def compressed(index: int) -> Any:
    _, data = cv2.imencode(".jpg", picture(index))
    return STORE.types[COMPRESSED](header(stamp(index)), "jpeg", data.ravel())


def packed(index: int, form: str, data: bytes) -> Any:
    """A CompressedImage of whatever."""
    return STORE.types[COMPRESSED](header(stamp(index)), form, np.frombuffer(data, np.uint8))


def mask(index: int, column: int) -> Any:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:, :column] = 255
    return STORE.types[IMAGE](
        header(stamp(index)), HEIGHT, WIDTH, "mono8", 0, WIDTH, pixels.ravel()
    )


def detections(index: int, *boxes: tuple[float, float, float, float, str]) -> Any:
    types = STORE.types
    pose = types["geometry_msgs/msg/PoseWithCovariance"](
        types["geometry_msgs/msg/Pose"](
            types["geometry_msgs/msg/Point"](0.0, 0.0, 0.0),
            types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        ),
        np.zeros(36),
    )
    found = []
    for x1, y1, x2, y2, name in boxes:
        center = types["vision_msgs/msg/Point2D"]((x1 + x2) / 2, (y1 + y2) / 2)
        box = types["vision_msgs/msg/BoundingBox2D"](
            types["vision_msgs/msg/Pose2D"](center, 0.0), x2 - x1, y2 - y1
        )
        hypothesis = types["vision_msgs/msg/ObjectHypothesis"]("vehicle", 1.0)
        result = types["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis, pose)
        found.append(
            types["vision_msgs/msg/Detection2D"](header(stamp(index)), [result], box, name)
        )
    return types[DETECTIONS](header(stamp(index)), found)


def write_bag(
    path: Path,
    topics: Mapping[str, tuple[str, list[Any]]] | Sequence[tuple[str, tuple[str, list[Any]]]],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
) -> Path:
    writer = Writer(path, version=8, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, (kind, messages) in topics.items() if isinstance(topics, Mapping) else topics:
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for index, message in enumerate(messages):
                writer.write(connection, stamp(index) + 7, STORE.serialize_cdr(message, kind))
    return path


def images(kind: Any = raw) -> list[Any]:
    return [kind(index) for index in range(COUNT)]


def storage_file(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3", ".zstd"))


def split_bag(tmp_path: Path, compression: CompressionMode | None = None) -> Path:
    """A bag of twelve files with one image each, as `ros2 bag record -b` makes them."""
    bag = tmp_path / "split"
    bag.mkdir()
    names = [f"split_{index}.mcap" for index in range(12)]
    for index, name in enumerate(names):
        topics = {"/cam": (IMAGE, [raw(index)])}
        whole = write_bag(
            tmp_path / name.removesuffix(".mcap"), topics, StoragePlugin.MCAP, compression
        )
        storage_file(whole).rename(bag / name)
    lines = [
        "rosbag2_bagfile_information:",
        "  relative_file_paths:",
        *[f"    - {name}" for name in names],
    ]
    (bag / "metadata.yaml").write_text("\n".join(lines))
    return bag
