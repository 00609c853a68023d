"""A recording's images with what was seen in them: a rosbag2 for Foxglove and RViz, and a video."""

from collections.abc import Mapping
from pathlib import Path

import cv2

from mtc_perception.pages.pictures import Rgb, jpeg, shrink
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import BagWriter
from mtc_perception.replay.records.image_figures import image_figures
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.stream.gallery import draw_record
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.replay.stream.video_file import VideoFile

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
        """`folder` gets the video."""
        self._file = VideoFile(folder, ANNOTATED, rate_hz)

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        """Raises ReplayError where no video can be written."""
        if replayed.image is None:
            return
        picture = draw_record(replayed.rgb(), record, replayed.perception)
        caption = _caption(record, replayed.latency_ms)
        alarm = replayed.perception is None
        self._file.write(_add_caption(shrink(picture, _WIDTH_PX), caption, alarm=alarm))

    def close(self, complete: bool) -> None:
        self._file.close()


def _caption(record: FrameRecord, latency_ms: Mapping[str, float]) -> str:
    if record.status != "processed":
        return f"image {record.index}: no answer, {record.status}"
    objects = len(record.scores)
    words = f"{objects} object{'' if objects == 1 else 's'}"
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
