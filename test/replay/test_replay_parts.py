"""The parts of a replay that need no DDS: the schedule, packed masks, pictures, charts."""

import contextlib
import itertools
import math
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc_perception.core.bundle import SelfTest
from mtc_perception.core.images import SourceImage
from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.pages.pictures import jpeg, shrink
from mtc_perception.replay.live.player import Stamps, schedule
from mtc_perception.replay.live.recorder import Answer, AnswerReader, AnswerWriter
from mtc_perception.replay.recordings.recording import BrokenPixels, LabelledFrame, SourceFrame
from mtc_perception.replay.records.record import FrameRecord, Status
from mtc_perception.replay.report.charts import latency_timeline, stage_bar
from mtc_perception.replay.stream.annotated import ANNOTATED, AnnotatedVideo
from mtc_perception.replay.stream.gallery import draw_record
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.replay.stream.video_file import find_video
from mtc_perception.util.interrupts import handle_interrupts, interrupts_held
from mtc_perception.util.read_ahead import ReadAhead
from mtc_perception.util.ros_domain import DOMAINS, ClaimedDomain
from mtc_perception.util.worker_process import WorkerProcess
from support.toy_bundle import toy_manifest

MS = 1_000_000
NO_TIMES = StageTimes(0.0, 0.0, 0.0)
GOLDEN = SelfTest(drivable_mean=0.5, lane_mean=0.5, top_score=0.5, tolerance=0.05)
MANIFEST = toy_manifest(b"", 96, 160, GOLDEN)


def test_a_steady_recording_is_played_as_it_was() -> None:
    stamps_ns = [5_000 * MS + 40 * MS * i for i in range(4)]
    assert list(schedule(stamps_ns, 25.0)) == [0, 40 * MS, 80 * MS, 120 * MS]


def test_jumps_of_the_stamps_count_as_one_period() -> None:
    stamps_ns = [0, 30 * MS, 30 * MS, -900 * MS, -870 * MS, 3_600_000 * MS]
    due_ns = list(schedule(stamps_ns, 20.0))
    assert due_ns == [0, 30 * MS, 80 * MS, 130 * MS, 160 * MS, 210 * MS]


def test_a_schedule_needs_no_stamp_before_its_time() -> None:
    endless = schedule(itertools.cycle([0, 100 * MS, 200 * MS]), 10.0)
    assert list(itertools.islice(endless, 8)) == [100 * MS * i for i in range(8)]


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=30), st.floats(1.0, 120.0))
def test_a_schedule_always_moves_ahead(stamps_ns: list[int], rate_hz: float) -> None:
    due_ns = list(schedule(stamps_ns, rate_hz))
    assert due_ns[0] == 0
    assert len(due_ns) == len(stamps_ns)
    assert all(later > earlier for earlier, later in pairwise(due_ns))


def test_recorded_stamps_are_kept() -> None:
    stamps = Stamps()
    recorded_ns = [1_700_000_000_000 * MS + 33 * MS * i for i in range(5)]
    assert [stamps.of(stamp_ns) for stamp_ns in recorded_ns] == recorded_ns


@given(st.lists(st.integers(-(10**10), 10**12), min_size=1, max_size=30))
def test_every_image_has_a_stamp_of_its_own_that_is_set(recorded_ns: list[int]) -> None:
    stamps = Stamps()
    played_ns = [stamps.of(stamp_ns) for stamp_ns in recorded_ns]
    assert len(set(played_ns)) == len(played_ns)
    assert min(played_ns) > 0


def test_a_recording_that_begins_at_zero_keeps_its_intervals() -> None:
    stamps = Stamps()
    assert [stamps.of(i * 40 * MS) for i in range(3)] == [1_000 * MS, 1_040 * MS, 1_080 * MS]


def test_reading_ahead_stays_within_its_budget() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = ReadAhead(items(), 50, lambda _: 10)
    assert ahead.fill(10.0) == (5, True)
    assert not ahead.complete
    for number in ahead:
        # One is on its way out, five are waiting, one is in the making.
        assert len(made) <= number + 7
    assert made == list(range(100))
    ahead.close()


def test_reading_ahead_ends_early_and_leaves_no_thread() -> None:
    before = threading.active_count()
    ahead = ReadAhead(itertools.count(), 3)
    assert next(iter(ahead)) == 0
    ahead.close()
    assert threading.active_count() == before


def test_what_reading_ahead_meets_is_raised_where_it_belongs() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    ahead = ReadAhead(items(), 100)
    received = iter(ahead)
    assert next(received) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(received)
    ahead.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_what_must_not_be_torn(
    number: signal.Signals,
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    handle_interrupts()
    done = []

    def work() -> None:
        with interrupts_held():
            signal.raise_signal(number)
            done.append("all of it")

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert done == ["all of it"]
        work()  # an impatient second one is ignored
    finally:
        for one, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(one, handler)


def _tell_masked(connection: Connection) -> None:
    connection.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_workers_are_deaf_to_ctrl_c_before_they_can_say_so() -> None:
    with WorkerProcess("worker", _tell_masked) as worker:
        assert worker.receive(bool, 60.0) is True
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_answers_come_back_in_any_order(tmp_path: Path) -> None:
    writer = AnswerWriter(tmp_path / "answers.bin")
    masks = [np.full((4, 5), value, np.uint8) for value in (0, 255)]
    offsets = [writer.add(answer(mask)) for mask in masks]
    writer.close()
    reader = AnswerReader(tmp_path / "answers.bin")
    for offset, mask in list(zip(offsets, masks, strict=True))[::-1]:
        np.testing.assert_array_equal(reader.read(offset).drivable.unpack(), mask)
    reader.close()


def answer(mask: np.ndarray) -> Answer:
    return Answer(
        boxes=np.array([[10, 10, 30, 30]], np.float32),
        scores=np.array([0.9], np.float32),
        classes=["vehicle"],
        drivable=PackedMask.pack(mask),
        lane=PackedMask.pack(np.zeros_like(mask)),
    )


def test_an_answer_is_drawn_and_a_missing_one_is_grey() -> None:
    rgb = np.full((60, 80, 3), (200, 100, 50), np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[40:] = 255
    perception = answer(mask).perception(MANIFEST, mask.shape, NO_TIMES)
    assert perception.labels.tolist() == [0]
    record = FrameRecord(
        0, 0, "processed", boxes=perception.boxes, scores=perception.scores, labels=("vehicle",)
    )
    drawn = draw_record(rgb, record, perception)
    assert (drawn[45, 70] != rgb[45, 70]).any()
    assert (drawn[5, 70] == rgb[5, 70]).all()
    grey = draw_record(rgb, FrameRecord(1, 1, "dropped"), None)
    assert (grey == grey[..., :1]).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 60))
def test_shrunk_pictures_have_even_sides_and_the_width_asked_for(
    height: int, width: int, limit: int
) -> None:
    small = shrink(np.zeros((height, width, 3), np.uint8), limit)
    assert small.shape[0] % 2 == small.shape[1] % 2 == 0
    assert small.shape[1] <= max(limit, 2) + 1


def replayed(index: int, rgb: np.ndarray | None, perception: Perception | None) -> ReplayedImage:
    labelled = LabelledFrame(SourceFrame(index, index, BrokenPixels("not asked for")), None)
    image = None if rgb is None else SourceImage(rgb, "rgb")
    status: Status = "dropped" if perception is None else "processed"
    times_ms = {} if perception is None else {"end_to_end": 35.1}
    return ReplayedImage(labelled, image, perception, None, status, "", times_ms)


def test_a_video_has_every_image_with_its_answer(tmp_path: Path) -> None:
    video = AnnotatedVideo(tmp_path, 30.0)
    for index in range(7):
        # One of another size: a resolution change in the recording.
        rgb = np.full((64, 96, 3) if index == 3 else (96, 128, 3), (30 * index, 0, 0), np.uint8)
        found = None
        if index != 5:
            nothing = np.zeros(rgb.shape[:2], np.uint8)
            found = answer(nothing).perception(MANIFEST, nothing.shape, NO_TIMES)
        one = replayed(index, rgb, found)
        video.add(FrameRecord(index, index, one.status), one)
    video.add(FrameRecord(7, 7, "malformed"), replayed(7, None, None))
    video.close(True)
    assert list(tmp_path.iterdir()) == [find_video(tmp_path, ANNOTATED)]
    capture = cv2.VideoCapture(str(find_video(tmp_path, ANNOTATED)))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30.0)
    colors = []
    while (read := capture.read())[0]:
        assert read[1][92:, :60].max() > 100  # the caption
        colors.append(read[1][50, 100].astype(int))
    assert len(colors) == 7
    for index, (blue, _, red) in enumerate(colors):
        if index == 5:
            assert abs(red - blue) < 12
        else:
            assert abs(red - 30 * index) < 12


def test_no_image_no_video(tmp_path: Path) -> None:
    AnnotatedVideo(tmp_path, 30.0).close(True)
    assert find_video(tmp_path, ANNOTATED) is None


def test_a_jpeg_keeps_the_order_of_the_colours() -> None:
    rgb = np.full((16, 16, 3), (250, 10, 10), np.uint8)
    bgr = cv2.imdecode(np.frombuffer(jpeg(rgb), np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    assert bgr[8, 8, 2] > 200
    assert bgr[8, 8, 0] < 60


def test_the_timeline_shows_every_image_and_every_loss() -> None:
    svg = ET.fromstring(latency_timeline([0.0, 0.1, 0.2], [20.0, math.nan, 31.0], 33.3))
    assert len(svg.findall("circle")) == 2
    assert len(svg.findall("line[@class='lost']")) == 1
    heights = [float(c.attrib["cy"]) for c in svg.findall("circle")]
    assert heights[1] < heights[0]  # slower is higher up


def test_the_timeline_of_nothing_but_losses_is_still_a_chart() -> None:
    svg = ET.fromstring(latency_timeline([0.0], [math.nan], 33.3))
    assert len(svg.findall("line[@class='lost']")) == 1


def test_the_stage_bar_is_shared_out_by_time() -> None:
    svg = ET.fromstring(stage_bar([("a", 1.0), ("b", 3.0)]))
    first, second = (float(r.attrib["width"]) for r in svg.findall("rect")[::2])
    assert second == pytest.approx(3 * first, abs=0.2)


def test_no_two_runs_get_the_same_ros_domain() -> None:
    program = (
        "from mtc_perception.util.ros_domain import ClaimedDomain\n"
        "domain = ClaimedDomain(); print(domain.number, flush=True); input()"
    )
    command = [sys.executable, "-c", program]
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(4)
        ]
        numbers = [int(run.stdout.readline()) for run in runs if run.stdout is not None]
        own = [ClaimedDomain() for _ in range(8)]
        numbers += [domain.number for domain in own]
        assert len(set(numbers)) == len(runs) + len(own)
        assert set(numbers) <= set(DOMAINS)
        for domain in own:
            domain.release()
