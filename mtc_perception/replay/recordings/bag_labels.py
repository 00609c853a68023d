"""Which topics of a bag hold the labels of which camera, and the messages there as labels."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mtc_perception.core.class_map import VEHICLE
from mtc_perception.core.images import view_image
from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay.recordings.bag_files import Message
from mtc_perception.replay.recordings.recording import NS_PER_S, LabelledFrame, Notes, SourceFrame
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

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    detections: str | None = field(
        default=None, metadata={"help": "Topic of labelled boxes (Detection2DArray)."}
    )
    drivable: str | None = field(
        default=None, metadata={"help": "Topic of labelled drivable areas (mono8 Image)."}
    )
    lane: str | None = field(
        default=None, metadata={"help": "Topic of labelled lane lines (mono8 Image)."}
    )

    def kinds(self) -> dict[str, str]:
        """The topics there are, and the type that each must be of."""
        found = {self.detections: DETECTIONS_TYPE, self.drivable: RAW_TYPE, self.lane: RAW_TYPE}
        return {name: kind for name, kind in found.items() if name}


def find_truth_topics(
    image_topic: str, kinds: Mapping[str, Collection[str]], cameras: Collection[str]
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
                topic if kind in kinds.get(topic := f"{root}/{name}", ()) else None
                for name, kind in (
                    ("detections", DETECTIONS_TYPE),
                    ("drivable_mask", RAW_TYPE),
                    ("lane_mask", RAW_TYPE),
                )
            )
        )
        if found.kinds():
            return found
    return TruthTopics()


def unclaimed_labels(kinds: Mapping[str, Collection[str]], cameras: Collection[str]) -> list[str]:
    """The topics that hold labels by their name, and are those of no camera in particular."""
    claimed = {
        name for camera in cameras for name in find_truth_topics(camera, kinds, cameras).kinds()
    }
    return sorted(name for name in kinds if f"/{FOLDER}/" in name and name not in claimed)


@dataclass(frozen=True, slots=True, eq=False)
class PartialTruth:
    """The labels of one image as far as they have come, masks at one bit per pixel."""

    boxes: npt.NDArray[np.floating] | None = None
    ignore: npt.NDArray[np.bool_] | None = None
    drivable: PackedMask | None = None
    lane: PackedMask | None = None
    categories: tuple[str, ...] | None = None
    """[n] of the boxes"""

    @classmethod
    def of(cls, truth: GroundTruth) -> "PartialTruth":
        """All of `truth`."""
        drivable, lane = (
            None if mask is None else PackedMask.pack(mask) for mask in (truth.drivable, truth.lane)
        )
        categories = None if truth.categories is None else tuple(truth.categories)
        return cls(truth.boxes, truth.ignore, drivable, lane, categories)

    def with_message(self, topics: TruthTopics, topic: str, message: Any) -> "PartialTruth":
        """This and what `message` of `topic` says. Raises ImageError for a mask that is none."""
        if topic == topics.detections:
            ignore = np.array([d.id == IGNORE_ID for d in message.detections], np.bool_)
            return replace(
                self,
                boxes=detection_boxes(message),
                ignore=ignore,
                categories=tuple(map(_category, message.detections)),
            )
        if topic == topics.drivable:
            return replace(self, drivable=_mask(topic, message))
        return replace(self, lane=_mask(topic, message))

    def without(self, topics: TruthTopics, topic: str) -> "PartialTruth":
        """This without what messages of `topic` say."""
        if topic == topics.detections:
            return replace(self, boxes=None, ignore=None, categories=None)
        return replace(self, **{"drivable" if topic == topics.drivable else "lane": None})

    def says_the_same(self, other: "PartialTruth") -> bool:
        same = self.categories == other.categories
        same &= (self.drivable, self.lane) == (other.drivable, other.lane)
        return same and _equal(self.boxes, other.boxes) and _equal(self.ignore, other.ignore)

    def complete(self) -> GroundTruth:
        return GroundTruth(
            self.boxes,
            self.ignore,
            None if self.drivable is None else self.drivable.unpack_bool(),
            None if self.lane is None else self.lane.unpack_bool(),
            self.categories,
        )


def _equal(one: npt.NDArray[Any] | None, other: npt.NDArray[Any] | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _category(detection: Any) -> str:
    """What is in a labelled box; one that does not say it is a vehicle."""
    return next((one.hypothesis.class_id for one in detection.results), "") or VEHICLE


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
    foreground = image.pixels > 127
    if not foreground.any() and (most := int(image.pixels.max())):
        raise ImageError(f"{topic} has values up to {most}, foreground must be above 127")
    return PackedMask.pack(foreground)


MOST_WAITING = 32
"""Images that wait for labels that are recorded after them."""
SURE_AFTER = 4
"""Images that wait although all their labels, or later ones, have come: recorded order is not
exact, and labels may come twice."""
_MOST_EARLY = 128
"""Labels that wait for images that are recorded after them."""


class TruthJoin:
    """Takes images and label messages in recorded order, gives images with their labels."""

    def __init__(self, topics: TruthTopics, notes: Notes) -> None:
        self._topics = topics
        self._names = list(topics.kinds())
        self._notes = notes
        self._waiting: deque[SourceFrame] = deque()
        self._parts: dict[int, PartialTruth] = {}
        self._come: dict[int, set[str]] = {}
        self._latest_ns = dict.fromkeys(self._names, -1)
        self._labels = self._joined = 0
        self._first_ns: int | None = None

    def image(self, frame: SourceFrame) -> Iterator[LabelledFrame]:
        """Add an image; gives those that need not wait any longer."""
        self._first_ns = frame.stamp_ns if self._first_ns is None else self._first_ns
        self._waiting.append(frame)
        yield from self._ready()

    def label(self, message: Message) -> Iterator[LabelledFrame]:
        """Add labels; gives the images that need not wait any longer."""
        if message.content is None:
            self._notes.add("unreadable label", message.problem)
            return
        stamp = message.content.header.stamp
        stamp_ns = int(stamp.sec) * NS_PER_S + int(stamp.nanosec)
        before = self._parts.get(stamp_ns, PartialTruth())
        try:
            part = before.with_message(self._topics, message.topic, message.content)
        except ImageError as error:
            self._notes.add("unreadable label", f"{message.topic}: {error}")
            return
        twice = message.topic in self._come.get(stamp_ns, ())
        if twice and not part.says_the_same(before):
            part = before.without(self._topics, message.topic)
            self._notes.add(
                "labels contradict",
                f"several messages of {message.topic} have the stamp {_seconds(stamp_ns)} and "
                "differ: the image is unlabelled",
            )
        self._labels += stamp_ns not in self._parts
        self._parts[stamp_ns] = part
        self._come.setdefault(stamp_ns, set()).add(message.topic)
        self._latest_ns[message.topic] = max(self._latest_ns[message.topic], stamp_ns)
        if len(self._parts) > _MOST_EARLY:
            self._forget(next(iter(self._parts)))
        yield from self._ready()

    def rest(self) -> Iterator[LabelledFrame]:
        """The images that still wait, at the end; notes labels without an image."""
        while self._waiting:
            yield self._release()
        for stamp_ns in list(self._parts):
            self._forget(stamp_ns)
        if self._labels and not self._joined and self._first_ns is not None:
            self._notes.add(
                "labels fit no image",
                f"none of {self._labels} labelled stamps is that of an image "
                f"(the first image's is {_seconds(self._first_ns)})",
            )

    def _ready(self) -> Iterator[LabelledFrame]:
        while self._waiting and self._decided(self._waiting[0]):
            yield self._release()

    def _decided(self, frame: SourceFrame) -> bool:
        if len(self._waiting) > MOST_WAITING:
            return True
        come = self._come.get(frame.stamp_ns, set())
        missing = [name for name in self._names if name not in come]
        passed = all(self._latest_ns[name] > frame.stamp_ns for name in missing)
        return passed and len(self._waiting) > SURE_AFTER

    def _release(self) -> LabelledFrame:
        frame = self._waiting.popleft()
        part = self._parts.pop(frame.stamp_ns, None)
        self._come.pop(frame.stamp_ns, None)
        self._joined += part is not None
        return LabelledFrame(frame, None if part is None else part.complete())

    def _forget(self, stamp_ns: int) -> None:
        del self._parts[stamp_ns], self._come[stamp_ns]
        self._notes.add(
            "label without image", f"stamp {_seconds(stamp_ns)} is that of no image nearby"
        )


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // NS_PER_S}.{stamp_ns % NS_PER_S:09d}"
