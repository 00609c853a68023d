"""A camera that does on request what cameras do when they fail, in a process of its own."""

import contextlib
import copy
import itertools
import os
import random
import signal
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

import cv2
import numpy as np
import rclpy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from mtc_perception.replay.live.player import CAMERA_QOS
from mtc_perception.replay.live.reel import LiveConfig, Reel
from mtc_perception.replay.recordings.recording import NS_PER_S
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.worker_process import WorkerProcess, stop_if_alone

Message: TypeAlias = Image | CompressedImage

BROKEN_EVERY = 3
END_S = 10.0
"""A process that is killed has ended long before."""
_HEADER_BYTES = 64
"""A message that is cut off behind these still says which image it was."""


class CameraProcess:
    """One camera's process, and what it told of its images."""

    def __init__(
        self, name: str, config: LiveConfig, topic: str, rate_hz: float, seed: int
    ) -> None:
        """Images go to `topic`, compressed to `<topic>/compressed`."""
        self.name = name
        self.sent = 0
        self.broken: set[int] = set()
        """Stamps of the damaged images."""
        self.last_ns = 0
        """Stamp of the last image."""
        if config.transport == "compressed":
            topic += "/compressed"
        self._arguments = config, topic, rate_hz, seed
        self._stack = contextlib.ExitStack()
        self._worker: WorkerProcess | None = None
        self._pid = 0
        self._resting = True

    def start(self) -> None:
        """Begin its process."""
        worker = WorkerProcess(f"camera {self.name}", _run_camera, *self._arguments)
        self._worker = self._stack.enter_context(worker)

    def ready(self) -> bool:
        """Whether it has found the node."""
        self.listen()
        return self._pid != 0

    def shoot(self, *, half: bool = False, broken: bool = False) -> None:
        """Ask for images from now on: of half the width and height, every third one damaged."""
        assert self._worker is not None
        self._resting = False
        self._worker.send(_Shoot(half, broken))

    def rest(self) -> None:
        """Ask for no more images."""
        assert self._worker is not None
        self._worker.send(_Rest())

    def resting(self) -> bool:
        """Whether all that it sent is known here."""
        self.listen()
        return self._resting

    def kill(self) -> None:
        """As the kernel would; nothing is told to anybody."""
        os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ReplayError):  # at the end of what it had still said
            while self._worker is not None:
                self._hear(END_S)
        self.close()
        self._pid, self._resting = 0, True

    def listen(self) -> None:
        """Take all that it has said."""
        while self._hear(0.0):
            pass

    def forget(self) -> None:
        """Begin anew with what it sent."""
        self.sent = 0
        self.broken.clear()

    def close(self) -> None:
        self._stack.close()
        self._worker = None

    def _hear(self, timeout_s: float) -> bool:
        if self._worker is None:
            return False
        said = self._worker.receive(_Report, timeout_s)
        if isinstance(said, _Ready):
            self._pid = said.pid
        elif isinstance(said, _Resting):
            self._resting = True
        elif isinstance(said, _Sent):
            self.sent += 1
            self.last_ns = said.stamp_ns
            if said.broken:
                self.broken.add(said.stamp_ns)
        return said is not None


@dataclass(frozen=True, slots=True)
class _Shoot:
    half: bool
    broken: bool


@dataclass(frozen=True, slots=True)
class _Rest:
    pass


@dataclass(frozen=True, slots=True)
class _Report:
    """What the process says."""


@dataclass(frozen=True, slots=True)
class _Ready(_Report):
    pid: int


@dataclass(frozen=True, slots=True)
class _Sent(_Report):
    stamp_ns: int
    broken: bool


@dataclass(frozen=True, slots=True)
class _Resting(_Report):
    """All that was sent has been told."""


def _run_camera(
    connection: Connection, config: LiveConfig, topic: str, rate_hz: float, seed: int
) -> None:
    """Worker: find the node's subscription to `topic`, then publish and rest as told."""
    keep_memory()
    draw = random.Random(seed)
    reel = Reel(config)
    whole: list[Message] = [item.message for item in reel]
    reel.close()
    half = [_halved(whole[0])]
    damages = _damages(draw)
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("soak_camera", context=context)
        publisher = node.create_publisher(type(whole[0]), topic, CAMERA_QOS)
        while publisher.get_subscription_count() == 0:
            time.sleep(0.05)
            stop_if_alone(connection)
        connection.send(_Ready(os.getpid()))
        order: _Shoot | None = None
        due_s = time.monotonic()
        for index in itertools.count():
            while order is None or connection.poll():
                told = connection.recv()
                order = told if isinstance(told, _Shoot) else None
                if order is None:
                    connection.send(_Resting())
            # One that is late is not made up for: no camera sends two images at once.
            due_s = max(due_s + 1 / rate_hz, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            images = half if order.half else whole
            message = images[index % len(images)]
            stamp_ns = time.time_ns()
            broken = order.broken and index % BROKEN_EVERY == 0
            message.header.frame_id = "camera"
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, NS_PER_S)
            publisher.publish(draw.choice(damages)(message) if broken else message)
            connection.send(_Sent(stamp_ns, broken))
    finally:
        context.try_shutdown()


def _halved(message: Message) -> Message:
    smaller = copy.copy(message)
    if isinstance(message, CompressedImage):
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        smaller.data = array("B", cv2.imencode(".jpg", pixels[::2, ::2])[1].tobytes())
        return smaller
    channels = message.step // message.width
    shape = message.height, message.width, channels
    pixels = np.frombuffer(message.data, np.uint8).reshape(shape)[::2, ::2]
    smaller.height, smaller.width = pixels.shape[:2]
    smaller.step = smaller.width * channels
    smaller.data = array("B", pixels.tobytes())
    return smaller


def _damages(draw: random.Random) -> Sequence[Callable[[Message], Message | bytes]]:
    """Ways to damage an image; what they are given stays as it is."""

    def data_lost(message: Message) -> Message:
        damaged = copy.copy(message)
        damaged.data = message.data[: draw.randrange(len(message.data) * 3 // 4)]
        return damaged

    def cut_off(message: Message) -> bytes:
        serialised = bytes(serialize_message(message))
        return serialised[: draw.randrange(_HEADER_BYTES, len(serialised) - 1)]

    def of_another_kind(message: Message) -> Message:
        damaged = copy.copy(message)
        if isinstance(message, CompressedImage):
            damaged.data = array("B", draw.randbytes(1000))
        else:
            damaged.encoding = "16UC1"
        return damaged

    return data_lost, cut_off, of_another_kind
