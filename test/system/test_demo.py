"""The demo as a user runs it: a command, the real node in its own process, real DDS, real files."""

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

import bench.run
from mtc_perception.runtime.frames import STAGES
from support.checkout import ROOT

pytestmark = pytest.mark.dds

BUNDLE = ROOT / "models" / "mtc_nano.mtc"
SECONDS, RATE_HZ = 2, 10
MARK = "MTC_DEMO_TEST"
PROGRAM = "mtc_perception.replay.cli demo"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short synthetic drive with ground truth."""
    bag = tmp_path_factory.mktemp("drive") / "drive"
    command = [sys.executable, "-m", "offline_compress.cli", "synth", "bag", str(bag)]
    command += ["--seconds", str(SECONDS), "--fps", str(RATE_HZ), "--size", "320x192"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return bag


class Demo:
    """A demo command whose processes can be told from all others."""

    def __init__(self, *arguments: str | Path, command: str = PROGRAM) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command.split(), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str, str]:
        """Exit code, and what it wrote to stdout and stderr."""
        try:
            out, errors = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            raise AssertionError(f"still running: {self.process.communicate()}") from None
        return self.process.returncode, out, errors

    def processes(self) -> list[psutil.Process]:
        """Everything the demo has started and that still runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def node(self) -> psutil.Process:
        """The node's process, as soon as there is one."""
        return self.running("mtc_perception.node.node")

    def running(self, argument: str) -> psutil.Process:
        """The process with this argument, as soon as there is one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    if argument in process.cmdline():
                        return process
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.terminate()
        raise AssertionError(f"{argument} never started: {self.finish()}")


@pytest.fixture(scope="module")
def finished(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("out") / "demo"
    demo = Demo("--input", drive, "--out", out)
    code, output, errors = demo.finish()
    assert code == 0, errors
    assert demo.processes() == []
    return out, output


def summary_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return content


def test_every_image_is_accounted_for(finished: tuple[Path, str]) -> None:
    summary = summary_of(finished[0])
    assert summary["frames_in"] == SECONDS * RATE_HZ
    ended = ("processed", "dropped", "stale", "malformed")
    assert sum(summary[f"frames_{how}"] for how in ended) == summary["frames_in"]
    # A busy machine may drop some; most must come through even there.
    assert summary["frames_processed"] >= summary["frames_in"] / 2
    assert summary["frames_malformed"] == 0


def test_latency_is_measured_from_stamp_to_last_output(finished: tuple[Path, str]) -> None:
    latency_ms = summary_of(finished[0])["latency_ms"]
    assert set(latency_ms) == (set(STAGES) | {"published"})
    for stage in latency_ms.values():
        assert 0 <= stage["p50"] <= stage["p95"] <= stage["p99"] <= stage["max"]
    assert latency_ms["end_to_end"]["p50"] > latency_ms["published"]["p50"]
    assert latency_ms["published"]["p50"] > latency_ms["inference"]["p50"] > 0


def test_accuracy_comes_with_ground_truth(finished: tuple[Path, str]) -> None:
    summary = summary_of(finished[0])
    assert summary["labelled_frames"] == summary["frames_in"]
    assert summary["drivable"]["images"] == summary["frames_processed"]
    assert 0.0 <= summary["drivable"]["miou"] <= 1.0
    assert {"recall", "map50", "map50_95"} <= set(summary["detection"])
    assert {"iou", "accuracy"} <= set(summary["lane"])


def test_the_summary_says_what_ran_where(finished: tuple[Path, str]) -> None:
    summary = summary_of(finished[0])
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    assert summary["engine"] in summary["engine_why"].lower()
    assert summary["bundle"]["sha256"]["fp32"] == manifest["variants"]["fp32"]["sha256"]
    assert summary["params"] == manifest["params"]
    assert {"machine", "versions", "commit", "time"} <= set(summary)
    assert summary["input"]["kind"] == "bag"


def test_the_summary_has_the_keys_that_scripts_rely_on(finished: tuple[Path, str]) -> None:
    summary = summary_of(finished[0])
    endings = ("in", "processed", "dropped", "stale", "malformed", "received_by_node")
    engine = {"engine", "engine_why", "engine_degraded", "device", "precision"}
    accuracy = {"detection", "drivable", "lane", "labelled_frames", "thresholds"}
    about = {"machine", "versions", "commit", "command", "time", "params", "gmacs"}
    rest = {"latency_ms", "node", "player_late_ms_max", "input", "bundle"}
    frames = {f"frames_{ending}" for ending in endings}
    assert set(summary) == frames | engine | accuracy | about | rest
    source = {"name", "kind", "topic", "rate_hz", "transport"}
    assert set(summary["input"]) == source | {"frames_in_recording", "frames_unreadable"}
    assert set(summary["bundle"]) == {"name", "network", "version", "sha256"}
    memory = {"resident_mib_first", "resident_mib_last"}
    assert set(summary["node"]) == memory | {"cpu_ms_per_frame"}
    assert set(summary["thresholds"]) == {"score", "drivable", "lane"}


def test_the_table_is_printed(finished: tuple[Path, str]) -> None:
    out, output = finished
    summary = summary_of(out)
    for words in ("frames in", "dropped", "stale", "inference", "end to end", "lane IoU", "p99"):
        assert words in output
    assert f"{summary['latency_ms']['end_to_end']['p95']:.1f}" in output


def test_the_video_has_every_image(finished: tuple[Path, str]) -> None:
    out, _ = finished
    (video,) = out.rglob("annotated.*")
    capture = cv2.VideoCapture(str(video))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == SECONDS * RATE_HZ
    assert frames[0].shape == (192, 320, 3)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE_HZ)


def test_the_page_holds_its_pictures(finished: tuple[Path, str]) -> None:
    out, _ = finished
    page = (out / "index.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)  # works without a network
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) >= 6  # the worst by each figure, and their labels
    for picture in pictures:
        content = np.frombuffer(base64.b64decode(picture), np.uint8)
        assert cv2.imdecode(content, cv2.IMREAD_COLOR) is not None
    assert page.count("<circle") == summary_of(out)["frames_processed"]
    (video,) = out.rglob("annotated.*")
    assert f'<video src="{video.relative_to(out).as_posix()}"' in page


def test_nothing_half_written_is_left(finished: tuple[Path, str]) -> None:
    out, _ = finished
    names = {path.name for path in out.iterdir()}
    assert names == {".lock", "index.html", "result.json", "run.json", "streams", "summary.json"}
    [stream] = (out / "streams").iterdir()
    names = {path.name for path in stream.iterdir()}
    records = {"frames.jsonl", "times.jsonl", "stream.json", "pictures"}
    assert names == {*records, "annotated.webm", "node.log"}


def test_compressed_transport_no_labels_and_a_damaged_image(
    tmp_path: Path, toy_bundle: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(8):
        cv2.imwrite(str(images / f"{index}.png"), np.full((96, 160, 3), 30 * index, np.uint8))
    (images / "8.png").write_bytes((images / "7.png").read_bytes()[:-20])
    out = tmp_path / "out"
    arguments = ("--transport", "compressed", "--fps", "10", "--bundle", toy_bundle)
    code, output, errors = Demo("--input", images, "--out", out, *arguments).finish()
    assert code == 0, errors
    summary = summary_of(out)
    assert (summary["frames_in"], summary["labelled_frames"]) == (8, 0)
    assert summary["frames_processed"] > 0
    assert not {"detection", "drivable", "lane"} & set(summary)
    assert "lane IoU" not in output
    assert summary["input"]["frames_unreadable"] == 1
    assert summary["input"]["transport"] == "compressed"
    assert "warning: unreadable image: images: image 8: PNG image is truncated" in output


def test_ctrl_c_stops_everything(drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    demo = Demo("--input", drive, "--out", out)
    demo.node()
    time.sleep(1.0)
    demo.process.send_signal(signal.SIGINT)
    demo.process.send_signal(signal.SIGINT)  # an impatient user
    code, _, errors = demo.finish()
    assert code == 130, errors
    assert "Traceback" not in errors
    assert demo.processes() == []
    assert [path.name for path in out.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_rendering_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    demo = Demo("--out", tmp_path / "demo", "--seconds", "60")
    demo.running("synth")
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.mcap")) and time.monotonic() < deadline:
        time.sleep(0.1)
    demo.process.send_signal(number)
    code, _, errors = demo.finish()
    assert code == 130, errors
    assert "Traceback" not in errors
    while demo.processes() and time.monotonic() < deadline:  # killed, but not all waited for
        time.sleep(0.1)
    assert demo.processes() == []
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_the_bench_fails_where_a_target_is_missed(
    met: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether this machine meets the targets is not for a test to say.
    monkeypatch.setattr(bench.run, "synthetic_bag", lambda *_: Path("bag"))
    monkeypatch.setattr(bench.run, "bench_end_to_end", lambda *_: met)
    assert bench.run.main(["end_to_end"]) == code


def test_a_node_that_dies_ends_the_demo(drive: Path, tmp_path: Path) -> None:
    demo = Demo("--input", drive, "--out", tmp_path / "out")
    demo.node().kill()
    code, _, errors = demo.finish()
    assert code == 1, errors
    assert re.search("^error: the node ended with exit code -9", errors, re.MULTILINE)
    assert "Traceback" not in errors
    assert demo.processes() == []
    assert list(tmp_path.glob("out/streams/*.node.log"))


def test_a_node_that_cannot_run_is_quoted(drive: Path, tmp_path: Path) -> None:
    demo = Demo("--input", drive, "--out", tmp_path / "out", "--engine", "tensorrt")
    code, _, errors = demo.finish()
    assert code == 1, errors
    assert re.search("^error: the node refused to configure; its last words:$", errors, re.M)
    assert "tensorrt" in errors
    assert "Traceback" not in errors
    assert demo.processes() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "no/such/bag"], "no/such/bag does not exist"),
        (["--bundle", "no/such.mtc"], "no/such.mtc: no such bundle"),
        (["--input", "LICENSE"], "LICENSE is neither a bag nor a video"),
        (["--out", "LICENSE"], "LICENSE cannot be made a folder: File exists"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, errors = Demo("--out", tmp_path / "out", *arguments).finish()
    assert code == 2, errors
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_module_is_the_command() -> None:
    arguments = ["--input", "no/such/bag"]
    module = Demo(*arguments, command="mtc_perception.replay.demo").finish()
    assert module == Demo(*arguments).finish()
    assert module[0] == 2
