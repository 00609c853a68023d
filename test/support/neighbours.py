"""Who talks with the node, as processes of their own that may be killed: a camera and a consumer.

`python -m support.neighbours NAME` runs one of them until its context is shut down.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from support.node_rig import image_message, solid

CAMERA_HZ = 30.0
IMAGE_TOPIC, OUTPUT_TOPIC = "image_raw", "drivable_mask"


class Neighbour:
    """One of the processes, and how many lines it has written: a consumer, one per message."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, name], stdout=subprocess.PIPE, text=True
        )
        self.count = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            self.count += 1

    def kill(self) -> None:
        """As `kill -9` does it: it says goodbye to nobody."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


@contextlib.contextmanager
def neighbours() -> Iterator[Callable[[str], Neighbour]]:
    """Call what it gives for a process by its name; those that are left are killed at the end."""
    started: list[Neighbour] = []

    def start(name: str) -> Neighbour:
        started.append(Neighbour(name))
        return started[-1]

    try:
        yield start
    finally:
        for neighbour in started:
            neighbour.kill()


def _camera(node: Node) -> None:
    publisher = node.create_publisher(Image, IMAGE_TOPIC, QoSProfile(depth=1))
    message = image_message(solid(255, 0, 0, 480, 640), "rgb8", node)

    def publish() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    node.create_timer(1 / CAMERA_HZ, publish)


def _consumer(node: Node) -> None:
    reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    node.create_subscription(Image, OUTPUT_TOPIC, lambda _: print("mask", flush=True), reliable)


if __name__ == "__main__":
    rclpy.init()
    neighbour = Node(sys.argv[1])
    {"camera": _camera, "consumer": _consumer}[sys.argv[1]](neighbour)
    rclpy.spin(neighbour)
