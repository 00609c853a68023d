"""The synthetic rosbag: read back, its messages are the drive's pictures and labels."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from mtc_perception.replay.recordings.storage import VISION_MSGS, ros_typestore
from mtc_perception.util.errors import UserError
from offline_compress.roads.render import Drive
from offline_compress.roads.road_bag import IMAGE_TOPIC, START_NS, write_bag
from support.checkout import ROOT

DETECTIONS_TOPIC = "/ground_truth/detections"
DRIVABLE_TOPIC = "/ground_truth/drivable_mask"
LANE_TOPIC = "/ground_truth/lane_mask"
WIDTH, HEIGHT, FPS, SEED = 322, 182, 30.0, 5


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", 0.2, FPS, WIDTH, HEIGHT, SEED)


def read(bag: Path) -> dict[str, list]:
    store = ros_typestore()
    messages: dict[str, list] = {}
    with Reader(bag) as reader:
        for connection, stamp_ns, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            header = message.header
            assert header.stamp.sec * 1_000_000_000 + header.stamp.nanosec == stamp_ns
            assert header.frame_id == "camera"
            messages.setdefault(connection.topic, []).append((stamp_ns, message))
    return messages


def test_bag_holds_the_drive(bag: Path) -> None:
    messages = read(bag)
    assert set(messages) == {IMAGE_TOPIC, DETECTIONS_TOPIC, DRIVABLE_TOPIC, LANE_TOPIC}
    expected_ns = [START_NS + round(i * 1e9 / FPS) for i in range(6)]
    for received in messages.values():
        assert [stamp for stamp, _ in received] == expected_ns
    drive = Drive(SEED, WIDTH, HEIGHT, FPS)
    vehicles = 0
    for index in range(6):
        scene = drive.frame(index)
        for topic, mask in ((DRIVABLE_TOPIC, scene.drivable), (LANE_TOPIC, scene.lane)):
            message = messages[topic][index][1]
            assert (message.encoding, message.step) == ("mono8", WIDTH)
            assert np.array_equal(message.data.reshape(HEIGHT, WIDTH), mask)
        boxes: dict[str, list] = {"": [], "ignore": []}
        for detection in messages[DETECTIONS_TOPIC][index][1].detections:
            centre, box = detection.bbox.center.position, detection.bbox
            half_x, half_y = box.size_x / 2, box.size_y / 2
            assert detection.results[0].hypothesis.class_id == "vehicle"
            boxes[detection.id].append(
                (centre.x - half_x, centre.y - half_y, centre.x + half_x, centre.y + half_y)
            )
        assert np.array_equal(np.array(boxes[""]).reshape(-1, 4), scene.boxes)
        assert np.array_equal(np.array(boxes["ignore"]).reshape(-1, 4), scene.ignore_boxes)
        vehicles += len(scene.boxes)
        image = messages[IMAGE_TOPIC][index][1]
        assert image.format == "jpeg"
        pixels = cv2.imdecode(image.data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        assert np.abs(pixels - scene.image).mean() < 6.0
    assert vehicles > 0


def test_masks_do_not_bloat_the_bag(bag: Path) -> None:
    raw_bytes = 2 * 6 * WIDTH * HEIGHT
    assert sum(p.stat().st_size for p in bag.iterdir()) < raw_bytes


def test_one_process_or_two_give_the_same_messages(bag: Path, tmp_path: Path) -> None:
    again = write_bag(tmp_path / "drive", 0.2, FPS, WIDTH, HEIGHT, SEED, workers=1)
    assert (again / "drive.mcap").read_bytes() == (bag / "drive.mcap").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["drive"], "nothing is left behind"


def test_an_existing_bag_is_kept(bag: Path) -> None:
    before = (bag / "drive.mcap").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        write_bag(bag, 0.1, FPS, WIDTH, HEIGHT)
    assert (bag / "drive.mcap").read_bytes() == before


def test_the_command_says_what_to_do_in_one_line(bag: Path) -> None:
    command = [sys.executable, "-m", "offline_compress.cli", "synth", "bag", str(bag)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 30.0, 64, 64, 0), "no frame"),
        ((1.0, 0.0, 64, 64, 0), "no frame"),
        ((1.0, 30.0, 64, 16, 0), "32x32"),
        ((1.0, 30.0, 64, 64, -1), "seed"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path: Path, arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_bag(tmp_path / "bag", *arguments)
    assert not list(tmp_path.iterdir())


def test_vision_msgs_are_those_of_the_interface_package() -> None:
    folder = ROOT / "interfaces" / "vision_msgs" / "msg"
    found = {}
    for path in folder.glob("*.msg"):
        lines = (re.sub(r"#.*", "", line).strip() for line in path.read_text().splitlines())
        found[path.stem] = "\n".join(" ".join(line.split()) for line in lines if line)
    assert found == VISION_MSGS


def test_synth_needs_no_torch() -> None:
    code = (
        "import sys; import offline_compress.cli, offline_compress.roads.road_bag, "
        "offline_compress.roads.road_dataset; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
