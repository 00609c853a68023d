import itertools
import struct
from array import array

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.node.messages import (
    detections_message,
    image_message,
    label_info_message,
    received_image,
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

FRAME_IDS = ["", "a", "cam", "camera", "kamera_für_vorne"]
"""Of different lengths, as what follows them is aligned."""


@pytest.fixture
def header() -> Header:
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = 1_700_000_000, 123_456_789
    return header


def perception(boxes, scores, labels) -> Perception:
    return Perception(
        size=(4, 6),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int32),
        drivable=np.zeros((4, 6), np.uint8),
        lane=np.zeros((4, 6), np.uint8),
        times=StageTimes(0.0, 0.0, 0.0),
    )


def test_stamp_is_in_nanoseconds(header):
    assert stamp_ns(header) == 1_700_000_000_123_456_789


def as_typed(header: Header, found: Perception, classes: list[str]) -> Detection2DArray:
    """What `detections_message` has to be read as."""
    message = Detection2DArray(header=header)
    for (x1, y1, x2, y2), score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        detection = Detection2D(header=header, results=[ObjectHypothesisWithPose()])
        detection.results[0].hypothesis.class_id = classes[label]
        detection.results[0].hypothesis.score = score
        detection.bbox.center.position.x = (x1 + x2) / 2
        detection.bbox.center.position.y = (y1 + y2) / 2
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        message.detections.append(detection)
    return message


def test_detections_carry_centre_size_score_and_class_name(header):
    found = perception([[10, 20, 30, 60], [0, 0, 5, 5]], [0.75, 0.5], [1, 0])
    data = detections_message(header, found, ["vehicle", "truck"])
    message = deserialize_message(data, Detection2DArray)
    assert message.header == header
    first, second = message.detections
    assert first.header == header
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (20.0, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (20.0, 40.0)
    assert first.results[0].hypothesis.class_id == "truck"
    assert first.results[0].hypothesis.score == 0.75
    assert second.results[0].hypothesis.class_id == "vehicle"


@pytest.mark.parametrize("frame_id", FRAME_IDS)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_detections_are_read_as_ros_would_have_written_them(header, frame_id, count):
    header.frame_id = frame_id
    generator = np.random.default_rng(count)
    found = perception(
        generator.uniform(0, 1280, (count, 4)),
        generator.uniform(0, 1, count),
        [0, 1, 2, 1, 0][:count],
    )
    classes = ["vehicle", "bus", "Lkw über 7,5 t"]
    typed = as_typed(header, found, classes)
    data = detections_message(header, found, classes)
    assert deserialize_message(data, Detection2DArray) == typed


def test_nothing_detected_is_an_empty_message_with_the_header(header):
    data = detections_message(header, perception([], [], []), ["vehicle"])
    message = deserialize_message(data, Detection2DArray)
    assert message.header == header
    assert len(message.detections) == 0


def test_label_info_maps_index_to_name():
    message = label_info_message(["vehicle", "truck"], 0.25)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [(0, "vehicle"), (1, "truck")]
    assert message.threshold == 0.25


@pytest.mark.parametrize("frame_id", FRAME_IDS)
@pytest.mark.parametrize(("encoding", "shape"), [("mono8", (3, 5)), ("rgb8", (4, 5, 3))])
def test_images_are_read_as_ros_would_have_written_them(header, frame_id, encoding, shape):
    header.frame_id = frame_id
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    data = image_message(header, encoding, pixels)
    typed = Image(header=header, height=shape[0], width=shape[1], encoding=encoding)
    typed.step = pixels[0].size
    typed.data = array("B", pixels.tobytes())
    assert deserialize_message(data, Image) == typed
    # With padding between them, the pixels are the same.
    wide = np.repeat(pixels, 2, axis=1)
    assert image_message(header, encoding, wide[:, ::2]) == data


def received(message: Image | CompressedImage):
    return received_image(serialize_message(message), isinstance(message, CompressedImage))


@pytest.mark.parametrize("frame_id", FRAME_IDS)
@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "yuv422_yuy2"])
def test_images_are_unpacked(header, frame_id, encoding):
    header.frame_id = frame_id
    content = bytes(range(24))
    message = Image(header=header, height=2, width=3, step=12, encoding=encoding, data=content)
    image = received(message)
    assert image.header == header
    assert (image.height, image.width, image.step, image.encoding) == (2, 3, 12, encoding)
    assert (bytes(image.data), image.compressed, image.problem) == (content, False, "")


@pytest.mark.parametrize("frame_id", FRAME_IDS)
def test_compressed_images_are_unpacked(header, frame_id):
    header.frame_id = frame_id
    image = received(CompressedImage(header=header, format="jpeg", data=bytes(range(24))))
    assert image.header == header
    assert (bytes(image.data), image.compressed, image.problem) == (bytes(range(24)), True, "")


def test_images_of_a_big_endian_machine_are_unpacked(header):
    header.stamp.sec = -7
    data = b"\0\0\0\0" + struct.pack(
        ">iII7sxIII5sB2xII6s", -7, header.stamp.nanosec, 7, b"camera\0", 1, 2, 5, b"rgb8\0", 1,
        6, 6, bytes(range(6)),
    )  # fmt: skip
    image = received_image(data, compressed=False)
    assert (image.header.frame_id, image.header.stamp) == ("camera", header.stamp)
    assert source_image(image).pixels.tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_images_are_viewed_without_a_copy():
    message = Image(height=2, width=3, step=12, encoding="rgb8", data=array("B", bytes(range(24))))
    data = serialize_message(message)
    pixels = source_image(received_image(data, compressed=False)).pixels
    assert pixels[1, 0].tolist() == [12, 13, 14]
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))


def test_compressed_images_are_decoded():
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    message = CompressedImage(
        format="png", data=array("B", cv2.imencode(".png", pixels)[1].tobytes())
    )
    assert np.array_equal(source_image(received(message)).pixels, pixels)


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
        source_image(received(message))


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_a_message_that_is_cut_off_anywhere_is_refused(header, kind):
    message = kind(header=header, data=array("B", bytes(range(20))))
    if kind is Image:
        message.height, message.width, message.step, message.encoding = 4, 5, 5, "mono8"
    data = serialize_message(message)
    for length in range(len(data)):
        image = received_image(data[:length], kind is CompressedImage)
        with pytest.raises(ImageError, match="cut off" if length >= 4 else "not plain CDR"):
            source_image(image)
        # What could be read of the header is the answer's.
        assert stamp_ns(image.header) in (0, stamp_ns(header))
    assert image.header == header


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_a_frame_id_without_end_is_in_no_answer(header, kind):
    stamp = header.stamp
    for length in (257, 4_000_000):
        header.frame_id = "f" * length
        image = received(kind(header=header))
        with pytest.raises(ImageError, match=f"frame_id has {length} characters, at most 256"):
            source_image(image)
        assert image.header == Header(stamp=stamp)
    header.frame_id = "\N{SNOWMAN}" * 256
    assert received(kind(header=header)).header == header


@pytest.mark.parametrize("start", ["0002", "0003", "0007", "0100", "ffff"])
def test_what_is_serialised_in_another_way_is_refused(header, start):
    data = bytes.fromhex(start) + serialize_message(Image(header=header))[2:]
    with pytest.raises(ImageError, match=f"begins with {start}0000"):
        source_image(received_image(data, compressed=False))


@pytest.mark.parametrize("compressed", [False, True])
@given(st.binary(max_size=120), st.sampled_from([b"", b"\0\0\0\0", b"\0\1\0\0"]))
def test_no_bytes_break_the_reader(compressed, data, start):
    image = received_image(start + data, compressed)
    try:
        source_image(image)
    except ImageError:
        return
    assert not image.problem


def test_lengths_that_lie_are_refused(header):
    message = Image(header=header, height=1, width=2, step=6, encoding="rgb8", data=bytes(6))
    data = serialize_message(message)
    for position, length in itertools.product(range(4, len(data) - 6, 4), (2**31, 2**32 - 1)):
        changed = data[:position] + struct.pack("<I", length) + data[position + 4 :]
        image = received_image(changed, compressed=False)
        try:
            pixels = source_image(image).pixels
        except ImageError:
            continue
        assert pixels.shape == (1, 2, 3)


def test_a_frame_id_that_is_no_text_does_not_break_the_answer(header):
    header.frame_id = "camera"
    data = serialize_message(Image(header=header)).replace(b"camera", b"cam\xffra")
    image = received_image(data, compressed=False)
    assert image.header.frame_id == "cam\ufffdra"
    answer = rejection_message(image.header, "front", "malformed: ...")
    assert deserialize_message(answer, DiagnosticArray).header == image.header


TIMES = FrameTimes(1.25, 0.5, 2.0, 15.125, 1.0, 0.75, 20.625)


def test_timing_survives_the_way_through_a_message(header):
    data = timing_message(header, "front", "openvino", TIMES, "ok")
    message = deserialize_message(data, DiagnosticArray)
    assert message.header == header
    (status,) = message.status
    assert (status.name, status.hardware_id, status.message) == ("front", "openvino", "ok")
    assert status.level == DiagnosticStatus.OK
    assert times_from_message(message) == TIMES


def test_a_rejection_is_told_from_a_timing(header):
    data = rejection_message(header, "front", "stale: image is 120 ms old")
    message = deserialize_message(data, DiagnosticArray)
    assert message.header == header
    assert message.status[0].level == b"\x01"
    assert rejection(message) == "stale: image is 120 ms old"
    timing = timing_message(header, "front", "openvino", TIMES, "ok")
    assert rejection(deserialize_message(timing, DiagnosticArray)) == ""


def test_status_prints_floats_shortly():
    status = status_message("a", b"\x01", "b", {"rate_hz": 29.98765, "frames_in": 3}, "c")
    assert [(v.key, v.value) for v in status.values] == [("rate_hz", "29.988"), ("frames_in", "3")]
    assert status.level == b"\x01"
