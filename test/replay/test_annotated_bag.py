"""Annotated bags, and bags of other recordings: what is in them, read back."""

import importlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader

from mtc_perception.replay.recordings.recording import Notes, SourceImage
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.storage import ros_typestore
from mtc_perception.replay.recordings.writer import START_NS, write_recording
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.util.errors import UserError
from support import replay_drive as drive
from support.checkout import ROOT
from support.replay_drive import FRAME_ID, HEIGHT, IMAGES, PERIOD_NS, WIDTH, WORST
from support.toy_bundle import CLASSES

CONFIG = ROOT / "config"


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("annotated")
    recording = drive.write_drive(folder / "drive")
    run = drive.evaluate(recording, toy_bundle, folder / "run", annotate=True)
    [stream] = (run / "streams").iterdir()
    return stream / "annotated"


@pytest.fixture(scope="module")
def messages(bag: Path) -> dict[str, list]:
    """What is in the annotated bag, by topic, with the times of recording."""
    store = ros_typestore()
    found: dict[str, list] = {}
    with Reader(bag) as reader:
        for connection, recorded_ns, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((recorded_ns, message))
    return found


def test_annotated_bag_keeps_stamps_and_frames(messages: dict[str, list]) -> None:
    stamps_ns = [START_NS + index * PERIOD_NS for index in range(IMAGES)]
    for topic, received in messages.items():
        assert [recorded_ns for recorded_ns, _ in received] == stamps_ns, topic
        for recorded_ns, message in received:
            stamp = message.header.stamp
            assert stamp.sec * 1_000_000_000 + stamp.nanosec == recorded_ns
            assert message.header.frame_id == FRAME_ID


def test_annotated_bag_holds_what_the_network_says(
    messages: dict[str, list], toy_bundle: Path
) -> None:
    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        for index in range(IMAGES):
            said = perceiver.perceive(SourceImage(drive.rgb(index), "rgb"))
            for topic, mask in (("drivable_mask", said.drivable), ("lane_mask", said.lane)):
                message = messages[f"/perception/{topic}"][index][1]
                assert np.array_equal(message.data.reshape(HEIGHT, WIDTH), mask)
            found = messages["/perception/detections"][index][1].detections
            assert len(found) == len(said.boxes) > 0
            for detection, box, score, label in zip(
                found, said.boxes, said.scores, said.labels, strict=True
            ):
                result = detection.results[0].hypothesis
                assert (result.class_id, result.score) == (CLASSES[label], pytest.approx(score))
                assert detection.bbox.size_x == pytest.approx(box[2] - box[0], abs=1e-4)
            overlay = messages["/perception/overlay/compressed"][index][1]
            assert overlay.format == "jpeg"
            picture = cv2.imdecode(overlay.data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
            assert picture.shape == (HEIGHT, WIDTH, 3)
            changed = np.abs(picture - drive.rgb(index)).max(axis=2) > 40
            assert changed[said.drivable > 0].mean() > 0.9
            assert changed[(said.drivable == 0) & (said.lane == 0)].mean() < 0.4


def test_ros_reads_the_annotated_bag(bag: Path) -> None:
    serialization = pytest.importorskip("rclpy.serialization")
    kinds = set()
    with Reader(bag) as reader:
        for connection, recorded_ns, data in reader.messages():
            package, _, name = connection.msgtype.split("/")
            kind = getattr(importlib.import_module(f"{package}.msg"), name)
            stamp = serialization.deserialize_message(bytes(data), kind).header.stamp
            assert stamp.sec * 1_000_000_000 + stamp.nanosec == recorded_ns
            kinds.add(name)
    assert kinds == {"CompressedImage", "Detection2DArray", "DiagnosticArray", "Image"}


def test_annotated_bag_holds_labels_and_figures(messages: dict[str, list]) -> None:
    message = messages["/ground_truth/lane_mask"][3][1]
    assert np.array_equal(message.data.reshape(HEIGHT, WIDTH) > 0, drive.truth(3).lane)
    boxes = messages["/ground_truth/detections"][3][1].detections
    assert [one.id for one in boxes] == ["", "ignore"]
    figures = {
        value.key: float(value.value)
        for value in messages["/evaluation/figures"][WORST][1].status[0].values
    }
    assert figures["drivable"] == 0.0
    assert figures["lane"] == pytest.approx(10 / 12, abs=1e-3)


def test_layouts_show_what_is_in_the_bag(messages: dict[str, list]) -> None:
    layout = json.loads((CONFIG / "annotated_bag.foxglove.json").read_text())
    shown = set(re.findall(r"/(?:perception|evaluation|ground_truth)/\w+", json.dumps(layout)))
    topics = {topic.removesuffix("/compressed") for topic in messages}
    assert shown == topics - {"/ground_truth/detections"}
    panels = set(re.findall(r'"(\w+!\w+)"', json.dumps(layout["layout"])))
    assert panels == set(layout["configById"])
    rviz = yaml.safe_load((CONFIG / "annotated_bag.rviz").read_text())
    displays = rviz["Visualization Manager"]["Displays"]
    for display in displays:
        assert display["Topic"]["Value"] in messages
    assert len(displays) == 5


def test_a_folder_becomes_a_bag(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "images" / "val"
    folder.mkdir(parents=True)
    labels = tmp_path / "data" / "lane" / "val"
    labels.mkdir(parents=True)
    for index in range(3):
        (folder / f"{index}.png").write_bytes(drive.png(index))
        mask = drive.truth(index).lane.astype(np.uint8) * 255
        cv2.imwrite(str(labels / f"{index}.png"), mask)
    source = open_source(folder, fps=10)
    counted: list[int] = []
    notes = write_recording(source, tmp_path / "bag", counted.append)
    assert (counted, notes.all()) == ([1, 2, 3], [])
    for index, (frame, truth) in enumerate(open_source(tmp_path / "bag").labelled_frames(Notes())):
        assert frame.stamp_ns == START_NS + index * PERIOD_NS
        assert np.array_equal(frame.pixels.decode().pixels[..., ::-1], drive.rgb(index))
        assert truth is not None
        assert truth.boxes is None
        assert np.array_equal(truth.lane, drive.truth(index).lane)
    with pytest.raises(UserError, match="choose another folder"):
        write_recording(source, tmp_path / "bag", counted.append)
    with pytest.raises(UserError, match="is a bag already"):
        write_recording(open_source(tmp_path / "bag"), tmp_path / "other", counted.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "data"]
