"""How what a node sent is scored, without a node: its answers are made here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.tasks import PerceptionMetrics, judge_image
from mtc_perception.replay.live.live_run import LiveResult
from mtc_perception.replay.live.player import Published
from mtc_perception.replay.live.recorder import (
    OUTPUTS,
    Answer,
    AnswerReader,
    AnswerWriter,
    Recorded,
    RecordedFrame,
)
from mtc_perception.replay.live.reel import LiveConfig
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.labels import labelled_frames
from mtc_perception.replay.recordings.recording import Notes
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.records.judge import FrameJudge
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.results.run_result import Figures
from mtc_perception.replay.stream.live_stream import seen_live
from mtc_perception.runtime.frames import FrameTimes
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from support.bag_messages import COUNT, HEIGHT, IMAGE, WIDTH, mask, raw, write_bag

LOST, SMALL = 1, 3


def test_answered_images_are_scored_and_labels_that_do_not_fit_are_told(
    tmp_path: Path, toy_bundle: Path
) -> None:
    small = mask(SMALL, 5)
    small.height, small.data = HEIGHT // 2, small.data[: HEIGHT // 2 * WIDTH]
    lanes = [small if index == SMALL else mask(index, 3 * index) for index in range(COUNT)]
    topics = {
        "/cam": (IMAGE, [raw(index) for index in range(COUNT)]),
        "/ground_truth/lane_mask": (IMAGE, lanes),
        "/ground_truth/drivable_mask": (IMAGE, [mask(index, 20) for index in range(COUNT)]),
    }
    bag = write_bag(tmp_path / "drive", topics)
    source, bundle = open_source(bag), read_bundle(toy_bundle)
    thresholds = bundle.manifest.thresholds
    expected = PerceptionMetrics(thresholds.drivable, thresholds.lane, 5, thresholds.score)
    recorded, published = Recorded(), []
    writer = AnswerWriter(tmp_path / "answers.bin")
    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        for frame, truth in source.labelled_frames(Notes()):
            published.append(Published(frame.index, frame.stamp_ns, frame.index + 1, 0, 0.0))
            if frame.index == LOST:
                continue
            found = perceiver.perceive(frame.pixels.decode())
            answer = Answer(
                found.boxes,
                found.scores,
                [bundle.manifest.classes[label] for label in found.labels],
                PackedMask.pack(found.drivable),
                PackedMask.pack(found.lane),
            )
            recorded.frames[frame.index + 1] = RecordedFrame(
                dict.fromkeys(OUTPUTS, 5), FrameTimes(*[1.0] * 7), offset=writer.add(answer)
            )
            assert truth is not None
            for task in ("drivable", "lane"):
                label = getattr(truth, task)
                if label.shape == found.lane.shape:
                    getattr(expected, task).update(getattr(found, task), label)
    writer.close()
    recorded.status["engine"] = {
        f"{task}_threshold": str(value) for task, value in thresholds.model_dump().items()
    }
    answers = AnswerReader(tmp_path / "answers.bin")
    options = ReplayOptions(bundle=toy_bundle, transport="raw")
    config = LiveConfig(Recording(path=bag), options, "raw")
    result = LiveResult(config, source.info, published, recorded, answers, [], 1.0)
    notes = Notes()
    judge = FrameJudge(thresholds, bundle.manifest.class_map, 5, notes)
    figures = Figures(
        *(
            PerceptionMetrics(thresholds.drivable, thresholds.lane, 5, thresholds.score)
            for _ in "123"
        )
    )
    for seen in seen_live(labelled_frames(source, None, None, notes), result, bundle, None):
        frame, truth = seen.labelled
        if seen.perception is None:
            figures.add(judge.unanswered(frame, seen.status, seen.reason, truth))
        else:
            figures.add(judge.answered(frame, seen.perception, truth))
    answers.close()
    found = figures.to_json()
    assert (found["frames_processed"], found["frames_dropped"]) == (COUNT - 1, 1)
    assert found["labelled_frames"] == COUNT
    alone = found["answered"]
    assert (alone["drivable"]["images"], found["drivable"]["images"]) == (COUNT - 1, COUNT)
    assert (alone["lane"]["images"], found["lane"]["images"]) == (COUNT - 2, COUNT - 1)
    for task, name in (("drivable", "miou"), ("lane", "iou")):
        values = getattr(expected, task).at(getattr(thresholds, task))
        assert alone[task][name] == pytest.approx(values[name])
        assert found[task][name] != alone[task][name]
    [note] = notes.all()
    assert note.kind == "label of another size"


def test_a_miss_counts_whatever_the_lost_image_is_labelled_for() -> None:
    box = np.array([[0, 0, 9, 9]], np.float32)
    empty = PackedMask.pack(np.zeros((9, 9), np.uint8))
    lane = np.ones((9, 9), np.bool_)
    figures = Figures(PerceptionMetrics(), PerceptionMetrics())
    for index in range(2):
        right = judge_image(GroundTruth(boxes=box), box, [0.9], empty, empty)
        figures.add(FrameRecord(index, index, "processed", evidence=right))
    assert "answered" not in figures.to_json()
    missed = judge_image(GroundTruth(lane=lane), [], [], empty, empty)
    figures.add(FrameRecord(2, 2, "dropped", evidence=missed))
    found = figures.to_json()
    assert found["lane"]["images"] == 1
    assert "lane" not in found["answered"]
    assert found["answered"]["detection"] == found["detection"]


def test_little_shared_memory_is_told() -> None:
    script = (
        "from mtc_perception.replay.recordings.recording import Notes\n"
        "from mtc_perception.replay.stream.live_stream import note_little_memory\n"
        "notes = Notes()\nnote_little_memory(notes)\nprint(*notes.all())"
    )
    mount = 'mount -t tmpfs -o size=8m none /dev/shm || exit 99; exec "$@"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mount, "sh", sys.executable, "-c", script],
        capture_output=True,
        text=True,
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.stdout.startswith("little shared memory: /dev/shm has ")
    assert "MiB, 100 MiB are needed, else images go by UDP" in done.stdout
