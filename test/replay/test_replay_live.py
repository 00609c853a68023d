"""Live replay: the real node as its own process under real DDS, judged like a lock-step run."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtc_perception.replay.records.record import FrameRecord, read_frames, read_times
from mtc_perception.replay.results.run_result import jitter_ms, merge_live
from support.replay_bags import stamps, write_drive
from support.replay_rig import run

pytestmark = pytest.mark.dds

COUNT, RATE_HZ, SPEED = 16, 10.0, 2.0
BROKEN = 5
OLD = range(10, 13)
"""Images whose stamps are 5 s older than those before and after them."""
TWIN = 14
"""It has the stamp of the image before."""
MARK = "MTC_REPLAY_TEST"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "mtc_perception.replay.cli", *map(str, arguments)]


def evaluate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("evaluate", *arguments), capture_output=True, text=True, timeout=150
    )


def records_of(run: Path) -> list[FrameRecord]:
    (folder,) = run.glob("streams/*")
    return list(read_frames(folder))


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stamps_ns = stamps(COUNT, RATE_HZ)
    for index in OLD:
        stamps_ns[index] -= 5_000_000_000
    stamps_ns[TWIN] = stamps_ns[TWIN - 1]
    return write_drive(tmp_path_factory.mktemp("drive") / "drive", stamps_ns, broken=[BROKEN])


@pytest.fixture(scope="module")
def network(toy_bundle: Path) -> list[str]:
    return ["--bundle", str(toy_bundle), "--engine", "onnxruntime", "--threads", "1"]


@pytest.fixture(scope="module")
def live(
    drive: Path, network: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("live") / "run"
    options = ["--live", "--rate", str(SPEED), "--max-frame-age-ms", "2000", "--out", str(run)]
    done = evaluate(drive, *network, *options)
    assert done.returncode == 0, done.stderr
    return run, json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def lockstep(
    drive: Path, network: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[FrameRecord]:
    run = tmp_path_factory.mktemp("lockstep") / "run"
    done = evaluate(drive, *network, "--out", run)
    assert done.returncode == 0, done.stderr
    return records_of(run)


def test_every_image_is_accounted_for_with_its_recorded_stamp(
    live: tuple[Path, dict[str, Any]], lockstep: list[FrameRecord]
) -> None:
    run, result = live
    records = records_of(run)
    assert [one.index for one in records] == list(range(COUNT))
    assert [one.stamp_ns for one in records] == [one.stamp_ns for one in lockstep]
    counts = Counter(one.status for one in records)
    assert result["frames_in"] == COUNT == counts.total()
    for status in ("processed", "dropped", "stale", "malformed"):
        assert result[f"frames_{status}"] == counts[status]
    assert result["live"]["frames_published"] == COUNT
    assert result["mode"] == "live"


def test_the_node_answers_as_in_lock_step(
    live: tuple[Path, dict[str, Any]], lockstep: list[FrameRecord]
) -> None:
    answered = [one for one in records_of(live[0]) if one.status == "processed"]
    # A busy machine may drop some; most must come through even there.
    assert len(answered) >= COUNT / 4
    for one in answered:
        assert one.digest == lockstep[one.index].digest


def test_what_the_node_refuses_is_told_from_what_is_lost(
    live: tuple[Path, dict[str, Any]],
) -> None:
    records = records_of(live[0])
    assert records[BROKEN].status == "malformed"
    assert "truncated" in records[BROKEN].reason
    assert {records[index].status for index in OLD} <= {"stale", "dropped"}
    stale = [one for one in records if one.status == "stale"]
    assert {one.index for one in stale} <= set(OLD)
    assert all("max_frame_age_ms is 2000" in one.reason for one in stale)
    # The images around them are as new as the clock says.
    others = set(range(COUNT)) - set(OLD) - {BROKEN}
    assert {records[index].status for index in others} <= {"processed", "dropped"}


def test_an_image_without_an_answer_is_a_miss(live: tuple[Path, dict[str, Any]]) -> None:
    run, result = live
    lost = [one for one in records_of(run) if one.status != "processed"]
    assert lost
    for one in lost:
        evidence = one.evidence
        assert evidence is not None
        assert evidence.detection is not None
        assert evidence.drivable is not None
        assert (evidence.detection.objects, len(evidence.detection.scores)) == (1, 0)
        assert evidence.drivable.true_positive == 0
        assert evidence.drivable.false_negative > 0
    # The masks of two images of one stamp contradict each other: neither has any. Their boxes are
    # the same ones: those of the first.
    assert result["labelled_frames"] == COUNT - 1
    labelled = [
        one
        for one in records_of(run)
        if one.evidence is not None and one.evidence.drivable is not None
    ]
    without = {TWIN - 1, TWIN}
    assert {one.index for one in labelled} == set(range(COUNT)) - without
    # Each is half right about the drivable area: what is missing is what was not answered.
    share = sum(one.status == "processed" for one in labelled) / len(labelled)
    assert result["drivable"]["iou"] == pytest.approx(share, abs=1e-6)


def test_times_are_those_of_the_wall_clock(live: tuple[Path, dict[str, Any]]) -> None:
    run, result = live
    (folder,) = run.glob("streams/*")
    times = list(read_times(folder))
    assert len(times) == result["frames_processed"]
    for _, latency_ms in times:
        # The node's own stages are within what was seen from outside.
        inside = sum(latency_ms[name] for name in ("wait", "preprocess", "inference", "decode"))
        assert 0 < inside < latency_ms["end_to_end"] < 60_000
        # On the recording's clock these would mean nothing to anybody.
        assert not {"receive", "published"} & set(latency_ms)
    figures = result["live"]
    assert figures["rate"] == SPEED
    assert figures["ready_s"] > 0
    assert figures["time_to_first_output_ms"] >= min(one["end_to_end"] for _, one in times)
    assert figures["jitter_ms"]["count"] == len(list(jitter_ms(times)))


def test_the_log_of_the_node_stays_and_nothing_else(live: tuple[Path, dict[str, Any]]) -> None:
    (folder,) = live[0].glob("streams/*")
    assert (folder / "node.log").stat().st_size > 0
    assert [path.name for path in folder.rglob("*") if path.name.startswith(".")] == []
    assert not list(folder.rglob("answers.bin"))


def test_ctrl_c_stops_the_node_and_leaves_nothing(
    drive: Path, network: list[str], tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command("evaluate", drive, *network, "--live", "--rate", "0.05", "--out", tmp_path / "run"),
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(map(is_the_node, marked(mark))):
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise AssertionError(f"the node never started: {process.communicate(timeout=60)}")
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10  # multiprocessing's own helper goes after its parent
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(mark) == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def is_the_node(process: psutil.Process) -> bool:
    try:
        return "mtc_perception.node.node" in process.cmdline()
    except psutil.NoSuchProcess:  # the system's own helpers come and go
        return False


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--live", "--workers", "2"], "live runs measure time, one at a time"),
        (["--live", "--ray", "here:1"], "live runs measure time, one at a time"),
        (["--workers", "2", "--ray", "here:1"], "leave out one of them"),
        (["--rate", "2"], "--rate is for --live"),
        (["--max-frame-age-ms", "5"], "--max-frame-age-ms is for --live"),
        (["--transport", "raw"], "--transport is for --live"),
    ],
)
def test_options_that_contradict_each_other_are_a_mistake(
    drive: Path,
    network: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert run("evaluate", drive, *network, *options, "--out", tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_jitter_is_the_change_from_one_image_to_the_next() -> None:
    times = [(index, {"end_to_end": ms}) for index, ms in ((0, 20.0), (1, 23.0), (3, 90.0))]
    assert list(jitter_ms(times)) == [3.0]
    assert list(jitter_ms([*times, (4, {"end_to_end": 80.0})])) == [3.0, 10.0]


def test_figures_of_several_streams_are_sums_and_the_worst() -> None:
    one = {
        "rate": 1.0,
        "frames_published": 10,
        "frames_received_by_node": 9,
        "ready_s": 2.0,
        "time_to_first_output_ms": 30.0,
        "played_late_ms": {"max": 1.0, "count": 10},
    }
    other = {**one, "ready_s": 3.0, "time_to_first_output_ms": 20.0}
    together = merge_live([one, other], [1.0, 3.0])
    assert together["frames_published"] == 20
    assert (together["ready_s"], together["time_to_first_output_ms"]) == (3.0, 30.0)
    assert math.isclose(together["jitter_ms"]["mean"], 2.0)
    silent = {**one, "time_to_first_output_ms": None}
    assert merge_live([one, silent], [])["time_to_first_output_ms"] is None
