"""Draws results onto the images of a recording: still pictures and an annotated video."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.overlay import draw_overlay
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.util.worker_process import ReplayError

VIDEO_WIDTH = 720
# Browsers play VP8 in WebM; MPEG-4 is what OpenCV can always write. VP8 takes 50 ms per image of
# the width above.
_CODECS = ((".webm", "VP80"), (".mp4", "mp4v"))
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _RED = (255, 255, 255), (230, 60, 60)
_NO_TIMES = StageTimes(0.0, 0.0, 0.0)

Rgb = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]"""


def draw_answer(rgb: Rgb, answer: Perception | None, classes: Sequence[str]) -> Rgb:
    """The image with its answer, or greyed where there is none."""
    if answer is None:
        grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return np.asarray(grey, np.uint8)
    return draw_overlay(rgb, answer, classes)


def draw_truth(rgb: Rgb, truth: GroundTruth) -> Rgb:
    """The image with its labels."""
    empty = np.zeros(rgb.shape[:2], np.uint8)
    boxes = np.zeros((0, 4), np.float32) if truth.boxes is None else truth.boxes
    ignore = np.zeros(len(boxes), np.bool_) if truth.ignore is None else truth.ignore
    perception = Perception(
        boxes=np.asarray(boxes, np.float32),
        scores=np.ones(len(boxes), np.float32),
        labels=ignore.astype(np.int32),
        drivable=empty if truth.drivable is None else truth.drivable.astype(np.uint8) * 255,
        lane=empty if truth.lane is None else truth.lane.astype(np.uint8) * 255,
        times=_NO_TIMES,
    )
    return draw_overlay(rgb, perception, None)


def add_caption(rgb: Rgb, text: str, *, alarm: bool = False) -> Rgb:
    """The image, changed in place, with a line of text on a dark strip along its lower edge."""
    height = rgb.shape[0]
    scale = max(height / 1000, 0.35)
    (_, text_height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    top = max(height - text_height - 2 * baseline - 2, 0)
    rgb[top:] = rgb[top:] // 4
    color = _RED if alarm else _WHITE
    origin = (baseline, height - baseline)
    cv2.putText(rgb, text, origin, _FONT, scale, color, 1, cv2.LINE_AA)
    return rgb


def shrink(rgb: Rgb, width: int) -> Rgb:
    """The image at most `width` pixels wide, its sides even as video codecs want them."""
    scale = min(width / rgb.shape[1], 1.0)
    size = tuple(max(round(side * scale / 2) * 2, 2) for side in rgb.shape[1::-1])
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(rgb: Rgb, quality: int = 85) -> bytes:
    """The image as a JPEG file."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data.tobytes())


class VideoFile:
    """An annotated video that appears under its name only when it is complete."""

    def __init__(self, folder: Path, stem: str, rate_hz: float) -> None:
        """The suffix depends on what OpenCV can write here: `.webm`, else `.mp4`."""
        self._folder, self._stem, self._rate_hz = folder, stem, rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._temporary = Path()

    def add(self, rgb: Rgb) -> None:
        """Append an image; one of another size than the first is scaled. Raises ReplayError."""
        if self._writer is None:
            self._size = (rgb.shape[1], rgb.shape[0])
            self._writer = self._open()
        if rgb.shape[1::-1] != self._size:
            rgb = np.asarray(cv2.resize(rgb, self._size), np.uint8)
        self._writer.write(np.ascontiguousarray(rgb[..., ::-1]))

    def finish(self) -> Path:
        """Complete the file and give it its name."""
        assert self._writer is not None, "a video needs an image"
        self._writer.release()
        self._writer = None
        path = self._folder / f"{self._stem}{self._temporary.suffix}"
        os.replace(self._temporary, path)
        return path

    def discard(self) -> None:
        """Remove what is not finished."""
        if self._writer is not None:
            self._writer.release()
            self._temporary.unlink(missing_ok=True)

    def _open(self) -> "cv2.VideoWriter":
        for suffix, codec in _CODECS:
            self._temporary = self._folder / f".{self._stem}.{os.getpid()}{suffix}"
            with _quiet_stderr():
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(self._temporary), code, self._rate_hz, self._size)
            if writer.isOpened():
                return writer
        raise ReplayError(f"OpenCV can write no video here (tried {', '.join(map(str, _CODECS))})")


class _quiet_stderr:
    """Keeps FFmpeg's remarks on codec tags, written past Python, off the terminal."""

    def __enter__(self) -> None:
        self._saved = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)
