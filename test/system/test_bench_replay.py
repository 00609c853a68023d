"""The parts of the replay benchmark that measure nothing: its recordings, its results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.readme import benchmarks
from bench.replay import with_part
from bench.replay_bags import RATE_HZ, halved, raw, read_clip, unlabelled, write_bag
from bench.replay_command import PeakMemory, resident_memory_kib
from bench.replay_parts import evaluation_cost, target
from mtc_perception.replay.recordings.recording import Notes
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.util.provenance import provenance
from support import replay_drive
from support.checkout import ROOT


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replay_drive.write_drive(tmp_path_factory.mktemp("drives") / "drive")


def test_a_recording_repeats_its_images_and_labels_at_the_rate(drive: Path, tmp_path: Path) -> None:
    clip = read_clip(drive, 4)
    frames = list(open_source(write_bag(tmp_path / "bag", clip, 10)).labelled_frames(Notes()))
    assert len(frames) == 10
    gaps_ns = np.diff([frame.stamp_ns for frame, _ in frames])
    assert np.abs(gaps_ns - 1e9 / RATE_HZ).max() <= 1
    for index, (frame, truth) in enumerate(frames):
        wanted, labels = clip[index % 4]
        assert frame.pixels.data == wanted.pixels.data
        np.testing.assert_array_equal(truth.boxes, labels.boxes)
        np.testing.assert_array_equal(truth.lane, labels.lane)


def test_raw_images_are_the_decoded_ones_and_stored_as_they_are(
    drive: Path, tmp_path: Path
) -> None:
    clip = unlabelled(read_clip(drive, 3))
    bag = write_bag(tmp_path / "bag", raw(clip), 3)
    (file,) = bag.glob("*.mcap")
    assert file.stat().st_size > 3 * replay_drive.WIDTH * replay_drive.HEIGHT * 3
    for (frame, truth), (wanted, _) in zip(
        open_source(bag).labelled_frames(Notes()), clip, strict=True
    ):
        assert truth is None
        assert frame.pixels.encoding == "bgr8"
        np.testing.assert_array_equal(frame.pixels.decode().pixels, wanted.pixels.decode().pixels)


def test_half_the_size_has_its_labels_at_the_same_places(drive: Path) -> None:
    clip = read_clip(drive, 2)
    for (frame, truth), (_, whole) in zip(halved(clip), clip, strict=True):
        assert frame.pixels.size == (replay_drive.HEIGHT // 2, replay_drive.WIDTH // 2)
        assert truth.lane.shape == frame.pixels.size
        np.testing.assert_array_equal(truth.boxes * 2, whole.boxes)
        assert truth.lane.mean() == pytest.approx(whole.lane.mean(), abs=0.01)


def test_memory_is_that_of_a_process_and_its_children() -> None:
    assert resident_memory_kib("Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n") == (200, 300)
    assert resident_memory_kib("Name:\tzombie\n") == (0, 0)
    mib = 60
    hold = f"block = b'x' * ({mib} << 20); print('ready', flush=True); input()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        process.stdout.readline()
        peak = PeakMemory()
        peak(process.pid)
        process.stdin.close()
    assert mib < peak.mib < 3 * mib
    before = peak.mib
    peak(process.pid)  # it has ended
    assert peak.mib == before


def test_evaluating_a_recording_costs_time_and_leaves_nothing(
    drive: Path, tmp_path: Path, toy_bundle: Path
) -> None:
    bag = write_bag(tmp_path / "bag", read_clip(drive, 4), 10)
    cost = evaluation_cost(toy_bundle, bag)
    assert cost.cpu_ms_per_image > 0
    assert 0 < cost.busy <= 1.1  # the clocks are not the same
    assert list(tmp_path.iterdir()) == [bag]


def test_parts_of_one_machine_and_bundle_are_kept() -> None:
    machine = provenance()["machine"]
    one, other = ({"bundle": "a.mtc", "bundle_sha256": sha256} for sha256 in ("1", "2"))
    before = with_part({}, "workers", {"targets": {}}, one) | {"machine": machine}
    both = with_part(before, "throughput", {"targets": {}}, one)
    assert list(both["parts"]) == ["throughput", "workers"]  # in their order, not in time's
    assert list(with_part(before, "live", {}, other)["parts"]) == ["live"]
    before["machine"] = {**machine, "cores": machine["cores"] + 1}
    assert list(with_part(before, "live", {}, one)["parts"]) == ["live"]


def test_the_readme_names_what_was_missed(tmp_path: Path) -> None:
    for file in (ROOT / "results").glob("*.json"):
        shutil.copy(file, tmp_path)
    parts = {
        "live": {"what": "raw images", "targets": {"live": target(True, "all", ">= 99 %")}},
        "workers": {"what": "two bags", "targets": {"two": target(False, "x 1.5", ">= x 1.7")}},
    }
    result = {"bundle": "nano.mtc", "parts": parts, "machine": {"cpu": "A CPU", "cores": 2}}
    result["command"] = "run.py replay --data /here/data/camvid"
    (tmp_path / "replay.json").write_text(json.dumps(result))
    text = benchmarks(tmp_path)
    assert "| live | all | >= 99 % |" in text
    assert "| two | x 1.5 | >= x 1.7 (missed) |" in text
    assert "`nano.mtc`" in text
    assert "`python -m bench.run replay --data camvid`; A CPU, 2 cores" in text
