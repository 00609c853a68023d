"""The active node over real DDS: every kind of input in, every output out."""

import math
import struct
import threading
import time
from array import array
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo

from mtc_perception.core.images import SUPPORTED_ENCODINGS
from mtc_perception.node.camera import LOST_AFTER_S, NAMED_ENCODINGS
from mtc_perception.node.messages import rejection, times_from_message
from mtc_perception.runtime.frames import STAGES
from support.accounts import check_accounts
from support.node_rig import PATIENCE_S, SENSOR_QOS, image_message, pixels_of, solid

pytestmark = pytest.mark.dds

RED = (255, 0, 0)
CAMERAS = ("front", "rear")


def as_encoding(rgb, encoding):
    """The RGB image in another encoding, as rows of bytes."""
    bgr = rgb[..., ::-1]
    red, green, blue = (int(c) for c in rgb[0, 0])
    if encoding in ("yuv422", "yuv422_yuy2"):
        packed = cv2.cvtColor(
            bgr, cv2.COLOR_BGR2YUV_UYVY if encoding == "yuv422" else cv2.COLOR_BGR2YUV_YUY2
        )
        return np.ascontiguousarray(packed)
    if encoding.startswith("bayer"):
        value = {"r": red, "g": green, "b": blue}
        tile = np.array([value[c] for c in encoding[6:10]], np.uint8).reshape(2, 2)
        return np.tile(tile, (rgb.shape[0] // 2, rgb.shape[1] // 2))
    if encoding in ("mono8", "8UC1"):
        return np.ascontiguousarray(rgb[..., 0])
    encoding = {"8UC3": "bgr8", "8UC4": "bgra8"}.get(encoding, encoding)
    alpha = np.full_like(rgb[..., :1], 7)
    return np.ascontiguousarray(
        {
            "rgb8": rgb,
            "bgr8": bgr,
            "rgba8": np.concatenate([rgb, alpha], 2),
            "bgra8": np.concatenate([bgr, alpha], 2),
        }[encoding]
    )


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch):
    """A pause of this process must not look like a lost camera."""
    monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", PATIENCE_S)


@pytest.fixture
def active(start_node):
    """The running node with a collector on every output."""
    rig = start_node()
    rig.run()
    rig.detections = rig.collect(Detection2DArray, "detections")
    rig.drivable = rig.collect(Image, "drivable_mask")
    rig.lane = rig.collect(Image, "lane_mask")
    rig.timing = rig.collect(DiagnosticArray, "timing")
    return rig


def test_all_outputs_carry_the_image_header_and_the_right_content(active):
    publish = active.camera("image_raw")
    # Mean (255 + 204 + 0) / 3 / 255 = 0.6: scores 0.6, 0.3, 0.2 reach the threshold of 0.2.
    message = image_message(solid(255, 204, 0), "rgb8", active, "camera_optical")
    result = active.perceive(publish, message, active.detections)
    active.wait_for(lambda: active.drivable and active.lane and active.timing, "the other outputs")
    for output in (active.drivable[0], active.lane[0], active.timing[0], result):
        assert output.header == message.header
    scores = [d.results[0].hypothesis.score for d in result.detections]
    assert scores == pytest.approx([0.6, 0.3, 0.2], abs=1e-3)
    assert [d.results[0].hypothesis.class_id for d in result.detections] == [
        "vehicle",
        "truck",
        "vehicle",
    ]
    # Box 0 is the top-left 0.6 of the image, in its own pixels.
    box = result.detections[0].bbox
    assert (box.center.position.x, box.center.position.y) == pytest.approx((96, 57.6), abs=0.1)
    assert (box.size_x, box.size_y) == pytest.approx((192, 115.2), abs=0.1)
    assert result.detections[0].header == message.header
    for mask in (active.drivable[0], active.lane[0]):
        assert (mask.height, mask.width, mask.encoding, mask.step) == (192, 320, "mono8", 320)
        assert set(mask.data) == {255}
    times = times_from_message(active.timing[0])
    parts = [getattr(times, stage) for stage in STAGES if stage != "end_to_end"]
    assert all(part >= 0 for part in parts)
    assert max(parts) <= times.end_to_end < PATIENCE_S * 1e3
    assert sum(parts) <= times.end_to_end + 1.0
    assert active.timing[0].status[0].message == "ok"


@pytest.mark.parametrize(
    "encoding",
    [
        *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2"),
        *("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"),
        *("8UC1", "8UC3", "8UC4"),
    ],
)
def test_encodings(active, encoding):
    """Pure red is drivable and not lane in the toy network; grey is both."""
    publish = active.camera("image_raw")
    message = image_message(as_encoding(solid(*RED), encoding), encoding, active)
    message.width = 320
    active.perceive(publish, message, active.drivable)
    active.wait_for(lambda: active.lane, "the lane mask")
    inside = (slice(4, -4), slice(4, -4))
    drivable = pixels_of(active.drivable[-1])[inside]
    lane = pixels_of(active.lane[-1])[inside]
    assert (drivable == 255).all()
    assert (lane == (255 if encoding in ("mono8", "8UC1") else 0)).all()


def test_padded_rows_are_skipped(active):
    rows = np.zeros((192, 320 * 3 + 64), np.uint8)
    rows[:, 320 * 3 :] = 255
    message = image_message(rows, "rgb8", active)
    message.width = 320
    mask = active.perceive(active.camera("image_raw"), message, active.drivable)
    assert not any(mask.data)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_compressed_images(start_node, extension):
    rig = start_node(front__transport="compressed", front__image_topic="cam/image")
    rig.run()
    drivable = rig.collect(Image, "drivable_mask")
    publish = rig.camera("cam/image/compressed", CompressedImage)
    jpeg = cv2.imencode(extension, solid(*RED)[..., ::-1])[1].tobytes()
    message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=array("B", jpeg))
    message.header = Header(frame_id="cam", stamp=rig.get_clock().now().to_msg())
    mask = rig.perceive(publish, message, drivable)
    assert (mask.height, mask.width) == (192, 320)
    assert set(mask.data) == {255}
    message.data = array("B", jpeg[: len(jpeg) // 2])
    publish(message)
    rig.wait_for_value("front", "reason", "truncated")


@pytest.mark.fault(
    area="camera",
    row="a JPEG lost data on its way",
    answer="It is malformed and skipped; the next good one is answered.",
    diagnostics="The camera is ERROR with the reason until then; frames_malformed counts.",
)
def test_jpegs_that_lost_data_are_counted_and_the_next_good_one_works(start_node):
    """libjpeg fills what is missing with grey; the end mark is there."""
    rig = start_node(front__transport="compressed", front__image_topic="cam/image")
    rig.run()
    drivable, timing = rig.collect(Image, "drivable_mask"), rig.collect(DiagnosticArray, "timing")
    publish = rig.camera("cam/image/compressed", CompressedImage)

    def message(data: bytes) -> CompressedImage:
        stamp = rig.get_clock().now().to_msg()
        return CompressedImage(
            header=Header(frame_id="cam", stamp=stamp), format="jpeg", data=array("B", data)
        )

    blocks = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", cv2.resize(blocks, (320, 192)))[1].tobytes()
    half, quarter = len(jpeg) // 2, len(jpeg) // 4
    for damaged in (jpeg[:half] + jpeg[-2:], jpeg[:half] + jpeg[half + quarter :]):
        rejected = rig.perceive(publish, message(damaged), timing)
        reason = "malformed: JPEG image cannot be decoded: premature end of data segment"
        assert rejection(rejected) == reason
    assert not drivable
    rig.perceive(publish, message(jpeg), drivable)
    assert len(drivable) == 1
    malformed = int(rig.values("front")["frames_malformed"])
    assert malformed >= 2


def test_a_large_jpeg_has_answers_and_overlay_of_its_own_size(start_node):
    """It is decoded at a quarter of its size; the toy network takes 96 x 160."""
    rig = start_node(front__transport="compressed", front__image_topic="cam/image")
    rig.run()
    drivable, overlay = rig.collect(Image, "drivable_mask"), rig.collect(Image, "overlay")
    publish = rig.camera("cam/image/compressed", CompressedImage)
    rig.wait_for(
        lambda: rig.configured.cameras[0]._overlay.get_subscription_count() == 1, "the match"
    )
    rgb = solid(0, 0, 0, 385, 641)
    rgb[:200] = 255  # drivable; and of the rest a line that only the whole image shows
    rgb[300] = (0, 0, 255)
    options = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1], options)[1].tobytes()
    message = CompressedImage(format="jpeg", data=array("B", jpeg))
    message.header = Header(frame_id="cam", stamp=rig.get_clock().now().to_msg())
    picture = rig.perceive(publish, message, overlay)
    mask = pixels_of(drivable[-1])
    assert mask.shape == (385, 641)
    assert (mask[:195] == 255).all()
    assert (mask[205:] == 0).all()
    shown = pixels_of(picture)
    assert shown.shape == (385, 641, 3)
    assert shown[300, :, 2].min() > 200
    assert shown[298, :, 2].max() < 50


@pytest.mark.fault(
    area="camera",
    row="the size of the images changes",
    answer="Every image is answered in its own pixels.",
    diagnostics="resolution follows.",
)
def test_resolution_may_change_mid_stream(active):
    publish = active.camera("image_raw")
    for height, width in ((192, 320), (97, 331), (640, 360), (192, 320)):
        message = image_message(solid(*RED, height, width), "rgb8", active)
        mask = active.perceive(publish, message, active.drivable)
        assert (mask.height, mask.width, len(mask.data)) == (height, width, height * width)
        assert set(mask.data) == {255}
    active.wait_for_value("front", "resolution", "320x192")


def broken(message: Image, field: str, value: object) -> Image:
    setattr(message, field, value)
    return message


@pytest.mark.fault(
    area="camera",
    row="an image contradicts itself: too few bytes, a wrong step, no pixels, or depth",
    answer="It is malformed and skipped; the next good one is answered.",
    diagnostics="The camera is ERROR with the reason until then; frames_malformed counts.",
)
def test_bad_images_are_counted_and_named_and_the_next_good_one_works(active):
    publish = active.camera("image_raw")

    def good():
        return image_message(solid(*RED), "rgb8", active)

    bad = {
        "bytes": broken(good(), "data", array("B", bytes(1000))),
        "step": broken(good(), "step", 17),
        "empty": Image(header=good().header, encoding="rgb8"),
        "rows of step": broken(good(), "height", 193),
        "32FC1": broken(good(), "encoding", "32FC1"),
    }
    for count, (reason, message) in enumerate(bad.items(), start=1):
        message.header.stamp = active.get_clock().now().to_msg()
        before = int(active.values("front")["frames_malformed"])
        assert before == count - 1
        publish(message)
        active.wait_for_value("front", "frames_malformed", str(count))
        active.wait_for_value("front", "reason", reason)
        values = active.values("front")
        assert values["input"] == "rejected"
        assert active.diagnostics["front"].level == b"\x02"
    active.perceive(publish, good(), active.drivable)
    active.wait_for_value("front", "input", "ok")
    assert check_accounts(active.values("front")).malformed == len(bad)


@pytest.mark.fault(
    area="camera",
    row="a message is cut off",
    answer="It is malformed and skipped; the next good one is answered.",
    diagnostics="The camera is ERROR with the reason until then; frames_malformed counts.",
)
@pytest.mark.parametrize("kept", [2, 10, 40, -1])
def test_a_message_that_is_cut_off_is_malformed_and_the_next_good_one_works(active, kept):
    publish = active.camera("image_raw")
    message = image_message(solid(*RED), "rgb8", active)
    publish(serialize_message(message)[:kept])
    active.wait_for_value("front", "frames_malformed", "1")
    words = "is cut off" if kept != 2 else "is not plain CDR"
    active.wait_for_value("front", "reason", words)
    active.perceive(publish, message, active.drivable)


@pytest.mark.fault(
    area="memory",
    row="a frame_id without end, which every detection would repeat",
    answer="The image is malformed above 256 characters; the next good one is answered.",
    diagnostics="The camera is ERROR with the length until then; frames_malformed counts.",
)
def test_a_long_frame_id_is_not_repeated_in_every_detection(active):
    publish = active.camera("image_raw")
    message = image_message(solid(*RED), "rgb8", active, "f" * 10_000)
    answer = active.perceive(publish, message, active.timing)
    assert rejection(answer) == "malformed: frame_id has 10000 characters, at most 256 are taken"
    assert answer.header.frame_id == ""
    assert not active.detections
    longest = image_message(solid(*RED), "rgb8", active, "f" * 256)
    assert active.perceive(publish, longest, active.detections).header == longest.header


def test_an_unknown_encoding_is_logged_once_with_the_supported_ones(active, capfd):
    publish = active.camera("image_raw")
    for count in range(1, 4):
        publish(broken(image_message(solid(*RED), "rgb8", active), "encoding", "16UC1"))
        active.wait_for_value("front", "frames_malformed", str(count))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "16UC1" in line]
    assert "[ERROR]" in line
    for encoding in SUPPORTED_ENCODINGS:
        assert encoding in line


@pytest.mark.fault(
    area="camera",
    row="a publisher makes up one encoding after the other",
    answer="Its images are malformed; eight encodings are named, the others at a limited rate.",
    diagnostics="The camera is ERROR with the last reason, cut short; frames_malformed counts.",
)
def test_encodings_that_are_made_up_do_not_fill_the_log(active, capfd):
    publish = active.camera("image_raw")
    for count in range(1, 31):
        encoding = f"{count}_{'x' * 10_000}"
        publish(broken(image_message(solid(*RED), "rgb8", active), "encoding", encoding))
        active.wait_for_value("front", "frames_malformed", str(count))
    lines = [line for line in capfd.readouterr().err.splitlines() if "unknown encoding" in line]
    assert NAMED_ENCODINGS == 8
    assert 8 < len(lines) < 20  # a slow machine has time for several that are not named
    assert max(map(len, lines)) < 1000
    assert len(active.configured.cameras[0]._unknown_encodings) == 8
    assert len(active.values("front")["reason"]) < 1000
    check_accounts(active.values("front"))


@pytest.mark.fault(
    area="camera",
    row="a publisher calls the format of its images by a name without end",
    answer="They are malformed; 40 characters of the name are told, at a limited rate.",
    diagnostics="The camera is ERROR with the reason, cut short; frames_malformed counts.",
)
def test_a_format_without_end_does_not_fill_the_log(start_node, capfd):
    rig = start_node(front__transport="compressed", front__image_topic="cam/image")
    rig.run()
    publish = rig.camera("cam/image/compressed", CompressedImage)
    timing = rig.collect(DiagnosticArray, "timing")
    stamp = rig.get_clock().now().to_msg()
    message = CompressedImage(header=Header(stamp=stamp), format="h264\n" * 5000, data=b"\0\0\0\1")
    assert len(rejection(rig.perceive(publish, message, timing))) < 300
    assert "h264" in rig.values("front")["reason"]
    assert len(rig.values("front")["reason"]) < 300
    lines = [line for line in capfd.readouterr().err.splitlines() if "h264" in line]
    assert max(map(len, lines)) < 400


@pytest.mark.fault(
    area="clock",
    row="stamps jump ahead or back, or are zero",
    answer="Every image is answered; ages that cannot be known are not told.",
    diagnostics="The camera is WARN and names the clock; stamps_back counts.",
)
def test_stamps_that_jump_are_processed_and_named(active):
    publish = active.camera("image_raw")
    now = active.get_clock().now().nanoseconds

    def send(stamp_ns):
        message = image_message(solid(*RED), "rgb8", active)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        active.timing.clear()
        active.perceive(publish, message, active.timing)
        return times_from_message(active.timing[-1]), active.timing[-1].status[0].message

    times, clock = send(now + 3600 * 10**9)
    assert "future" in clock
    assert math.isnan(times.end_to_end)
    assert math.isnan(times.receive)
    assert times.inference > 0
    active.wait_for_value("front", "clock", "future")
    times, clock = send(now - 3600 * 10**9)
    assert "past" in clock
    assert math.isnan(times.end_to_end)
    active.wait_for_value("front", "stamps_back", "1")
    times, clock = send(0)
    assert "zero" in clock
    assert active.diagnostics["front"].level == b"\x01"
    _, clock = send(active.get_clock().now().nanoseconds)
    assert clock == "ok"


@pytest.mark.fault(
    area="clock",
    row="images arrive later than max_frame_age_ms allows",
    answer="They are stale and skipped, but not where the stamp is of another clock.",
    diagnostics="The camera is ERROR with age and limit; frames_stale counts.",
)
def test_frames_older_than_the_limit_are_stale(start_node):
    rig = start_node(max_frame_age_ms=5000.0)
    rig.run()
    drivable = rig.collect(Image, "drivable_mask")
    timing = rig.collect(DiagnosticArray, "timing")
    publish = rig.camera("image_raw")
    rig.perceive(publish, image_message(solid(*RED), "rgb8", rig), drivable)
    drivable.clear()
    old = image_message(solid(*RED), "rgb8", rig)
    old.header.stamp.sec -= 6
    publish(old)
    rig.wait_for_value("front", "frames_stale", "1")
    rig.wait_for_value("front", "reason", "max_frame_age_ms is 5000")
    assert not any(mask.header.stamp == old.header.stamp for mask in drivable)
    rig.wait_for(
        lambda: any(one.header.stamp == old.header.stamp and rejection(one) for one in timing),
        "the image's own word of it",
    )
    rig.perceive(publish, image_message(solid(*RED), "rgb8", rig), drivable)
    # No camera is an hour late: that is another clock, which must not blind the vehicle.
    other_clock = image_message(solid(*RED), "rgb8", rig)
    other_clock.header.stamp.sec -= 3600
    rig.perceive(publish, other_clock, drivable)
    rig.wait_for_value("front", "clock", "far in the past")
    assert rig.set(max_frame_age_ms=0.0) == ""
    rig.perceive(publish, old, drivable)
    assert check_accounts(rig.values("front")).stale == 1


@pytest.mark.fault(
    area="clock",
    row="use_sim_time is set and nobody publishes /clock",
    answer="Every image is answered.",
    diagnostics="The camera is WARN: node clock is zero.",
)
def test_sim_time_without_a_clock_is_named_and_does_not_blind(start_node):
    rig = start_node(use_sim_time=True, max_frame_age_ms=100.0)
    rig.run()
    timing = rig.collect(DiagnosticArray, "timing")
    publish = rig.camera("image_raw")
    rig.perceive(publish, image_message(solid(*RED), "rgb8", rig), timing)
    assert "/clock" in timing[-1].status[0].message
    rig.wait_for_value("front", "clock", "/clock")


def test_overlay_is_made_only_while_somebody_looks(active):
    publish = active.camera("image_raw")
    active.perceive(publish, image_message(solid(255, 0, 200), "rgb8", active), active.drivable)
    overlay = active.collect(Image, "overlay")
    active.wait_for(
        lambda: active.configured.cameras[0]._overlay.get_subscription_count() == 1,
        "the match",
    )
    message = image_message(solid(255, 0, 200), "bgr8", active)
    picture = active.perceive(publish, message, overlay)
    assert len(overlay) >= 1
    assert picture.header == message.header
    assert (picture.height, picture.width, picture.encoding) == (192, 320, "rgb8")
    # bgr: red is 200, so it is drivable and tinted green.
    pixel = pixels_of(picture)[180, 300]
    assert pixel[1] > 50


def test_label_info_reaches_late_joiners(active):
    latched = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    infos = active.collect(LabelInfo, "label_info", latched)
    active.wait_for(lambda: infos, "the latched label_info")
    assert [(c.class_id, c.class_name) for c in infos[0].class_map] == [
        (0, "vehicle"),
        (1, "truck"),
    ]
    assert infos[0].threshold == pytest.approx(0.2)


def count(rig, status, key):
    """A counter in the last diagnostics, 0 before the first."""
    values = rig.diagnostics[status].values if status in rig.diagnostics else []
    return sum(int(entry.value) for entry in values if entry.key == key)


@pytest.mark.fault(
    area="camera",
    row="images come faster than the engine can answer",
    answer="The newest is answered, older unread ones are dropped; nothing queues.",
    diagnostics="frames_dropped counts.",
)
def test_a_flood_drops_old_frames_and_accounts_for_every_one(start_node):
    rig = start_node()
    rig.run()
    drivable = rig.collect(Image, "drivable_mask")
    publish = rig.camera("image_raw", qos=QoSProfile(depth=1))
    message = image_message(solid(*RED, 720, 1280), "rgb8", rig)

    def flooded():
        for _ in range(30):
            message.header.stamp = rig.get_clock().now().to_msg()
            publish(message)
        return drivable and count(rig, "front", "frames_dropped") > 0

    rig.wait_for(flooded, "results and drops")
    assert rig.deactivate()
    rig.wait_for_value("engine", "state", "inactive")
    values = {entry.key: entry.value for entry in rig.diagnostics["front"].values}
    counters = check_accounts(values)
    assert counters.waiting == 0
    assert counters.processed > 0
    assert counters.dropped > 0


@pytest.mark.fault(
    area="camera",
    row="one camera floods the node",
    answer="The others lose no image: cameras are served in turn.",
    diagnostics="frames_dropped of that camera counts.",
)
def test_two_cameras_share_the_engine_fairly(start_node):
    rig = start_node(cameras=["front", "rear"])
    rig.run()
    masks = {name: rig.collect(Image, f"{name}/drivable_mask") for name in ("front", "rear")}
    fast = rig.camera("front/image_raw", qos=QoSProfile(depth=1))
    slow = rig.camera("rear/image_raw", qos=QoSProfile(depth=1))
    front = image_message(solid(*RED, 720, 1280), "rgb8", rig, "front")
    # From here on the rear camera's subscription is known to hear.
    rear = image_message(solid(0, 0, 255), "rgb8", rig, "rear")
    rig.perceive(slow, rear, masks["rear"])
    before = rig.values("rear")
    enough = threading.Event()

    def flood():
        while not enough.is_set():
            front.header.stamp = rig.get_clock().now().to_msg()
            fast(front)

    flooder = threading.Thread(target=flood)
    flooder.start()
    for _ in range(10):
        rear = image_message(solid(0, 0, 255), "rgb8", rig, "rear")
        slow(rear)
        rig.wait_for(
            lambda stamp=rear.header.stamp: any(m.header.stamp == stamp for m in masks["rear"]),
            "the rear camera's turn",
        )
    rig.wait_for(lambda: count(rig, "front", "frames_dropped") > 0, "drops of the flooded camera")
    enough.set()
    flooder.join()
    # The flooded camera loses frames, the slow one none. A frame is counted after it is published.
    wanted = int(before["frames_processed"]) + 10
    rig.wait_for(lambda: count(rig, "rear", "frames_processed") >= wanted, "the last frame's count")
    assert rig.values("rear")["frames_dropped"] == before["frames_dropped"]
    assert {mask.header.frame_id for mask in masks["front"]} == {"front"}
    assert {mask.header.frame_id for mask in masks["rear"]} == {"rear"}
    assert not any(masks["rear"][-1].data)


@pytest.mark.fault(
    area="DDS",
    row="a publisher offers a QoS that does not match",
    answer="Nothing can be received until parameter or publisher change.",
    diagnostics="The camera is ERROR and names the policy and the parameter.",
)
def test_incompatible_qos_is_named(start_node):
    rig = start_node(reliability="reliable")
    rig.run()
    rig.create_publisher(
        Image, "image_raw", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    rig.wait_for_value("front", "reason", "reliability to best_effort")
    assert rig.values("front")["input"] == "waiting"


def test_input_state_goes_from_waiting_over_ok_to_lost(active, monkeypatch):
    active.wait_for_value("front", "reason", "nobody publishes /image_raw")
    publish = active.camera("image_raw")
    active.wait_for_value("front", "reason", "1 publisher(s) on /image_raw, no image")
    active.perceive(publish, image_message(solid(*RED), "rgb8", active), active.drivable)
    active.wait_for_value("front", "input", "ok")
    monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", 1.0)
    active.wait_for_value("front", "input", "lost")
    assert active.diagnostics["front"].level == b"\x02"


@pytest.mark.fault(
    area="camera",
    row="images stop, though the publisher stays",
    answer="The node waits; the first image that comes again is answered.",
    diagnostics="After 1 s, or 5 of its periods, the camera is ERROR: lost, since when; then OK.",
)
@pytest.mark.fault(
    area="camera",
    row="one of several cameras stalls",
    answer="The others go on and lose no image.",
    diagnostics="That camera is ERROR: lost; the others stay OK.",
)
def test_a_camera_that_stalls_among_others(start_node, monkeypatch):
    rig = start_node(cameras=["front", "rear"])
    rig.run()
    rear = rig.collect(Image, "rear/drivable_mask")
    publish = {name: rig.camera(f"{name}/image_raw", qos=QoSProfile(depth=1)) for name in CAMERAS}

    def send(*names):
        for name in names:
            message = image_message(solid(*RED), "rgb8", rig, name)
            publish[name](message)
        rig.wait_for(
            lambda: rear and rear[-1].header.stamp == message.header.stamp, "the rear camera's"
        )

    for _ in range(2):
        monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", PATIENCE_S)
        for _ in range(10):
            send("front", "rear")
        rig.wait_for_value("front", "input", "ok")
        monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", LOST_AFTER_S)
        stalled_s = time.monotonic()
        while rig.diagnostics["front"].level == b"\x00":
            send("rear")
            assert rig.diagnostics["rear"].level == b"\x00"
        assert time.monotonic() - stalled_s < LOST_AFTER_S + 1.0  # 0.1 s, but for a busy machine
        rig.wait_for_value("front", "reason", "1 publisher(s) on /front/image_raw, no image from")
        assert rig.diagnostics["front"].message.startswith("lost: no image for 1.")
        send("rear")
    send("front", "rear")
    monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", PATIENCE_S)
    rig.wait_for_value("front", "input", "ok")
    assert check_accounts(rig.values("front")).processed >= 20
    assert check_accounts(rig.values("rear")).dropped == 0


@pytest.fixture
def driver():
    """A camera driver in a participant of its own, where DDS allows another type on a topic."""
    context = Context()
    rclpy.init(context=context)
    node = Node("driver", context=context)
    node.create_publisher(CompressedImage, "/cam/compressed", 1)
    yield
    node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def drivers():
    """Call it for the node of a camera driver in a participant of its own; call that to end it."""
    ends: list[Callable[[], None]] = []

    def start() -> tuple[Node, Callable[[], None]]:
        context = Context()
        rclpy.init(context=context)
        node = Node("driver", context=context)

        def end() -> None:
            if context.ok():
                node.destroy_node()
                context.try_shutdown()

        ends.append(end)
        return node, end

    yield start
    for end in ends:
        end()


@pytest.mark.fault(
    area="camera",
    row="a driver dies and returns, with another size, encoding, rate and QoS",
    answer="The node waits for it and answers its images as soon as they come.",
    diagnostics="The camera is ERROR: lost, nobody publishes; then OK again.",
)
def test_a_driver_that_dies_and_returns(active, drivers, monkeypatch):
    monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", 0.5)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    qualities = (QoSProfile(depth=1), SENSOR_QOS, latched)
    for size, encoding, qos in zip(
        ((192, 320), (96, 160), (100, 40)), ("rgb8", "bgra8", "yuv422"), qualities, strict=True
    ):
        driver, end = drivers()
        publisher = driver.create_publisher(Image, "image_raw", qos)
        active.wait_for(publisher.get_subscription_count, "the node's subscription")
        image = image_message(as_encoding(solid(*RED, *size), encoding), encoding, active)
        active.perceive(publisher.publish, image, active.drivable)
        for _ in range(5):
            publisher.publish(image)
            active.spin_for(0.02)
        active.wait_for_value("front", "resolution", f"{size[1]}x{size[0]}")
        assert active.values("front")["input"] == "ok"
        end()
        active.wait_for_value("front", "reason", "nobody publishes /image_raw")
        assert active.values("front")["input"] == "lost"
        assert active.diagnostics["front"].level == b"\x02"
    check_accounts(active.values("front"))


@pytest.mark.fault(
    area="DDS",
    row="a driver returns with another message type",
    answer="Nothing is received until the driver or the parameter changes.",
    diagnostics="The camera is ERROR: lost, and names both types and the parameter.",
)
def test_a_driver_that_returns_with_another_type(active, drivers, monkeypatch):
    monkeypatch.setattr("mtc_perception.node.camera.LOST_AFTER_S", 0.5)
    driver, end = drivers()
    publisher = driver.create_publisher(Image, "image_raw", 1)
    active.wait_for(publisher.get_subscription_count, "the node's subscription")
    image = image_message(solid(*RED), "rgb8", active)
    active.perceive(publisher.publish, image, active.drivable)
    end()
    drivers()[0].create_publisher(CompressedImage, "image_raw", 1)
    active.wait_for_value("front", "reason", "is sensor_msgs/msg/CompressedImage, not sensor_msgs")
    assert active.values("front")["input"] == "lost"


@pytest.mark.fault(
    area="clock",
    row="under use_sim_time a recording loops: /clock and stamps jump back",
    answer="Every image is answered, diagnostics go on; only a future stamp has no age.",
    diagnostics="stamps_back counts; the camera is OK.",
)
def test_a_recording_that_loops_under_sim_time(start_node):
    rig = start_node(use_sim_time=True, max_frame_age_ms=5000.0)
    rig.run()
    timing = rig.collect(DiagnosticArray, "timing")
    publish = rig.camera("image_raw")
    clock = rig.create_publisher(Clock, "/clock", 1)
    rig.wait_for(clock.get_subscription_count, "the node's clock")
    for loop in range(2):
        for second in (1000, 1500):  # it jumps ahead, too
            clock.publish(Clock(clock=Time(sec=second, nanosec=500_000_000)))
            rig.wait_for(
                lambda now=second: rig.node.get_clock().now().nanoseconds // 10**9 == now,
                "the node's time",
            )
            image = image_message(solid(*RED), "rgb8", rig)
            image.header.stamp = Time(sec=second, nanosec=loop)
            times = times_from_message(rig.perceive(publish, image, timing))
            assert times.end_to_end == pytest.approx(500, abs=1)
        rig.wait_for_value("front", "stamps_back", str(loop))
    values = rig.values("front")
    assert values["clock"] == "ok"
    assert check_accounts(values).stale == 0


@pytest.mark.fault(
    area="DDS",
    row="a topic has another type, or only its other transport is published",
    answer="Nothing is received.",
    diagnostics="The camera is WARN and names both types and the parameter.",
)
@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("/cam/compressed", "is sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image"),
        ("/cam", "nobody publishes /cam, but /cam/compressed is published: see front.transport"),
    ],
)
def test_the_wrong_transport_is_named(start_node, driver, topic, reason):
    rig = start_node(front__image_topic=topic)
    rig.run()
    rig.wait_for_value("front", "reason", reason)


def test_a_compressed_topic_may_be_given_in_full(start_node):
    rig = start_node(front__image_topic="/cam/image/compressed", front__transport="compressed")
    assert rig.configure()
    assert rig.values("front")["topic"] == "/cam/image/compressed"


def test_messages_are_what_the_wire_says(active):
    """Raw CDR of a mask: header, sizes and exactly height x width bytes."""
    raw: list[bytes] = []
    active.create_subscription(Image, "lane_mask", raw.append, 10, raw=True)
    active.wait_for(lambda: active.node.count_subscribers("lane_mask") == 2, "the subscription")
    publish = active.camera("image_raw")
    active.perceive(publish, image_message(solid(255, 255, 0), "rgb8", active), active.lane)
    active.wait_for(lambda: raw, "a raw message")
    assert raw[0].endswith(struct.pack("<I", 192 * 320) + b"\xff" * (192 * 320))
