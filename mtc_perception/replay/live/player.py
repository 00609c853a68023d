"""Plays a recording over DDS, in a process of its own.

Images are read, decoded and put into messages ahead of time, as far as a budget of memory goes, so
that playing costs little more than the copy into the middleware. There are two ways to play:

- as a camera: each image is stamped when it is published, in a form that one transport can carry;
- faithfully: with the recorded stamps and a /clock that runs with them, each image as it was
  recorded, broken ones included, at any speed.
"""

import gc
import itertools
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import psutil
import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from mtc_perception.errors import ImageError
from mtc_perception.images import SourceImage
from mtc_perception.memory import keep_memory
from mtc_perception.replay.frames import (
    NS_PER_S,
    BrokenPixels,
    EncodedPixels,
    Pixels,
    RawPixels,
    SourceError,
    SourceFrame,
    first_seconds,
)
from mtc_perception.replay.live.read_ahead import ReadAhead
from mtc_perception.replay.sources.open import open_source
from mtc_perception.replay.worker import ReplayError, stop_if_alone

Transport = Literal["raw", "compressed"]

# As camera drivers publish; a best-effort subscription receives from it as well.
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
CLOCK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
MATCH_TIMEOUT_S = 20.0
# A longer gap is a pause in the recording: not waited for.
_LONGEST_GAP_NS = 2 * NS_PER_S
_LEAD_NS = 200_000_000
# Ages are known to this; each tick costs the node a tenth of a millisecond.
_TICK_NS = 10_000_000
_JPEG_QUALITY = 90
_TO_BGR = {
    "rgb": cv2.COLOR_RGB2BGR,
    "rgba": cv2.COLOR_RGBA2BGR,
    "bgra": cv2.COLOR_BGRA2BGR,
}
_BUDGET_BYTES = 2**30
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class PlayerConfig:
    """What to play and how; the fields of `open_source` and more."""

    path: Path
    topic: str | None
    """Which camera of a bag."""
    fps: float | None
    seconds: float | None
    """Play only so much of the beginning; None is all."""
    repeat_s: float | None
    """Begin again until this much time has passed; None is once."""
    transport: Transport
    publish_topic: str
    """Base topic; compressed images go to `<publish_topic>/compressed`."""
    faithful: bool = False
    """Recorded stamps, /clock, and images as they are; else as a camera would now."""
    speed: float = 1.0
    """Of the recording's time, in faithful playing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Sent while images are prepared; the rest of a long recording is read while it plays."""

    frames: int
    done: bool


@dataclass(frozen=True, slots=True)
class Matched:
    """Sent when the subscription is found."""


@dataclass(frozen=True, slots=True)
class Published:
    """One image on its way."""

    index: int
    """In the recording."""
    source_stamp_ns: int
    stamp_ns: int
    """Its header stamp."""
    published_ns: int
    """Wall clock."""
    late_ms: float
    """Behind the schedule."""


@dataclass(frozen=True, slots=True)
class Played:
    """Sent at the end."""

    frames: list[Published]
    unreadable: int
    """Images left out because nobody could use them."""
    reason: str
    """Why the first of these cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    index: int
    stamp_ns: int
    message: Image | CompressedImage


def run_player(connection: Connection, config: PlayerConfig) -> None:
    """Worker: prepare, wait for a word, find the subscription, wait for a word, play."""
    keep_memory()
    reel = _Reel(config)
    context = rclpy.Context()
    try:
        reel.load(connection)
        connection.recv()
        rclpy.init(context=context)
        node = rclpy.create_node("replay_player", context=context)
        compressed = config.transport == "compressed"
        topic = f"{config.publish_topic}/compressed" if compressed else config.publish_topic
        publisher = node.create_publisher(
            CompressedImage if compressed else Image, topic, CAMERA_QOS
        )
        ticker = _Ticker(node, config.speed) if config.faithful else None
        _wait_for_subscription(connection, publisher, topic)
        if ticker is not None:
            _wait_for_subscription(connection, ticker.publisher, "/clock")
        connection.send(Matched())
        connection.recv()
        published = list(_play(connection, publisher, reel, config, ticker))
        connection.send(Played(published, reel.unreadable, reel.reason))
        # The last images must leave this process before its middleware is torn down.
        while ticker is not None and not connection.poll():
            ticker.tick()
            time.sleep(_TICK_NS / NS_PER_S)
        connection.recv()
    finally:
        reel.close()
        context.try_shutdown()


def schedule(stamps_ns: Iterable[int], rate_hz: float) -> Iterator[int]:
    """When each image is due, ns after the first one: as recorded, always moving ahead.

    A stamp that jumps back, stands still or jumps far ahead counts as one period.
    """
    period_ns = round(NS_PER_S / rate_hz)
    due_ns, before_ns = 0, None
    for stamp_ns in stamps_ns:
        if before_ns is not None:
            step_ns = stamp_ns - before_ns
            due_ns += step_ns if 0 < step_ns <= _LONGEST_GAP_NS else period_ns
        before_ns = stamp_ns
        yield due_ns


class Stamps:
    """The stamps to play with: those of the recording, where a node can live with them.

    A recording that begins at 0 (a video) is moved by a second, for 0 means "not set". A stamp that
    an earlier image had gets the next free nanosecond, for outputs are told apart by it.
    """

    def __init__(self) -> None:
        self._shift_ns: int | None = None
        self._used: set[int] = set()

    def of(self, source_stamp_ns: int) -> int:
        if self._shift_ns is None:
            self._shift_ns = NS_PER_S if source_stamp_ns < NS_PER_S else 0
        stamp_ns = max(source_stamp_ns + self._shift_ns, 1)
        while stamp_ns in self._used:
            stamp_ns += 1
        self._used.add(stamp_ns)
        return stamp_ns


class _Reel:
    """The messages of a recording, read ahead."""

    def __init__(self, config: PlayerConfig) -> None:
        self.unreadable = 0
        self.reason = ""
        self._config = config
        self._source = open_source(config.path, config.topic, config.fps)
        self.rate_hz = self._source.info.rate_hz
        budget = min(_BUDGET_BYTES, int(psutil.virtual_memory().available * _MEMORY_SHARE))
        self._ahead = ReadAhead(self._items(), lambda item: len(item.message.data), budget)

    def load(self, connection: Connection) -> None:
        """Fill the budget, telling how far it is. Raises SourceError."""
        full = False
        while not full:
            frames, full = self._ahead.fill(0.1)
            connection.send(Loaded(frames, done=False))
        if not frames:
            reason = self.reason and f"; {self.reason}"
            raise SourceError(f"{self._config.path} holds no usable image{reason}")
        if self._config.repeat_s is not None and not self._ahead.complete:
            raise SourceError(f"{frames} images fill the memory to repeat from: use --seconds")
        connection.send(Loaded(frames, done=True))

    def __iter__(self) -> Iterator[_Item]:
        return iter(self._ahead) if self._config.repeat_s is None else itertools.cycle(self._ahead)

    def close(self) -> None:
        self._ahead.close()

    def _items(self) -> Iterator[_Item]:
        for frame in first_seconds(self._source.frames(), self._config.seconds):
            try:
                yield _Item(frame.index, frame.stamp_ns, self._message(frame))
            except ImageError as error:
                self.reason = self.reason or f"image {frame.index}: {error}"
                self.unreadable += 1

    def _message(self, frame: SourceFrame) -> Image | CompressedImage:
        pixels, transport = frame.pixels, self._config.transport
        if not self._config.faithful:
            return _camera_message(pixels, pixels.decode(), transport)
        if isinstance(pixels, BrokenPixels):
            raise ImageError(pixels.reason)
        if isinstance(pixels, EncodedPixels) != (transport == "compressed"):
            raise ImageError(f"is not {transport} as the first image is")
        return _plain_message(pixels)


class _Ticker:
    """Publishes /clock: the recording's time, never going back."""

    def __init__(self, node: Node, speed: float) -> None:
        self.publisher = node.create_publisher(Clock, "/clock", CLOCK_QOS)
        self._speed = speed
        self._time_ns = 0
        self._known_ns = time.monotonic_ns()

    def set(self, time_ns: int) -> None:
        """It is now `time_ns`, or later."""
        self._publish(max(time_ns, self._now_ns()))

    def tick(self) -> None:
        self._publish(self._now_ns())

    def _now_ns(self) -> int:
        return self._time_ns + round((time.monotonic_ns() - self._known_ns) * self._speed)

    def _publish(self, time_ns: int) -> None:
        self._time_ns, self._known_ns = time_ns, time.monotonic_ns()
        message = Clock()
        _set_stamp(message.clock, time_ns)
        self.publisher.publish(message)


def _plain_message(pixels: RawPixels | EncodedPixels) -> Image | CompressedImage:
    data = array("B")
    data.frombytes(np.frombuffer(pixels.data, np.uint8).data)
    if isinstance(pixels, EncodedPixels):
        return CompressedImage(format=pixels.format, data=data)
    return Image(
        height=pixels.height,
        width=pixels.width,
        encoding=pixels.encoding,
        step=pixels.step,
        data=data,
    )


def _camera_message(
    pixels: Pixels, image: SourceImage, transport: Transport
) -> Image | CompressedImage:
    """`image` is the decoded `pixels`; what needs no conversion is sent as it was recorded."""
    assert not isinstance(pixels, BrokenPixels)
    if transport == "compressed" and isinstance(pixels, RawPixels):
        code = _TO_BGR.get(image.format)
        plain = image.pixels if code is None else cv2.cvtColor(image.pixels, code)
        _, jpeg = cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        pixels = EncodedPixels("jpeg", jpeg.tobytes())
    elif transport == "raw" and isinstance(pixels, EncodedPixels):
        width = image.width
        pixels = RawPixels("bgr8", image.height, width, 3 * width, image.pixels.reshape(-1))
    return _plain_message(pixels)


def _wait_for_subscription(connection: Connection, publisher: Publisher, topic: str) -> None:
    end = time.monotonic() + MATCH_TIMEOUT_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > end:
            raise ReplayError(f"nobody subscribed to {topic} within {MATCH_TIMEOUT_S:g} s")
        time.sleep(0.05)
        stop_if_alone(connection)


def _play(
    connection: Connection,
    publisher: Publisher,
    reel: _Reel,
    config: PlayerConfig,
    ticker: _Ticker | None,
) -> Iterator[Published]:
    gc.disable()  # a collection while playing would delay an image and make no room
    ahead, behind = itertools.tee(reel)
    due = schedule((item.stamp_ns for item in ahead), reel.rate_hz)
    stamps = Stamps()
    start_ns = time.monotonic_ns() + _LEAD_NS
    for due_ns, item in zip(due, behind, strict=True):
        if config.repeat_s is not None and due_ns >= config.repeat_s * NS_PER_S:
            return
        publish_ns = start_ns + round(due_ns / config.speed)
        if ticker is None:
            _sleep_until(publish_ns)
            stamp_ns = time.time_ns()
        else:
            stamp_ns = stamps.of(item.stamp_ns)
            if due_ns == 0:
                ticker.set(max(1, stamp_ns - round(_LEAD_NS * config.speed)))
            while publish_ns - time.monotonic_ns() > _TICK_NS:
                time.sleep(_TICK_NS / NS_PER_S)
                ticker.tick()
            _sleep_until(publish_ns)
            ticker.set(stamp_ns)
        item.message.header.frame_id = "camera"
        _set_stamp(item.message.header.stamp, stamp_ns)
        published_ns = time.time_ns() if config.faithful else stamp_ns
        late_ms = (time.monotonic_ns() - publish_ns) / 1e6
        publisher.publish(item.message)
        yield Published(item.index, item.stamp_ns, stamp_ns, published_ns, late_ms)
        stop_if_alone(connection)


def _sleep_until(monotonic_ns: int) -> None:
    wait_ns = monotonic_ns - time.monotonic_ns()
    if wait_ns > 0:
        time.sleep(wait_ns / NS_PER_S)


def _set_stamp(stamp: object, time_ns: int) -> None:
    stamp.sec, stamp.nanosec = divmod(time_ns, NS_PER_S)  # type: ignore[attr-defined]
