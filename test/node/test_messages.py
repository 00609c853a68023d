from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.node.messages import (
    ImageWriter,
    detections_message,
    label_info_message,
    rejection,
    rejection_message,
    source_image,
    stamp_ns,
    status_message,
    times_from_message,
    timing_message,
)
from mtc_perception.runtime.frames import FrameTimes
from mtc_perception.util.errors import ImageError


@pytest.fixture
def header() -> Header:
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = 1_700_000_000, 123_456_789
    return header


def perception(boxes, scores, labels) -> Perception:
    return Perception(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int32),
        drivable=np.zeros((4, 6), np.uint8),
        lane=np.zeros((4, 6), np.uint8),
        times=StageTimes(0.0, 0.0, 0.0),
    )


def test_stamp_is_in_nanoseconds(header):
    assert stamp_ns(header) == 1_700_000_000_123_456_789


def test_detections_carry_centre_size_score_and_class_name(header):
    found = perception([[10, 20, 30, 60], [0, 0, 5, 5]], [0.75, 0.5], [1, 0])
    message = detections_message(header, found, ["vehicle", "truck"])
    assert message.header == header
    first, second = message.detections
    assert first.header == header
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (20.0, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (20.0, 40.0)
    assert first.results[0].hypothesis.class_id == "truck"
    assert first.results[0].hypothesis.score == 0.75
    assert second.results[0].hypothesis.class_id == "vehicle"


def test_nothing_detected_is_an_empty_message_with_the_header(header):
    message = detections_message(header, perception([], [], []), ["vehicle"])
    assert message.header == header
    assert len(message.detections) == 0


def test_label_info_maps_index_to_name():
    message = label_info_message(["vehicle", "truck"], 0.25)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [(0, "vehicle"), (1, "truck")]
    assert message.threshold == 0.25


def test_image_writer_fills_the_same_message_again(header):
    writer = ImageWriter("mono8", 1)
    first = writer.write(header, np.full((3, 5), 255, np.uint8))
    data = first.data
    assert (first.height, first.width, first.step, first.encoding) == (3, 5, 5, "mono8")
    assert isinstance(data, array)
    assert bytes(data) == b"\xff" * 15
    second = writer.write(header, np.arange(15, dtype=np.uint8).reshape(3, 5))
    assert second.data is data
    assert bytes(second.data) == bytes(range(15))


def test_image_writer_follows_a_change_of_size_and_strided_pixels(header):
    writer = ImageWriter("rgb8", 3)
    writer.write(header, np.zeros((2, 2, 3), np.uint8))
    pixels = np.random.default_rng(0).integers(0, 255, (4, 10, 3), dtype=np.uint8)[:, ::2]
    message = writer.write(header, pixels)
    assert (message.height, message.width, message.step) == (4, 5, 15)
    assert np.array_equal(source_image(message).pixels, pixels)


def test_images_are_viewed_without_a_copy():
    message = Image(height=2, width=3, step=12, encoding="rgb8", data=array("B", bytes(range(24))))
    image = source_image(message)
    assert image.pixels[1, 0].tolist() == [12, 13, 14]
    message.data[12] = 99
    assert image.pixels[1, 0, 0] == 99


def test_compressed_images_are_decoded():
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    message = CompressedImage(
        format="png", data=array("B", cv2.imencode(".png", pixels)[1].tobytes())
    )
    assert np.array_equal(source_image(message).pixels, pixels)


@pytest.mark.parametrize(
    "message",
    [
        Image(height=2, width=3, step=9, encoding="rgb8", data=array("B", bytes(17))),
        Image(encoding="rgb8"),
        Image(height=1, width=1, step=2, encoding="16UC1", data=array("B", bytes(2))),
        CompressedImage(format="jpeg"),
    ],
)
def test_unusable_images_are_refused(message):
    with pytest.raises(ImageError):
        source_image(message)


def test_timing_survives_the_way_through_a_message(header):
    times = FrameTimes(1.25, 0.5, 2.0, 15.125, 1.0, 0.75, 20.625)
    message = timing_message(header, "front", "openvino", times, "ok")
    assert message.header == header
    assert message.status[0].name == "front"
    assert message.status[0].message == "ok"
    assert times_from_message(message) == times


def test_a_rejection_is_told_from_a_timing(header):
    message = rejection_message(header, "front", "stale: image is 120 ms old")
    assert message.header == header
    assert message.status[0].level == b"\x01"
    assert rejection(message) == "stale: image is 120 ms old"
    times = FrameTimes(1.25, 0.5, 2.0, 15.125, 1.0, 0.75, 20.625)
    assert rejection(timing_message(header, "front", "openvino", times, "ok")) == ""


def test_status_prints_floats_shortly():
    status = status_message("a", b"\x01", "b", {"rate_hz": 29.98765, "frames_in": 3}, "c")
    assert [(v.key, v.value) for v in status.values] == [("rate_hz", "29.988"), ("frames_in", "3")]
    assert status.level == b"\x01"
