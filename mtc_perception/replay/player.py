"""Plays a recording over DDS at its real rate, in a process of its own.

Images are decoded and put into messages beforehand, so that playing costs little more than the
copy into the middleware. Each is stamped when it is published: what a camera driver would do, and
what makes ages and latencies mean something. The report says which image became which stamp.
"""

import gc
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import psutil
import rclpy
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from mtc_perception.errors import ImageError
from mtc_perception.images import SourceImage
from mtc_perception.memory import keep_memory
from mtc_perception.replay.frames import (
    NS_PER_S,
    BrokenPixels,
    EncodedPixels,
    RawPixels,
    SourceError,
    SourceFrame,
    first_seconds,
)
from mtc_perception.replay.sources import open_source
from mtc_perception.replay.worker import ReplayError, stop_if_alone

Transport = Literal["raw", "compressed"]

# As camera drivers publish; a best-effort subscription receives from it as well.
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
MATCH_TIMEOUT_S = 20.0
# A longer gap is a pause in the recording: not waited for.
_LONGEST_GAP_NS = 2 * NS_PER_S
_LEAD_S = 0.2
_JPEG_QUALITY = 90
_TO_BGR = {
    "rgb": cv2.COLOR_RGB2BGR,
    "rgba": cv2.COLOR_RGBA2BGR,
    "bgra": cv2.COLOR_BGRA2BGR,
}
_MEMORY_SHARE = 0.5


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


@dataclass(frozen=True, slots=True)
class Loaded:
    """Sent while images are prepared."""

    frames: int
    unreadable: int
    """Images left out because nobody could use them."""
    reason: str
    """Why the first of these cannot be read."""
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
    """When it was published, and its header stamp."""
    late_ms: float
    """Behind the schedule."""


@dataclass(frozen=True, slots=True)
class Played:
    """Sent at the end."""

    frames: list[Published]


def run_player(connection: Connection, config: PlayerConfig) -> None:
    """Worker: prepare, wait for a word, find the subscription, wait for a word, play."""
    keep_memory()
    messages, frames = _prepare(connection, config)
    rate_hz = open_source(config.path, config.topic, config.fps).info.rate_hz
    connection.recv()
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("replay_player", context=context)
        compressed = config.transport == "compressed"
        topic = f"{config.publish_topic}/compressed" if compressed else config.publish_topic
        publisher = node.create_publisher(
            CompressedImage if compressed else Image, topic, CAMERA_QOS
        )
        _wait_for_subscription(connection, publisher, topic)
        connection.send(Matched())
        connection.recv()
        due_ns = schedule([frame.stamp_ns for frame in frames], rate_hz, config.repeat_s)
        connection.send(Played(_play(connection, publisher, messages, frames, due_ns)))
        # The last images must leave this process before its middleware is torn down.
        connection.recv()
    finally:
        context.try_shutdown()


def schedule(stamps_ns: Sequence[int], rate_hz: float, repeat_s: float | None = None) -> list[int]:
    """When to publish each image, ns after the start: as recorded, always moving ahead.

    A stamp that jumps back, stands still or jumps far ahead counts as one period. With
    `repeat_s` the sequence goes round until that much time is filled.
    """
    period_ns = round(NS_PER_S / rate_hz)
    recorded = np.diff(np.asarray(stamps_ns, np.int64))
    usual = (recorded > 0) & (recorded <= _LONGEST_GAP_NS)
    due_ns = np.concatenate([[0], np.cumsum(np.where(usual, recorded, period_ns))])
    if repeat_s is None:
        return [int(value) for value in due_ns]
    round_ns = int(due_ns[-1]) + period_ns
    rounds = int(repeat_s * NS_PER_S // round_ns) + 1
    everything = (due_ns[None, :] + round_ns * np.arange(rounds)[:, None]).ravel()
    return [int(value) for value in everything if value < repeat_s * NS_PER_S]


def _prepare(
    connection: Connection, config: PlayerConfig
) -> tuple[list[Image | CompressedImage], list[SourceFrame]]:
    """The messages, and their frames without the pixels."""
    source = open_source(config.path, config.topic, config.fps)
    budget = psutil.virtual_memory().available * _MEMORY_SHARE
    messages: list[Image | CompressedImage] = []
    frames: list[SourceFrame] = []
    unreadable, reason = 0, ""
    for frame in first_seconds(source.frames(), config.seconds):
        try:
            image = frame.pixels.decode()
        except ImageError as error:
            reason = reason or f"image {frame.index}: {error}"
            unreadable += 1
            continue
        assert not isinstance(frame.pixels, BrokenPixels), "it has no image"
        message = _message(frame.pixels, image, config.transport)
        budget -= len(message.data)
        if budget < 0:
            raise SourceError(
                f"{len(messages)} images fill half of the free memory: play fewer with --seconds, "
                "or --transport compressed"
            )
        messages.append(message)
        frames.append(SourceFrame(frame.index, frame.stamp_ns, EncodedPixels("", b"")))
        connection.send(Loaded(len(messages), unreadable, reason, done=False))
    if not messages:
        raise SourceError(f"{config.path} holds no usable image" + (reason and f"; {reason}"))
    connection.send(Loaded(len(messages), unreadable, reason, done=True))
    return messages, frames


def _message(
    pixels: RawPixels | EncodedPixels, image: SourceImage, transport: Transport
) -> Image | CompressedImage:
    """`image` is the decoded `pixels`; what needs no conversion is sent as it was recorded."""
    if transport == "compressed":
        if isinstance(pixels, RawPixels):
            code = _TO_BGR.get(image.format)
            plain = image.pixels if code is None else cv2.cvtColor(image.pixels, code)
            _, jpeg = cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            pixels = EncodedPixels("jpeg", jpeg.tobytes())
        return CompressedImage(format=pixels.format, data=array("B", pixels.data))
    if isinstance(pixels, EncodedPixels):
        width = image.width
        pixels = RawPixels("bgr8", image.height, width, 3 * width, image.pixels.reshape(-1))
    data = array("B")
    data.frombytes(np.frombuffer(pixels.data, np.uint8).data)
    return Image(
        height=pixels.height,
        width=pixels.width,
        encoding=pixels.encoding,
        step=pixels.step,
        data=data,
    )


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
    messages: Sequence[Image | CompressedImage],
    frames: Sequence[SourceFrame],
    due_ns: Sequence[int],
) -> list[Published]:
    published = []
    gc.disable()  # a collection while playing would delay an image and make no room
    start_ns = time.monotonic_ns() + round(_LEAD_S * NS_PER_S)
    for position, due in enumerate(due_ns):
        message = messages[position % len(messages)]
        frame = frames[position % len(messages)]
        wait_ns = start_ns + due - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / NS_PER_S)
        stamp_ns = time.time_ns()
        message.header.frame_id = "camera"
        message.header.stamp.sec = stamp_ns // NS_PER_S
        message.header.stamp.nanosec = stamp_ns % NS_PER_S
        late_ms = (time.monotonic_ns() - start_ns - due) / 1e6
        publisher.publish(message)
        published.append(Published(frame.index, frame.stamp_ns, stamp_ns, late_ms))
        stop_if_alone(connection)
    return published
