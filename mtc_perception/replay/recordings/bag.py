"""Rosbag2 recordings (mcap or sqlite3), read without a ROS installation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtc_perception.replay.recordings.bag_files import BagFiles, Message
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

COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
# What perception nodes publish as images without being cameras.
_NO_CAMERA = ("_mask", "/overlay", "/overlay/compressed", "/compressedDepth", "/theora")


class Bag:
    """What a rosbag2 holds, of all its cameras."""

    def __init__(self, path: Path) -> None:
        """Raises SourceError."""
        self.path = path
        self.files = BagFiles(path)
        summary = self.files.summary()
        self.counts = {name: info.count for name, info in summary.topics.items() if info.count}
        """Messages by topic."""
        self.kinds = {name: summary.topics[name].kind for name in self.counts}
        """Message types by topic."""
        self.duration_s = summary.duration_ns / NS_PER_S

    def cameras(self, truth: TruthTopics | None = None) -> list[str]:
        """Topics of images that are none of labels, sorted. Raises SourceError if there is none."""
        labels = [] if truth is None else truth.names()
        cameras = _cameras({name: kind for name, kind in self.kinds.items() if name not in labels})
        if not cameras:
            raise SourceError(f"{self.path} has no camera images; it has {self.listed()}")
        return cameras

    def source(self, topic: str | None = None, truth: TruthTopics | None = None) -> "BagSource":
        """The images on `topic`, which may be left out where there is only one camera.

        `truth` names the labels' topics; by default they are looked for. Raises SourceError.
        """
        return BagSource(self, topic, truth)

    def listed(self) -> str:
        """Topics and types, for messages."""
        kinds = sorted(self.kinds.items())
        return ", ".join(f"{name} ({kind})" for name, kind in kinds) or "nothing"


class BagSource:
    """The images of one camera of a rosbag2, and the labels recorded for it."""

    def __init__(self, bag: Bag, topic: str | None, truth: TruthTopics | None) -> None:
        """As `Bag.source`."""
        self._files = bag.files
        self._topic = _choose_topic(bag, topic)
        # A camera that is asked for by name has a bag with one set of labels to itself.
        cameras = _cameras(bag.kinds)
        others = [self._topic] if topic is not None else cameras
        self.truth = truth or find_truth_topics(self._topic, bag.kinds, others)
        for name in self.truth.names():
            if name not in bag.kinds:
                raise SourceError(f"{bag.path} has no labels on {name}; it has {bag.listed()}")
        self._nobodys = [] if self.truth.names() else unclaimed_labels(bag.kinds, cameras)
        count = bag.counts[self._topic]
        rate_hz = (count - 1) / bag.duration_s if count > 1 and bag.duration_s > 0 else 30.0
        self.info = SourceInfo(bag.path.name, "bag", self._topic, count, rate_hz)

    def frames(self) -> Iterator[SourceFrame]:
        for index, message in enumerate(self._files.messages([self._topic], Notes())):
            yield _frame(index, message, Notes())

    def labelled_frames(self, notes: Notes) -> Iterator[LabelledFrame]:
        if self._nobodys:
            there = ", ".join(self._nobodys)
            notes.add("labels of no camera", f"{self._topic} has none of {there}: name its own")
        join = TruthJoin(self.truth, notes)
        index = 0
        for message in self._files.messages([self._topic, *self.truth.names()], notes):
            if message.topic == self._topic:
                yield from join.image(_frame(index, message, notes))
                index += 1
            else:
                yield from join.label(message)
        yield from join.rest()


def _cameras(kinds: Mapping[str, str]) -> list[str]:
    images = [name for name, kind in kinds.items() if kind in (RAW_TYPE, COMPRESSED_TYPE)]
    cameras = {t for t in images if not t.endswith(_NO_CAMERA) and f"/{FOLDER}/" not in t}
    # One camera recorded in both forms is one camera, and its raw images are nearer to it.
    return sorted(t for t in cameras if t.removesuffix("/compressed") not in cameras - {t})


def _choose_topic(bag: Bag, topic: str | None) -> str:
    if topic is not None:
        if bag.kinds.get(topic) in (RAW_TYPE, COMPRESSED_TYPE):
            return topic
        raise SourceError(f"{bag.path} has no images on {topic}; it has {bag.listed()}")
    cameras = bag.cameras()
    if len(cameras) == 1:
        return cameras[0]
    several = ", ".join(cameras)
    raise SourceError(f"{bag.path} has several cameras: {several}; choose one with --topic")


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
