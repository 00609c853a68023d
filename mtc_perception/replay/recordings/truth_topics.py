"""Which topics of a bag hold the labels of which camera, and the messages there as labels."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.images import view_image
from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.replay.recordings.masks import PackedMask
from mtc_perception.util.errors import ImageError

RAW_TYPE = "sensor_msgs/msg/Image"
DETECTIONS_TYPE = "vision_msgs/msg/Detection2DArray"
IGNORE_ID = "ignore"
"""`Detection2D.id` of a labelled vehicle that is neither right nor wrong to find."""
FOLDER = "ground_truth"
_LAST_PARTS = ("compressed", "image_raw", "image_rect", "image_rect_color", "image_color", "image")


@dataclass(frozen=True, slots=True)
class TruthTopics:
    """Where one camera's labels are; None where there are none."""

    detections: str | None = None
    """`vision_msgs/Detection2DArray`"""
    drivable: str | None = None
    """`sensor_msgs/Image`, mono8, foreground above 127."""
    lane: str | None = None
    """The same."""

    def names(self) -> list[str]:
        """The topics there are."""
        return [name for field in fields(self) if (name := getattr(self, field.name))]


def find_truth_topics(
    image_topic: str, kinds: Mapping[str, str], cameras: Collection[str]
) -> TruthTopics:
    """The labels of `image_topic` among topics and their types `kinds`.

    They are under `ground_truth` beside the camera, or, in a bag of one camera, in any namespace
    above it: `/front/ground_truth/lane_mask` belongs to `/front/image_raw`.
    """
    parts = image_topic.strip("/").split("/")
    while parts and parts[-1] in _LAST_PARTS:
        parts.pop()
    own = len(parts) or 1
    for length in range(len(parts), -1, -1):
        if length < own and len(cameras) > 1:
            break
        root = "/".join(["", *parts[:length], FOLDER])
        found = TruthTopics(
            *(
                topic if kinds.get(topic := f"{root}/{name}") == kind else None
                for name, kind in (
                    ("detections", DETECTIONS_TYPE),
                    ("drivable_mask", RAW_TYPE),
                    ("lane_mask", RAW_TYPE),
                )
            )
        )
        if found.names():
            return found
    return TruthTopics()


def unclaimed_labels(kinds: Mapping[str, str], cameras: Collection[str]) -> list[str]:
    """The topics that hold labels by their name, and are those of no camera in particular."""
    claimed = {
        name for camera in cameras for name in find_truth_topics(camera, kinds, cameras).names()
    }
    return sorted(name for name in kinds if f"/{FOLDER}/" in name and name not in claimed)


@dataclass(frozen=True, slots=True, eq=False)
class PartialTruth:
    """The labels of one image as far as they have come, masks at one bit per pixel."""

    boxes: npt.NDArray[np.float32] | None = None
    ignore: npt.NDArray[np.bool_] | None = None
    drivable: PackedMask | None = None
    lane: PackedMask | None = None

    def with_message(self, topics: TruthTopics, topic: str, message: Any) -> "PartialTruth":
        """This and what `message` of `topic` says. Raises ImageError for a mask that is none."""
        if topic == topics.detections:
            ignore = np.array([d.id == IGNORE_ID for d in message.detections], np.bool_)
            return replace(self, boxes=detection_boxes(message), ignore=ignore)
        if topic == topics.drivable:
            return replace(self, drivable=_mask(topic, message))
        return replace(self, lane=_mask(topic, message))

    def complete(self) -> GroundTruth:
        return GroundTruth(
            self.boxes,
            self.ignore,
            None if self.drivable is None else self.drivable.unpack_bool(),
            None if self.lane is None else self.lane.unpack_bool(),
        )


def detection_boxes(message: Any) -> npt.NDArray[np.float32]:
    """Boxes [n, 4] x1, y1, x2, y2 of a Detection2DArray, of rosbags' or of ROS's own class."""
    boxes = []
    for detection in message.detections:
        centre, box = detection.bbox.center.position, detection.bbox
        half_x, half_y = box.size_x / 2, box.size_y / 2
        boxes.append((centre.x - half_x, centre.y - half_y, centre.x + half_x, centre.y + half_y))
    return np.array(boxes, np.float32).reshape(-1, 4)


def _mask(topic: str, message: Any) -> PackedMask:
    image = view_image(message.encoding, message.height, message.width, message.step, message.data)
    if image.format != "mono":
        raise ImageError(f"{topic} is {message.encoding}, masks must be mono8")
    if 0 < (most := int(image.pixels.max())) <= 127:
        raise ImageError(f"{topic} has values up to {most}, foreground must be above 127")
    return PackedMask.pack(image.pixels > 127)
