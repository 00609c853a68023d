"""Rosbag2 recordings (mcap or sqlite3), read without a ROS installation."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtc_perception.core.image_header import OtherFormatError, read_header
from mtc_perception.core.images import SUPPORTED_ENCODINGS
from mtc_perception.replay.recordings.bag_files import BagFiles, Message, ros_1_refusal
from mtc_perception.replay.recordings.bag_labels import (
    FOLDER,
    RAW_TYPE,
    TruthJoin,
    TruthTopics,
    find_truth_topics,
    unclaimed_labels,
)
from mtc_perception.replay.recordings.recording import (
    NS_PER_S,
    BrokenPixels,
    EncodedPixels,
    LabelledFrame,
    Notes,
    Pixels,
    RawPixels,
    SourceError,
    SourceFrame,
    SourceInfo,
)
from mtc_perception.replay.recordings.storage import CDR
from mtc_perception.util.errors import ImageError

COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (RAW_TYPE, COMPRESSED_TYPE)
ROS_1 = "ros1"
"""How ROS 1 serialises messages, in an MCAP file."""
# What perception nodes publish as images without being cameras.
_NO_CAMERA = ("_mask", "/overlay", "/overlay/compressed", "/compressedDepth", "/theora")
# What image_transport says it has packed: depth and heat.
_DEEP = re.compile(r"\s*(16UC1|16SC1|32FC1|mono16)\b")


class Bag:
    """What a rosbag2 holds, of all its cameras."""

    def __init__(self, path: Path) -> None:
        """Raises SourceError."""
        self.path = path
        self.files = BagFiles(path)
        summary = self.files.summary(IMAGE_TYPES)
        self.duration_s = summary.duration_ns / NS_PER_S
        self._topics = [info for info in summary.topics if info.count]
        if all(info.encoding == ROS_1 for info in self._topics) and self._topics:
            raise SourceError(ros_1_refusal(path))
        self.kinds: dict[str, set[str]] = {}
        """Message types by topic, of what can be read."""
        for info in self._topics:
            if info.encoding == CDR:
                self.kinds.setdefault(info.name, set()).add(info.kind)
        self.others = self._others(summary.samples)
        """Topics of images that are no camera's, and what they are instead."""

    def images(self, topic: str) -> int:
        """Number of images on a topic."""
        return sum(
            info.count
            for info in self._topics
            if info.name == topic and info.kind in IMAGE_TYPES and info.encoding == CDR
        )

    def cameras(self, truth: TruthTopics | None = None) -> list[str]:
        """Topics of images that are none of labels, sorted. Raises SourceError if there is none."""
        labels = {} if truth is None else truth.kinds()
        kinds = {name: kinds for name, kinds in self.kinds.items() if name not in labels}
        cameras = _cameras(kinds, self.others)
        if not cameras:
            others = "".join(f"; {name}: {what}" for name, what in self.others.items())
            raise SourceError(f"{self.path} has no camera images{others}; it has {self.listed()}")
        return cameras

    def source(self, topic: str | None = None, truth: TruthTopics | None = None) -> "BagSource":
        """The images on `topic`, which may be left out where there is only one camera.

        `truth` names the labels' topics; by default they are looked for. Raises SourceError.
        """
        return BagSource(self, topic, truth)

    def listed(self) -> str:
        """Topics and types, for messages."""
        described = [
            f"{info.name} ({info.kind}{'' if info.encoding == CDR else f' as {info.encoding}'})"
            for info in sorted(self._topics, key=lambda info: (info.name, info.kind))
        ]
        return ", ".join(described) or "nothing"

    def _others(self, samples: Mapping[tuple[str, str], Sequence[Message]]) -> dict[str, str]:
        others = {}
        for info in self._topics:
            if info.kind not in IMAGE_TYPES or info.name in others:
                continue
            if info.name not in self.kinds:
                others[info.name] = f"serialised as {info.encoding}, where {CDR} can be read"
                continue
            found = [
                "" if message.content is None else _instead(message.content)
                for kind in sorted(self.kinds[info.name])
                for message in samples.get((info.name, kind), ())
            ]
            # A damaged one may well be a camera's.
            if found and all(found):
                others[info.name] = found[0]
        return others


class BagSource:
    """The images of one camera of a rosbag2, and the labels recorded for it."""

    def __init__(self, bag: Bag, topic: str | None, truth: TruthTopics | None) -> None:
        """As `Bag.source`."""
        self._bag = bag
        self._topic = _choose_topic(bag, topic)
        # A camera that is asked for by name has a bag with one set of labels to itself.
        cameras = _cameras(bag.kinds, bag.others)
        others = [self._topic] if topic is not None else cameras
        self.truth = truth or find_truth_topics(self._topic, bag.kinds, others)
        self._truth_kinds = self.truth.kinds()
        for name, kind in self._truth_kinds.items():
            if kind not in bag.kinds.get(name, ()):
                raise SourceError(f"{bag.path} has no labels on {name}; it has {bag.listed()}")
        self._nobodys = [] if self._truth_kinds else unclaimed_labels(bag.kinds, cameras)
        count = bag.images(self._topic)
        rate_hz = (count - 1) / bag.duration_s if count > 1 and bag.duration_s > 0 else 30.0
        self.info = SourceInfo(bag.path.name, "bag", self._topic, count, rate_hz)

    def frames(self) -> Iterator[SourceFrame]:
        images = self._bag.files.messages({self._topic: IMAGE_TYPES}, Notes())
        for index, message in enumerate(images):
            yield _frame(index, message, Notes())

    def labelled_frames(self, notes: Notes) -> Iterator[LabelledFrame]:
        self._note_left_out(notes)
        join = TruthJoin(self.truth, notes)
        wanted = {name: (kind,) for name, kind in self._truth_kinds.items()}
        index = 0
        for message in self._bag.files.messages(wanted | {self._topic: IMAGE_TYPES}, notes):
            if message.topic == self._topic:
                yield from join.image(_frame(index, message, notes))
                index += 1
            else:
                yield from join.label(message)
        yield from join.rest()

    def _note_left_out(self, notes: Notes) -> None:
        if self._nobodys:
            there = ", ".join(self._nobodys)
            notes.add("labels of no camera", f"{self._topic} has none of {there}: name its own")
        for name, what in self._bag.others.items():
            notes.add("images of no camera", f"{name}: {what}")
        for kind in sorted(self._bag.kinds[self._topic].difference(IMAGE_TYPES)):
            notes.add("topic of several types", f"{self._topic} is also {kind}, which is left out")


def _cameras(kinds: Mapping[str, set[str]], others: Collection[str]) -> list[str]:
    cameras = {
        topic
        for topic, types in kinds.items()
        if not types.isdisjoint(IMAGE_TYPES)
        and topic not in others
        and not topic.endswith(_NO_CAMERA)
        and f"/{FOLDER}/" not in topic
    }
    # One camera recorded in both forms is one camera, and its raw images are nearer to it.
    return sorted(t for t in cameras if t.removesuffix("/compressed") not in cameras - {t})


def _choose_topic(bag: Bag, topic: str | None) -> str:
    if topic is not None:
        if bag.images(topic):
            return topic
        what = f" ({bag.others[topic]})" if topic in bag.others else ""
        raise SourceError(f"{bag.path} has no images on {topic}{what}; it has {bag.listed()}")
    cameras = bag.cameras()
    if len(cameras) == 1:
        return cameras[0]
    several = ", ".join(cameras)
    raise SourceError(f"{bag.path} has several cameras: {several}; choose one with --topic")


def _instead(message: Any) -> str:
    """What an image is that is no camera's; empty for a camera's, and for a damaged one."""
    pixels = _pixels(message)
    if isinstance(pixels, RawPixels):
        known = pixels.encoding in SUPPORTED_ENCODINGS
        return "" if known else f"encoding {pixels.encoding!r} is no camera's that can be read"
    if isinstance(pixels, EncodedPixels):
        try:
            deep = _DEEP.match(pixels.format) or read_header(pixels.data, pixels.format).deep_grey
        except OtherFormatError as error:
            return str(error)
        except ImageError:
            return ""
        return f"depth or heat (format {pixels.format!r})" if deep else ""
    return ""


def _frame(index: int, message: Message, notes: Notes) -> SourceFrame:
    if message.content is None:
        return SourceFrame(index, message.recorded_ns, BrokenPixels(message.problem))
    header = message.content.header
    stamp_ns = int(header.stamp.sec) * NS_PER_S + int(header.stamp.nanosec)
    if stamp_ns == 0:
        # The time of recording is the only one that a driver without stamps leaves.
        notes.add("image without stamp", f"image {index}: its time of recording is used")
        stamp_ns = message.recorded_ns
    return SourceFrame(index, stamp_ns, _pixels(message.content), frame_id=header.frame_id)


def _pixels(message: Any) -> Pixels:
    if hasattr(message, "encoding"):
        return RawPixels(
            message.encoding, message.height, message.width, message.step, message.data
        )
    return EncodedPixels(message.format, message.data.tobytes())
