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


class BagSource:
    """The images of one camera of a rosbag2, and the labels recorded for it."""

    def __init__(
        self, path: Path, topic: str | None = None, truth: TruthTopics | None = None
    ) -> None:
        """`topic` may be left out where there is only one camera.

        `truth` names the labels' topics; by default they are looked for. Raises SourceError.
        """
        self._files = BagFiles(path)
        summary = self._files.summary(Notes())
        kinds = {name: info.kind for name, info in summary.topics.items() if info.count}
        self.cameras = _cameras(kinds)
        self._topic = _choose_topic(path, kinds, self.cameras, topic)
        # A camera that is asked for by name has a bag with one set of labels to itself.
        others = [self._topic] if topic is not None else self.cameras
        self.truth = truth or find_truth_topics(self._topic, kinds, others)
        for name in self.truth.names():
            if name not in kinds:
                raise SourceError(f"{path} has no labels on {name}; it has {_there(kinds)}")
        self._nobodys = [] if self.truth.names() else unclaimed_labels(kinds, self.cameras)
        count = summary.topics[self._topic].count
        duration_s = summary.duration_ns / NS_PER_S
        rate_hz = (count - 1) / duration_s if count > 1 and duration_s > 0 else 30.0
        self.info = SourceInfo(path.name, "bag", self._topic, count, rate_hz)

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


def camera_topics(path: Path, kinds: Mapping[str, str]) -> list[str]:
    """The cameras among a bag's topics and their types, sorted. Raises SourceError if none."""
    cameras = _cameras(kinds)
    if not cameras:
        raise SourceError(f"{path} has no camera images; it has {_there(kinds)}")
    return cameras


def _cameras(kinds: Mapping[str, str]) -> list[str]:
    images = [name for name, kind in kinds.items() if kind in (RAW_TYPE, COMPRESSED_TYPE)]
    cameras = {t for t in images if not t.endswith(_NO_CAMERA) and f"/{FOLDER}/" not in t}
    # One camera recorded in both forms is one camera, and its raw images are nearer to it.
    return sorted(t for t in cameras if t.removesuffix("/compressed") not in cameras - {t})


def _choose_topic(
    path: Path, kinds: Mapping[str, str], cameras: list[str], topic: str | None
) -> str:
    if topic is not None:
        if kinds.get(topic) in (RAW_TYPE, COMPRESSED_TYPE):
            return topic
        raise SourceError(f"{path} has no images on {topic}; it has {_there(kinds)}")
    if len(cameras) == 1:
        return cameras[0]
    if not cameras:
        raise SourceError(f"{path} has no camera images; it has {_there(kinds)}")
    raise SourceError(f"{path} has several cameras: {', '.join(cameras)}; choose one with --topic")


def _there(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sorted(kinds.items())) or "nothing"


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
