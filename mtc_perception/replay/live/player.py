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
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from mtc_perception.replay.live.node_process import ros_context
from mtc_perception.replay.live.reel import LiveConfig, Reel
from mtc_perception.replay.recordings.recording import NS_PER_S
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.worker_process import stop_if_alone

# As camera drivers publish; a best-effort subscription receives from it as well.
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
CLOCK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
MATCH_TIMEOUT_S = 20.0
_LEAD_NS = 200_000_000
# Ages are known to this; each tick costs the node a tenth of a millisecond.
_TICK_NS = 10_000_000
# A longer gap is a pause in the recording: not waited for.
_LONGEST_GAP_NS = 2 * NS_PER_S


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
    """On the monotonic clock, which all processes of a machine share: wall clocks get corrected."""
    late_ms: float
    """Behind the schedule."""


@dataclass(frozen=True, slots=True)
class Played:
    """Sent at the end."""

    frames: list[Published]


def run_player(connection: Connection, config: LiveConfig, topic: str) -> None:
    """Worker: prepare, wait for a word, find the subscription, wait for a word, play.

    Images go to `topic`, or compressed to `<topic>/compressed`.
    """
    keep_memory()
    with closing(Reel(config)) as reel:
        reel.load(connection)
        connection.recv()
        with ros_context() as context:
            node = rclpy.create_node("replay_player", context=context)
            compressed = config.transport == "compressed"
            topic = f"{topic}/compressed" if compressed else topic
            publisher = node.create_publisher(
                CompressedImage if compressed else Image, topic, CAMERA_QOS
            )
            ticker = _Ticker(node, config.options.rate) if config.faithful else None
            _wait_for_subscription(connection, publisher, topic)
            if ticker is not None:
                _wait_for_subscription(connection, ticker.publisher, "/clock")
            connection.send(Matched())
            connection.recv()
            published = list(_play(connection, publisher, reel, config, ticker))
            connection.send(Played(published))
            # The last images must leave this process before its middleware is torn down.
            while ticker is not None and not connection.poll():
                ticker.tick()
                time.sleep(_TICK_NS / NS_PER_S)
            connection.recv()


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
    reel: Reel,
    config: LiveConfig,
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
        publish_ns = start_ns + round(due_ns / config.options.rate)
        if ticker is None:
            _sleep_until(publish_ns)
            stamp_ns = time.time_ns()
        else:
            stamp_ns = stamps.of(item.stamp_ns)
            if due_ns == 0:
                ticker.set(max(1, stamp_ns - round(_LEAD_NS * config.options.rate)))
            while publish_ns - time.monotonic_ns() > _TICK_NS:
                time.sleep(_TICK_NS / NS_PER_S)
                ticker.tick()
            _sleep_until(publish_ns)
            ticker.set(stamp_ns)
        item.message.header.frame_id = "camera"
        _set_stamp(item.message.header.stamp, stamp_ns)
        published_ns = time.monotonic_ns()
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
