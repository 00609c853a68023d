"""Pages and pictures of runs, from a real bag through a real engine."""

import base64
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from mtc_perception.core.bundle import Thresholds
from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.metrics.tasks import judge_image
from mtc_perception.replay.cli import main
from mtc_perception.replay.recordings.recording import EncodedPixels, LabelledFrame, SourceFrame
from mtc_perception.replay.recordings.writer import START_NS
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.report.charts import (
    Strip,
    change_strips,
    latency_timeline,
    metric_strips,
)
from mtc_perception.replay.report.compare_page import redraw, write_comparison
from mtc_perception.replay.report.run_page import write_page
from mtc_perception.replay.report.views import (
    large_objects,
    metric_rows,
    most_changed,
    pair_streams,
    read_streams,
)
from mtc_perception.replay.results.comparison import compare_runs
from mtc_perception.replay.results.run_result import read_result
from mtc_perception.replay.stream import gallery
from mtc_perception.replay.stream.gallery import Gallery, draw_record, read_worst
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.replay.terminal import show_comparison
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import UserError
from support import replay_drive as drive
from support.replay_drive import HEIGHT, IMAGES, WIDTH, WORST
from support.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    bag = drive.write_drive(folder / "drive")
    return drive.evaluate(bag, toy_bundle, folder / "run", video=True)


@pytest.fixture(scope="module")
def stream(run: Path) -> Path:
    [folder] = (run / "streams").iterdir()
    return folder


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
    cards = re.findall(r'class="card ">\s*<b>([^<]+)</b><span>([^<]+)', page)
    for task, key, words in (
        ("detection", "recall_at_threshold", "detection recall at the score threshold"),
        ("detection", "precision_at_threshold", "detection precision at the score threshold"),
        ("drivable", "miou", "drivable mIoU"),
        ("lane", "iou", "lane IoU"),
    ):
        assert (f"{result[task][key]:.3f}", words) in cards
    assert page.count("<polyline") == 1


def test_of_a_live_node_no_figure_stands_that_its_threshold_cuts_off(run: Path) -> None:
    result = read_result(run)
    whole, live = (dict(metric_rows(result, live=one)) for one in (False, True))
    assert all("at the score threshold" in one for one in live if "recall" in one)
    assert not any("mAP" in one or "best F1" in one for one in live)
    assert {one for one in whole if "vehicle" not in one} - {*live} >= {
        "detection mAP50",
        "detection mAP50-95",
        "detection best F1",
    }


def test_large_objects_are_counted_apart(run: Path, tmp_path: Path) -> None:
    """A vehicle that nobody finds counts against recall, but is no large one if it is tiny."""
    [plain] = read_streams(run, read_result(run))
    assert large_objects([plain]) is None  # none is small
    shutil.copytree(run, tmp_path / "run")
    [file] = tmp_path.glob("run/streams/*/frames.jsonl")
    lines = []
    for line in file.read_text().splitlines():
        record = json.loads(line)
        if record.get("truth_boxes"):
            record["truth_boxes"].append([0.0, 0.0, 31.0, 60.0])
            record["truth_ignore"].append(False)
            record["evidence"]["detection"]["objects"][0] += 1
        lines.append(json.dumps(record) + "\n")
    file.write_text("".join(lines))
    [view] = read_streams(tmp_path / "run", read_result(run))
    assert view.detection.objects == 2 * plain.detection.objects
    large = large_objects([view])
    assert large is not None
    count = plain.detection.objects
    assert (large.objects, large.smaller) == (count, count)
    recall = read_result(run)["detection"]["recall_at_threshold"]
    assert large.found == round(recall * count)
    words = f"{large.found} of the {count} labelled objects at least 32 pixels wide and high"
    assert large.explanation.startswith(words)
    assert words in write_page(tmp_path / "run").read_text()


def test_the_page_shows_the_video(run: Path, stream: Path) -> None:
    capture = cv2.VideoCapture(str(stream / "annotated.webm"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == IMAGES
    assert f'<video src="streams/{stream.name}/annotated.webm"' in (run / "index.html").read_text()


def test_the_period_is_that_at_which_images_were_played(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    [file] = tmp_path.glob("run/streams/*/stream.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"live": {"rate": 4.0}}))
    write_page(tmp_path / "run")
    [view] = read_streams(run, read_result(run))
    period_ms = 1e3 / content["rate_hz"]
    timelines = [
        latency_timeline(view.times_s, view.latencies_ms, period_ms / rate) for rate in (1, 4)
    ]
    pages = [(folder / "index.html").read_text() for folder in (run, tmp_path / "run")]
    assert all(timeline in page for timeline, page in zip(timelines, pages, strict=True))
    assert timelines[0] != timelines[1]


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
    assert re.search(r'class="unknown" d=""', strips)
    nothing = metric_strips([Strip("vehicles", [0.0, float("nan")])], [False, False])
    assert 'class="unknown" d="M518.0 ' in nothing  # an image without vehicles, not an F1 of 0
    changes = change_strips([Strip("lane", [0.0] * 10 + [0.2, -0.4])])
    assert ">+0.4<" in changes
    assert re.search(r'class="better" d="M[^"]+"', changes)


def test_an_unanswered_image_is_grey_and_no_worst_answer(tmp_path: Path) -> None:
    worst = Gallery(tmp_path / "pictures")
    frame = SourceFrame(0, START_NS, EncodedPixels("png", drive.png(0)))
    empty = PackedMask.pack(np.zeros((HEIGHT, WIDTH), np.uint8))
    missed = judge_image(drive.truth(0), [], [], *2 * [empty])
    record = FrameRecord(0, START_NS, "dropped", evidence=missed)
    labelled = LabelledFrame(frame, drive.truth(0))
    image = frame.pixels.decode()
    worst.add(record, ReplayedImage(labelled, image, None, None, "dropped", "", {}))
    worst.close(True)
    assert read_worst(tmp_path / "pictures") == []
    picture = draw_record(drive.rgb(0), FrameRecord(0, START_NS, "dropped"), None)
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(picture[..., 0], picture[..., 2])
    assert len(np.unique(picture)) > 2


def test_pictures_are_the_same_whenever_they_are_drawn(
    tmp_path: Path, run: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are too large to be kept are drawn when they come."""
    monkeypatch.setattr(gallery, "_MOST_UNDRAWN_BYTES", 0)
    early = drive.evaluate(run.with_name("drive"), toy_bundle, tmp_path / "early")
    pictures = [sorted(one.glob("streams/*/pictures/*")) for one in (run, early)]
    assert len(pictures[0]) > 2
    for one, other in zip(*pictures, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


@pytest.fixture(scope="module")
def other_run(run: Path) -> Path:
    """The same recording through a network that is sure of no vehicle."""
    thresholds = Thresholds(score=0.9, drivable=0.5, lane=0.5)
    bundle = write_toy_bundle(run.with_name("shy.mtc"), thresholds=thresholds)
    return drive.evaluate(run.with_name("drive"), bundle, run.with_name("other"))


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


def test_labels_of_a_folder_are_drawn_beside_the_answers(tmp_path: Path, toy_bundle: Path) -> None:
    images, labels = tmp_path / "drive", tmp_path / "data" / "lane" / "val"
    images.mkdir()
    labels.mkdir(parents=True)
    (images / "a.png").write_bytes(drive.png(0))
    cv2.imwrite(str(labels / "a.png"), drive.truth(0).lane.astype(np.uint8) * 255)
    run = drive.evaluate(images, toy_bundle, tmp_path / "run", labels=tmp_path / "data")
    [stream] = read_streams(run, read_result(run))
    digest = stream.digests[0]
    with PerceiverPool() as perceivers:
        wanted = {0: (digest, digest)}
        drawn = redraw(stream.result, stream.result, wanted, perceivers, lambda: None)[0]
        assert drawn.faithful
        assert drawn.truth is not None
        assert (drawn.truth != drive.rgb(0)).any(axis=2).sum() == drive.truth(0).lane.sum()
        wanted = {0: (digest, "another")}
        assert not redraw(stream.result, stream.result, wanted, perceivers, lambda: None)[
            0
        ].faithful


def test_a_comparison_fits_80_columns_without_breaking_words(run: Path, other_run: Path) -> None:
    comparison = compare_runs(run, other_run, lambda *_: None)
    console = Console(width=80, file=io.StringIO())
    show_comparison(console, comparison)
    [*cells] = (line.split("│")[1].strip() for line in _printed(console) if line.startswith("│"))
    assert "".join(cells) == "".join(row["name"] for row in comparison["figures"])
    assert not any(one.endswith(("_", "thr")) for one in cells)
    assert "recall_at_threshold" in cells


def _printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


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


def test_commands_for_pages_and_bags(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtc_perception.replay.cli.handle_interrupts", lambda: None)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mtc-replay", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    (run / "index.html").unlink()
    assert call("report", run) == (0, f"wrote {run / 'index.html'}\n", "")
    assert (run / "index.html").is_file()
    code, _, errors = call("report", tmp_path)
    assert code == 2
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1

    images = tmp_path / "images"
    images.mkdir()
    (images / "0.png").write_bytes(drive.png(0))
    code, out, _ = call("bag", images, tmp_path / "bag", "--fps", 5)
    assert (code, out) == (0, f"wrote {tmp_path / 'bag'}\n")
    assert call("bag", images, tmp_path / "bag")[::2] == (
        2,
        f"error: {tmp_path / 'bag'} exists: choose another folder\n",
    )
