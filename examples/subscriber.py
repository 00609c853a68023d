"""Boxes and masks of one image together, whatever comes first: a subscriber of the perception node.

    python3 examples/subscriber.py --ros-args -r __ns:=/front

Every output carries the header of its image, so that those with the same stamp belong together.
"""

import contextlib
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

TOPICS = {"detections": Detection2DArray, "drivable_mask": Image, "lane_mask": Image}
MOST_WAITING = 5
"""Images whose outputs have come in part: as deep as the node's own queues."""


class Subscriber(Node):
    """Calls `on_answer` once for every image of which all outputs have come."""

    def __init__(self) -> None:
        super().__init__("subscriber")
        self._waiting: dict[tuple[int, int], dict[str, Any]] = {}
        for topic, kind in TOPICS.items():
            self.create_subscription(kind, topic, partial(self._on_part, topic), MOST_WAITING)

    def _on_part(self, topic: str, message: Any) -> None:
        stamp = message.header.stamp
        key = (stamp.sec, stamp.nanosec)
        parts = self._waiting.setdefault(key, {})
        parts[topic] = message
        if len(parts) == len(TOPICS):
            # Outputs come in the order of their images: what is older will not be whole any more.
            self._waiting = {other: some for other, some in self._waiting.items() if other > key}
            self.on_answer(*(parts[name] for name in TOPICS))
        elif len(self._waiting) > MOST_WAITING:
            del self._waiting[min(self._waiting)]

    def on_answer(self, detections: Detection2DArray, drivable: Image, lane: Image) -> None:
        """What is perceived in one image, in its pixels: replace it by what you need."""
        stamp = drivable.header.stamp
        shares = [f"{np.mean(pixels(mask) > 0):.0%}" for mask in (drivable, lane)]
        boxes = [
            f"{found.results[0].hypothesis.class_id} {found.results[0].hypothesis.score:.2f} "
            f"at {found.bbox.center.position.x:.0f},{found.bbox.center.position.y:.0f} "
            f"{found.bbox.size_x:.0f}x{found.bbox.size_y:.0f}"
            for found in detections.detections
        ]
        when = f"{stamp.sec}.{stamp.nanosec:09d}"
        print(f"{when} drivable {shares[0]} lane {shares[1]} {'; '.join(boxes)}", flush=True)


def pixels(mask: Image) -> np.ndarray:
    """[height, width] uint8, 0 or 255: a view of the message."""
    return np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.step)[:, : mask.width]


def main() -> None:
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Subscriber())


if __name__ == "__main__":
    main()
