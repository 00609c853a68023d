"""Pages, pictures and annotated bags of a run, from a real bag through a real engine."""

import base64
import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import replay_drive as drive
import yaml
from replay_drive import FRAME_ID, HEIGHT, IMAGES, PERIOD_NS, WIDTH, WORST
from rosbags.rosbag2 import Reader
from toy_bundle import CLASSES, write_toy_bundle

from mtc_perception.bundle import Thresholds
from mtc_perception.errors import UserError
from mtc_perception.metrics import judge_image
from mtc_perception.perceiver import Perceiver
from mtc_perception.replay.bag_writer import START_NS
from mtc_perception.replay.charts import latency_timeline
from mtc_perception.replay.compare import compare_runs
from mtc_perception.replay.compare_page import write_comparison
from mtc_perception.replay.compare_view import most_changed, pair_streams
from mtc_perception.replay.evaluation import evaluate_run
from mtc_perception.replay.frames import EncodedPixels, SourceFrame, SourceImage
from mtc_perception.replay.gallery import Gallery, draw_record, read_worst
from mtc_perception.replay.notes import Notes
from mtc_perception.replay.plan import Options, Recording
from mtc_perception.replay.recording import write_recording
from mtc_perception.replay.records import FrameRecord
from mtc_perception.replay.result import read_result
from mtc_perception.replay.run_page import write_page
from mtc_perception.replay.run_view import read_streams
from mtc_perception.replay.serial import run_serial
from mtc_perception.replay.sources import open_source
from mtc_perception.replay.strips import Strip, change_strips, metric_strips
from mtc_perception.replay.typestore import ros_typestore

CONFIG = Path(__file__).parents[1] / "config"


class Silent:
    def planned(self, *_: object) -> None: ...

    def __call__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    bag = drive.write_drive(folder / "drive")
    options = Options(toy_bundle, engine="onnxruntime", threads=1, annotate=True)
    evaluate_run([Recording(bag)], options, folder / "run", run_serial, Silent())
    return folder / "run"


@pytest.fixture(scope="module")
def stream(run: Path) -> Path:
    [folder] = (run / "streams").iterdir()
    return folder


@pytest.fixture(scope="module")
def messages(stream: Path) -> dict[str, list]:
    """What is in the annotated bag, by topic, with the times of recording."""
    store = ros_typestore()
    found: dict[str, list] = {}
    with Reader(stream / "annotated") as reader:
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
    with Perceiver.open(toy_bundle, "onnxruntime", threads=1) as perceiver:
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


def test_the_worst_images_are_kept_but_not_their_neighbours(stream: Path) -> None:
    worst = [one for one in read_worst(stream / "pictures") if one.figure == "drivable"]
    assert (worst[0].index, worst[0].value) == (WORST, 0.0)
    places = sorted(one.index for one in worst)
    assert all(after - before >= 10 for before, after in itertools.pairwise(places))
    for one in worst:
        assert one.truth is not None
        for name in (one.answer, one.truth):
            assert cv2.imread(str(stream / "pictures" / name)).shape == (HEIGHT, WIDTH, 3)


def test_the_page_stands_alone(run: Path) -> None:
    page = (run / "index.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert page.count("<circle") == IMAGES
    for picture in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page):
        content = np.frombuffer(base64.b64decode(picture), np.uint8)
        assert cv2.imdecode(content, cv2.IMREAD_COLOR) is not None
    targets = re.findall(r'href="#([^"]+)"', page)
    assert f"s0-drivable-{WORST}" in targets
    assert {*targets} == {*re.findall(r'figure id="([^"]+)"', page)}
    result = json.loads((run / "result.json").read_text())
    for task, name in (("detection", "map50"), ("drivable", "miou"), ("lane", "iou")):
        assert f"{result[task][name]:.3f}" in page
    assert page.count("<polyline") == 1


def test_the_page_needs_the_run_alone(run: Path) -> None:
    (run / "index.html").unlink()
    bag = run.with_name("drive")
    bag.rename(bag.with_name("away"))
    try:
        write_page(run)
    finally:
        bag.with_name("away").rename(bag)
    assert (run / "index.html").is_file()
    (run / "result.json").rename(run / "gone.json")
    with pytest.raises(UserError, match=r"result\.json cannot be read"):
        write_page(run)
    (run / "gone.json").rename(run / "result.json")


def test_charts_of_long_recordings_stay_small() -> None:
    count = 20_000
    times_s = [index / 30 for index in range(count)]
    latencies_ms = [20.0] * count
    latencies_ms[12_345] = 90.0
    latencies_ms[7_000:7_500] = [float("nan")] * 500
    timeline = latency_timeline(times_s, latencies_ms, 33.3)
    assert len(timeline) < 100_000
    slowest = min(float(y) for y in re.findall(r'cy="([\d.]+)"', timeline))
    assert slowest < 60  # the one slow image is there, near the top
    assert 10 < timeline.count('class="lost"') < 500
    lost = [value != value for value in latencies_ms]
    values = [0.9] * count
    values[12_345] = 0.0
    strips = metric_strips([Strip("lane", values, {12_345: "here"})], lost)
    assert len(strips) < 60_000
    assert 'href="#here"' in strips
    changes = change_strips([Strip("lane", [0.0] * 10 + [0.2, -0.4])])
    assert ">+0.4<" in changes
    assert re.search(r'class="better" d="M[^"]+"', changes)


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


def test_an_unanswered_image_is_grey_and_no_worst_answer(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "pictures")
    frame = SourceFrame(0, START_NS, EncodedPixels("png", drive.png(0)))
    missed = judge_image(drive.truth(0), [], [], *2 * [np.zeros((HEIGHT, WIDTH), np.uint8)])
    record = FrameRecord(0, START_NS, "dropped", evidence=missed)
    gallery.add(record, frame, frame.pixels.decode(), None, drive.truth(0))
    gallery.close(True)
    assert read_worst(tmp_path / "pictures") == []
    picture = draw_record(drive.rgb(0), FrameRecord(0, START_NS, "dropped"), None)
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(picture[..., 0], picture[..., 2])
    assert len(np.unique(picture)) > 2


@pytest.fixture(scope="module")
def other_run(run: Path) -> Path:
    """The same recording through a network that is sure of no vehicle."""
    thresholds = Thresholds(score=0.9, drivable=0.5, lane=0.5)
    bundle = write_toy_bundle(run.with_name("shy.mtc"), thresholds=thresholds)
    options = Options(bundle, engine="onnxruntime", threads=1)
    other = run.with_name("other")
    evaluate_run([Recording(run.with_name("drive"))], options, other, run_serial, Silent())
    return other


def test_the_images_that_changed_are_drawn_side_by_side(run: Path, other_run: Path) -> None:
    first, second = (read_streams(one, read_result(one)) for one in (run, other_run))
    [pair] = pair_streams(first, second)
    assert pair.places == [(index, index) for index in range(IMAGES)]
    worse = most_changed([pair], -1, 2)
    assert {one.figure for one in worse} == {"detection"}
    assert all(one.change < 0 for one in worse)
    assert abs(worse[0].place - worse[1].place) >= 10
    assert most_changed([pair], 1, 2) == []
    second[0].lost[worse[0].place] = True
    assert worse[0].place not in [one.place for one in most_changed([pair], -1, IMAGES)]

    drawn: list[None] = []
    out = run.with_name("comparison")
    out.mkdir()
    comparison = compare_runs(run, other_run, lambda *_: None)
    page = write_comparison(out, run, other_run, comparison, lambda: drawn.append(None))
    text = page.read_text()
    assert len(drawn) == text.count('alt="A"') == text.count('alt="B"') > 0
    assert text.count('alt="labels"') == text.count('alt="A"')
    assert "not quite as in the runs" not in text
    targets = re.findall(r'href="#([^"]+)"', text)
    assert targets
    assert {*targets} == {*re.findall(r'figure id="([^"]+)"', text)}
    assert text.count("<polyline") == 2
    row = "<td>detection.f1_at_threshold</td><td>1.0000</td><td>0.0000</td><td>-1.0000</td>"
    assert row in text


def test_a_comparison_without_the_recording_says_so(run: Path, other_run: Path) -> None:
    bag = run.with_name("drive")
    bag.rename(bag.with_name("away"))
    out = run.with_name("blind")
    out.mkdir()
    comparison = compare_runs(run, other_run, lambda *_: None)
    try:
        page = write_comparison(out, run, other_run, comparison, lambda: None).read_text()
    finally:
        bag.with_name("away").rename(bag)
    assert 'alt="A"' not in page
    assert re.search(r"No pictures of drive:\S+: \S+drive does not exist", page)
    assert 'class="worse" d="M' in page
