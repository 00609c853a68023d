"""A recording's images with what was seen in them: a rosbag2 for Foxglove and RViz, and a video."""

import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from mtc_perception.pages.pictures import Rgb, jpeg, shrink
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import BagWriter
from mtc_perception.replay.records.image_figures import image_figures
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.stream.gallery import draw_record
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.util.errors import ReplayError

# As of a node in the namespace `perception` with one camera; config/annotated_bag.* shows them.
OVERLAY_TOPIC = "/perception/overlay/compressed"
FOUND_TOPIC = "/perception/detections"
FOUND_DRIVABLE_TOPIC = "/perception/drivable_mask"
FOUND_LANE_TOPIC = "/perception/lane_mask"
TIMING_TOPIC = "/perception/timing"
FIGURES_TOPIC = "/evaluation/figures"
ANNOTATED = "annotated"
"""In a stream's folder: that of the bag, and the name of the video."""
_WIDTH_PX = 720
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _RED = (255, 255, 255), (230, 60, 60)
# Browsers play VP8 in WebM; MPEG-4 is what OpenCV can always write. VP8 takes 50 ms per image of
# the width above.
_CODECS = ((".webm", "VP80"), (".mp4", "mp4v"))


class AnnotatedBag:
    """A sink that writes the outputs under the images' own stamps, and the labels beside them.

    An image without an answer has a grey overlay and no other output.
    """

    def __init__(self, folder: Path, recording: str) -> None:
        """`folder` must not exist."""
        self._writer = BagWriter(folder, {"recording": recording})

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        perception = replayed.perception
        frame, truth = replayed.labelled
        where = record.stamp_ns, frame.frame_id
        if replayed.image is not None:
            picture = draw_record(replayed.rgb(), record, perception)
            self._writer.image(OVERLAY_TOPIC, *where, EncodedPixels("jpeg", jpeg(picture)))
        if perception is not None:
            scores = record.scores.tolist()
            ids = [""] * len(scores)
            if "detection" in perception.tasks:
                self._writer.detections(
                    FOUND_TOPIC, *where, record.boxes, scores, record.labels, ids
                )
            if perception.drivable is not None:
                self._writer.mask(FOUND_DRIVABLE_TOPIC, *where, perception.drivable)
            if perception.lane is not None:
                self._writer.mask(FOUND_LANE_TOPIC, *where, perception.lane)
            times = {
                "preprocess": perception.times.preprocess_ms,
                "inference": perception.times.inference_ms,
                "decode": perception.times.decode_ms,
            }
            self._writer.values(TIMING_TOPIC, *where, "camera", times)
        if truth is not None:
            self._writer.truth(*where, truth)
        if found := image_figures(record):
            self._writer.values(FIGURES_TOPIC, *where, "image", found)

    def close(self, complete: bool) -> None:
        self._writer.close()


class AnnotatedVideo:
    """A sink that draws every image with its answer and says how long that took.

    An image without an answer is grey; one that cannot be decoded is left out.
    """

    def __init__(self, folder: Path, rate_hz: float) -> None:
        """`folder` gets the video, named by what OpenCV can write here: `.webm`, else `.mp4`."""
        self._folder, self._rate_hz = folder, rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        """Raises ReplayError where no video can be written."""
        if replayed.image is None:
            return
        picture = draw_record(replayed.rgb(), record, replayed.perception)
        caption = _caption(record, replayed.latency_ms)
        alarm = replayed.perception is None
        self._write(_add_caption(shrink(picture, _WIDTH_PX), caption, alarm=alarm))

    def close(self, complete: bool) -> None:
        if self._writer is not None:
            self._writer.release()

    def _write(self, rgb: Rgb) -> None:
        if self._writer is None:
            self._size = (rgb.shape[1], rgb.shape[0])
            self._writer = self._open()
        if rgb.shape[1::-1] != self._size:  # the camera's resolution changed
            rgb = np.asarray(cv2.resize(rgb, self._size), np.uint8)
        self._writer.write(np.ascontiguousarray(rgb[..., ::-1]))

    def _open(self) -> "cv2.VideoWriter":
        for suffix, codec in _CODECS:
            path = self._folder / f"{ANNOTATED}{suffix}"
            with _quiet_stderr():
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(path), code, self._rate_hz, self._size)
            if writer.isOpened():
                return writer
            path.unlink(missing_ok=True)
        raise ReplayError(f"OpenCV can write no video here (tried {', '.join(map(str, _CODECS))})")


def find_video(folder: Path) -> Path | None:
    """What an `AnnotatedVideo` wrote to `folder`; None if there is none."""
    paths = [folder / f"{ANNOTATED}{suffix}" for suffix, _ in _CODECS]
    return next((path for path in paths if path.is_file()), None)


def _caption(record: FrameRecord, latency_ms: Mapping[str, float]) -> str:
    if record.status != "processed":
        return f"image {record.index}: no answer, {record.status}"
    vehicles = len(record.scores)
    words = f"{vehicles} vehicle{'' if vehicles == 1 else 's'}"
    return f"image {record.index}: {words}, {latency_ms['end_to_end']:.1f} ms end to end"


def _add_caption(rgb: Rgb, text: str, *, alarm: bool = False) -> Rgb:
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
