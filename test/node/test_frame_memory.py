"""What one image takes of memory on its way, when everything that can be kept is there."""

import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mtc_perception.core.perception import Perception
from mtc_perception.node.messages import (
    detections_message,
    image_message,
    received_image,
    source_image,
)
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver

HEIGHT, WIDTH = 720, 1280
MASK_BYTES = HEIGHT * WIDTH
NETWORK_BYTES = 96 * 160 * 3
SLACK_BYTES = 64 * 1024
"""For boxes, messages without pixels, and the interpreter's own."""


@pytest.fixture
def perceiver(toy_bundle: Path):
    with open_perceiver(Selection(toy_bundle, "openvino", threads=1)) as perceiver:
        yield perceiver


def one_image(perceiver: Perceiver, message: bytes, send: Callable[[bytes], None]) -> Perception:
    """The way of an image through the node, without its middleware."""
    image = received_image(message, compressed=False)
    perception = perceiver.perceive(source_image(image))
    send(detections_message(image.header, perception, perceiver.bundle.manifest.classes))
    send(image_message(image.header, "mono8", perception.drivable))
    send(image_message(image.header, "mono8", perception.lane))
    return perception


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_an_image_takes_its_answer_and_no_more(perceiver: Perceiver, encoding: str) -> None:
    pixels = array("B", bytes(range(240)) * (3 * MASK_BYTES // 240))
    typed = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding=encoding, data=pixels)
    typed.header = Header(frame_id="camera")
    message = serialize_message(typed)
    for _ in range(3):
        one_image(perceiver, message, len)
    tracemalloc.start()
    try:
        one_image(perceiver, message, len)
        kept, _ = tracemalloc.get_traced_memory()
        peaks = []
        for _ in range(50):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            one_image(perceiver, message, len)
            after, peak = tracemalloc.get_traced_memory()
            peaks.append(peak - before)
        assert after - kept < SLACK_BYTES
    finally:
        tracemalloc.stop()
    # Both masks and, while it is sent, the message of one. The image itself is looked at where it
    # is, and scaled into the engine's input, but for its colours.
    scaled = 0 if encoding == "rgb8" else NETWORK_BYTES
    assert max(peaks) <= 3 * MASK_BYTES + scaled + SLACK_BYTES
