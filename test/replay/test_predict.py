"""`mtc-replay predict`: images, videos, bags and live cameras become pictures, lines and masks."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mtc_perception import Perceiver, SourceImage
from mtc_perception.replay.predict.window import Window
from support.bag_messages import COUNT, HEIGHT, WIDTH, picture
from support.replay_rig import labelled_bag, run

RED, GREY = (200, 30, 30), (90, 90, 90)


def write_image(path: Path, rgb: tuple[int, int, int] = GREY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH, 3), rgb, np.uint8)
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path


def write_video(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (WIDTH, HEIGHT))
    for index in range(COUNT):
        writer.write(picture(index))
    writer.release()
    return path


def predict(bundle: Path, out: Path, *words: object) -> int:
    return run("predict", *words, "-b", bundle, "--engine", "onnxruntime", "--out", out)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def frames_of(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_images_are_drawn_and_written_down(toy_bundle: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "one.png", RED)
    write_image(tmp_path / "a" / "two.jpg")
    write_image(tmp_path / "b" / "one.png", RED)
    (tmp_path / "b" / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert predict(toy_bundle, out, tmp_path / "a", tmp_path / "b" / "*.*g", "--masks") == 0
    found = {line["name"]: line for line in lines(out)}
    assert list(found) == ["one", "two", "broken", "one_2"]
    assert found["broken"]["error"]
    assert {path.stem for path in out.glob("*.jpg")} == {"one", "two", "one_2"}
    with Perceiver.open(toy_bundle, "onnxruntime") as perceiver:
        image = SourceImage(np.full((HEIGHT, WIDTH, 3), RED, np.uint8), "rgb")
        seen = perceiver.perceive(image)
        classes = perceiver.bundle.manifest.classes
    line = found["one_2"]
    assert {Path(one["file"]).parent.name for one in found.values()} == {"a", "b"}
    assert [one["class"] for one in line["objects"]] == [classes[label] for label in seen.labels]
    boxes = [one["box"] for one in line["objects"]]
    np.testing.assert_allclose(boxes, seen.boxes, atol=0.01)
    assert (line["width"], line["height"]) == (WIDTH, HEIGHT)
    assert line["cover"] == {"drivable": 1.0, "lane": 0.0}
    for task, mask in (("drivable", seen.drivable), ("lane", seen.lane)):
        written = cv2.imread(str(out / line["masks"][task]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, mask)
    # Predictions make room for others, and nothing else does.
    assert predict(toy_bundle, out, tmp_path / "a" / "two.jpg") == 0
    assert sorted(path.name for path in out.iterdir()) == ["predictions.jsonl", "two.jpg"]


def test_a_video_and_a_bag_become_videos(toy_bundle: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.mp4")
    bag = labelled_bag(tmp_path / "bag")
    out = tmp_path / "out"
    assert predict(toy_bundle, out, video, bag) == 0
    assert frames_of(out / "drive.webm") == COUNT
    assert frames_of(out / "bag_front_image_raw.webm") == COUNT
    found = lines(out)
    assert [line["input"] for line in found] == ["drive"] * COUNT + ["bag_front_image_raw"] * COUNT
    assert [line["stamp_s"] for line in found[:3]] == [0.0, 0.05, 0.1]
    assert predict(toy_bundle, out, video, "--seconds", 0.1) == 0
    assert len(lines(out)) == 2


def test_webp_is_looked_at_and_what_is_not_is_told(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    one = write_image(folder / "a.webp")
    write_image(folder / "b.bmp")
    assert predict(toy_bundle, tmp_path / "one", one) == 0
    assert len(lines(tmp_path / "one")) == 1
    capsys.readouterr()
    assert predict(toy_bundle, tmp_path / "all", folder) == 0
    assert len(lines(tmp_path / "all")) == 1
    assert "b.bmp: no .bmp is read: convert it to JPEG or PNG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.jpg",), "nowhere.jpg does not exist"),
        (("*.nothing",), "*.nothing does not exist"),
        (("note.txt",), "note.txt is neither a bag nor a video"),
        (("http://127.0.0.1:9/stream",), "http://127.0.0.1:9/stream cannot be opened"),
        (("image.png", "--out", "."), ". holds something else than predictions"),
        (("image.png", "--show"), "no display here (DISPLAY is not set)"),
    ],
)
def test_mistakes_are_one_line(
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    write_image(tmp_path / "image.png")
    (tmp_path / "note.txt").write_text("nothing to see")
    assert run("predict", "-b", toy_bundle, "--engine", "onnxruntime", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "predict").exists() or not any((tmp_path / "out").rglob("*.jpg"))


def test_an_input_without_an_answer_is_told(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert predict(toy_bundle, tmp_path / "out", tmp_path / "broken.jpg") == 1
    assert "broken: 0 images, 1 without an answer (image 0: " in capsys.readouterr().out


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A display that nobody looks at."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=[writing],
    )
    os.close(writing)
    with os.fdopen(reading) as number:
        monkeypatch.setenv("DISPLAY", f":{number.readline().strip()}")
    yield
    server.terminate()
    server.wait(10)


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb")
def test_a_window_shows_what_is_seen(toy_bundle: Path, tmp_path: Path, display: None) -> None:
    video = write_video(tmp_path / "drive.mp4")
    assert predict(toy_bundle, tmp_path / "out", video, "--show") == 0
    assert len(lines(tmp_path / "out")) == COUNT
    window = Window("test")
    assert window.show(picture(0))
    window.close()
    assert not window.show(picture(1)), "somebody has closed it"


class _Camera(http.server.BaseHTTPRequestHandler):
    """Motion JPEG without an end, as cameras in a network send it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
        self.end_headers()
        _, data = cv2.imencode(".jpg", picture(1))
        part = b"--image\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % data.size
        try:
            while True:
                self.wfile.write(part + data.tobytes() + b"\r\n")
                time.sleep(0.02)
        except OSError:
            pass  # nobody looks any more

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def camera() -> Iterator[str]:
    """Address of a camera that is on."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/stream.mjpg"
        finally:
            server.shutdown()


def test_a_camera_is_watched_for_a_while(toy_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with camera() as address:
        assert predict(toy_bundle, out, address, "--seconds", 1) == 0
    found = lines(out)
    assert (found[0]["input"], found[0]["stamp_s"]) == ("http", 0)
    assert found[-1]["stamp_s"] < 1
    assert 20 <= frames_of(out / "http.webm") <= 32, "it lasts as long as it was watched"


def test_a_camera_is_watched_until_ctrl_c(toy_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (sys.executable, "-m", "mtc_perception.replay.cli", "predict")
    options = ("-b", toy_bundle, "--engine", "onnxruntime", "--out", out)
    with camera() as address:
        process = subprocess.Popen([*command, address, *map(str, options)], env=os.environ)
        begun = time.monotonic()
        while not any(path.stat().st_size for path in tmp_path.rglob("predictions.jsonl")):
            assert process.poll() is None
            assert time.monotonic() - begun < 60
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert len(lines(out)) >= 2
    assert frames_of(out / "http.webm") >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
