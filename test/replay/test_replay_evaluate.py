"""Lock-step evaluation: real bags through a real network, records and results."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from mtc_perception.core.bundle import Limits, Thresholds, read_bundle
from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.core.perception import SCORE_FLOOR, Perception, StageTimes
from mtc_perception.core.truth import GroundTruth
from mtc_perception.engines.onnxruntime import OnnxRuntimeEngine
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import (
    EncodedPixels,
    LabelledFrame,
    Notes,
    SourceFrame,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.records.image_figures import figures
from mtc_perception.replay.records.judge import FrameJudge
from mtc_perception.replay.records.record import FrameRecord, RecordWriter, read_frames, read_times
from mtc_perception.replay.results.run_result import read_result
from mtc_perception.replay.run import evaluation
from mtc_perception.replay.run.evaluation import plan_run
from mtc_perception.replay.run.runners import run_serial
from mtc_perception.replay.stream import lockstep
from mtc_perception.replay.stream.gallery import Gallery
from mtc_perception.replay.stream.lockstep import ReplayedImage, replay_frames
from mtc_perception.replay.stream.stream import run_stream
from mtc_perception.replay.stream.task import StreamTask
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import EngineError
from support.bag_messages import (
    COMPRESSED,
    COUNT,
    HEIGHT,
    IMAGE,
    STORE,
    WIDTH,
    compressed,
    header,
    images,
    mask,
    picture,
    stamp,
    write_bag,
)
from support.replay_rig import AWAY, CORNER, evaluate, labelled_bag, records


def plain_loop(bag: Path, bundle: Path, topic: str | None = None) -> PerceptionMetrics:
    """What an evaluation must come to: image by image, nothing in between."""
    classes = read_bundle(bundle).manifest.class_map
    metrics = PerceptionMetrics(0.5, 0.5, 5, 0.2, classes)
    thresholds = Thresholds(score=SCORE_FLOOR, drivable=0.5, lane=0.5)
    with open_perceiver(Selection(bundle, "onnxruntime", threads=1)) as perceiver:
        for frame, truth in open_source(bag, topic).labelled_frames(Notes()):
            found = perceiver.perceive(frame.pixels.decode(), Limits(thresholds, 5))
            assert truth is not None
            masks = found.drivable, found.lane
            metrics.update(truth, found.boxes, found.scores, *masks, found.labels)
    return metrics


def test_an_evaluation_is_a_plain_loop_over_the_images(tmp_path: Path, toy_bundle: Path) -> None:
    bag = labelled_bag(tmp_path / "drive")
    result = evaluate(tmp_path / "run", toy_bundle, bag)
    expected = plain_loop(bag, toy_bundle).to_json()
    assert {task: result[task] for task in expected} == expected
    assert 0 < expected["detection"]["recall"] < 1
    assert result["frames_in"] == result["frames_processed"] == result["labelled_frames"] == COUNT
    lost = ("dropped", "stale", "malformed", "unreadable")
    assert [result[f"frames_{ending}"] for ending in lost] == [0, 0, 0, 0]
    assert (result["engine"], result["mode"]) == ("onnxruntime", "lockstep")
    assert list(result["latency_ms"]) == ["read", "preprocess", "inference", "decode", "end_to_end"]
    assert result["latency_ms"]["end_to_end"]["count"] == COUNT
    assert {"p50", "p95", "p99"} <= result["latency_ms"]["inference"].keys()
    assert result["bundle"]["network"] == "toy"
    assert {"params", "gmacs", "machine", "versions", "commit"} <= result.keys()
    assert result["passed"] is None
    assert result["notes"] == result["failed"] == []
    [stream] = result["streams"]
    assert stream["name"] == "drive:/front/image_raw"
    assert {task: stream[task] for task in expected} == expected


def test_runs_are_equal_to_the_last_bit(tmp_path: Path, toy_bundle: Path) -> None:
    bag = labelled_bag(tmp_path / "drive", count=40)
    first = evaluate(tmp_path / "first", toy_bundle, bag)
    second = evaluate(tmp_path / "second", toy_bundle, bag)
    [one], [other] = ((tmp_path / name).rglob("frames.jsonl") for name in ("first", "second"))
    assert one.read_bytes() == other.read_bytes()
    assert first["results_sha256"] == second["results_sha256"]
    assert first["detection"] == second["detection"]


@pytest.mark.parametrize("decoders", [1, 2, 5])
def test_records_are_those_of_one_thread(
    tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, decoders: int
) -> None:
    """Whatever overlaps, and however many threads it does with."""
    bag, serial = labelled_bag(tmp_path / "drive", count=30), tmp_path / "serial"
    serial.mkdir()
    writer = RecordWriter(serial)
    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        manifest = perceiver.bundle.manifest
        every = manifest.thresholds.model_copy(update={"score": SCORE_FLOOR})
        limits = Limits(every, manifest.max_detections)
        judge = FrameJudge(
            manifest.thresholds, manifest.class_map, manifest.max_detections, Notes()
        )
        for frame, truth in open_source(bag).labelled_frames(Notes()):
            found = perceiver.perceive(frame.pixels.decode(), limits)
            writer.add(judge.answered(frame, found, truth), {})
    writer.close()
    monkeypatch.setattr(lockstep, "_DECODERS", decoders)
    evaluate(tmp_path / "run", toy_bundle, bag)
    [overlapping] = (tmp_path / "run").rglob("frames.jsonl")
    assert overlapping.read_bytes() == (serial / "frames.jsonl").read_bytes()


def test_records_say_what_became_of_each_image(tmp_path: Path, toy_bundle: Path) -> None:
    evaluate(tmp_path / "run", toy_bundle, labelled_bag(tmp_path / "drive"))
    found = records(tmp_path / "run")
    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        for index, record in enumerate(found):
            frames = open_source(tmp_path / "drive").frames()
            answer = perceiver.perceive([*frames][index].pixels.decode())
            assert (record.index, record.stamp_ns) == (index, stamp(index))
            assert record.size == (HEIGHT, WIDTH)
            np.testing.assert_array_equal(record.boxes, answer.boxes)
            np.testing.assert_array_equal(record.scores, answer.scores)
            assert set(record.labels) <= {"vehicle", "truck"}
            assert record.truth_boxes is not None
            assert record.truth_boxes.tolist() == [list(CORNER[:4]), list(AWAY[:4])]
    assert len({record.digest for record in found}) == COUNT
    assert found[0].stability is None
    assert all(record.stability is not None for record in found[1:])
    [folder] = (tmp_path / "run" / "streams").iterdir()
    assert [index for index, _ in read_times(folder)] == list(range(COUNT))
    for record in found:
        assert record.evidence is not None
        alone = PerceptionMetrics(0.5, 0.5, 5, 0.2)
        alone.add(record.evidence)
        right = {task: 1.0 if one is None else one for task, one in alone.headlines().items()}
        assert figures(record) == pytest.approx(right)  # nothing there and nothing found is right


def test_records_are_read_as_they_were_written(tmp_path: Path, toy_bundle: Path) -> None:
    bag = labelled_bag(tmp_path / "drive")
    evaluate(tmp_path / "run", toy_bundle, bag, "--reference", toy_bundle)
    [file] = (tmp_path / "run").rglob("frames.jsonl")
    for line, record in zip(file.read_text().splitlines(), read_frames(file.parent), strict=True):
        assert json.dumps(record.to_json(), separators=(",", ":")) == line
        assert record.agreement is not None


def test_every_camera_of_every_bag_is_a_stream(tmp_path: Path, toy_bundle: Path) -> None:
    topics = {
        "/front/image_raw": (IMAGE, images()),
        "/rear/image_raw/compressed": (COMPRESSED, images(compressed)),
        "/front/ground_truth/lane_mask": (IMAGE, [mask(i, 3 * i) for i in range(COUNT)]),
        "/rear/ground_truth/lane_mask": (IMAGE, [mask(i, 9) for i in range(COUNT)]),
    }
    bag = write_bag(tmp_path / "both", topics, StoragePlugin.SQLITE3)
    other = labelled_bag(tmp_path / "drive")
    result = evaluate(tmp_path / "run", toy_bundle, bag, other)
    assert [stream["name"] for stream in result["streams"]] == [
        "both:/front/image_raw",
        "both:/rear/image_raw/compressed",
        "drive:/front/image_raw",
    ]
    total = plain_loop(bag, toy_bundle, "/rear/image_raw/compressed")
    total.merge(plain_loop(other, toy_bundle))
    total.merge(plain_loop(bag, toy_bundle, "/front/image_raw"))
    expected = total.to_json()
    assert {task: result[task] for task in expected} == expected
    assert result["latency_ms"]["read"]["count"] == 3 * COUNT
    front = evaluate(tmp_path / "front", toy_bundle, bag, "--topic", "/front/image_raw")
    assert len(front["streams"]) == 1


def test_without_labels_a_network_agrees_with_another(tmp_path: Path, toy_bundle: Path) -> None:
    bag = write_bag(tmp_path / "drive", {"/cam": (IMAGE, images())})
    result = evaluate(tmp_path / "run", toy_bundle, bag, "--reference", toy_bundle)
    assert not result.keys() & {"detection", "drivable", "lane"}
    agreement = result["agreement"]
    assert agreement["detection"]["recall_at_threshold"] == 1.0
    assert agreement["drivable"]["iou_pooled"] in (None, 1.0)
    assert agreement["detection"]["images"] == COUNT
    assert result["stability"]["pairs"] == COUNT - 1
    assert 0 < result["stability"]["detection"]["persistence"] < 1
    assert result["labelled_frames"] == 0


def odd_bag(path: Path) -> Path:
    """Labelled images, of which one is no JPEG, one no message, and some are out of order."""
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        cameras = writer.add_connection("/cam/compressed", COMPRESSED, typestore=STORE)
        lanes = writer.add_connection("/ground_truth/lane_mask", IMAGE, typestore=STORE)
        for index in range(8):
            image = compressed(index)
            if index == 2:
                image.data = image.data[:40]
            if index == 5:
                image.header.stamp = header(stamp(1) + 5).stamp
            if index == 7:
                image.format = "png"
                image.data = cv2.imencode(".png", picture(3))[1].ravel()
            data = STORE.serialize_cdr(image, COMPRESSED)
            cut = data[:10] if index == 4 else data
            writer.write(cameras, stamp(index), cut)
            label = STORE.serialize_cdr(mask(index, 20), IMAGE)
            writer.write(lanes, stamp(index), label)
    return path


def test_odd_images_are_counted_and_the_rest_is_kept(tmp_path: Path, toy_bundle: Path) -> None:
    result = evaluate(tmp_path / "run", toy_bundle, odd_bag(tmp_path / "odd"))
    counts = {key: result[f"frames_{key}"] for key in ("in", "processed", "malformed")}
    assert counts == {"in": 7, "processed": 6, "malformed": 1}
    assert result["frames_unreadable"] == 1
    # Images 0, 1, 3, 6, 7 and, as a miss, 2; image 4 never was one and 5 has another stamp.
    assert result["labelled_frames"] == result["lane"]["images"] == 6
    notes = {note["kind"]: note["count"] for note in result["notes"]}
    assert notes == {
        "malformed image": 1,
        "unreadable image": 1,
        "stamps go back": 1,
        "encoding changes": 1,
        "label without image": 1,
    }
    found = records(tmp_path / "run")
    assert [r.status for r in found] == [
        *("processed", "processed", "malformed", "processed"),
        *("unreadable", "processed", "processed", "processed"),
    ]
    miss = found[2].evidence
    assert miss is not None
    assert miss.lane is not None
    assert (miss.lane.true_positive, miss.lane.false_negative) == (0, 20 * HEIGHT)
    assert "truncated" in found[2].reason


def test_images_are_read_as_they_are_needed(toy_bundle: Path) -> None:
    """Memory does not depend on the length: few images are between the file and the record."""
    read = recorded = 0
    most_between = 0

    def frames() -> Iterator[LabelledFrame]:
        nonlocal read, most_between
        data = cv2.imencode(".png", picture(1))[1].tobytes()
        for index in range(200):
            read += 1
            most_between = max(most_between, read - recorded)
            yield LabelledFrame(SourceFrame(index, index, EncodedPixels("png", data)), None)

    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        limits = perceiver.bundle.manifest.limits
        for seen in replay_frames(frames(), perceiver, limits, None):
            assert seen.labelled.frame.index == recorded
            recorded += 1
    assert recorded == 200
    assert most_between <= 10


def test_times_are_those_of_the_answer_not_of_finding_image_and_label(toy_bundle: Path) -> None:
    data = cv2.imencode(".png", picture(1))[1].tobytes()
    slow_s = 0.3

    def frames() -> Iterator[LabelledFrame]:
        for index in range(4):
            time.sleep(slow_s)
            yield LabelledFrame(SourceFrame(index, index, EncodedPixels("png", data)), None)

    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        limits = perceiver.bundle.manifest.limits
        seen = replay_frames(frames(), perceiver, limits, None)
        times = [one.latency_ms["read"] for one in seen]
    assert 0 < min(times) < slow_s * 1e3


def test_an_image_without_an_answer_misses_what_the_reference_sees() -> None:
    size = (4, 6)
    seen = Perception(
        size=size,
        boxes=np.array([[0, 0, 2, 2]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.zeros(1, np.int32),
        drivable=np.full(size, 255, np.uint8),
        lane=np.zeros(size, np.uint8),
        times=StageTimes(0.0, 0.0, 0.0),
    )
    judge = FrameJudge(Thresholds(score=0.5, drivable=0.5, lane=0.5), VEHICLE_CLASSES, 5, Notes())
    frame = SourceFrame(0, 1, EncodedPixels("png", b""))
    lost = judge.unanswered(frame, "dropped", "the node never answered", None, seen)
    assert lost.evidence is None
    assert lost.agreement is not None
    assert lost.agreement.detection is not None
    assert lost.agreement.detection.objects == 1
    assert lost.agreement.drivable == MaskCounts(0, 0, 24, 0)


def test_an_image_without_anything_is_right_until_something_is_found() -> None:
    truth = GroundTruth(np.zeros((0, 4), np.float32), None, None, np.zeros((4, 6), np.bool_))
    thresholds = Thresholds(score=0.5, drivable=0.5, lane=0.5)
    frame = SourceFrame(0, 1, EncodedPixels("png", b""))

    def judged(boxes: list[list[int]], lane: int) -> dict[str, float | None]:
        answer = Perception(
            size=(4, 6),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.full(len(boxes), 0.9, np.float32),
            labels=np.zeros(len(boxes), np.int32),
            drivable=np.zeros((4, 6), np.uint8),
            lane=np.full((4, 6), lane, np.uint8),
            times=StageTimes(0.0, 0.0, 0.0),
        )
        judge = FrameJudge(thresholds, VEHICLE_CLASSES, 5, Notes())
        return figures(judge.answered(frame, answer, truth))

    assert judged([], 0) == {"detection": 1.0, "drivable": None, "lane": 1.0}
    assert judged([[0, 0, 2, 2]], 255) == {"detection": 0.0, "drivable": None, "lane": 0.0}
    lost = FrameJudge(thresholds, VEHICLE_CLASSES, 5, Notes()).unanswered(
        frame, "dropped", "", truth
    )
    assert figures(lost) == {"detection": None, "drivable": None, "lane": None}


def test_the_first_error_ends_a_replay(
    tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of labelling, perceiving or recording; also of images that wait to be recorded already."""
    recorded = []
    sound_add = Gallery.add

    def add(gallery: Gallery, record: FrameRecord, replayed: ReplayedImage) -> None:
        recorded.append(record.index)
        if len(recorded) == 3:
            time.sleep(0.2)  # until the next ones wait
            raise OSError("the disk is full")
        sound_add(gallery, record, replayed)

    monkeypatch.setattr(Gallery, "add", add)
    options = ReplayOptions(bundle=toy_bundle, engine="onnxruntime", threads=1)
    bag = Recording(path=labelled_bag(tmp_path / "a", count=20))
    [task], _ = plan_run([bag], options, tmp_path / "run")
    threads = threading.active_count()
    with PerceiverPool() as perceivers, pytest.raises(OSError, match="the disk is full"):
        run_stream(task, perceivers, lambda done, total: None)
    assert recorded == [0, 1, 2]
    assert threading.active_count() == threads
    assert list((tmp_path / "run" / "streams").iterdir()) == []


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(tmp_path: Path, toy_bundle: Path) -> None:
    bags = [labelled_bag(tmp_path / name) for name in "ab"]
    evaluate(tmp_path / "run", toy_bundle, *bags)
    folders = sorted((tmp_path / "run" / "streams").iterdir())
    before = [folder.stat().st_ino for folder in folders]
    whole = read_result(tmp_path / "run")
    (folders[1] / "stream.json").unlink()  # as if it had been interrupted in the second bag
    resumed = evaluate(tmp_path / "run", toy_bundle, *bags)
    after = [folder.stat().st_ino for folder in folders]
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert resumed["results_sha256"] == whole["results_sha256"]
    evaluate(tmp_path / "run", toy_bundle, *bags, "--fresh")
    assert folders[0].stat().st_ino != before[0]
    # Another recording under the same name is another task.
    before = [folder.stat().st_ino for folder in folders]
    labelled_bag(tmp_path / "other")
    (tmp_path / "b").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "b")
    evaluate(tmp_path / "run", toy_bundle, *bags)
    assert [folder.stat().st_ino == old for folder, old in zip(folders, before, strict=True)] == [
        True,
        False,
    ]


@pytest.mark.fault(
    area="replay",
    row="a replay was killed, or its records are cut off",
    answer="What is incomplete is replayed again, what is whole is not.",
    diagnostics="Nothing.",
)
def test_what_a_killed_run_left_is_no_result(tmp_path: Path, toy_bundle: Path) -> None:
    bag = labelled_bag(tmp_path / "drive")
    streams = tmp_path / "run" / "streams"
    for name in ("00_another_recording", "00_drive_front_image_raw"):
        (streams / name).mkdir(parents=True)
        (streams / name / "frames.jsonl").write_text('{"index":0')
    whole = evaluate(tmp_path / "run", toy_bundle, bag)
    assert whole["frames_processed"] == COUNT
    [stream] = whole["streams"]
    folder = streams / stream["folder"]
    assert folder.name == "00_drive_front_image_raw"
    lines = (folder / "frames.jsonl").read_text().splitlines(keepends=True)
    (folder / "frames.jsonl").write_text("".join(lines[:-1]))  # as after a power cut
    again = evaluate(tmp_path / "run", toy_bundle, bag)
    assert again["results_sha256"] == whole["results_sha256"]
    assert (folder / "frames.jsonl").read_text() == "".join(lines)


@pytest.mark.fault(
    area="signal",
    row="Ctrl-C or SIGTERM during a replay",
    answer="What is finished stays, of the stream under way nothing.",
    diagnostics="Exit code 130.",
)
def test_an_interrupted_stream_leaves_nothing(tmp_path: Path, toy_bundle: Path) -> None:
    options = ReplayOptions(bundle=toy_bundle, engine="onnxruntime", threads=1)
    [task], _ = plan_run([Recording(path=labelled_bag(tmp_path / "a"))], options, tmp_path / "run")
    left_by_a_killed_run = task.out.with_name(f".{task.out.name}.part") / task.out.name
    left_by_a_killed_run.mkdir(parents=True)
    (left_by_a_killed_run / "frames.jsonl").write_text("{")

    def interrupt(done: int, total: int) -> None:
        assert total == COUNT
        if done == 3:
            raise KeyboardInterrupt

    with PerceiverPool() as perceivers, pytest.raises(KeyboardInterrupt):
        run_stream(task, perceivers, interrupt)
    assert list((tmp_path / "run" / "streams").iterdir()) == []


_DEAD_DRIVE = """
import time
from mtc_perception.replay import cli
from mtc_perception.replay.recordings import sources
from mtc_perception.util import read_ahead

def never_answers(path):
    print("reading", flush=True)
    time.sleep(600)

sources.read_regular = never_answers
read_ahead._ITEM_S = 0.2
cli.main()
"""


@pytest.mark.fault(
    area="signal",
    row="Ctrl-C or SIGTERM while a replay waits for a file, as of a dead network drive",
    answer="The thread that waits is left behind, and the command ends within 15 s.",
    diagnostics="Exit code 130.",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_file_that_does_not_answer_keeps_no_signal(
    tmp_path: Path, toy_bundle: Path, number: signal.Signals
) -> None:
    (tmp_path / "a.png").touch()
    options = ("-b", toy_bundle, "--engine", "onnxruntime", "--threads", "1")
    command = [sys.executable, "-c", _DEAD_DRIVE, "evaluate", tmp_path, *options]
    command += ["--out", tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert any(b"reading" in line for line in process.stdout)
            process.send_signal(number)
            _, errors = process.communicate(timeout=15)
        finally:
            process.kill()
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert list((tmp_path / "run" / "streams").iterdir()) == []


def test_streams_of_several_engines_are_noted(tmp_path: Path, toy_bundle: Path) -> None:
    bags = [labelled_bag(tmp_path / name) for name in "ab"]
    assert evaluate(tmp_path / "run", toy_bundle, *bags)["notes"] == []
    [file] = (tmp_path / "run" / "streams").glob("01_*/stream.json")
    content = json.loads(file.read_text())
    content["engine"]["name"] = "tensorrt"  # as on a cluster where one machine has a GPU
    file.write_text(json.dumps(content))
    [note] = evaluate(tmp_path / "run", toy_bundle, *bags)["notes"]
    assert note["kind"] == "several engines"
    assert "for a:/front/image_raw, tensorrt" in note["first"]


def test_other_software_is_another_task(
    tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(path=labelled_bag(tmp_path / "drive"))

    def key() -> str:
        [task], _ = plan_run([recording], ReplayOptions(bundle=toy_bundle), tmp_path / "run")
        return task.key

    keys = [key()]
    assert key() == keys[0]
    about = evaluation.provenance()
    monkeypatch.setattr(evaluation, "provenance", lambda: about | {"versions": {"openvino": "0.1"}})
    keys.append(key())
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(evaluation, "_PACKAGE", tmp_path / "package")
    keys.append(key())
    for name in ("metrics.py", "letterbox.cu", "page.html.j2"):
        (tmp_path / "package" / name).write_text(f"{name}, mended\n")
        keys.append(key())
    assert len(set(keys)) == 6
    (tmp_path / "package" / "metrics.cpython-311.pyc").write_text("compiled")
    assert key() == keys[-1]


def test_another_engine_is_another_task(tmp_path: Path, toy_bundle: Path) -> None:
    recording = Recording(path=labelled_bag(tmp_path / "drive"))
    keys = set()
    for options in (
        ReplayOptions(bundle=toy_bundle),
        ReplayOptions(bundle=toy_bundle, engine="onnxruntime"),
        ReplayOptions(bundle=toy_bundle, reference=toy_bundle),
        ReplayOptions(bundle=toy_bundle, seconds=3),
        ReplayOptions(bundle=toy_bundle, annotate=True),
    ):
        [task], _ = plan_run([recording], options, tmp_path / "run")
        keys.add(task.key)
    assert len(keys) == 5
    [again], _ = plan_run([recording], ReplayOptions(bundle=toy_bundle), tmp_path / "elsewhere")
    assert again.key in keys


def test_an_engine_that_failed_is_not_used_again(
    tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[OnnxRuntimeEngine] = []
    broken: list[OnnxRuntimeEngine] = []
    sound_start = OnnxRuntimeEngine.start

    def start(engine: OnnxRuntimeEngine) -> None:
        if engine not in used:
            used.append(engine)
        if engine in broken:
            raise EngineError("the GPU hangs")
        sound_start(engine)

    def hang(task: StreamTask, done: int, total: int) -> None:
        if task.name.startswith("b:") and done == 0:
            broken.extend(used)

    monkeypatch.setattr(OnnxRuntimeEngine, "start", start)
    bags = [labelled_bag(tmp_path / name) for name in "abcd"]
    options = ReplayOptions(bundle=toy_bundle, engine="onnxruntime", threads=1)
    tasks, _ = plan_run([Recording(path=bag) for bag in bags], options, tmp_path / "run")
    outcomes = run_serial(tasks, hang)
    assert [failure.error for failure in outcomes.failures] == ["the GPU hangs"]
    assert [result.name[0] for result in outcomes.results] == ["a", "c", "d"]
    assert len(used) == 2


def test_streams_are_named_apart(tmp_path: Path, toy_bundle: Path) -> None:
    folders = []
    for name in ("1/roads", "2/roads", "3/roads (2)", "4/roads"):
        (tmp_path / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / "0.png"), picture(1))
        folders.append(Recording(path=tmp_path / name))
    tasks, _ = plan_run(folders, ReplayOptions(bundle=toy_bundle), tmp_path / "run")
    assert [task.name for task in tasks] == ["roads", "roads (3)", "roads (2)", "roads (4)"]
